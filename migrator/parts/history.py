"""History: numbers, text, histograms and media, by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from migrator.limits import FLOAT_EXACT_INT, STEP_MAX
from migrator.naming import legal_path
from migrator.parts.base import (
    BATCH_FILES,
    BATCH_VALUES,
    BatchLedger,
    Context,
    Cursor,
    Fill,
    Times,
    as_double,
    bounded_text,
    is_exact,
)
from migrator.parts.files import file_path
from migrator.parts.histograms import histogram_of
from migrator.parts.layout import Layout
from migrator.parts.shortage import SHORT, Shortage, insist, skip_lost
from migrator.parts.tables import media_in_cells
from migrator.records import (
    AssignFile,
    Batch,
    Columns,
    Entry,
    HistoryColumns,
    HistoryRow,
    Kind,
    LocalFile,
    Points,
    PointValue,
    Record,
)
from migrator.sources.base import OffersColumns, SourceRun, Withheld
from migrator.values import Leaf, SeriesKey, SeriesKind, leaves

WHOLE_TABLE = "--include artifacts copies the whole table"
INHERITED = "a row inherited from the run that this run was forked from: it is in the parent"
MISSING_MAX = 1000  # names of missing files to remember: a run that is still active may upload its last files late

WHOLE = "history"  # path of ledger entries that belong to no known key


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy all rows after the cursor.

    The survey comes first: Neptune fixes the type of a path with its first point, so all kinds of values that one key
    has must be known before paths are assigned. The cursor keeps the result, so that an interrupted copy can resume.
    """
    converter = _Converter(run, cursor, context)
    if cursor.get("surveyed") != context.fingerprint:
        survey = run.survey()
        converter.counted, converter.bad_rows = survey.counted, survey.bad_rows
        yield from insist(Shortage.seen(cursor, survey.rows, survey.counted), "history", lambda: Batch({**cursor}))
        converter.layout.learn((one for one in survey.series if context.options.wants(one.key)), converter.ledger)
    for name in cursor.get("missing", ()):
        converter.add_file(name)
        if converter.is_full():
            yield converter.take(done=False)
    after_step = cursor.get("step")
    pages = run.history_pages(after_step) if isinstance(run, OffersColumns) else run.history(after_step)
    for page in pages:
        if isinstance(page, HistoryColumns):
            columns = converter.columns_of(page)
            if columns is not None:
                yield from converter.add_columns(page, columns)
                continue
            page = page.rows()
        for row in page:
            if converter.is_full() and row.step != converter.step:
                yield converter.take(done=False)
            converter.add(row)
        if converter.is_full():
            yield converter.take(done=False)  # rows of equal step never cross a page
    short = Shortage.seen(cursor, converter.rows, converter.counted)
    yield from insist(short, "history", lambda: converter.take(done=False))
    last = converter.take(done=True)
    skip_lost(last, short, "missing_rows", cursor.get("missing_rows", 0))
    last.cursor["missing_rows"] = max(0, converter.counted - converter.rows)
    if (bad := converter.bad_rows - cursor.get("bad_rows_told", 0)) > 0:
        last.read += bad
        last.ledger.append(Entry(Kind.SKIPPED, WHOLE, "bad_row", bad))
    last.cursor["bad_rows_told"] = converter.bad_rows
    yield last


class _LoneFile(NamedTuple):
    """A file whose point was skipped, now or earlier (the file was missing). If it exists, it is copied on its own."""

    name: str
    path: str
    file: Future[LocalFile | None]


class _Fetching(NamedTuple):
    """A file that is being fetched and belongs into `values[path]`."""

    values: dict[str, Any]
    path: str
    name: str
    file: Future[LocalFile | None]


@dataclass(slots=True)
class _Pending:
    """The batch being built."""

    records: list[Points | Columns | _LoneFile] = field(default_factory=list)
    fetching: list[_Fetching] = field(default_factory=list)
    lone_files: int = 0
    read: int = 0
    written: int = 0
    size_bytes: int = 0


class _Converter:
    """Turns rows into points and keeps the state that the next batch needs."""

    def __init__(self, run: SourceRun, cursor: Cursor, context: Context) -> None:
        self._run = run
        self._context = context
        self.layout = Layout(cursor.get("series", ()), context.options.metrics_namespace)
        self.ledger = BatchLedger()
        self.step: int | float | None = cursor.get("step")  # of the last row, written or not: reading resumes after it
        self.rows: int = cursor.get("rows", 0)
        self.counted: int = cursor.get("counted", 0)  # rows, as the source counts them
        self.bad_rows: int = cursor.get("bad_rows", 0)
        self._cursor = cursor
        self._wants = context.options.wants
        self._fork_step = context.fork_step
        self._times = Times(cursor, context.created_at)
        self._noted: set[str] = set(cursor.get("noted", ()))
        self._missing: dict[str, None] = dict.fromkeys(cursor.get("missing", ()))  # files that may appear later
        self._number_paths: dict[str, str] = {}  # keys whose plain numbers take the fast path
        self._taken: Set[str] = frozenset()  # paths that have a point at `step`
        self._batch = _Pending()
        self._fill = Fill(context.clock)

    def is_full(self) -> bool:
        batch = self._batch
        files = len(batch.fetching) + batch.lone_files
        return self._fill.full(batch.read, batch.size_bytes) or files >= BATCH_FILES

    def take(self, *, done: bool) -> Batch:
        """Return the batch so far, with its files fetched, and begin a new one."""
        pending, self._batch = self._batch, _Pending()
        for values, path, name, future in pending.fetching:
            file, reason = _fetched(future)
            if file is not None:
                values[path] = file
                pending.size_bytes += file.size_bytes
                self.ledger.linked(file)
                if name.endswith(".table.json") and (kinds := media_in_cells(file.path)):
                    self.ledger.add(
                        Kind.CONVERTED, path, f"media in cells are only named ({', '.join(kinds)}): {WHOLE_TABLE}"
                    )
            else:
                del values[path]
                pending.written -= 1
                self.ledger.add(Kind.SKIPPED, name, reason)
                self._missing[name] = None
        until_step: float | None = None
        records: list[Record] = []
        for record in pending.records:
            if isinstance(record, _LoneFile):
                records += self._placed(record)
            elif record.values:
                records.append(record)
                last = int(record.steps[-1]) if isinstance(record, Columns) else record.step
                until_step = last if until_step is None else max(until_step, last)
        self._fill.restart()
        return Batch(
            cursor={
                "step": self.step,
                "rows": self.rows,
                "counted": self.counted,
                SHORT: self._cursor.get(SHORT),
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
        """Write the file as a single value, once."""
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

    def columns_of(self, page: HistoryColumns) -> Columns | None:
        """Convert the numbers of a page to points at once. None: they must be converted row by row."""
        if self.step is not None and page.steps[0] <= self.step:
            return None
        if self._fork_step is not None and page.steps[0] <= self._fork_step:
            return None
        times_us = self._times.of_columns(page.times)
        if times_us is None:
            return None
        paths = {
            key: self.layout.path(SeriesKey(key, "", SeriesKind.NUMBER), self.ledger)
            for key in page.numbers
            if self._wants(key) and (key not in page.present or page.present[key].any())
        }
        return Columns(
            page.steps,
            times_us,
            {path: page.numbers[key] for key, path in paths.items()},
            {paths[key]: where for key, where in page.present.items() if key in paths},
        )

    def add_columns(self, page: HistoryColumns, columns: Columns) -> Iterator[Batch]:
        """Do `add` for each row of a page whose numbers are `columns`. Yields the batches that become full."""
        start, end, width = 0, len(page.steps), max(1, len(columns.values))
        others = (
            [*zip(columns.steps.tolist(), columns.times_us.tolist(), page.others, strict=True)] if page.others else []
        )
        while start < end:
            stop = min(end, start + max(1, (BATCH_VALUES - self._batch.read) // width))
            for number, (step, time_us, values) in enumerate(others[start:stop], start + 1):
                self._add_others(step, time_us, values)
                if self.is_full():
                    stop = number
                    break
            some = columns.rows(start, stop)
            self.rows += stop - start
            self.step, self._taken = int(some.steps[-1]), frozenset()
            if count := some.point_count():
                self._batch.records.append(some)
                self._batch.read += count
                self._batch.written += count
                self._batch.size_bytes += 16 * count
            self._times.passed(some)
            start = stop
            if self.is_full():
                yield self.take(done=False)

    def _add_others(self, step: int, time_us: int, others: Mapping[str, Any]) -> None:
        """Add the values of a row that are not in the columns."""
        if values := self._convert(HistoryRow(step, None, others), frozenset()):
            self._append(step, self._times.by_series(time_us, values, self.ledger), values)

    def _append(
        self, step: int | float, by_time: Sequence[tuple[int, dict[str, PointValue]]], values: dict[str, PointValue]
    ) -> None:
        """Append one row of `values`. If its series have different times, each file follows the point of its series."""
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
        """Skip a point that Neptune would not accept."""
        self.ledger.add(Kind.SKIPPED, leaf.series.key, reason)
        if leaf.series.kind is SeriesKind.FILE:
            self.add_file(_file_name(leaf))

    def add_file(self, name: str) -> None:
        """Copy the file of a point that is not written."""
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
        """The value of a point. None: it was skipped. For a file, a placeholder until the file is fetched."""
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
