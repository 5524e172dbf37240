"""Encodes records as Neptune's protobuf messages, within Neptune's size limits. No I/O, except to find file types.

    RunOperation (a request)  1-n  UpdateRunSnapshot (single values, or the points of one step)  1-n  values

The facts come from the protobuf files in neptune-api and from neptune-scale 0.30, which builds the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import SET_OPERATION, ForkPoint, UpdateRunSnapshot
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_scale.sync.files import generate_destination, guess_mime_type_from_file

from migrator.destinations.base import RunTarget
from migrator.destinations.neptune.wire_columns import Encoded, Operation, encoded_snapshots, fits_in_rows
from migrator.limits import FILE_DESTINATION_MAX, PATH_MAX_BYTES, REQUEST_MAX_BYTES, SNAPSHOT_MAX_BYTES
from migrator.naming import clean_text
from migrator.records import (
    AddTags,
    Assign,
    AssignFile,
    Columns,
    Histogram,
    LocalFile,
    Points,
    PointValue,
    Record,
    Scalar,
)

REQUEST_BYTES = 4 * 1024 * 1024  # per request: large enough to be rare, small enough to overlap with building the next
MIME_TYPE_MAX = 128  # Neptune: characters of a file's MIME type (neptune_scale.sync.parameters)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CHARACTER_BYTES = 4  # at most, in UTF-8
_VALUE_BYTES = PATH_MAX_BYTES + 48  # at most, for a number or a time with its path
_ROOM_BYTES = SNAPSHOT_MAX_BYTES - 1024  # for the values of a snapshot, besides its step and time

assert REQUEST_BYTES + SNAPSHOT_MAX_BYTES < REQUEST_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to store at `destination` in Neptune's file storage."""

    file: LocalFile
    destination: str
    mime_type: str


class OperationBuilder:
    """Collects the records of one run in as few `RunOperation`s as Neptune's limits allow."""

    def __init__(self, project: str, run_id: str, written_at: datetime) -> None:
        self._project, self._run_id = project, run_id
        self._written_at_us = _microseconds(written_at)
        self._restart()

    def _restart(self) -> None:
        self._operations: list[Operation] = []
        self._uploads: list[Upload] = []
        self._snapshot: UpdateRunSnapshot | None = None  # the one being built, not counted yet
        self._begin_operation()

    def _begin_operation(self) -> None:
        operation = RunOperation(project=self._project, run_id=self._run_id)
        self._operations.append(operation)
        self._snapshots = operation.update_batch.snapshots
        self._size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return self._size_bytes >= REQUEST_BYTES or len(self._operations) > 1

    def take(self) -> tuple[list[Operation], list[Upload]]:
        """Return what was added since the last call, in order."""
        operations, uploads = self._operations, self._uploads
        self._restart()
        return [one for one in operations if isinstance(one, Encoded) or one.update_batch.snapshots], uploads

    def add(self, record: Record) -> None:
        match record:
            case Points(step, time_us, values):
                self._append(step, time_us, values)
            case Columns():
                self._add_columns(record)
            case Assign(values):
                self._assign(values)
            case AddTags(tags, group, gone):
                path = "sys/group_tags" if group else "sys/tags"
                self._modify_tags(path, tags, SET_OPERATION.ADD)
                self._modify_tags(path, gone, SET_OPERATION.REMOVE)
            case AssignFile(path, file):
                self._set_file(self._begin_snapshot(self._written_at_us).assign[path], path, file, None)
        self._end_snapshot()

    def _add_columns(self, columns: Columns) -> None:
        if not fits_in_rows(columns, _ROOM_BYTES):
            for step, time_us, values in columns.points():
                self._append(step, time_us, values)
            return
        self._end_snapshot()
        for encoded in encoded_snapshots(columns, REQUEST_BYTES):
            if self._size_bytes >= REQUEST_BYTES:
                self._begin_operation()
            self._operations[-1] = operation = Encoded.following(self._operations[-1], encoded)
            self._snapshots = operation.more.snapshots
            self._size_bytes += len(encoded)

    def _append(self, step: int | float, time_us: int, values: Mapping[str, PointValue]) -> None:
        room_bytes = 0
        for path, value in values.items():
            is_number = type(value) is float or type(value) is int
            need_bytes = _VALUE_BYTES if is_number else _most_bytes(value)
            if need_bytes > room_bytes:
                snapshot, room_bytes = self._begin_snapshot(time_us), _ROOM_BYTES
                _set_step(snapshot.step, step)
                points = snapshot.append
            room_bytes -= need_bytes
            if is_number:
                points[path].float64 = value
            else:
                self._set_point(points[path], path, value, step)

    def _set_point(self, message: Any, path: str, value: PointValue, step: int | float) -> None:
        match value:
            case str():
                message.string = value
            case Histogram():
                _set_histogram(message.histogram, value)
            case LocalFile():
                self._set_file(message, path, value, step)
            case _:
                message.float64 = value  # numbers of other types; anything else raises a TypeError

    def _assign(self, values: Mapping[str, Scalar | frozenset[str]]) -> None:
        room_bytes = 0
        for path, value in values.items():
            need_bytes = _most_bytes(value)
            if need_bytes > room_bytes:
                snapshot, room_bytes = self._begin_snapshot(self._written_at_us), _ROOM_BYTES
            room_bytes -= need_bytes
            _set_value(snapshot.assign[path], value)

    def _modify_tags(self, path: str, tags: Set[str], change: SET_OPERATION.ValueType) -> None:
        room_bytes = 0
        for tag in sorted(tags):
            need_bytes = _most_bytes(tag)
            if need_bytes > room_bytes:
                snapshot, room_bytes = self._begin_snapshot(self._written_at_us), _ROOM_BYTES
            room_bytes -= need_bytes
            snapshot.modify_sets[path].string.values[tag] = change

    def _set_file(self, message: Any, path: str, file: LocalFile, step: int | float | None) -> None:
        file_name = clean_text(file.name).rsplit("/", 1)[-1] or "file"
        mime_type = guess_mime_type_from_file(file.path, file_name) or "application/octet-stream"
        upload = Upload(file, generate_destination(self._run_id, path, file_name, step), mime_type[:MIME_TYPE_MAX])
        message.file_ref.path = upload.destination
        message.file_ref.size_bytes = file.size_bytes
        message.file_ref.mime_type = upload.mime_type
        self._uploads.append(upload)

    def _begin_snapshot(self, time_us: int) -> UpdateRunSnapshot:
        self._end_snapshot()
        if self._size_bytes >= REQUEST_BYTES:
            self._begin_operation()
        self._snapshot = snapshot = self._snapshots.add()
        _set_time(snapshot.timestamp, time_us)
        return snapshot

    def _end_snapshot(self) -> None:
        if self._snapshot is not None:
            self._size_bytes += self._snapshot.ByteSize()
            self._snapshot = None


def create_operation(target: RunTarget) -> RunOperation:
    """The operation that creates the run. Sent again, it is answered RUN_DUPLICATE and changes nothing."""
    create = CreateRun(family=target.run_id, experiment_id=target.name, inherit_configs=False)
    _set_time(create.creation_time, _microseconds(target.created_at))
    if target.fork:
        create.fork_point.CopyFrom(ForkPoint(parent_project=target.project, parent_run_id=target.fork.run_id))
        _set_step(create.fork_point.step, target.fork.step)
    return RunOperation(project=target.project, run_id=target.run_id, create=create)


def _microseconds(time: datetime) -> int:
    """Microseconds since 1970, exactly. (`timestamp()` is a float, too coarse for microseconds in far centuries.)"""
    return (time - EPOCH) // timedelta(microseconds=1)


def _set_time(timestamp: Any, time_us: int) -> None:
    seconds, micros = divmod(time_us, 1_000_000)
    timestamp.seconds = seconds
    timestamp.nanos = micros * 1000


def _set_step(message: Any, step: int | float) -> None:
    if isinstance(step, int) or step.is_integer():
        message.whole = int(step)
        message.micro = 0  # set on purpose, to mark the step as present even if it is 0
    else:
        message.whole, message.micro = divmod(round(step * 1_000_000), 1_000_000)


def _set_value(message: Any, value: Scalar | frozenset[str]) -> None:
    match value:
        case bool():
            message.bool = value
        case int():
            message.int64 = value
        case float():
            message.float64 = value
        case str():
            message.string = value
        case datetime():
            _set_time(message.timestamp, _microseconds(value))
        case frozenset():
            message.string_set.SetInParent()  # even for the empty set
            message.string_set.values.extend(sorted(value))


def _set_histogram(message: Any, histogram: Histogram) -> None:
    message.bin_edges.extend(histogram.edges)
    if set(map(type, histogram.values)) <= {int}:
        message.counts.values.extend(histogram.values)
    else:
        message.densities.values.extend(histogram.values)


def _most_bytes(value: PointValue | Scalar | frozenset[str]) -> int:
    """The maximum encoded size of a value with its path."""
    match value:
        case str():
            return _VALUE_BYTES + _CHARACTER_BYTES * len(value)
        case frozenset():
            return _VALUE_BYTES + sum(_CHARACTER_BYTES * (len(member) + 2) for member in value)
        case Histogram(edges, counts):
            return _VALUE_BYTES + 8 * len(edges) + 10 * len(counts)
        case LocalFile():
            return _VALUE_BYTES + _CHARACTER_BYTES * (FILE_DESTINATION_MAX + MIME_TYPE_MAX)
    return _VALUE_BYTES
