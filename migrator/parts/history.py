"""History: numbers, text, histograms and media by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, NamedTuple

from migrator.limits import FLOAT_EXACT_INT, HISTOGRAM_MAX_BINS, STEP_MAX
from migrator.naming import legal_path
from migrator.parts.base import (
    BATCH_FILES,
    Context,
    Cursor,
    Fill,
    Ledger,
    Shortage,
    Times,
    as_double,
    bounded_text,
    is_exact,
)
from migrator.parts.files import file_path
from migrator.parts.layout import Layout
from migrator.records import (
    AssignFile,
    Batch,
    Entry,
    Histogram,
    HistoryRow,
    Kind,
    LocalFile,
    Points,
    PointValue,
    Record,
)
from migrator.sources.base import SourceRun, Withheld
from migrator.values import Leaf, SeriesKind, leaves

INHERITED = "a row that the run has from the one that it was forked from: it is there"
MISSING_MAX = 1000  # names of missing files that are remembered: a run that still runs uploads its last ones late

WHOLE = "history"  # in the ledger, where no key is known


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """All rows behind the cursor.

    The survey comes first: which kinds meet at one key decides the paths, and Neptune fixes a path's type at the
    first point. It is kept in the cursor, so that an interrupted run goes on where it was.
    """
    converter = _Converter(run, cursor, context)
    if cursor.get("surveyed") != context.fingerprint:
        survey = run.survey()
        converter.counted, converter.bad_rows = survey.counted, survey.bad_rows
        yield from Shortage.seen(cursor, survey.rows, survey.counted).insist("history", lambda: Batch({**cursor}))
        converter.layout.learn((one for one in survey.series if context.options.wants(one.key)), converter.ledger)
    for name in cursor.get("missing", ()):
        converter.add_file(name)
        if converter.is_full():
            yield converter.take(done=False)
    for page in run.history(cursor.get("step")):
        for row in page:
            if converter.is_full() and row.step != converter.step:
                yield converter.take(done=False)
            converter.add(row)
        if converter.is_full():
            yield converter.take(done=False)  # rows of equal step never cross a page
    short = Shortage.seen(cursor, converter.rows, converter.counted)
    yield from short.insist("history", lambda: converter.take(done=False))
    last = converter.take(done=True)
    short.skip(last, "missing_rows", cursor.get("missing_rows", 0))
    last.cursor["missing_rows"] = max(0, converter.counted - converter.rows)
    if (bad := converter.bad_rows - cursor.get("bad_rows_told", 0)) > 0:
        last.read += bad
        last.ledger.append(Entry(Kind.SKIPPED, WHOLE, "bad_row", bad))
    last.cursor["bad_rows_told"] = converter.bad_rows
    yield last


class _LoneFile(NamedTuple):
    """A file whose point is skipped, now or because it was missing: it goes to the other files, if it is there."""

    name: str
    path: str
    file: Future[LocalFile | None]


class _Fetching(NamedTuple):
    """A file on its way into `values[path]`."""

    values: dict[str, Any]
    path: str
    name: str
    file: Future[LocalFile | None]


@dataclass(slots=True)
class _Pending:
    """The batch being built."""

    records: list[Points | _LoneFile] = field(default_factory=list)
    fetching: list[_Fetching] = field(default_factory=list)
    lone_files: int = 0
    read: int = 0
    written: int = 0
    size_bytes: int = 0


class _Converter:
    """Turns rows into points; remembers what the next batch must know."""

    def __init__(self, run: SourceRun, cursor: Cursor, context: Context) -> None:
        self._run = run
        self._context = context
        self.layout = Layout(cursor.get("series", ()), context.options.metrics_namespace)
        self.ledger = Ledger()
        self.step: int | float | None = cursor.get("step")  # of the last row, written or not: reading goes on behind it
        self.rows: int = cursor.get("rows", 0)
        self.counted: int = cursor.get("counted", 0)  # rows, by the source
        self.bad_rows: int = cursor.get("bad_rows", 0)
        self._cursor = cursor
        self._wants = context.options.wants
        self._fork_step = context.fork_step
        self._times = Times(cursor, context.created_at)
        self._noted: set[str] = set(cursor.get("noted", ()))
        self._missing: dict[str, None] = dict.fromkeys(cursor.get("missing", ()))  # files that may come later
        self._number_paths: dict[str, str] = {}  # keys whose plain numbers need no second look
        self._taken: Set[str] = frozenset()  # paths that have a point at `step`
        self._batch = _Pending()
        self._fill = Fill(context.clock)

    def is_full(self) -> bool:
        batch = self._batch
        files = len(batch.fetching) + batch.lone_files
        return self._fill.full(batch.read, batch.size_bytes) or files >= BATCH_FILES

    def take(self, *, done: bool) -> Batch:
        """The batch so far, with its files fetched; a new one begins."""
        pending, self._batch = self._batch, _Pending()
        for values, path, name, future in pending.fetching:
            file, reason = _fetched(future)
            if file is not None:
                values[path] = file
                pending.size_bytes += file.size_bytes
                self.ledger.linked(file)
            else:
                del values[path]
                pending.written -= 1
                self.ledger.add(Kind.SKIPPED, name, reason)
                self._missing[name] = None
        until_step = None
        records: list[Record] = []
        for record in pending.records:
            if isinstance(record, _LoneFile):
                records += self._placed(record)
            elif record.values:
                records.append(record)
                until_step = record.step
        self._fill.restart()
        return Batch(
            cursor={
                "step": self.step,
                "rows": self.rows,
                "counted": self.counted,
                "short": self._cursor.get("short"),
                "missing_rows": self._cursor.get("missing_rows", 0),
                "bad_rows": self.bad_rows,
                "bad_rows_told": self._cursor.get("bad_rows_told", 0),
                **self._times.state(),
                "series": self.layout.series,
                "surveyed": self._context.fingerprint,
                "noted": sorted(self._noted),
                "missing": [*islice(self._missing, MISSING_MAX)],
            },
            records=records,
            ledger=self.ledger.take(),
            read=pending.read,
            written=pending.written,
            size_bytes=pending.size_bytes,
            until_step=until_step,
            done=done,
        )

    def _placed(self, lone: _LoneFile) -> Iterator[AssignFile]:
        """The file as a single value, once."""
        file, _ = _fetched(lone.file)
        if file is not None and lone.path not in self._noted:
            self._noted.add(lone.path)
            self._missing.pop(lone.name, None)
            self.ledger.add(Kind.RENAMED, f"{lone.name} → {lone.path}", "its point was skipped")
            yield AssignFile(lone.path, file)

    def add(self, row: HistoryRow) -> None:
        self.rows += 1
        if self._fork_step is not None and row.step <= self._fork_step:
            self.ledger.add(Kind.KEPT, "history", INHERITED)
            return
        time_us = self._times.of_row(row.time, self.ledger)
        if self.step is not None and row.step < self.step:
            self._skip(row, "step_not_increasing")
            return
        if row.step != self.step:
            self.step, self._taken = row.step, frozenset()
        if not 0 <= row.step < STEP_MAX:
            self._skip(row, "step_out_of_range")
        elif values := self._convert(row, self._taken):
            self._append(row.step, self._times.by_series(time_us, values, self.ledger), values)
            self._taken = self._taken | values.keys() if self._taken else values.keys()

    def _append(
        self, step: int | float, by_time: Sequence[tuple[int, dict[str, PointValue]]], values: dict[str, PointValue]
    ) -> None:
        """One row of `values`; where its series have different times, its files follow to their own points."""
        self._batch.records += [Points(step, time_us, some) for time_us, some in by_time]
        if by_time[0][1] is not values:
            home = {path: some for _, some in by_time for path in some}
            self._batch.fetching = [
                fetching._replace(values=home[fetching.path]) if fetching.values is values else fetching
                for fetching in self._batch.fetching
            ]

    def _skip(self, row: HistoryRow, reason: str) -> None:
        for key, value in row.values.items():
            if self._wants(key):
                for leaf in leaves(key, value, row.step):
                    self._batch.read += 1
                    self._skip_leaf(leaf, reason)

    def _skip_leaf(self, leaf: Leaf, reason: str) -> None:
        """A point that Neptune would not take."""
        self.ledger.add(Kind.SKIPPED, leaf.series.key, reason)
        if leaf.series.kind is SeriesKind.FILE:
            self.add_file(_file_name(leaf))

    def add_file(self, name: str) -> None:
        """Take the file of a point that is not written."""
        path = legal_path(file_path(name)).name
        if path not in self._noted:
            self._batch.lone_files += 1
            self._batch.records.append(_LoneFile(name, path, self._context.downloads.submit(self._run.fetch, name)))

    def _convert(self, row: HistoryRow, taken: Set[str]) -> dict[str, PointValue]:
        values: dict[str, Any] = {}
        number_paths = self._number_paths
        plain = 0
        for key, value in row.values.items():
            if value is None:
                continue
            kind = type(value)
            if kind is float or (kind is int and -FLOAT_EXACT_INT <= value <= FLOAT_EXACT_INT):
                path = number_paths.get(key)
                if path is not None and path not in taken and path not in values:
                    values[path] = float(value)
                    plain += 1
                    continue
            if self._wants(key):
                for leaf in leaves(key, value, row.step):
                    self._add_leaf(leaf, values, taken)
        self._batch.read += plain
        self._batch.written += plain
        self._batch.size_bytes += 16 * plain
        return values

    def _add_leaf(self, leaf: Leaf, values: dict[str, Any], taken: Set[str]) -> None:
        batch, series = self._batch, leaf.series
        path = self.layout.path(series, self.ledger)
        if series.kind is SeriesKind.NUMBER and not series.slot:
            self._number_paths[series.key] = path
        batch.read += 1
        if path in taken or path in values:
            self._skip_leaf(leaf, "duplicate_step")
            return
        value = self._payload(leaf, path, values)
        if value is None:
            return
        values[path] = value
        batch.written += 1
        batch.size_bytes += len(value) if isinstance(value, str) else 16
        if leaf.note and path not in self._noted:
            self._noted.add(path)
            self.ledger.add(Kind.CONVERTED, path, leaf.note)

    def _payload(self, leaf: Leaf, path: str, values: dict[str, Any]) -> Any:
        """The point's value; None if it was skipped, or a placeholder while its file is fetched."""
        key, payload = leaf.series.key, leaf.payload
        match leaf.series.kind:
            case SeriesKind.NUMBER:
                assert isinstance(payload, int | float)
                double = as_double(payload)
                if double is None:
                    self.ledger.add(Kind.SKIPPED, key, "number_out_of_range")
                elif not is_exact(payload, double):
                    self.ledger.add(Kind.CONVERTED, path, "integer not exact as a double")
                return double
            case SeriesKind.TEXT:
                if self._context.withholds(str(payload)):
                    self.ledger.add(Kind.SKIPPED, key, "contains_key")
                    return None
                single = bounded_text(str(payload))
                self.ledger.note(path, single.note)
                return single.value
            case SeriesKind.HISTOGRAM:
                assert isinstance(payload, Mapping)
                histogram, changes = histogram_of(payload)
                if histogram is None:
                    self.ledger.add(Kind.SKIPPED, key, "bad_histogram")
                for change in changes:
                    self.ledger.add(Kind.CONVERTED, path, change)
                return histogram
            case SeriesKind.FILE:
                name = _file_name(leaf)
                future = self._context.downloads.submit(self._run.fetch, name)
                self._batch.fetching.append(_Fetching(values, path, name, future))
                return future


def _fetched(future: Future[LocalFile | None]) -> tuple[LocalFile | None, str]:
    """The file, or why there is none."""
    try:
        return future.result(), "missing_file"
    except Withheld as withheld:
        return None, withheld.reason


def _file_name(leaf: Leaf) -> str:
    assert isinstance(leaf.payload, Mapping)
    return str(leaf.payload["path"])


MERGED = f"histogram over {HISTOGRAM_MAX_BINS} bins: neighbours merged"
WIDENED = "histogram without width: its range is widened around the value"


def histogram_of(value: Mapping[str, Any]) -> tuple[Histogram | None, Sequence[str]]:
    """A W&B histogram (`bins` and `values`, or `packedBins`) as Neptune takes it, and what was changed for that.

    None: not a valid histogram. Edges must be finite and strictly increasing (Neptune's rules). Edges that are all
    equal, as those of a parameter with one element, become a range around their value.
    """
    counts = value.get("values")
    edges = _finite_doubles(_edges_of(value))
    if edges is None or _finite_doubles(counts) is None or not counts or len(edges) != len(counts) + 1:
        return None, ()
    changes = []
    merge = -(-len(counts) // HISTOGRAM_MAX_BINS)
    if edges[0] == edges[-1] and min(edges) == max(edges):
        edges = _widened(edges[0], len(counts))
        changes.append(WIDENED)
    if any(left >= right for left, right in pairwise(edges)):
        return None, ()
    if merge > 1:
        counts = [sum(counts[i : i + merge]) for i in range(0, len(counts), merge)]
        edges = [*edges[:-1:merge], edges[-1]]
        changes.append(MERGED)
    if all(0 <= count < 2**64 and int(count) == count for count in counts):
        return Histogram(tuple(edges), tuple(map(int, counts))), changes
    densities = _finite_doubles(counts)
    if densities is None:  # merging has overflowed
        return None, ()
    return Histogram(tuple(edges), tuple(densities)), changes


def _widened(value: float, bins: int) -> list[float]:
    """Edges of `bins` equal bins around `value`, one wide in all, as numpy has them for equal values."""
    width = max(1.0, abs(value) * 1e-9)  # a double can tell the edges of a large value apart
    start = value - width / 2
    edges = [start + width * (i / bins) for i in range(bins + 1)]
    return edges if math.isfinite(edges[-1]) and math.isfinite(start) else [value] * (bins + 1)


def _edges_of(value: Mapping[str, Any]) -> Any:
    """The edges as W&B gives them, checked or not."""
    packed, counts = value.get("packedBins"), value.get("values")
    if not isinstance(packed, Mapping) or not isinstance(counts, list) or packed.get("count") != len(counts):
        return value.get("bins")
    bounds = _finite_doubles([packed.get("min"), packed.get("size")])
    return bounds and [bounds[0] + bounds[1] * i for i in range(len(counts) + 1)]


def _finite_doubles(numbers: Any) -> list[float] | None:
    """A list of numbers as finite doubles; None: it is something else."""
    if not isinstance(numbers, list) or not all(isinstance(number, int | float) for number in numbers):
        return None
    doubles = [double for number in numbers if (double := as_double(number)) is not None and math.isfinite(double)]
    return doubles if len(doubles) == len(numbers) else None
