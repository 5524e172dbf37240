"""The data that flows between source, parts and destination. Pure.

    source  --HistoryRow, SystemRow, ConsoleLine, SourceFile...-->  part  --Record-->  destination

Times are aware datetimes (UTC) in single values. In series they are integer microseconds since the epoch, the
resolution of both W&B's `_timestamp` and Neptune's points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

# ---------------------------------------------------------------- what a source yields of one run

Scalar = bool | int | float | str | datetime


@dataclass(frozen=True, slots=True)
class Fork:
    """The run was forked from `run_id` (same project) after `step`."""

    run_id: str
    step: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """A W&B sweep. `config` is JSON text; `note` says what had to be changed for that (None: nothing).

    Fields that the source does not know are None.
    """

    id: str
    name: str | None = None
    method: str | None = None
    config: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RunAttributes:
    """Identity and metadata of a run.

    `wandb` holds W&B's attributes by name (`wandb/<name>` in the mapping), including names that start with `_`, without
    absent ones. `created_at` is None if the source does not know it.
    """

    name: str | None
    created_at: datetime | None
    url: str
    notes: str | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    wandb: Mapping[str, Scalar] = field(default_factory=dict)
    sweep: Sweep | None = None
    fork: Fork | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """Config or summary: `values` without W&B's wrappers, and `raw`, the original JSON text."""

    values: Mapping[str, Any]
    raw: bytes


class HistoryRow(NamedTuple):
    """One logged step. `time` is seconds since the epoch. None values in `values` mean "not logged"."""

    step: int | float
    time: float | None
    values: Mapping[str, Any]


class HistoryColumns(NamedTuple):
    """Many logged steps, with plain numbers as columns: numpy arrays with one entry per row.

    `steps` are int64 and strictly ascending, `times` float64 (seconds since the epoch). `numbers` are float64 by key;
    those with gaps have a mask in `present`. `others` are the remaining values, one dict per row (empty: there are
    none). None of their keys, including nested ones, is in `numbers`.
    """

    steps: Any
    times: Any
    numbers: Mapping[str, Any]
    present: Mapping[str, Any]
    others: Sequence[Mapping[str, Any]] = ()

    def between(self, after_step: float | None, until_step: float) -> HistoryColumns:
        """The rows with a step above `after_step` and not above `until_step`."""
        start = 0 if after_step is None else self.steps.searchsorted(after_step, side="right")
        some = slice(start, self.steps.searchsorted(until_step, side="right"))
        numbers, present = ({key: column[some] for key, column in of.items()} for of in (self.numbers, self.present))
        return HistoryColumns(self.steps[some], self.times[some], numbers, present, self.others[some])

    def rows(self) -> list[HistoryRow]:
        """The same as rows."""
        values: list[dict[str, Any]] = [{} for _ in self.steps]
        _fill(values, self.numbers, self.present)
        for row, others in zip(values, self.others, strict=False):
            row.update(others)
        return [*map(HistoryRow, self.steps.tolist(), self.times.tolist(), values)]


class SystemRow(NamedTuple):
    """One sample of system metrics. `number` counts from 0. Keys have no `system.` prefix."""

    number: int
    time: float | None
    values: Mapping[str, Any]


class ConsoleLine(NamedTuple):
    """One line of output without its line end. `number` counts from 0 over both streams."""

    number: int
    time: float | None
    stream: str  # "stdout" or "stderr"
    text: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the run or of an artifact. Checksums are hex; None: the source does not have them.

    `changed_at`: if there are no checksums, the time of the last change as text, only for comparison.
    """

    name: str
    size_bytes: int
    md5: str | None = None
    xxh128: str | None = None
    changed_at: str | None = None

    @property
    def version(self) -> str:
        """A text that changes if the content has changed, as far as the source can tell."""
        changed_at = "" if self.changed_at is None else f" of {self.changed_at}"
        return self.md5 or f"{self.size_bytes} bytes{changed_at}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of a logged artifact. `files` are fetched by name; `references` maps paths to external addresses."""

    name: str
    version: str
    type: str
    aliases: Sequence[str]
    digest: str
    size_bytes: int
    created_at: datetime | None
    metadata: str
    files: Sequence[SourceFile]
    references: Mapping[str, str]


# ---------------------------------------------------------------- what a destination takes


@dataclass(frozen=True, slots=True)
class Histogram:
    """`len(edges) == len(values) + 1`, edges strictly increasing. Integer values are counts, others densities."""

    edges: tuple[float, ...]
    values: tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine's disk, complete and checked. `name` is its name in the source.

    `linked_from`: the place outside the run's directory to which a link led (None: there was no such link).
    """

    path: Path
    name: str
    size_bytes: int
    md5: str
    linked_from: str | None = None


@dataclass(frozen=True, slots=True)
class Assign:
    """Single values by path. A frozenset of str is a string set."""

    values: Mapping[str, Scalar | frozenset[str]]


@dataclass(frozen=True, slots=True)
class AddTags:
    """Adds to `sys/tags` or, with `group`, to `sys/group_tags`. `gone`: tags of an earlier copy to remove."""

    tags: frozenset[str]
    group: bool = False
    gone: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AssignFile:
    """A single file at `path`."""

    path: str
    file: LocalFile


PointValue = float | str | Histogram | LocalFile


class Points(NamedTuple):
    """Series points of one step: `values` by path, `time_us` in microseconds since the epoch."""

    step: int | float
    time_us: int
    values: Mapping[str, PointValue]


class Columns(NamedTuple):
    """Series points of many steps, all of them numbers: numpy arrays with one entry per row.

    `steps` and `times_us` (microseconds since the epoch) are int64, steps strictly ascending. `values` are float64 by
    path. If a series has gaps, a mask in `present` says which entries are points.
    """

    steps: Any
    times_us: Any
    values: Mapping[str, Any]
    present: Mapping[str, Any]

    def series(self) -> Iterator[tuple[str, Any, Any, Any]]:
        """(path, steps, times_us, values) of each series, without gaps."""
        for path, values in self.values.items():
            where = self.present.get(path)
            if where is None:
                yield path, self.steps, self.times_us, values
            else:
                yield path, self.steps[where], self.times_us[where], values[where]

    def points(self) -> Iterator[Points]:
        """The same points, step by step."""
        rows: list[dict[str, float]] = [{} for _ in self.steps]
        _fill(rows, self.values, self.present)
        for step, time_us, values in zip(self.steps.tolist(), self.times_us.tolist(), rows, strict=True):
            if values:
                yield Points(step, time_us, values)

    def rows(self, start: int, end: int) -> Columns:
        """The rows from number `start` up to, but not including, `end`."""
        return Columns(
            self.steps[start:end],
            self.times_us[start:end],
            {path: values[start:end] for path, values in self.values.items()},
            {path: where[start:end] for path, where in self.present.items()},
        )

    def point_count(self) -> int:
        """The number of points."""
        full = len(self.values) - len(self.present)
        return full * len(self.steps) + sum(int(where.sum()) for where in self.present.values())


def _fill(rows: Sequence[dict[str, Any]], values: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Distribute the values of columns to rows."""
    for name, column in values.items():
        where = present.get(name)
        if where is None:
            for row, value in zip(rows, column.tolist(), strict=True):
                row[name] = value
        else:
            for at, value in zip(where.nonzero()[0].tolist(), column[where].tolist(), strict=True):
                rows[at][name] = value


Record = Assign | AddTags | AssignFile | Points | Columns


class PointKind(StrEnum):
    """The type of the points of a series."""

    FLOATS = "numbers"
    TEXTS = "text"
    HISTOGRAMS = "histograms"
    FILES = "files"


# ---------------------------------------------------------------- the ledger


class Kind(StrEnum):
    """What happened to something that did not arrive exactly as it was."""

    SKIPPED = "skipped"  #: not written
    RENAMED = "renamed"  #: written under another path
    CONVERTED = "converted"  #: written as another type
    TRUNCATED = "truncated"  #: cut to Neptune's limit
    CLAMPED = "clamped"  #: a time that went backwards
    ESTIMATED = "estimated"  #: a time that the source does not have
    SAMPLED = "sampled"  #: the source may have more than it returned
    KEPT = "kept"  #: not copied again: an earlier copy, or the parent of the fork, has it
    LINKED = "linked"  #: a file outside the run's directory, to which a link of `run.save()` led
    JOINED = "joined"  #: several logs that are read as one run: copies, unmarked starts, concurrent processes


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger. Equal (kind, path, reason) are added up. `path` is usually a name in the source."""

    kind: Kind
    path: str
    reason: str
    count: int = 1


@dataclass(slots=True)
class Batch:
    """What a part passes to the copy loop. Once `records` are durable, `cursor` may be saved.

    `read` counts the source's values in the batch, `written` those that became records. The others are skips in
    `ledger`. `until_step` is the highest step in `records` (None: no series points). `cursor` is JSON: everything that
    the part needs to continue after this batch. A list at its key `items` only grows, except in a `fresh` batch. `done`
    marks the last batch of the part. `fresh`: the part was read from its start again (a refresh), so this batch
    replaces earlier counts and ledger entries.
    """

    cursor: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    ledger: list[Entry] = field(default_factory=list)
    read: int = 0
    written: int = 0
    size_bytes: int = 0
    until_step: float | None = None
    done: bool = False
    fresh: bool = False
