"""The first pass over the logs of one run. Reads everything except rows, samples and lines, which stay on disk.

The logs are those of the run's starts, in order. `starts` decides which they are and how their rows are numbered.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from migrator.records import Entry
from migrator.sources.wandb_local.artifacts import ArtifactIndex
from migrator.sources.wandb_local.bulk import OneByOne, records_of, steps_of
from migrator.sources.wandb_local.extras import Extras
from migrator.sources.wandb_local.head import RunHead, latest
from migrator.sources.wandb_local.log import CONTROL, HISTORY, SUMMARY, Page, Tail, WandbLog
from migrator.sources.wandb_local.summaries import complete_summary
from migrator.sources.wandb_local.values import (
    JsonTree,
    epoch_s,
    item_json,
    item_path,
    json_or_text,
    put,
    row_step,
    row_time_s,
)
from migrator.values import SeriesKey, SeriesKind, leaves

if TYPE_CHECKING:
    from migrator.sources.wandb_local.items import Records

NUMBER_INITIALS = frozenset("-0123456789NItf")  # of JSON numbers, NaN, Infinity, true, false
MARK_ROWS = 10_000  # reading resumes at most this many rows before the wanted one


class Span(NamedTuple):
    """A log and the steps of its rows: numbered after `floor` (None: as logged), and read up to `until`."""

    log: Path
    floor: int | None = None
    until: float = math.inf


@dataclass(slots=True)
class LogScan:
    """The contents of one log. Steps are those of the run (see `step_of`). `marks` are (step, offset before the row).

    Rows above `until` are always left out: a later start has rewound the run to that step.
    """

    log: Path
    floor: int | None = None
    until: float = math.inf
    head: RunHead | None = None
    rows: int = 0
    first_step: int = 0
    last_step: int = -1
    ascending: bool = True
    strictly_ascending: bool = True
    end: int = 0
    stats: int = 0
    pieces: int = 0
    has_summary: bool = False
    exit_code: int | None = None
    tail: Tail = field(default_factory=Tail)
    marks: list[tuple[int, int]] = field(default_factory=list)

    def step_of(self, history: Any, before: int) -> int:
        """The step of a row. `before` is the step of the previous row, or `first_before`."""
        step = row_step(history, before)
        return step if self.floor is None else max(step, before + 1)

    @property
    def first_before(self) -> int:
        return -1 if self.floor is None else self.floor

    def add_row(self, step: int, begin: int) -> None:
        """Count a row, which is found from offset `begin` on."""
        if self.rows % MARK_ROWS == 0:
            self.marks.append((step, begin))
        if self.rows == 0:
            self.first_step = step
        elif step <= self.last_step:
            self.strictly_ascending = False
            self.ascending &= step == self.last_step
        self.rows += 1
        self.last_step = max(step, self.last_step)

    def offset_for(self, after_step: float | None) -> tuple[int, int]:
        """Where to begin reading the rows above `after_step`: an offset, and the step to pass to `step_of`."""
        start = 0, self.first_before
        if after_step is None or not self.marks or not self.ascending:
            return start
        at = bisect_right(self.marks, after_step, key=lambda mark: mark[0]) - 1
        return (self.marks[at][1], self.marks[at][0] - 1) if at >= 0 else start


@dataclass(slots=True)
class RunScan:
    """The contents of all logs of a run. `inherited`: logs of other runs whose rows come before its own.

    `concurrent`: some starts ran at the same time. `shared`: they wrote the run together, and its rows have no steps.
    """

    concurrent: bool = False
    shared: bool = False
    logs: list[LogScan] = field(default_factory=list)
    inherited: list[LogScan] = field(default_factory=list)
    config: JsonTree = field(default_factory=JsonTree)
    summary: JsonTree = field(default_factory=JsonTree)
    series: dict[SeriesKey, None] = field(default_factory=dict)
    media: set[tuple[str, str]] = field(default_factory=set)
    saved: set[str] = field(default_factory=set)  # names in `files` records: the files passed to run.save()
    artifacts: ArtifactIndex = field(default_factory=ArtifactIndex)
    used: dict[str, None] = field(default_factory=dict)
    extras: Extras = field(default_factory=Extras)
    user: str = ""
    last_time_s: float | None = None
    entries: list[Entry] = field(default_factory=list)  # for the ledger

    @property
    def rows(self) -> int:
        return sum(log.rows for log in (*self.inherited, *self.logs))

    def last_step(self) -> int | None:
        """The highest step of the run. None: it has no rows."""
        if self.shared:
            return self.rows - 1 if self.rows else None
        return max((log.last_step for log in (*self.inherited, *self.logs) if log.rows), default=None)

    def inherit(self, scan: RunScan) -> None:
        """Add the rows of another scan before all others."""
        self.inherited = scan.logs
        self.series = scan.series | self.series
        self.media |= scan.media


def scan_run(
    spans: Sequence[Span], keys: Set[bytes] = frozenset(), *, concurrent: bool = False, shared: bool = False
) -> RunScan:
    """Read the logs of a run, in order of their starts. A summary file that contains one of `keys` is not used."""
    scan = RunScan(concurrent, shared)
    for span in spans:
        _Scanner(scan, span, keys).read()
    return scan


class _Scanner:
    """Reads one log into a `RunScan`."""

    def __init__(self, scan: RunScan, span: Span, keys: Set[bytes]) -> None:
        self._run = scan
        self._log = LogScan(*span)
        self._reader = WandbLog(span.log)
        self._keys = keys
        self._step = self._log.first_before
        #: paths whose numbers need no parsing: one key, or a tuple of several
        self._known_numbers: set[str | tuple[str, ...]] = {"_step", "_timestamp"}
        self._last_run: Any = None
        self._last_row: Any = None

    def read(self) -> None:
        log = self._log
        for page in self._reader.pages():
            for number in self._left_of(page):
                record = self._reader.parsed(page.payloads[number], page.ends[number])
                if record is not None:
                    self._record(record, page.begins[number])
            log.end = page.ends[-1]
        log.tail = self._reader.tail
        if self._last_run is not None:
            log.head = RunHead.of(self._last_run)
        if self._last_row is not None:
            self._saw_s(row_time_s(self._last_row))
        if note := complete_summary(self._run.summary, log, self._keys):
            self._run.entries.append(note)
        self._run.logs.append(log)

    def _left_of(self, page: Page) -> Sequence[int]:
        """Read rows and summaries of a page in bulk if possible. Returns the numbers of the records that are left."""
        every = range(len(page.payloads))
        try:
            records = records_of(page.payloads)
        except OneByOne:
            return every
        left = records.kinds >= 0
        for kind, read in ((HISTORY, self._rows), (SUMMARY, self._summaries)):
            try:
                read(records, page)
            except OneByOne:
                continue
            left &= records.kinds != kind
        return left.nonzero()[0].tolist()

    def _rows(self, records: Records, page: Page) -> None:
        """Do `_row` for all rows of a page, or raise `OneByOne`."""
        log = self._log
        items = records.items(HISTORY)
        steps = steps_of(items, log.floor, self._step)
        if steps.max() > log.until:
            raise OneByOne
        known = [(path[0] if len(path) == 1 else path) in self._known_numbers for path in items.paths]
        others = items.besides(known, NUMBER_INITIALS)

        rows = (records.kinds == HISTORY).nonzero()[0].tolist()
        for step, number in zip(steps.tolist(), rows, strict=True):
            log.add_row(step, page.begins[number])
        self._step = int(steps[-1])
        if (last := self._reader.parsed(page.payloads[rows[-1]], page.ends[rows[-1]])) is not None:
            self._last_row = last.history
        for row, found in groupby(others, key=itemgetter(0)):
            self._survey_others([(path, text) for _, path, text in found], int(steps[row]))

    def _summaries(self, records: Records, _: Page) -> None:
        """Apply all summary records of a page, or raise `OneByOne`."""
        if (records.kinds >= CONTROL).any():  # one may be a run, which has a summary, too: the order matters
            raise OneByOne
        for path, text in records.items(SUMMARY).last_texts().items():
            self._run.summary.set(path, text)
        self._log.has_summary = True

    def _record(self, record: Any, begin: int) -> None:
        log = self._log
        match record.WhichOneof("record_type"):
            case "history":
                self._row(record.history, begin)
            case "summary":
                self._run.summary.update(record.summary)
                log.has_summary = True
            case "config":
                self._run.config.merge(record.config)
            case "stats":
                log.stats += record.stats.stats_type == 0
                self._saw(record.stats)
            case "output_raw" | "output" as kind:
                piece = getattr(record, kind)
                log.pieces += bool(piece.line)
                self._saw(piece)
            case "artifact":
                self._run.artifacts.add(record.artifact, log.log, begin)
            case _:
                self._seldom(record)

    def _seldom(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "run":
                self._last_run = latest(record.run, self._last_run)
                self._run.config.merge(record.run.config)
                self._run.summary.update(record.run.summary)
                self._log.has_summary |= bool(record.run.summary.update)
            case "environment":
                self._run.user = record.environment.username or self._run.user
            case "files":
                self._run.saved.update(item.path for item in record.files.files)
            case "use_artifact":
                self._run.used[record.use_artifact.name or record.use_artifact.id] = None
            case "exit":
                self._log.exit_code = record.exit.exit_code
            case _:
                self._run.extras.add(record)

    def _row(self, history: Any, before: int) -> None:
        log = self._log
        step = self._step = log.step_of(history, self._step)
        if step > log.until:
            return
        log.add_row(step, before)
        self._last_row = history
        self._survey(history, step)

    def _survey(self, history: Any, step: int) -> None:
        """Record the series of a row. Most values are numbers at known paths, which are not parsed."""
        known, others = self._known_numbers, []
        for item in history.item:
            path = item.nested_key
            depth = len(path)
            key = path[0] if depth == 1 else tuple(path) if depth else item.key
            text = item.value_json
            if not (key in known and text and text[0] in NUMBER_INITIALS):
                others.append((tuple(item_path(item)), item_json(item)))
        if others:
            self._survey_others(others, step)

    def _survey_others(self, items: Sequence[tuple[tuple[str, ...], str]], step: int) -> None:
        series = self._run.series
        values: dict[str, Any] = {}
        for path, text in sorted(items, key=lambda item: len(item[0]) > 1):  # dicts last, as in `row_values`
            put(values, path, _surveyed(text))
        for key, value in sorted(values.items()):
            for leaf in leaves(key, value, step):
                series[leaf.series] = None
                if leaf.series.kind is SeriesKind.FILE and isinstance(leaf.payload, dict):
                    self._run.media.add((key, str(leaf.payload["path"])))
        for path, _ in items:
            if SeriesKey(".".join(path), "", SeriesKind.NUMBER) in series:
                self._known_numbers.add(path if len(path) > 1 else path[0])

    def _saw(self, record: Any) -> None:
        if record.HasField("timestamp"):
            self._saw_s(epoch_s(record.timestamp))

    def _saw_s(self, time_s: float | None) -> None:
        self._run.last_time_s = max(self._run.last_time_s or 0.0, time_s or 0.0) or None


def _surveyed(text: str) -> Any:
    """Parse a value just enough to find its series: a list of numbers (such as histogram bins) becomes empty."""
    return [] if text[:1] == "[" and text[1:2] in NUMBER_INITIALS else json_or_text(text)
