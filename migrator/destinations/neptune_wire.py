"""Records as Neptune's protobuf messages, each within Neptune's size limits. No I/O but a look at files' types.

Facts are those of the protobuf files in neptune-api and of neptune-scale 0.30, which builds the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import ForkPoint, UpdateRunSnapshot
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_scale.sync.files import generate_destination, guess_mime_type_from_file

from migrator.limits import SNAPSHOT_MAX_BYTES
from migrator.records import AddTags, Assign, AssignFile, Fork, Histogram, LocalFile, Points, Record, Scalar

FILL_BYTES = 1_500_000  # start a new snapshot here: well below SNAPSHOT_MAX_BYTES, estimates are rough
_POINT_BYTES = 24  # a float point without its path, encoded: rough


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to store at `destination` of Neptune's file storage."""

    file: LocalFile
    destination: str
    mime_type: str


class OperationBuilder:
    """Collects records of one run in one `RunOperation`, each snapshot below Neptune's limit."""

    def __init__(self, project: str, run_id: str, written_at: datetime) -> None:
        self._project, self._run_id = project, run_id
        self._written_at = written_at
        self._start()

    def _start(self) -> None:
        self._operation = RunOperation(project=self._project, run_id=self._run_id)
        self._snapshots = self._operation.update_batch.snapshots
        self.size_bytes = 0
        self.uploads: list[Upload] = []

    def take(self) -> tuple[RunOperation | None, list[Upload]]:
        """What was added since the last call; None if it holds no snapshot."""
        operation, uploads = self._operation, self.uploads
        self._start()
        return (operation if operation.update_batch.snapshots else None), uploads

    def add(self, record: Record) -> None:
        match record:
            case Points(step, time_us, values):
                self._add_points(step, time_us, values)
            case Assign(values):
                self._add_values(values)
            case AddTags(tags, group):
                path = "sys/group_tags" if group else "sys/tags"
                words = self._single_snapshot().modify_sets[path].string.values
                for tag in tags:
                    words[tag] = 1  # ADD
                    self.size_bytes += len(tag) + 8
            case AssignFile(path, file):
                self._set_file(self._single_snapshot().assign[path], path, file, None)

    def _single_snapshot(self) -> UpdateRunSnapshot:
        snapshot = self._snapshots.add()
        _set_time(snapshot.timestamp, round(self._written_at.timestamp() * 1_000_000))
        return snapshot

    def _add_values(self, values: Mapping[str, Scalar | frozenset[str]]) -> None:
        snapshot, size = self._single_snapshot(), 0
        for path, value in values.items():
            need = 4 * (len(path) + (len(value) if isinstance(value, str) else 8)) + _POINT_BYTES
            if size and size + need > FILL_BYTES:
                snapshot, size = self._single_snapshot(), 0
            _set_value(snapshot.assign[path], value)
            size += need
            self.size_bytes += need

    def _add_points(self, step: int | float, time_us: int, values: Mapping[str, Any]) -> None:
        snapshot, size = self._step_snapshot(step, time_us), 0
        append = snapshot.append
        for path, value in values.items():
            if type(value) is float or type(value) is int:
                append[path].float64 = value
                size += len(path) + _POINT_BYTES
                if size > FILL_BYTES:
                    self.size_bytes += size
                    snapshot, size = self._step_snapshot(step, time_us), 0
                    append = snapshot.append
                continue
            need = _size_of(path, value)
            if size and size + need > FILL_BYTES:
                self.size_bytes += size
                snapshot, size = self._step_snapshot(step, time_us), 0
                append = snapshot.append
            size += need
            match value:
                case str():
                    append[path].string = value
                case Histogram(edges, counts):
                    _set_histogram(append[path].histogram, edges, counts)
                case LocalFile():
                    self._set_file(append[path], path, value, step)
        self.size_bytes += size

    def _step_snapshot(self, step: int | float, time_us: int) -> UpdateRunSnapshot:
        snapshot = self._snapshots.add()
        _set_step(snapshot.step, step)
        _set_time(snapshot.timestamp, time_us)
        return snapshot

    def _set_file(self, message: Any, path: str, file: LocalFile, step: int | float | None) -> None:
        destination = generate_destination(self._run_id, path, file.name.rsplit("/", 1)[-1] or "file", step)
        mime_type = (guess_mime_type_from_file(str(file.path), file.name) or "application/octet-stream")[:128]
        message.file_ref.path = destination
        message.file_ref.size_bytes = file.size_bytes
        message.file_ref.mime_type = mime_type
        self.uploads.append(Upload(file, destination, mime_type))
        self.size_bytes += len(path) + len(destination) + 100


def create_operation(project: str, run_id: str, name: str, created_at: datetime, fork: Fork | None) -> RunOperation:
    """Creates the run, or finds it: the same creation again is a RUN_DUPLICATE, which changes nothing."""
    create = CreateRun(family=run_id, experiment_id=name, inherit_configs=False)
    _set_time(create.creation_time, round(created_at.timestamp() * 1_000_000))
    if fork:
        create.fork_point.CopyFrom(ForkPoint(parent_project=project, parent_run_id=fork.run_id))
        _set_step(create.fork_point.step, fork.step)
    return RunOperation(project=project, run_id=run_id, create=create)


def _set_time(timestamp: Any, time_us: int) -> None:
    seconds, micros = divmod(time_us, 1_000_000)
    timestamp.seconds = seconds
    timestamp.nanos = micros * 1000


def _set_step(message: Any, step: int | float) -> None:
    if isinstance(step, int) or step.is_integer():
        message.whole = int(step)
        message.micro = 0  # set on purpose: the message must say that there is a step, even at 0
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
            _set_time(message.timestamp, round(value.timestamp() * 1_000_000))
        case frozenset():
            message.string_set.values.extend(sorted(value))


def _set_histogram(message: Any, edges: Sequence[float], counts: Sequence[int] | Sequence[float]) -> None:
    message.bin_edges.extend(edges)
    if all(type(count) is int for count in counts):
        message.counts.values.extend(counts)
    else:
        message.densities.values.extend(counts)


def _size_of(path: str, value: Any) -> int:
    match value:
        case str():
            return len(path) + len(value) * 3 + _POINT_BYTES
        case Histogram(edges, counts):
            return len(path) + 9 * len(edges) + 10 * len(counts) + _POINT_BYTES
    return len(path) + 1200


assert FILL_BYTES < SNAPSHOT_MAX_BYTES
