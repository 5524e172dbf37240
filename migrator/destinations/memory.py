"""A destination that keeps runs in memory, by Neptune's rules: the fake that tests use and crash.

What is written but not yet behind a passed barrier may be lost or kept: `crash` decides, by a random generator that
the test gives. What was flushed is durable, as the contract says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from migrator.destinations.base import Refused, RunTarget
from migrator.errors import ErrorClass, Rejected
from migrator.records import AddTags, Assign, AssignFile, LocalFile, Points, Record


@dataclass
class StoredRun:
    """What arrived. Series points are (step, time_us, value); files are bytes."""

    target: RunTarget
    values: dict[str, Any] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    group_tags: set[str] = field(default_factory=set)
    series: dict[str, list[tuple[float, int, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class MemoryDestination:
    """Projects and runs by name. `refuse` holds paths whose points are refused with FIELD_PATH_INVALID."""

    service = "memory"
    address = "memory:"

    def __init__(self, chance: random.Random | None = None) -> None:
        self.projects: dict[str, str] = {}
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.refuse: set[str] = set()
        self.offered_twice = 0
        self._chance = chance or random.Random(0)

    def ensure_project(self, project: str, description: str) -> None:
        self.projects.setdefault(project, description)

    def open_run(self, target: RunTarget, position: str | None) -> MemoryDestinationRun:
        if target.project not in self.projects:
            raise Rejected(ErrorClass.NOT_FOUND, f"project {target.project} does not exist")
        stored = self.runs.setdefault((target.project, target.run_id), StoredRun(target))
        return MemoryDestinationRun(self, stored)

    def close(self) -> None:
        """Nothing to give back."""


class MemoryDestinationRun:
    """Buffers what is written until the next `flush`."""

    def __init__(self, destination: MemoryDestination, stored: StoredRun) -> None:
        self._destination = destination
        self._stored = stored
        self._buffer: list[tuple[Record, bool]] = []

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        self._buffer.extend((record, replayed) for record in records)

    def flush(self) -> MemoryBarrier:
        refused: dict[tuple[str, str], int] = {}
        for record, replayed in self._buffer:
            for path, reason in self._apply(record, replayed):
                refused[path, reason] = refused.get((path, reason), 0) + 1
        self._buffer.clear()
        return MemoryBarrier([Refused(path, reason, count) for (path, reason), count in refused.items()])

    def crash(self) -> None:
        """As a killed process: some of what was written since the last flush arrives, in order; the rest does not."""
        for record, replayed in self._buffer[: self._destination._chance.randint(0, len(self._buffer))]:
            self._apply(record, replayed)
        self._buffer.clear()

    def _apply(self, record: Record, replayed: bool) -> list[tuple[str, str]]:
        stored, refuse = self._stored, self._destination.refuse
        match record:
            case Assign(values):
                stored.values.update({path: value for path, value in values.items() if path not in refuse})
                return [(path, "FIELD_PATH_INVALID") for path in values if path in refuse]
            case AddTags(tags, group):
                (stored.group_tags if group else stored.tags).update(tags)
            case AssignFile(path, file):
                stored.files[path] = file.path.read_bytes()
            case Points(step, time_us, values):
                return [
                    (path, reason)
                    for path, value in values.items()
                    if (reason := self._append(path, step, time_us, value, replayed))
                ]
        return []

    def _append(self, path: str, step: float, time_us: int, value: Any, replayed: bool) -> str | None:
        if path in self._destination.refuse:
            return "FIELD_PATH_INVALID"
        points = self._stored.series.setdefault(path, [])
        if points and step <= points[-1][0]:
            self._destination.offered_twice += 1
            return None if replayed else "SERIES_STEP_NON_INCREASING"
        if points and time_us < points[-1][1]:
            return "SERIES_TIMESTAMP_DECREASING"
        points.append((step, time_us, value.path.read_bytes() if isinstance(value, LocalFile) else value))
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        if exc and exc[0] is not None:
            self.crash()


class MemoryBarrier:
    """Already passed."""

    position: str | None = None

    def __init__(self, refused: Sequence[Refused]) -> None:
        self._refused = refused

    def ready(self) -> bool:
        return True

    def wait(self) -> Sequence[Refused]:
        return self._refused
