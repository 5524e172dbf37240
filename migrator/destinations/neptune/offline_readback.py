"""Reads offline files back by replaying their operation logs: once for the attributes, and again for the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import SET_OPERATION, UpdateRunSnapshot
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun

from migrator.destinations.base import (
    ReadFile,
    ReadOther,
    ReadRun,
    ReadSeries,
    ReadValue,
    SeriesHead,
    SeriesPage,
    SeriesRef,
    Stored,
)
from migrator.destinations.neptune.offline_log import OfflineLog, disk_errors
from migrator.destinations.neptune.offline_places import run_directory
from migrator.records import Fork, Histogram, PointKind

POINTS_AT_A_TIME = 100_000  # of all series of a run together, before they are yielded
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = 1_000_000
KINDS = {
    "float64": PointKind.FLOATS,
    "string": PointKind.TEXTS,
    "histogram": PointKind.HISTOGRAMS,
    "file_ref": PointKind.FILES,
}


class OfflineReadBack:
    """Reads a directory of Neptune's offline files. The key of a run is its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    def close(self) -> None:
        """Nothing to release."""

    def runs(self, project: str, run_ids: Sequence[str]) -> dict[str, ReadRun]:
        directories = {run_id: run_directory(self._directory, project, run_id) for run_id in run_ids}
        logs = {run_id: OfflineLog(directory) for run_id, directory in directories.items()}
        return {run_id: _read(run_id, log) for run_id, log in logs.items() if log.path.exists()}

    def heads(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesHead]:
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for page in self.pages(project, series):
            name, first = (page.series.run.key, page.series.path), int(page.steps.min())
            count, before = counts.get(name, (0, first))
            counts[name] = count + len(page.steps), min(before, first)
        for one in series:
            if (one.run.key, one.path) in counts:
                yield SeriesHead(one, *counts[one.run.key, one.path])

    def pages(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesPage]:
        by_run: dict[str, dict[str, SeriesRef]] = {}
        for one in series:
            by_run.setdefault(one.run.key, {})[one.path] = one
        for key, wanted in by_run.items():
            with OfflineLog(Path(key)) as log:
                yield from _pages(log, wanted)

    def stored(self, project: str, files: Sequence[ReadFile], *, content: bool) -> Iterator[Stored]:
        for file in files:
            path = Path(file.address)
            if not path.is_file():
                yield Stored(None)
                continue
            with disk_errors(path.parent), path.open("rb") as stream:
                yield Stored(path.stat().st_size, file_digest(stream, "md5").hexdigest() if content else None)


def _read(run_id: str, log: OfflineLog) -> ReadRun:
    run = ReadRun(run_id, str(log.directory), {"sys/custom_run_id": run_id}, tells_fork=True)
    with log:
        kept = log.kept()
        for change in log.changes():
            if isinstance(change, CreateRun):
                _create(run, change)
                continue
            for path, value in change.assign.items():
                run.values[path] = _value(value, kept)
            for path, sets in change.modify_sets.items():
                run.values[path] = _members(run.values.get(path), sets)
            for path, value in change.append.items():
                run.values[path] = _series(run.values.get(path), KINDS[value.WhichOneof("value")], _step(change))
    return run


def _create(run: ReadRun, change: CreateRun) -> None:
    run.values["sys/name"] = change.experiment_id
    run.values["sys/creation_time"] = EPOCH + timedelta(microseconds=_time_us(change.creation_time))
    if change.HasField("fork_point"):
        step = change.fork_point.step
        run.fork = Fork(change.fork_point.parent_run_id, step.whole + step.micro / MICRO)


def _series(before: ReadValue | None, kind: PointKind, step: int) -> ReadSeries:
    last = before.last_step if isinstance(before, ReadSeries) and before.last_step is not None else step
    return ReadSeries(kind, max(last, step))


def _members(before: ReadValue | None, sets: Any) -> frozenset[str]:
    members = set(before) if isinstance(before, frozenset) else set()
    for member, change in sets.string.values.items():
        (members.add if change == SET_OPERATION.ADD else members.discard)(member)
    return frozenset(members)


def _value(value: Any, kept: dict[str, Path]) -> ReadValue:
    match kind := value.WhichOneof("value"):
        case "float64" | "int64" | "bool" | "string":
            return getattr(value, kind)  # type: ignore[no-any-return]
        case "timestamp":
            return EPOCH + timedelta(microseconds=_time_us(value.timestamp))
        case "string_set":
            return frozenset(value.string_set.values)
        case "file_ref":
            return _file(value.file_ref, kept)
    return ReadOther(str(kind))


def _file(reference: Any, kept: dict[str, Path]) -> ReadFile:
    """A file reference. Without an upload request in the log, the file has no address."""
    return ReadFile(str(kept.get(reference.path, "")), reference.size_bytes)


def _pages(log: OfflineLog, wanted: dict[str, SeriesRef]) -> Iterator[SeriesPage]:
    kept = log.kept()
    held: dict[str, list[tuple[int, int, Any]]] = {}
    count = 0
    for change in log.changes():
        if isinstance(change, UpdateRunSnapshot):
            step, time_ms = _step(change), _time_us(change.timestamp) // 1000
            for path, value in change.append.items():
                if path in wanted:
                    held.setdefault(path, []).append((step, time_ms, _point(value, kept)))
                    count += 1
        if count >= POINTS_AT_A_TIME:
            yield from _held(held, wanted)
            held, count = {}, 0
    yield from _held(held, wanted)


def _held(held: dict[str, list[tuple[int, int, Any]]], wanted: dict[str, SeriesRef]) -> Iterator[SeriesPage]:
    for path, points in held.items():
        steps, times, values = zip(*points, strict=True)
        column = np.array(values, np.float64) if isinstance(values[0], float) else values
        yield SeriesPage(wanted[path], np.array(steps, np.int64), np.array(times, np.int64), column)


def _point(value: Any, kept: dict[str, Path]) -> Any:
    match value.WhichOneof("value"):
        case "float64":
            return value.float64
        case "string":
            return value.string
        case "histogram":
            counts = value.histogram.counts.values or value.histogram.densities.values
            return Histogram(tuple(value.histogram.bin_edges), tuple(counts))
        case _:
            return _file(value.file_ref, kept)


def _step(change: UpdateRunSnapshot) -> int:
    """The step in millionths, converted through a double as a server does."""
    step: float = change.step.whole + change.step.micro / MICRO
    return round(step * 1e6)


def _time_us(timestamp: Any) -> int:
    return int(timestamp.seconds * MICRO + timestamp.nanos // 1000)
