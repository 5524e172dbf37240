"""W&B's history exports: Parquet files with one row per logged step and one column per key, read column by column.

Their form (measured, wandb 0.31): `_step` always exists and has any integer or float type. A missing value is null. A
nested dict is a struct column with the fields of all rows, null where a row lacks them. Nulls are left out here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from migrator.errors import ErrorClass
from migrator.records import HistoryRow
from migrator.sources.wandb.errors import Passing
from migrator.sources.wandb.page_headers import largest_page
from migrator.values import SeriesKey, SeriesKind, leaves

VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
BATCH_BYTES = 4 << 20  # converted at once: enough to make the overhead per batch small
VALUE_BYTES = 40  # one value in memory, at least; repeated values take hardly any space in the file
TEXT_ROWS = 100  # per batch with texts, at most: the length of repeated texts is not known in advance
PAGE_BYTES_MAX = 64 << 20  # of a page, which is held in memory two to four times; writers aim at 1 MiB
SORTED_BYTES_MAX = 128 << 20  # of a file whose rows must be sorted, in memory
READ_BYTES = 64 << 10  # read at once of one column; without a limit, the whole column is read
UNREADABLE = (pa.ArrowException, OSError)

STEP, TIME = "_step", "_timestamp"


class TooLarge(Exception):
    """A Parquet file that cannot be read in little memory, although it is valid."""


class ParquetTable:
    """A Parquet file from W&B.

    Opening it reads the footer: a truncated or foreign file raises `Passing(BAD_DATA)`, one with a page over
    PAGE_BYTES_MAX raises `TooLarge`.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self._what = path, what
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES)
            page_bytes = largest_page(path, self._file.metadata, PAGE_BYTES_MAX)
        except (*UNREADABLE, ValueError) as error:
            raise self._unreadable(error) from error
        if page_bytes:
            self.close()
            raise TooLarge(f"{what}: a Parquet file with a page of {page_bytes >> 20} MiB")
        arrow = self._file.schema_arrow  # computed anew on each access
        self.names: list[str] = arrow.names
        self.kinds: dict[str, pa.DataType] = dict(zip(arrow.names, arrow.types, strict=True))
        meta = self._file.metadata
        self.rows: int = meta.num_rows
        parts = (
            meta.row_group(group).column(i) for group in range(meta.num_row_groups) for i in range(meta.num_columns)
        )
        self.size_bytes = sum(max(part.total_uncompressed_size, 8 * part.num_values) for part in parts)  # in memory
        schema = self._file.metadata.schema
        self._flat = {schema.column(i).path: i for i in range(len(schema))}  # struct columns by the path of each part

    def batches(self, columns: list[str] | None = None, groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in file order, in batches. May contain more columns than requested (names with dots)."""
        groups = list(range(self._file.metadata.num_row_groups)) if groups is None else groups
        if not groups:
            return
        size = min(map(self._rows_in_batch, groups))
        try:
            yield from map(_computable, self._file.iter_batches(size, groups, columns, use_threads=False))
        except UNREADABLE as error:
            raise self._unreadable(error) from error

    def _rows_in_batch(self, group: int) -> int:
        meta = self._file.metadata.row_group(group)
        parts = [meta.column(i) for i in range(meta.num_columns)]
        size_bytes = sum(max(part.total_uncompressed_size, VALUE_BYTES * part.num_values) for part in parts)
        at_most = TEXT_ROWS if any(part.physical_type == "BYTE_ARRAY" for part in parts) else meta.num_rows
        return max(1, int(min(at_most, BATCH_BYTES * meta.num_rows / max(size_bytes, 1))))

    def statistics(self, name: str) -> list[Any]:
        """The statistics of the flat column `name`, one per row group. None: the file has none."""
        meta, at = self._file.metadata, self._flat.get(name)
        if at is None:
            return [None]
        return [meta.row_group(group).column(at).statistics for group in range(meta.num_row_groups)]

    def close(self) -> None:
        self._file.close(force=True)

    def _unreadable(self, error: Exception) -> Passing:
        return Passing(ErrorClass.BAD_DATA, f"{self._what}: unreadable Parquet file ({type(error).__name__})")


def _computable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert string views, which newer writers use, to plain strings: pyarrow can do little with views."""
    if VIEWS.keys().isdisjoint(batch.schema.types):
        return batch
    columns = [column.cast(VIEWS[column.type]) if column.type in VIEWS else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


class HistoryExport:
    """One export file of a run's history; `first` and `last` are its lowest and highest step (rows > 0).

    `bad_rows` have no step: they do not count as `rows` and are not read. Raises as `ParquetTable` does, also
    `TooLarge` for rows that must be sorted and are too many for that.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._table, self._what = ParquetTable(path, what), what
        self.rows, self.bad_rows = 0, self._table.rows
        self.first, self.last, self._ascending = 0.0, 0.0, True
        self.strict = True  # whether each row has a higher step than the previous one
        if self.bad_rows and STEP in self._table.names:  # without rows, there are no columns, or they have no type
            self.first, self.last, self._ascending = self._span()
        if not self._ascending and self._table.size_bytes > SORTED_BYTES_MAX:
            self.close()
            raise TooLarge(f"{what}: a Parquet file of {self._table.size_bytes >> 20} MiB whose steps do not ascend")

    def _span(self) -> tuple[float, float, bool]:
        """The lowest and highest step, and whether the rows ascend (W&B writes them so). Also counts the rows."""
        first = last = before = None
        ascending = True
        for batch in self._with_step(self._table.batches([STEP])):
            steps = batch.column(STEP)
            if not len(steps):
                continue
            self.rows += len(steps)
            ends = pc.min_max(steps)
            low, high = ends["min"].as_py(), ends["max"].as_py()
            ascending = ascending and (before is None or low >= before)
            ascending = ascending and pc.all(pc.less_equal(steps[:-1], steps[1:])).as_py() is not False
            self.strict = self.strict and (before is None or low > before)
            self.strict = self.strict and pc.all(pc.less(steps[:-1], steps[1:])).as_py() is not False
            first, last = min(low, low if first is None else first), max(high, high if last is None else last)
            before = high
        self.bad_rows -= self.rows
        return first or 0, last or 0, ascending

    def chunks(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        """The rows with a step above `after_step`, ascending."""
        yield from map(history_rows, self.batches(after_step))

    def batches(self, after_step: float | None) -> Iterator[pa.RecordBatch]:
        """Like `chunks`, but as Parquet batches. None of them is empty."""
        for batch in self._batches(after_step):
            if after_step is not None:
                batch = batch.filter(pc.greater(batch.column(STEP), pa.scalar(after_step)))
            if batch.num_rows:
                yield batch

    def _batches(self, after_step: float | None) -> Iterator[pa.RecordBatch]:
        if self._ascending:
            groups = [
                group
                for group, known in enumerate(self._table.statistics(STEP))
                if after_step is None or known is None or not known.has_min_max or known.max > after_step
            ]
            return self._with_step(self._table.batches(groups=groups))
        table = pa.Table.from_batches(
            self._with_step(self._table.batches())
        )  # W&B writes ascending steps; sorting needs all rows in memory
        return iter(table.sort_by(STEP).to_batches(max_chunksize=1000))

    def _with_step(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Drop the rows that have no step."""
        for batch in batches:
            steps = batch.column(STEP)
            if pa.types.is_floating(steps.type):
                steps = pc.if_else(pc.is_finite(steps), steps, None)
            yield batch.filter(steps.is_valid()) if steps.null_count else batch

    def survey(self, series: dict[SeriesKey, None], media: set[tuple[str, str]]) -> None:
        """Add the series in this file, in column order, and the media files that its values name."""
        found: dict[str, dict[SeriesKey, None]] = {}
        to_read = []
        for name in self._table.names:
            if name in (STEP, TIME):
                continue
            found[name] = {}
            known = self._table.statistics(name) if _is_number(self._table.kinds[name]) else [None]
            if all(one is not None and one.has_null_count for one in known):
                if any(one is not None and one.num_values for one in known):
                    found[name][SeriesKey(name, "", SeriesKind.NUMBER)] = None
            else:
                to_read.append(name)
        if to_read:
            for batch in self._with_step(self._table.batches([STEP, *to_read])):
                for name in to_read:
                    _survey_column(name, batch.column(name), batch.column(STEP), found[name], media)
        for keys in found.values():
            series.update(keys)

    def close(self) -> None:
        self._table.close()


# ---------------------------------------------------------------- columns to rows


def history_rows(batch: pa.RecordBatch) -> list[HistoryRow]:
    """Convert a batch of history to rows, without null values."""
    steps, times, values = columns_to_rows(batch, (STEP, TIME))
    return list(map(HistoryRow, map(_whole, steps), map(as_time, times), values))


def plain_rows(batch: pa.RecordBatch) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the `_timestamp` column and the other values of each row, without nulls."""
    times, values = columns_to_rows(batch, (TIME,))
    return times, values


def columns_to_rows(batch: pa.RecordBatch, apart: tuple[str, ...]) -> list[Any]:
    """Return the columns named in `apart` as lists, followed by the rows of all other columns."""
    values: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    alone: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in apart:
            alone[name] = column.to_pylist()
        else:
            _put(values, name, column)
    return [*(alone.get(name) or [None] * batch.num_rows for name in apart), values]


def _put(rows: list[dict[str, Any]], name: str, column: pa.Array) -> None:
    """Add the values of a column to rows. Null: the row does not have it."""
    if column.null_count == 0:
        for row, value in zip(rows, _plain_list(column), strict=True):
            row[name] = value
    elif column.null_count < len(column):
        where = pc.indices_nonzero(column.is_valid()).to_numpy().tolist()
        for i, value in zip(where, _plain_list(column.drop_null()), strict=True):
            rows[i][name] = value


def _plain_list(column: pa.Array) -> list[Any]:
    """The values of a column without nulls, in JSON types, as wandb 0.31 returns them. Tries the fastest ways first."""
    kind = column.type
    if _is_number(kind):
        return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    if pa.types.is_struct(kind):
        rows: list[dict[str, Any]] = [{} for _ in range(len(column))]
        for i in range(kind.num_fields):
            _put(rows, kind.field(i).name, pc.struct_field(column, [i]))
        return rows
    if _is_list(kind) and (elements := column.flatten()).null_count == 0:
        following, lengths = iter(_plain_list(elements)), pc.list_value_length(column).to_numpy().tolist()
        return [list(islice(following, length)) for length in lengths]
    plain: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    clean = _cleaner(kind)
    return [clean(value) for value in plain] if clean else plain


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


Cleaner = Callable[[Any], Any]


def _cleaner(kind: pa.DataType) -> Cleaner | None:
    """A function that converts values of type `kind` to JSON types and drops absent dict fields. None: not needed."""
    if pa.types.is_struct(kind):
        parts = {kind.field(i).name: _cleaner(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: {
            key: clean(inner) if (clean := parts[key]) else inner for key, inner in value.items() if inner is not None
        }
    if pa.types.is_map(kind):
        item = _cleaner(kind.item_type) or (lambda value: value)
        return lambda value: {str(key): item(inner) for key, inner in value.items() if inner is not None}
    if _is_list(kind):
        element = _cleaner(kind.value_type)
        return element and (lambda value: [None if inner is None else element(inner) for inner in value])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return lambda value: base64.b64encode(value).decode()
    if pa.types.is_decimal(kind):
        return lambda value: int(value) if value == value.to_integral_value() else float(value)
    if pa.types.is_duration(kind):
        return lambda value: value.total_seconds()
    if pa.types.is_temporal(kind):
        return lambda value: value.isoformat()
    return None


def _whole(step: int | float) -> int | float:
    return int(step) if isinstance(step, float) and step.is_integer() else step


def as_time(value: Any) -> float | None:
    """Convert to seconds since the epoch (UTC if no zone is given). None: not a finite number or a time."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, Decimal) and value.is_finite():
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return None


# ---------------------------------------------------------------- survey


def _survey_column(
    name: str, column: pa.Array, steps: pa.Array, found: dict[SeriesKey, None], media: set[tuple[str, str]]
) -> None:
    if column.null_count == len(column):
        return
    kind = column.type
    if _is_number(kind):
        found[SeriesKey(name, "", SeriesKind.NUMBER)] = None
    elif _is_list(kind) and _is_number(kind.value_type):
        found[SeriesKey(name, "", SeriesKind.TEXT)] = None
    elif pa.types.is_struct(kind) and _all_histograms(column):
        found[SeriesKey(name, "", SeriesKind.HISTOGRAM)] = None
    else:
        if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
            column, steps = column.unique().drop_null(), repeat(None)
        else:
            steps = steps.filter(column.is_valid()).to_pylist()
            column = column.drop_null()
        for value, step in zip(_plain_list(column), steps, strict=False):
            add_leaves(name, value, step, found, media)


def _all_histograms(column: pa.Array) -> bool:
    """Whether all values are histograms in the common form. Does not build the lists of bins."""
    if column.type.get_field_index("_type") < 0:
        return False
    kinds = pc.struct_field(column, "_type")
    return bool(kinds.null_count == column.null_count and kinds.drop_null().unique().to_pylist() == ["histogram"])


def add_leaves(
    key: str, value: Any, step: float | None, found: dict[SeriesKey, None], media: set[tuple[str, str]]
) -> None:
    """Add the series that the `value` of `key` becomes, and the media files that it names."""
    for leaf in leaves(key, value, step):
        found[leaf.series] = None
        if leaf.series.kind is SeriesKind.FILE:
            media.add((key, str(leaf.payload["path"])))  # type: ignore[index]
