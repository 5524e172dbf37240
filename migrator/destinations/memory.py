"""A destination that keeps runs in memory, by Neptune's rules: the fake that tests use and crash.

What was written before a passed barrier is durable, as the contract says. Anything later may be lost or kept: a random
generator, given by the test, decides how much is processed at each request and how much still arrives after a crash.
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
    """What arrived. Points are (step, time_us, value); files are bytes. A path keeps the first type that it gets."""

    target: RunTarget
    values: dict[str, Any] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    group_tags: set[str] = field(default_factory=set)
    series: dict[str, list[tuple[float, int, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


class MemoryDestination:
    """Projects and runs by name. Paths in `refuse` are refused with FIELD_PATH_INVALID.

    `chance` decides when records that were sent are processed. None: as soon as they are flushed.
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
        """Always available."""

    def close(self) -> None:
        """Nothing to release."""


class MemoryDestinationRun:
    """Sends what was written at the next `flush`. What was sent is processed in order, at once or later."""

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
        """Nothing to check: nobody else writes here."""

    def finish(self) -> None:
        """Nothing to do: nothing was held back."""

    def process(self, until: int) -> None:
        """Act as a server that processes until it has `until` records."""
        while self.processed < until:
            record, replayed = self._pending.popleft()
            self._refusals += [(self.processed, path, reason) for path, reason in self._apply(record, replayed)]
            self.processed += 1

    def process_some(self) -> None:
        """Act as a server that has had a little time to process what was sent."""
        self.process(self._destination.chance.randint(self.processed, self._sent))

    def refusals(self, first: int, end: int) -> Counter[tuple[str, str]]:
        """What was refused of the records from number `first` up to, but not including, `end`."""
        return Counter((path, reason) for number, path, reason in self._refusals if first <= number < end)

    def crash(self) -> None:
        """Act as a killed process: of what was sent but has not arrived yet, some still does, the rest never."""
        self.process_some()
        self._pending.clear()

    def _apply(self, record: Record, replayed: bool) -> list[tuple[str, str]]:
        """Store a record. Returns (path, reason) of what is refused."""
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
        """Why `path` cannot have a value of this type. None: it can."""
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
    """Marks the end of the records from number `first` up to, but not including, `end`."""

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
