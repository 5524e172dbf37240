"""Records of a long log are read many at a time: the same rows, series and summary as one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wandb.proto import wandb_internal_pb2

from migrator.records import HistoryColumns
from migrator.sources.wandb_local import log as local_log
from migrator.sources.wandb_local.bulk import MANY_BYTES
from migrator.sources.wandb_local.rows import history_pages
from migrator.sources.wandb_local.scan import RunScan, Span, scan_run
from migrator.values import leaves
from tests.servers.offline_runs import serialized_log

pb: Any = wandb_internal_pb2
ItemPath = tuple[str, ...]
PAD = "pad"

numbers = (
    st.sampled_from(
        [
            "0",
            "-0",
            "7",
            "-1.5",
            "0.1",
            "1e-7",
            "2E+5",
            "1e400",
            "-1e-400",
            "NaN",
            "Infinity",
            "-Infinity",
            "123456789012345",
        ]
    )
    | st.floats().map(repr).map({"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get).filter(bool)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
HISTOGRAM = '{"_type": "histogram", "bins": [0, 1], "values": [2]}'
others = st.sampled_from(
    ["9007199254740993", "12345678901234567890", ".5", "+1", "1 ", "true", "null", "", "not JSON"]
) | st.sampled_from(['"x"', '"NaN"', '"-0"', '"\u00e9\u4e16"', "[1, 2]", '{"b": 1}', HISTOGRAM])
paths = st.sampled_from(
    [("loss",), ("a",), ("a", "b"), ("a", "c", "d"), ("a.b",), ("h", "_type"), ("h", "bins"), ("é",), ("",)]
)


@st.composite
def items(draw: st.DrawFn, most_are_numbers: bool) -> list[tuple[ItemPath, str, bool]]:
    """(path, JSON text, whether a path of one key is written as `key`). A key has one value, or is a dict."""
    texts = st.one_of(*[numbers] * (9 if most_are_numbers else 1), others)
    found = draw(st.lists(st.tuples(paths, texts, st.booleans()), max_size=5, unique_by=itemgetter(0)))
    is_dict = {path[0]: len(path) > 1 for path, _, _ in found}
    return [one for one in found if (len(one[0]) > 1) == is_dict[one[0][0]]]


@st.composite
def logs(draw: st.DrawFn) -> list[Any]:
    """Rows, with what wandb 0.31 writes between them, and with what it does not."""
    usual = draw(st.integers(0, 3)) > 0
    records: list[Any] = []
    step = draw(st.integers(0, 3))
    for _ in range(draw(st.integers(2, 12))):
        row = pb.HistoryRecord()
        add_items(row.item, draw(items(most_are_numbers=usual)))
        if usual or draw(st.booleans()):
            add_items(row.item, [(("_timestamp",), str(1.7e9 + step), False)])
        if usual or draw(st.booleans()):
            add_items(row.item, [(("_step",), str(step), False)])
        if usual or draw(st.booleans()):
            row.step.num = step
        records.append(pb.Record(history=row))
        step += draw(st.integers(1, 200)) if usual else draw(st.integers(-1, 2))
        for _ in range(draw(st.integers(0, 2))):
            records.append(draw(beside(usual)))
    for number, record in enumerate(records, 1):
        record.num = number * 50
    return records


@st.composite
def beside(draw: st.DrawFn, usual: bool) -> Any:
    if usual or draw(st.booleans()):
        summary = pb.SummaryRecord()
        add_items(summary.update, draw(items(most_are_numbers=usual)))
        if not usual:
            add_items(summary.remove, draw(items(most_are_numbers=True))[:1], texts=False)
        return pb.Record(summary=summary)
    return draw(
        st.sampled_from(
            [
                pb.Record(stats=pb.StatsRecord(stats_type=0)),
                pb.Record(output_raw=pb.OutputRawRecord(line="x\n")),
                pb.Record(exit=pb.RunExitRecord(exit_code=0)),
                pb.Record(run=pb.RunRecord(run_id="r", project="p", summary=pb.SummaryRecord(update=[{"key": "a"}]))),
            ]
        )
    )


def add_items(to: Any, found: Sequence[tuple[ItemPath, str, bool]], texts: bool = True) -> None:
    for path, text, as_key in found:
        item = to.add()
        if as_key and len(path) == 1:
            item.key = path[0]
        else:
            item.nested_key.extend(path)
        if texts:
            item.value_json = text


def padded(records: Sequence[Any], size: int) -> bytes:
    """The log, with text in its first row and, if there is one, in its first summary."""
    copies = [pb.Record.FromString(record.SerializeToString()) for record in records]
    for kind, field in (("history", "item"), ("summary", "update")):
        first = next((record for record in copies if record.HasField(kind)), None)
        if first is not None:
            item = getattr(getattr(first, kind), field).add()
            item.nested_key.append(PAD)
            item.value_json = f'"{"x" * size}"'
    return serialized_log(record.SerializeToString() for record in copies)


def rows_of(pages: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The points of pages: (step, time, key, number or else what it is)."""
    found: list[tuple[Any, ...]] = []
    for page in pages:
        for row in page.rows() if isinstance(page, HistoryColumns) else page:
            for key, value in row.values.items():
                for leaf in leaves(key, value, row.step):
                    if leaf.series.key != PAD:
                        payload = float(leaf.payload) if isinstance(leaf.payload, int | float) else leaf.payload
                        found.append((row.step, row.time, str(leaf.series), repr(payload)))
    return sorted(found, key=repr)


def told(scan: RunScan) -> list[Any]:
    [log] = scan.logs
    summary = {key: value for key, value in scan.summary.values().items() if key != PAD}
    return [
        [*scan.series], scan.media, repr(summary), log.rows, log.first_step, log.last_step, log.ascending,
        log.strictly_ascending, log.stats, log.pieces, log.has_summary, log.exit_code, scan.last_time_s,
        [step for step, _ in log.marks],
    ]  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    records=logs(),
    floor=st.none() | st.integers(-1, 40),
    until=st.just(math.inf) | st.integers(0, 300),
    after=st.none() | st.integers(-1, 400),
)
def test_the_same_as_one_by_one(records: list[Any], floor: int | None, until: float, after: float | None) -> None:
    with TemporaryDirectory() as directory:
        results = []
        for size in (1, MANY_BYTES):
            path = Path(directory) / f"{size}.wandb"
            path.write_bytes(padded(records, size))
            scan = scan_run([Span(path, floor, until)])
            results.append((told(scan), rows_of(history_pages(scan, after)), rows_of(history_pages(scan, None))))
        one_by_one, in_bulk = results
        assert in_bulk == one_by_one


def usual_log(path: Path, rows: int, **values: str) -> Span:
    """Rows of twenty numbers, as wandb 0.31 writes them. `values`: more of them."""
    records = [pb.Record(num=1, run=pb.RunRecord(run_id="r", project="p"))]
    for step in range(rows):
        row = pb.HistoryRecord(step={"num": step})
        found = [((f"m{n:02}",), str(step + n / 7), False) for n in range(20)]
        found += [(("_step",), str(step), False), (("_timestamp",), str(1.7e9 + step), False)]
        found += [(tuple(key.split("/")), text, False) for key, text in values.items()]
        add_items(row.item, found[step % 9 :] + found[: step % 9])
        summary = pb.SummaryRecord()
        add_items(summary.update, found)
        records += [pb.Record(history=row), pb.Record(summary=summary)]
    for number, record in enumerate(records, 1):
        record.num = number
    path.write_bytes(serialized_log(record.SerializeToString() for record in records))
    return Span(path)


@pytest.mark.parametrize("values", [{}, {"note": '"text"'}, {"nested/in/dicts": "1.5", "h/_type": '"x"'}])
def test_what_wandb_writes_becomes_columns(tmp_path: Path, values: dict[str, str]) -> None:
    rows = local_log.PAGE_BYTES // 400
    scan = scan_run([usual_log(tmp_path / "run-r.wandb", rows, **values)])
    pages = [*history_pages(scan, None)]
    assert {type(page) for page in pages[:-1]} == {HistoryColumns}  # what is left for the last page may be little
    assert steps_of(pages) == [*range(rows)]
    assert scan.summary.values()["m19"] == rows - 1 + 19 / 7
    assert steps_of(history_pages(scan, rows - 10.5)) == [*range(rows - 10, rows)]


def steps_of(pages: Iterable[Any]) -> list[int]:
    return [row.step for page in pages for row in (page.rows() if isinstance(page, HistoryColumns) else page)]


def test_rows_that_have_hardly_a_key_in_common_take_no_columns(tmp_path: Path) -> None:
    """Each row has a key of its own: as columns they would take the square of their number."""
    rows = 3_000
    records = [pb.Record(num=step + 1, history=pb.HistoryRecord(step={"num": step})) for step in range(rows)]
    for step, record in enumerate(records):
        add_items(record.history.item, [((f"metric {step:06}",), "1.5", False), (("_timestamp",), "1.7e9", False)])
    path = tmp_path / "run-r.wandb"
    path.write_bytes(serialized_log(record.SerializeToString() for record in records))
    pages = [*history_pages(scan_run([Span(path)]), None)]
    assert not any(isinstance(page, HistoryColumns) for page in pages)
    assert [key for page in pages for row in page for key in row.values] == [
        f"metric {step:06}" for step in range(rows)
    ]


@pytest.mark.parametrize("text", ["01", "1.", "1.e3", "-", "1e", "0x10", "1_0", "Inf", "nan", "tru"])
def test_what_only_looks_like_a_number_stays_text(tmp_path: Path, text: str) -> None:
    scan = scan_run([usual_log(tmp_path / "run-r.wandb", 600, looks=text)])
    [page] = history_pages(scan, None)
    assert isinstance(page, HistoryColumns)
    assert [*page.others] == [{"looks": text}] * 600


def test_a_key_that_is_not_utf_8_is_a_hole_as_it_is_for_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "run-r.wandb"
    usual_log(path, 400)
    payloads = [payload for payload, _ in local_log.WandbLog(path).payloads()]
    payloads[601] = payloads[601].replace(b"m07", b"m0\xff")
    path.write_bytes(serialized_log(payloads))
    scan = scan_run([Span(path)])
    assert (scan.rows, len(scan.logs[0].tail.holes)) == (399, 1)
    assert len(steps_of(history_pages(scan, None))) == 399
