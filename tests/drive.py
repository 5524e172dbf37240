"""Drives parts over runs that lie in memory, and says what came out in a form that can be compared."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from migrator.listed import RunRef
from migrator.parts import PARTS
from migrator.parts.base import BATCH_SECONDS, Context, MappingOptions
from migrator.records import AddTags, Assign, AssignFile, Batch, Columns, Kind, LocalFile, Points
from migrator.sources.memory import MemoryData, MemorySource

PLAIN = MappingOptions()
MOST_BATCHES = 500  # of a run in a test


class Inline(Executor):
    """Runs what is submitted at once: threads would only make a failure harder to read."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - an executor hands every error to who asks for the result
            future.set_exception(error)
        return future


class Ticks:
    """A clock by which a batch has had its time whenever the next of `slow`, over and over, is true."""

    def __init__(self, slow: Iterable[bool] = (False,)) -> None:
        self._slow = cycle([*slow] or [False])
        self._now = 0.0

    def __call__(self) -> float:
        self._now += BATCH_SECONDS if next(self._slow) else 0.0
        return self._now


@dataclass
class Outcome:
    """What a part gave: records in order, ledger lines added up, counts."""

    records: list[Any] = field(default_factory=list)
    ledger: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    read: int = 0
    written: int = 0
    size_bytes: int = 0
    cursor: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def add(self, batch: Batch) -> None:
        """As the copy and the state database do. Files are read here, as long as they are there."""
        if batch.fresh:
            self.ledger, self.read, self.written, self.size_bytes = Counter(), 0, 0, 0
        for record in batch.records:
            self.records += record.points() if isinstance(record, Columns) else [_comparable(record)]
        for entry in batch.ledger:
            self.ledger[str(entry.kind), entry.path, entry.reason] += entry.count
        self.read += batch.read
        self.written += batch.written
        self.size_bytes += batch.size_bytes
        self.cursor = json.loads(json.dumps(batch.cursor))
        self.done = batch.done

    @property
    def skipped(self) -> int:
        return sum(count for (kind, _, _), count in self.ledger.items() if kind == Kind.SKIPPED)

    @property
    def values(self) -> dict[str, Any]:
        """Single values by path."""
        assigned = [record for record in self.records if isinstance(record, Assign)]
        return {path: value for record in assigned for path, value in record.values.items()}

    @property
    def files(self) -> dict[str, Any]:
        """(name at the source, content) by path."""
        return {record.path: record.file for record in self.records if isinstance(record, AssignFile)}

    @property
    def tags(self) -> list[AddTags]:
        return [record for record in self.records if isinstance(record, AddTags)]

    @property
    def series(self) -> dict[str, list[tuple[float, int, Any]]]:
        """(step, time_us, value) by path, in the order of the records."""
        series: dict[str, list[tuple[float, int, Any]]] = {}
        for record in self.records:
            if isinstance(record, Points):
                for path, value in record.values.items():
                    series.setdefault(path, []).append((record.step, record.time_us, value))
        return series

    def series_values(self) -> dict[str, list[Any]]:
        return {path: [value for _, _, value in points] for path, points in self.series.items()}

    def points(self) -> dict[str, Any]:
        """As `seen`, whatever the order in which series of different paths came."""
        others = [record for record in self.records if not isinstance(record, Points)]
        series = {path: list(map(repr, points)) for path, points in self.series.items()}
        cursor = {**self.cursor, "times": dict(sorted(self.cursor.get("times", {}).items()))}
        return {**self.seen(), "records": sorted(map(repr, others)), "series": series, "cursor": cursor}

    def seen(self) -> dict[str, Any]:
        """Everything that must be the same however the part was read; by repr, so that NaN equals NaN."""
        return {
            "records": list(map(repr, self.records)),
            "ledger": self.ledger,
            "counts": (self.read, self.written, self.size_bytes),
        }


def _comparable(record: Any) -> Any:
    """Files by name and content: where they lie differs from time to time."""
    match record:
        case AssignFile(path, file):
            return AssignFile(path, _content(file))
        case Points(step, time_us, values):
            return Points(step, time_us, {path: _content(value) for path, value in values.items()})
    return record


def _content(value: Any) -> Any:
    if not isinstance(value, LocalFile):
        return value
    content = value.path.read_bytes()
    assert len(content) == value.size_bytes
    return value.name, content


def batches(
    part: str,
    data: MemoryData,
    cursor: Mapping[str, Any] | None = None,
    *,
    options: MappingOptions = PLAIN,
    slow: Iterable[bool] = (False,),
    page_rows: int = 100,
    columns: bool = False,
    keys: Collection[str] = (),
) -> Iterator[Batch]:
    """The batches of one part of a run, from `cursor` on."""
    source = MemorySource({"project": [data]}, page_rows=page_rows, columns=columns)
    with (
        tempfile.TemporaryDirectory() as scratch,
        source.open_run(RunRef("team", "project", data.run_id), Path(scratch)) as run,
    ):
        context = Context(
            options, data.created_at, data.fingerprint(), Path(scratch), Inline(), Ticks(slow), "1.0", keys=keys
        )
        context = replace(context, fork_step=data.fork.step if data.fork else None)
        yield from PARTS[part](run, cursor or {}, context)


def convert(part: str, data: MemoryData, outcome: Outcome | None = None, **how: Any) -> Outcome:
    """One pass over a part; on from the cursor of `outcome`, where one is given."""
    outcome = outcome or Outcome()
    for batch in batches(part, data, outcome.cursor, **how):
        outcome.add(batch)
    assert outcome.done
    return outcome


def convert_in_pieces(part: str, data: MemoryData, outcome: Outcome | None = None, **how: Any) -> Outcome:
    """As `convert`, but after every batch the part is opened anew, from the cursor as JSON kept it."""
    outcome = outcome or Outcome()
    for _ in range(MOST_BATCHES):
        for batch in batches(part, data, outcome.cursor, **how):
            outcome.add(batch)
            break
        if outcome.done:
            return outcome
    raise AssertionError("the part never ends: a batch did not bring its cursor on")
