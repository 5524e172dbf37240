"""A destination that keeps runs in memory, by Neptune's rules: the fake that tests use and crash.

What is written but not yet behind a passed barrier may be lost or kept: a random generator that the test gives decides
how much has been processed when somebody asks, and how much still arrives after a crash. What is behind a passed
barrier is durable, as the contract says.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from migrator.destinations.base import Confirm, Refused, RunTarget, unfenced
from migrator.errors import ErrorClass, Rejected
from migrator.records import AddTags, Assign, AssignFile, Columns, LocalFile, Points, Record

PATH_INVALID = "FIELD_PATH_INVALID"
TYPE_CONFLICTING = "FIELD_TYPE_CONFLICTING"
STEP_NON_INCREASING = "SERIES_STEP_NON_INCREASING"
TIMESTAMP_DECREASING = "SERIES_TIMESTAMP_DECREASING"


@dataclass
class StoredRun:
    """What arrived. Series points are (step, time_us, value); files are bytes. A path's first type stays its type."""

    target: RunTarget
    values: dict[str, Any] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    group_tags: set[str] = field(default_factory=set)
    series: dict[str, list[tuple[float, int, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


class MemoryDestination:
    """Projects and runs by name. `refuse` holds paths that are refused with FIELD_PATH_INVALID.

    `chance` decides when what was sent is processed; None: as soon as it is flushed.
    """

    service = "memory"

    def __init__(self, chance: random.Random | None = None) -> None:
        self.projects: dict[str, str] = {}
        self.runs: dict[tuple[str, str], StoredRun] = {}
        self.refuse: set[str] = set()
        self.offered_twice = 0
        self.at_once = chance is None
        self.chance = chance or random.Random(0)

    def ensure_project(self, project: str, description: str) -> None:
        self.projects.setdefault(project, description)

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> MemoryDestinationRun:
        if target.project not in self.projects:
            raise Rejected(ErrorClass.NOT_FOUND, f"project {target.project} does not exist")
        stored = self.runs.setdefault((target.project, target.run_id), StoredRun(target))
        return MemoryDestinationRun(self, stored, confirm)

    def ping(self) -> None:
        """Always there."""

    def close(self) -> None:
        """Nothing to give back."""


class MemoryDestinationRun:
    """Sends what is written at the next `flush`; what is sent is processed in order, at once or some time later."""

    def __init__(self, destination: MemoryDestination, stored: StoredRun, confirm: Confirm) -> None:
        self._destination = destination
        self._confirm = confirm
        self._stored = stored
        self._pending: deque[tuple[Record, bool]] = deque()
        self._refusals: list[tuple[int, str, str]] = []
        self._sent = 0
        self.processed = 0

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        self._pending.extend((record, replayed) for record in records)

    def flush(self) -> MemoryBarrier:
        self._confirm()
        before, self._sent = self._sent, self.processed + len(self._pending)
        if self._destination.at_once:
            self.process(self._sent)
        return MemoryBarrier(self, before, self._sent)

    def identify(self) -> None:
        """Nobody else writes here."""

    def finish(self) -> None:
        """Nothing was kept back."""

    def process(self, until: int) -> None:
        """As a server that is waited for, until it has `until` records."""
        while self.processed < until:
            record, replayed = self._pending.popleft()
            self._refusals += [(self.processed, path, reason) for path, reason in self._apply(record, replayed)]
            self.processed += 1

    def process_some(self) -> None:
        """As a server that has had a little time for what was sent."""
        self.process(self._destination.chance.randint(self.processed, self._sent))

    def refusals(self, first: int, end: int) -> Counter[tuple[str, str]]:
        """What was refused of the records from number `first` to before `end`."""
        return Counter((path, reason) for number, path, reason in self._refusals if first <= number < end)

    def crash(self) -> None:
        """As a killed process: some of what is sent, but has not arrived yet, still does; the rest never will."""
        self.process_some()
        self._pending.clear()

    def _apply(self, record: Record, replayed: bool) -> list[tuple[str, str]]:
        """Store a record; returns (path, reason) of what is refused."""
        stored = self._stored
        match record:
            case Assign(values):
                refused = {path: reason for path, value in values.items() if (reason := self._typed(path, value))}
                stored.values.update({path: value for path, value in values.items() if path not in refused})
                return [*refused.items()]
            case AddTags(tags, group, gone):
                stored_tags = stored.group_tags if group else stored.tags
                stored_tags.update(tags)
                stored_tags.difference_update(gone)
            case AssignFile(path, file):
                if reason := self._typed(path, file):
                    return [(path, reason)]
                stored.files[path] = file.path.read_bytes()
            case Columns():
                return [refused for points in record.points() for refused in self._apply(points, replayed)]
            case Points(step, time_us, values):
                return [
                    (path, reason)
                    for path, value in values.items()
                    if (reason := self._append(path, step, time_us, value, replayed))
                ]
        return []

    def _append(self, path: str, step: float, time_us: int, value: Any, replayed: bool) -> str | None:
        if reason := self._typed(path, value, " series"):
            return reason
        points = self._stored.series.setdefault(path, [])
        if points and step <= points[-1][0]:
            self._destination.offered_twice += 1
            return None if replayed else STEP_NON_INCREASING
        if points and time_us < points[-1][1]:
            return TIMESTAMP_DECREASING
        points.append((step, time_us, value.path.read_bytes() if isinstance(value, LocalFile) else value))
        return None

    def _typed(self, path: str, value: Any, series: str = "") -> str | None:
        """Why a value of this type may not stand at `path`; None: it may."""
        if path in self._destination.refuse:
            return PATH_INVALID
        name = "float" if series and isinstance(value, int) else type(value).__name__
        return None if self._stored.types.setdefault(path, name + series) == name + series else TYPE_CONFLICTING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        if exc and exc[0] is not None:
            self.crash()


class MemoryBarrier:
    """Stands behind the records from number `first` to before `end`."""

    position: str | None = None

    def __init__(self, run: MemoryDestinationRun, first: int, end: int) -> None:
        self._run, self._first, self._end = run, first, end

    def ready(self) -> bool:
        self._run.process_some()
        return self._run.processed >= self._end

    def wait(self) -> Sequence[Refused]:
        self._run.process(self._end)
        refusals = self._run.refusals(self._first, self._end)
        return [Refused(path, reason, count) for (path, reason), count in refusals.items()]
