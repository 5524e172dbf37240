"""Columns of numbers, from Parquet to the wire: the same points as row by row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.copying.pipeline import _split
from migrator.destinations.neptune.wire import REQUEST_BYTES, OperationBuilder
from migrator.destinations.neptune.wire_columns import Encoded
from migrator.limits import REQUEST_MAX_BYTES, STEP_MAX
from migrator.parts.base import BATCH_VALUES, MappingOptions
from migrator.records import Assign, Columns, HistoryColumns, HistoryRow, Points, Record
from migrator.sources.memory import MemoryData
from migrator.sources.wandb.columns import history_columns
from migrator.sources.wandb.exports import HistoryExport, history_rows
from tests.drive import batches, convert, convert_in_pieces
from tests.unit.test_parts import OPTIONS, runs_for, slow

NOW = datetime(2024, 1, 1, tzinfo=UTC)
START_US = 1_714_564_800_123_457

# ---------------------------------------------------------------- the history part


plain_steps = st.lists(st.integers(0, 40) | st.just(STEP_MAX - 1), max_size=8, unique=True).map(sorted)
plain_times = st.sampled_from([1.7e9, 1.7e9 + 0.000_000_5, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 - 1, None, math.nan, -1e9, 0.0])
plain_values = st.fixed_dictionaries(
    {},
    optional={
        "loss": st.none() | st.floats() | st.integers(-9, 9),
        "acc": st.floats() | st.just(2**53),
        "a.b": st.just(1.0),
        "a": st.just({"b": 2.0}) | st.just(1.0) | st.just("text"),
        "config/lr": st.just(1),
        "_private": st.just(1),
        "note": st.sampled_from(["x", "NaN", True, 2**53 + 1, 10**400, [1], {"_type": "histogram"}]),
        "bars": st.just({"_type": "histogram", "bins": [0, 1], "values": [2]}),
        "image": st.sampled_from([{"_type": "image-file", "path": p} for p in ("here.png", "gone.png")]),
    },
)


@st.composite
def plain_histories(draw: st.DrawFn) -> list[HistoryRow]:
    """Mostly numbers, in order: what columns are for, and what is near to that."""
    times = draw(st.just(None) | st.lists(plain_times, min_size=1))
    rows = []
    for number, step in enumerate(draw(plain_steps)):
        time = 1.7e9 + number if times is None else times[number % len(times)]
        rows.append(HistoryRow(step, time, draw(plain_values)))
    return rows


plain_runs = st.builds(MemoryData, run_id=st.just("r"), history=plain_histories(), files=st.just({"here.png": b"x"}))


@settings(deadline=None, max_examples=120)
@given(run=plain_runs | runs_for("history"), options=OPTIONS, page_rows=st.integers(1, 9), slow=slow)
def test_columns_give_the_same_points_counts_ledger_and_cursor_as_rows(
    run: MemoryData, options: MappingOptions, page_rows: int, slow: list[bool]
) -> None:
    by_rows = convert("history", run, options=options).points()
    assert convert("history", run, options=options, page_rows=page_rows, columns=True).points() == by_rows
    pieces = convert_in_pieces("history", run, options=options, page_rows=page_rows, columns=True, slow=slow)
    assert pieces.points() == by_rows


def test_a_run_that_goes_on_may_change_between_columns_and_rows() -> None:
    rows = [HistoryRow(n, 1.7e9 + n % 7, {"loss": n / 3, "acc": None if n % 3 else float(n)}) for n in range(60)]
    run, half = MemoryData("r", history=rows), MemoryData("r", history=rows[:31])
    expected = convert("history", run, convert("history", half)).points()
    for first, second in itertools.product([False, True], repeat=2):
        outcome = convert("history", half, columns=first, page_rows=7)
        assert convert("history", run, outcome, columns=second, page_rows=5).points() == expected


def test_batches_of_columns_keep_their_bounds() -> None:
    rows = [HistoryRow(n, 1.7e9 + n, {f"m{m}": n + m / 7 for m in range(5)}) for n in range(8_000)]
    run = MemoryData("r", history=rows)
    outcome = convert("history", run, columns=True, page_rows=10_000)
    assert outcome.points() == convert("history", run).points()
    for batch in batches("history", run, columns=True, page_rows=10_000):
        assert batch.read <= BATCH_VALUES
        assert len(batch.records) <= 2
        assert batch.until_step == (batch.records[-1].steps[-1] if batch.records else None)  # type: ignore[union-attr]


# ---------------------------------------------------------------- Parquet


def export(path: Path, columns: dict[str, Any], **options: Any) -> HistoryExport:
    pq.write_table(pa.table(columns), path, **options)
    return HistoryExport(path, "test")


COUNT = 6
gaps = st.lists(st.booleans(), min_size=COUNT, max_size=COUNT)


@st.composite
def parquet_columns(draw: st.DrawFn) -> dict[str, pa.Array]:
    """Columns of every type, with and without gaps."""
    types = st.sampled_from(
        [
            (pa.float64(), [0.1, math.nan, math.inf, -0.0, 1e308, 5e-324]),
            (pa.float32(), [0.5, math.nan, 1.0, -0.0, 3.0, 0.1]),
            (pa.int64(), [0, -1, 2**53, -(2**53), 5, 6]),
            (pa.int64(), [0, -1, 2**53 + 1, -(2**63), 5, 6]),
            (pa.uint64(), [0, 1, 2**53, 2**64 - 1, 5, 6]),
            (pa.int8(), [0, -1, 127, -128, 5, 6]),
            (pa.bool_(), [True, False, True, False, True, True]),
            (pa.string(), ["a", "NaN", "", "x", "y", "z"]),
            (pa.null(), [None] * COUNT),
            (pa.list_(pa.int64()), [[1], [], [1, 2], [3], [4], [5]]),
            (pa.struct([("b", pa.float64()), ("c", pa.string())]), [{"b": float(n), "c": None} for n in range(COUNT)]),
        ]
    )
    columns = {}
    for name in draw(st.lists(st.sampled_from(["a", "a.b", "b", "c/d", "_e"]), unique=True, min_size=1)):
        type_, values = draw(types)
        shown = draw(st.just([True] * COUNT) | gaps)
        columns[name] = pa.array([v if there else None for v, there in zip(values, shown, strict=True)], type_)
    return columns


@settings(deadline=None, max_examples=100)
@given(
    columns=parquet_columns(),
    steps=st.sampled_from(
        [
            pa.array(range(COUNT), pa.int64()),
            pa.array(range(COUNT), pa.uint8()),
            pa.array([float(n) for n in range(COUNT)]),
            pa.array([n / 2 for n in range(COUNT)]),
            pa.array([STEP_MAX - 3 + n for n in range(COUNT)]),
        ]
    ),
    times=st.sampled_from(
        [pa.array([1.7e9 + n for n in range(COUNT)]), pa.array(range(COUNT)), pa.array([None] * COUNT, pa.float64())]
    ),
)
def test_a_batch_of_an_export_has_the_same_values_as_columns(
    columns: dict[str, pa.Array], steps: pa.Array, times: pa.Array
) -> None:
    batch = pa.record_batch({"_step": steps, "_timestamp": times, **columns})
    found = history_columns(batch)
    if found is not None:
        assert [plain(row) for row in found.rows()] == [plain(row) for row in history_rows(batch)]
        assert not {*found.numbers} & {key for row in found.others for key in row}


def plain(row: HistoryRow) -> Any:
    """Comparable: integers and the doubles that they are give the same points."""
    values = {key: float(v) if type(v) is int and abs(v) <= 2**53 else v for key, v in row.values.items()}
    return row.step, row.time, {key: repr(value) for key, value in sorted(values.items())}


def test_numbers_with_gaps_text_and_histograms_in_one_batch_stay_columns() -> None:
    bars = {"_type": "histogram", "bins": [0.0, 1.0], "values": [2]}
    batch = pa.record_batch(
        {
            "_step": pa.array([0, 1, 2]),
            "_timestamp": pa.array([1.0, 2.0, 3.0]),
            "loss": pa.array([1.0, None, 3.0]),
            "text": pa.array(["a", None, "c"]),
            "bars": pa.array([None, bars, None]),
            "empty": pa.array([None, None, None], pa.float64()),
        }
    )
    found = history_columns(batch)
    assert isinstance(found, HistoryColumns)
    assert [*found.numbers] == ["loss"]
    assert found.present["loss"].tolist() == [True, False, True]
    assert found.others == [{"text": "a"}, {"bars": bars}, {"text": "c"}]


@pytest.mark.parametrize(
    ("steps", "strict"), [([0, 1, 2, 5], True), ([0, 1, 1, 2], False), ([0, 2, 1, 3], False), ([3], True)]
)
def test_an_export_knows_whether_its_steps_are_all_different(tmp_path: Path, steps: list[int], strict: bool) -> None:
    assert export(tmp_path / "a.parquet", {"_step": steps, "a": steps}).strict is strict
    halves = export(tmp_path / "b.parquet", {"_step": steps, "a": steps}, row_group_size=2)
    assert halves.strict is strict


# ---------------------------------------------------------------- the wire


def columns_of(rows: int, paths: list[str], *, sparse: bool = False, first: int = 0) -> Columns:
    steps = np.arange(first, first + rows, dtype=np.int64)
    values = {path: np.linspace(-1e9, 1e300, rows) + n for n, path in enumerate(paths)}
    present = {path: (steps + n) % 3 == 0 for n, path in enumerate(paths[1:], 1)} if sparse else {}
    return Columns(steps, START_US + steps * 333_333, values, present)


def sent(*records: Record) -> list[Any]:
    """The snapshots of all requests."""
    builder = OperationBuilder("w/p", "r", NOW)
    snapshots: list[Any] = []
    for record in records:
        builder.add(record)
        if builder.is_full:
            snapshots += taken(builder)
    return [*snapshots, *taken(builder)]


def taken(builder: OperationBuilder) -> Iterator[Any]:
    for operation in builder.take()[0]:
        assert (operation.project, operation.run_id) == ("w/p", "r")
        assert len(operation.SerializeToString()) < REQUEST_MAX_BYTES
        message = operation.message() if isinstance(operation, Encoded) else operation
        assert message.WhichOneof("operation") == "update_batch"
        yield from message.update_batch.snapshots


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("paths", [["a"], ["a/ü", "b" * 1024, "c"], [f"m{n}" for n in range(300)]])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_columns_are_the_same_messages_as_their_points(rows: int, paths: list[str], sparse: bool) -> None:
    columns = columns_of(rows, paths, sparse=sparse)
    assert sent(columns) == sent(*columns.points())


def test_records_before_and_behind_columns_keep_their_order() -> None:
    first, second = columns_of(3, ["a"]), columns_of(3, ["a", "b"], first=3)
    records = [Assign({"x": 1}), Points(0, 0, {"t": "x"}), first, Points(9, 0, {"t": "y"}), second, Assign({"y": 2})]
    rows = [row for one in records for row in (one.points() if isinstance(one, Columns) else [one])]
    assert sent(*records) == sent(*rows)
    assert len(OperationBuilder("w/p", "r", NOW).take()[0]) == 0


@pytest.mark.parametrize("time_us", [-1, 0, 999_999, START_US, 10_413_791_999_999_999])
def test_the_strangest_numbers_are_the_same_in_columns(time_us: int) -> None:
    for step in (0, 127, 128, 2**35, STEP_MAX - 1):
        for value in (0.0, -0.0, 1e-300, math.inf, -math.inf):
            columns = Columns(np.array([step]), np.array([time_us]), {"a": np.array([value])}, {})
            assert sent(columns) == sent(*columns.points())


def test_rows_without_any_point_are_not_sent() -> None:
    columns = columns_of(6, ["a", "b"])
    where = columns.steps % 2 == 0
    assert len(sent(columns._replace(present={"a": where, "b": where}))) == 3
    assert sent(columns._replace(present={"a": columns.steps < 0, "b": columns.steps < 0})) == []


def test_rows_too_large_for_one_snapshot_and_columns_too_large_for_one_request_are_divided() -> None:
    wide = columns_of(2, [f"{n:04}" + "x" * 1020 for n in range(2500)])
    assert sorted(path for one in sent(wide) for path in one.append) == sorted([*wide.values] * 2)
    long = columns_of(25, [f"{n:04}" + "x" * 1020 for n in range(1000)])
    assert REQUEST_BYTES * 4 < 25 * 1000 * 1024
    assert sent(long) == sent(*long.points())


@pytest.mark.parametrize("intent", [-1, 0, 1.5, 2, 3, 9])
def test_what_an_earlier_attempt_may_have_sent_is_cut_off_inside_columns(intent: float) -> None:
    columns = columns_of(4, ["a", "b"], sparse=True)
    records = [Assign({"x": 1}), Points(1, START_US, {"t": "x"}), columns, Points(3, START_US, {"t": "y"})]
    seen, unseen = _split(records, intent)
    rows = [row for one in (seen, unseen) for row in one]
    assert [p.step <= intent for p in points(seen)] == [True] * len(points(seen))
    assert [p.step > intent for p in points(unseen)] == [True] * len(points(unseen))
    assert sorted(map(repr, points(rows))) == sorted(map(repr, points(records)))
    assert _split(records, None) == ((), records)


def points(records: Any) -> list[Points]:
    return [
        row
        for one in records
        if not isinstance(one, Assign)
        for row in (one.points() if isinstance(one, Columns) else [one])
    ]


def test_series_of_columns_come_without_their_gaps() -> None:
    columns = columns_of(6, ["a", "b"], sparse=True)
    found = {path: [*zip(*map(np.ndarray.tolist, arrays), strict=True)] for path, *arrays in columns.series()}
    expected: dict[str, list[Any]] = {}
    for step, time_us, values in columns.points():
        for path, value in values.items():
            expected.setdefault(path, []).append((step, time_us, value))
    assert found == expected
    assert columns.point_count() == sum(map(len, expected.values()))
