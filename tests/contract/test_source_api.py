"""The W&B API source against the loopback server, through the real SDK: what was logged is what is read."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stamina

from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, RunError, Throttled, UserError
from migrator.records import HistoryRow, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb import exports as wandb_parquet
from migrator.sources.wandb import live as wandb_live
from migrator.sources.wandb.errors import clean, of_message
from migrator.sources.wandb.listing import WandbApiSource
from migrator.sources.wandb.run import WandbRun
from migrator.values import SeriesKind, leaves
from tests.servers.http import Fault, Request, Response, Server
from tests.servers.wandb_data import (
    EPOCH_S,
    Artifact,
    Entity,
    Project,
    Run,
    Sweep,
    finite,
    hostile_runs,
    iso,
    light_runs,
    logged,
    sample_runs,
    world,
)
from tests.servers.wandb_server import API_KEY, WandbServer

MODES = ("parquet", "live", "mixed")
Make = Callable[..., tuple[WandbServer, WandbApiSource]]


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Our own retries without their pauses (wandb-core's stay)."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with WandbServer(world("sample:3,hostile:parquet,hostile:live,hostile:mixed")) as server:
        yield server
        assert not server.unknown
        assert not server.errors
        assert not server.mutations, "nothing is ever written to W&B"


@pytest.fixture(scope="module")
def source(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbApiSource]:
    source = WandbApiSource(server.url, API_KEY, tmp_path_factory.mktemp("wandb"))
    yield source
    source.close()


@pytest.fixture
def make(source: WandbApiSource, tmp_path: Path) -> Iterator[Make]:
    """A server of the test's own, and a source for it (that shares the module's wandb-core)."""
    with ExitStack() as stack:

        def start(*runs: Run, project: str = "p", server: type[WandbServer] = WandbServer, **more: Any) -> Any:
            entities = more.pop("entities", None) or [Entity("team", [Project(project, list(runs))])]
            started = stack.enter_context(server(*entities, **more))
            made = WandbApiSource(started.url, API_KEY, tmp_path / "w")
            stack.callback(made.close)
            return started, made

        yield start


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., WandbRun]]:
    with ExitStack() as stack:
        numbers = itertools.count()

        def open_run(source: WandbApiSource, run_id: str, project: str = "p", entity: str = "team") -> WandbRun:
            run = source.open_run(RunRef(entity, project, run_id), tmp_path / f"scratch{next(numbers)}")
            return stack.enter_context(run)

        yield open_run


Opened = Callable[..., WandbRun]


def rows_of(run: WandbRun, after_step: float | None = None) -> list[HistoryRow]:
    return [row for page in run.history(after_step) for row in page]


def as_logged(run: Run) -> list[HistoryRow]:
    return [
        HistoryRow(
            row["_step"], row.get("_timestamp"), {k: v for k, v in row.items() if k not in ("_step", "_timestamp")}
        )
        for row in run.rows()
    ]


def same(found: Any, logged: Any) -> bool:
    """Equal but for what the two forms of history cannot keep apart: 1 and 1.0, NaN and "NaN", None and absent."""
    found, logged = finite(found), finite(logged)
    if isinstance(logged, dict) and isinstance(found, dict):
        logged = {key: value for key, value in logged.items() if value is not None}
        return found.keys() == logged.keys() and all(same(found[key], logged[key]) for key in logged)
    if isinstance(logged, list) and isinstance(found, list):
        return len(found) == len(logged) and all(map(same, found, logged))
    if isinstance(found, str) and not isinstance(logged, str):
        return bool(json.loads(found) == logged)  # the server exports what fits no column as JSON text
    if isinstance(found, bool) or isinstance(logged, bool):
        return found is logged
    if isinstance(found, (int, float)) and isinstance(logged, (int, float)):
        return found == logged or float(found) == float(logged)
    return bool(found == logged)


def assert_same_rows(found: list[HistoryRow], expected: list[HistoryRow]) -> None:
    assert [row.step for row in found] == [row.step for row in expected]
    assert [row.time for row in found] == [row.time for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert same(dict(one.values), dict(other.values)), (one, other)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def error_of(error: type[RunError], action: Callable[[], object]) -> RunError:
    with pytest.raises(error) as caught:
        action()
    assert API_KEY not in str(caught.value)
    return caught.value


# ---------------------------------------------------------------- history


@pytest.mark.parametrize("mode", MODES)
def test_the_history_and_its_survey_are_what_was_logged(
    mode: str, server: WandbServer, source: WandbApiSource, opened: Opened
) -> None:
    project = server.entities["team"].project(f"hostile-{mode}")
    assert project
    for run in project.runs:
        reader = opened(source, run.id, project.name)
        survey = reader.survey()
        rows = rows_of(reader)
        assert_same_rows(rows, as_logged(run))
        found = [leaf for row in rows for key, value in row.values.items() for leaf in leaves(key, value)]
        assert set(survey.series) == {leaf.series for leaf in found}, run.id
        assert len(survey.series) == len(set(survey.series))
        assert {name for _, name in survey.media} == {
            leaf.payload["path"] for leaf in found if leaf.series.kind is SeriesKind.FILE
        }  # type: ignore[index]


@pytest.mark.parametrize("mode", MODES)
def test_reading_goes_on_after_any_step_with_or_without_a_survey(mode: str, make: Make, opened: Opened) -> None:
    steps = [0, 1, 1, 1, 2, 5, 8, 8, 9, 30]
    run = Run("r", history=logged([{"_step": step, "x": n / 2} for n, step in enumerate(steps)]), mode=mode)
    _, source = make(run)
    for after in (None, -1, 0, 1, 1.5, 7, 8, 29, 30, 99):
        expected = [row for row in as_logged(run) if after is None or row.step > after]
        fresh, surveyed = opened(source, "r"), opened(source, "r")
        surveyed.survey()
        assert_same_rows(rows_of(fresh, after), expected)
        assert_same_rows(rows_of(surveyed, after), expected)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_one_step_stay_in_one_page(mode: str, make: Make, opened: Opened) -> None:
    history = logged([{"_step": n // 7, "x": float(n), "y": n} for n in range(12_000)])
    _, source = make(Run("r", history=history, mode=mode, parquet_files=3))
    pages = list(opened(source, "r").history(None))
    assert len(pages) > 2
    assert max(len(page) for page in pages) < 6_000
    for before, after in itertools.pairwise(pages):
        assert before[-1].step < after[0].step
    assert [row.values["y"] for page in pages for row in page] == list(range(12_000))


@pytest.mark.parametrize("announced", [True, False])
def test_steps_that_lie_far_apart_cost_one_request(announced: bool, make: Make, opened: Opened) -> None:
    rows = logged([{"_step": step, "x": 1.5} for step in (0, 10, 1_000_000_000)])
    server, source = make(Run("r", history=rows, mode="live", announce_live=announced))
    assert [row.step for row in rows_of(opened(source, "r"))] == [0, 10, 1_000_000_000]
    assert server.log.count("HistoryPage") == 1


def test_long_live_histories_come_in_pages_also_where_steps_are_uneven(make: Make, opened: Opened) -> None:
    rng = random.Random(3)
    steps = sorted({*range(9_000), *(rng.randrange(10**9) for _ in range(9_000)), 10**9})
    run = Run("r", history=logged([{"_step": step, "x": 0.5} for step in steps]), mode="live")
    server, source = make(run)
    assert [row.step for row in rows_of(opened(source, "r"))] == steps
    assert 4 <= server.log.count("HistoryPage") <= 20


class Weighed(Run):
    """A run that keeps the length of each answer of live rows."""

    def page(self, *steps: int) -> list[str]:
        rows = super().page(*steps)
        self.weights.append(sum(map(len, rows)))
        return rows

    @functools.cached_property
    def weights(self) -> list[int]:
        return []


@pytest.mark.parametrize("announced", [True, False])
def test_long_rows_of_a_live_history_come_few_at_a_time(announced: bool, make: Make, opened: Opened) -> None:
    history = logged([{"_step": 3 * n, "text": f"{n}".ljust(80_000)} for n in range(300)])
    run = Weighed("r", history=history, mode="live", announce_live=announced, summary={})
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))
    first, *others = run.weights
    assert first < 101 * 80_100  # nothing was known of them
    assert max(others) < 1.2 * wandb_live.PAGE_BYTES
    assert len(others) < 12


def test_the_summary_tells_how_long_rows_are_before_any_is_read(make: Make, opened: Opened) -> None:
    run = Weighed("r", history=logged([{"text": f"{n}".ljust(200_000)} for n in range(90)]), mode="live")
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))
    assert max(run.weights) < 1.2 * wandb_live.PAGE_BYTES


@pytest.mark.parametrize("announced", [True, False])
def test_a_long_summary_does_not_make_pages_small_for_ever(announced: bool, make: Make, opened: Opened) -> None:
    steps = [*range(3_000), *range(3_000, 10**9, 10**8)]
    run = Run(
        "r",
        history=logged([{"_step": step, "x": 0.5} for step in steps]),
        mode="live",
        announce_live=announced,
        summary={"text": "x" * 5_000_000},
    )
    server, source = make(run)
    assert [row.step for row in rows_of(opened(source, "r"))] == steps
    assert server.log.count("HistoryPage") < 300


def test_live_steps_that_lie_far_apart_and_then_close_come_in_pages_of_rows(make: Make, opened: Opened) -> None:
    steps = [*range(0, 10**9, 10**5), *range(10**9, 10**9 + 8_000)]
    run = Weighed("r", history=logged([{"_step": step, "text": "x" * 500} for step in steps]), mode="live")
    _, source = make(run)
    assert [row.step for row in rows_of(opened(source, "r"))] == steps
    assert max(run.weights) < 1.2 * wandb_live.PAGE_BYTES


def test_batches_of_an_export_are_small_whatever_it_holds(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.0}]))
    rows = 400
    run.cache["parquet"] = [
        parquet(_step=range(rows), same=["x" * 20_000] * rows),  # takes hardly any space in the file
        parquet(_step=range(rows, 2 * rows), same=[[0.5] * 5_000] * rows),
        parquet(_step=range(2 * rows, 3 * rows), other=[f"{n}".ljust(60_000) for n in range(rows)]),
    ]
    run.cache["parquet"] += [
        parquet(_step=range(n, 5 * rows, 2), other=["x" * 20_000] * rows) for n in (3 * rows, 3 * rows + 1)
    ]
    _, source = make(run)
    reader = opened(source, "r")
    pages = list(reader.history(None))
    assert [row.step for page in pages for row in page] == list(range(5 * rows))

    def weight(row: HistoryRow) -> int:
        return sum(
            len(value) * (1 if isinstance(value, str) else wandb_parquet.VALUE_BYTES) for value in row.values.values()
        )

    assert max(sum(map(weight, page)) for page in pages) <= 2 * wandb_parquet.BATCH_BYTES
    assert [(series.key, str(series.kind)) for series in reader.survey().series] == [
        ("same", "text"),
        ("other", "text"),
    ]


@pytest.mark.parametrize("repeats", [True, False])
def test_exported_rows_that_a_live_page_repeats_are_read_once(repeats: bool, make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": n} for n in range(60)]), mode="mixed", exported=50, border_repeats=repeats)
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))


@pytest.mark.parametrize("repeats", [True, False])
def test_a_step_that_is_both_exported_and_live_keeps_all_its_rows(repeats: bool, make: Make, opened: Opened) -> None:
    history = logged([{"_step": step, "x": n} for n, step in enumerate([0, 1, 2, 2, 2, 3])])
    run = Run("r", history=history, mode="mixed", exported=4, border_repeats=repeats)
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))


def test_live_rows_that_are_not_announced_are_read(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": n} for n in range(60)]), mode="mixed", announce_live=False)
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))


@pytest.mark.parametrize("mode", MODES)
def test_fractional_steps_are_kept(mode: str, make: Make, opened: Opened) -> None:
    history = logged([{"_step": step, "x": 1.5} for step in (0.5, 1.25, 1.5, 1.75, 2.0, 3.5)])
    run = Run("r", history=history, mode=mode)
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))
    assert [row.step for row in rows_of(opened(source, "r"), 1.5)] == [1.75, 2.0, 3.5]


def test_exports_are_put_in_order_and_merged_where_they_overlap(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.0}] * 9))
    run.cache["parquet"] = [
        parquet(_step=[7, 8], x=[7.0, 8.0]),
        parquet(_step=[1, 3, 5], x=[1.0, 3.0, 5.0]),
        parquet(_step=[0, 2, 4, 6], x=[0.0, 2.0, 4.0, 6.0]),
        parquet(_step=pa.array([], pa.int64()), x=pa.array([], pa.float64())),
    ]
    _, source = make(run)
    assert [row.values["x"] for row in rows_of(opened(source, "r"))] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [row.step for row in rows_of(opened(source, "r"), 3)] == [4, 5, 6, 7, 8]


def test_rows_that_two_exports_hold_are_read_once(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.5 * step} for step in range(9)]))
    run.cache["parquet"] = [
        parquet(_step=range(6), _timestamp=[EPOCH_S + n for n in range(6)], x=[0.5 * n for n in range(6)]),
        parquet(_step=range(4, 9), _timestamp=[EPOCH_S + n for n in range(4, 9)], x=[0.5 * n for n in range(4, 9)]),
    ]
    _, source = make(run)
    reader = opened(source, "r")
    assert [(row.step, row.values["x"]) for row in rows_of(reader)] == [(step, 0.5 * step) for step in range(9)]
    assert reader.survey().counted == 9


def test_an_export_of_nothing_may_have_no_columns(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.5}]))
    run.cache["parquet"] = [parquet(), parquet(_step=[0], x=[0.5])]
    _, source = make(run)
    reader = opened(source, "r")
    assert reader.survey().rows == 1
    assert [row.values for row in rows_of(reader)] == [{"x": 0.5}]


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC).replace(tzinfo=None)],
        [datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)],
        [Decimal("1767323045.25")],
    ],
    ids=["without a zone", "with a zone", "decimal"],
)
def test_times_of_other_types_are_times(times: list[Any], make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.5}]))
    run.cache["parquet"] = [parquet(_step=[0], _timestamp=times, x=[0.5])]
    _, source = make(run)
    assert [row.time for row in rows_of(opened(source, "r"))] == [1767323045.25]


class OfGo(Run):
    """A run whose live rows are texts as Go writes them."""

    def page(self, *steps: int) -> list[str]:
        return [text.replace("-0.0", "-0") for text in super().page(*steps)]


def test_minus_zero_stays_what_it_is(make: Make, opened: Opened) -> None:
    _, source = make(OfGo("r", history=logged([{"x": -0.0, "l": [-0.0, -0.5, 0]}]), mode="live"))
    [row] = rows_of(opened(source, "r"))
    assert repr((row.values["x"], row.values["l"])) == "(-0.0, [-0.0, -0.5, 0])"


def test_an_export_whose_rows_do_not_ascend_is_sorted(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": 0.0}] * 4))
    run.cache["parquet"] = [parquet(_step=[2, 0, 3, 1], x=[2.5, 0.5, 3.5, 1.5])]
    _, source = make(run)
    assert [(row.step, row.values["x"]) for row in rows_of(opened(source, "r"))] == [
        (0, 0.5),
        (1, 1.5),
        (2, 2.5),
        (3, 3.5),
    ]


def test_odd_columns_come_as_json_values(make: Make, opened: Opened) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    run = Run("r", history=logged([{"x": 0.0}] * 2))
    run.cache["parquet"] = [
        parquet(
            _step=pa.array([0, 1], pa.uint32()),
            _timestamp=[EPOCH_S, None],
            decimal=[Decimal("1.50"), Decimal("2.00")],
            when=[when, None],
            blob=[b"\x00\xff", None],
            half=pa.array([0.5, None], pa.float16()),
            map=pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
            large=pa.array(["text", None], pa.large_string()),
            view=pa.array(["text", None], pa.string_view()),
            coded=pa.array(["a", "NaN"]).dictionary_encode(),
            none=pa.nulls(2),
            deep=[{"a": {"b": None, "c": [1, None]}, "d": [{"e": None, "f": 1}]}, None],
        )
    ]
    _, source = make(run)
    reader = opened(source, "r")
    first, second = rows_of(reader)
    assert first.values == {
        "decimal": 1.5,
        "when": when.isoformat(),
        "blob": "AP8=",
        "half": 0.5,
        "map": {"a": 1},
        "large": "text",
        "view": "text",
        "coded": "a",
        "deep": {"a": {"c": [1, None]}, "d": [{"f": 1}]},
    }
    assert second == HistoryRow(1, None, {"decimal": 2, "coded": "NaN"})
    assert ("coded", "", "number") in reader.survey().series
    assert ("coded", "", "text") in reader.survey().series
    assert not any(series.key == "none" for series in reader.survey().series)


def test_the_survey_is_in_source_order(make: Make, opened: Opened) -> None:
    rows = [{"z": 1.0, "a": "t"}, {"z": "text", "b": 1}, {"c": True, "a": 2.0}]
    _, source = make(Run("r", history=logged(rows), mode="mixed", exported=1))
    names = [(series.key, str(series.kind)) for series in opened(source, "r").survey().series]
    assert names == [
        *[("_runtime", "number"), ("z", "number"), ("a", "text")],
        *[("z", "text"), ("b", "number"), ("c", "number"), ("a", "number")],
    ]


def test_a_server_without_exports_gives_all_rows_as_live(make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": n} for n in range(9)]), mode="live")
    server, source = make(run)
    unknown = json.dumps({"errors": [{"message": 'Cannot query field "parquetHistory" on type "Run".'}]})
    server.faults.set([Fault("RunParquetHistory", "status", status=400, times=None, body=unknown)])
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))


def test_more_live_rows_than_fit_in_memory_are_served_from_the_spool(make: Make, opened: Opened) -> None:
    wide = [{f"m{i}": n + i / 8 for i in range(30)} for n in range(6_000)]
    run = Run("r", history=logged(wide), mode="live")
    server, source = make(run)
    reader = opened(source, "r")
    reader.survey()
    asked = server.log.count("HistoryPage")
    first, second = reader.history(None), reader.history(2_000)  # two readers of one spool
    both = list(itertools.zip_longest(first, second))
    assert_same_rows([row for page, _ in both for row in page or ()], as_logged(run))
    assert_same_rows([row for _, page in both for row in page or ()], as_logged(run)[2_001:])
    assert server.log.count("HistoryPage") == asked


def test_a_run_without_history_has_none(make: Make, opened: Opened) -> None:
    _, source = make(Run("r"))
    reader = opened(source, "r")
    assert rows_of(reader) == []
    assert (reader.survey().series, reader.survey().media) == ((), frozenset())
    assert (reader.survey().rows, reader.survey().counted) == (0, 0)


class Miscounted(Run):
    """A run of which W&B counts more rows than there are."""

    line_count = 5


@pytest.mark.parametrize("mode", MODES)
def test_the_count_of_rows_is_taken_from_runs_that_have_ended(mode: str, make: Make, opened: Opened) -> None:
    ended = ["finished", "failed", "crashed", "killed", "preempted", "stopped", "a new one", ""]
    states = [*ended, "running", "pending", "preempting"]
    runs = [Miscounted(f"r{state}", state=state, history=logged([{}, {}]), mode=mode) for state in states]
    _, source = make(*runs)
    surveys = [opened(source, f"r{state}").survey() for state in states]
    assert [(survey.rows, survey.counted) for survey in surveys] == [(2, 5)] * len(ended) + [(2, 2)] * 3


class Withheld(Run):
    """A run whose live rows W&B does not give."""

    def page(self, *_: int) -> list[str]:
        return []


def test_rows_that_are_told_of_but_not_given_are_counted(make: Make, opened: Opened) -> None:
    history = logged([{"x": 1}, {"x": 2}])
    late = Withheld("late", history=history, mode="mixed", exported=1, announce_live=False)
    bare = Withheld("bare", history=history, mode="live", announce_live=False)
    _, source = make(Withheld("r", history=history, mode="live", state="running"), bare, late)
    for run_id, rows in (("r", 0), ("bare", 0), ("late", 1)):
        survey = opened(source, run_id).survey()
        assert (survey.rows, survey.counted) == (rows, 2)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /parquet/", "truncate"),
        Fault("GET /parquet/", "drop"),
        Fault("GET /parquet/", "status", status=500),
        Fault("GET /parquet/", "status", status=429, headers={"Retry-After": "1"}),
        Fault("GET /parquet/", "status", status=403, body="<Error><Code>ExpiredToken</Code></Error>"),
        Fault("GET /parquet/", "status", status=404, times=2),
        Fault("GET /parquet/", "status", status=200, body="<Error>not Parquet</Error>"),
        Fault("RunParquetHistory", "truncate", times=3),
        Fault("HistoryPage", "status", status=200, body="<html>"),
    ],
    ids=lambda fault: f"{fault.match}-{fault.action}-{fault.status}",
)
def test_faults_that_pass_cost_no_rows(fault: Fault, make: Make, opened: Opened) -> None:
    run = Run("r", history=logged([{"x": n} for n in range(40)]), mode="mixed", parquet_files=2)
    server, source = make(run)
    server.faults.set([fault])
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))


def test_an_expired_address_is_asked_for_again_and_the_other_exports_are_kept(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", history=logged([{"x": n} for n in range(40)]), parquet_files=3))
    server.faults.set([Fault("GET /parquet/.*/1.parquet", "status", status=403)])
    assert len(rows_of(opened(source, "r"))) == 40
    assert server.log.count("RunParquetHistory") == 2
    assert server.log.count("GET /parquet/") == 4


@pytest.mark.parametrize("action", ["truncate", "drop"])
def test_faults_that_stay_are_raised_and_leave_no_file(action: str, make: Make, opened: Opened, tmp_path: Path) -> None:
    server, source = make(Run("r", history=logged([{"x": 1}])))
    server.faults.set([Fault("GET /parquet/", action, times=None)])
    reader = opened(source, "r")
    assert error_of(Retryable, lambda: rows_of(reader)).error_class is ErrorClass.UNAVAILABLE
    assert not list(tmp_path.glob("scratch*/**/*.parquet"))


def test_runs_whose_sdk_cache_names_collide_are_not_mixed_up_in_two_threads(make: Make, opened: Opened) -> None:
    one = Run("shadow", history=logged([{"x": n} for n in range(12)]), mode="mixed")
    other = Run("project_shadow", history=logged([{"y": n} for n in range(17)]), mode="mixed")
    _, source = make(entities=[Entity("team", [Project("my_project", [one]), Project("my", [other])])])

    def read(number: int) -> None:
        run, project = ((one, "my_project"), (other, "my"))[number % 2]
        assert_same_rows(rows_of(opened(source, run.id, project)), as_logged(run))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(read, range(12)))


# ---------------------------------------------------------------- one run


def test_a_small_run_costs_few_requests(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    run = server.run("team/sample/run00001")
    server.log.clear()
    reader = opened(source, run.id, "sample")
    reader.attributes(), reader.config(), reader.summary(), reader.survey(), rows_of(reader)
    list(reader.system(0)), list(reader.console(0))
    for file in reader.files():
        assert reader.fetch(file.name)
    operations = [label.removeprefix("POST /graphql ") for label in server.log.counts if label.startswith("POST")]
    assert operations == [
        *["Run", "RunParquetHistory", "RunOutputArtifacts", "GetArtifactMembershipFileUrls"],
        *["RunConsoleLogPage", "RunFiles"],
    ]
    assert server.log.count("GET /files/") == len(run.files) == 6
    assert server.log.count("GET /(parquet|artifact-files)/") == 2
    assert set(server.log.counts.values()) == {1}


def test_attributes_are_those_of_the_run(make: Make, opened: Opened) -> None:
    run = Run(
        *("id with/blank ❤", "the name"),
        state="crashed",
        tags=["a", "❤"],
        notes="n",
        description="d",
        group="G",
        job_type="train",
        commit="c0ffee",
        sweep="s1",
        history=logged([{"x": 1}, {"_step": 7, "x": 2}]),
        created_at="2024-01-02T03:04:05",
        heartbeat_at="2024-01-02T03:05:05Z",
    )
    sweep = Sweep("s1", "the sweep", {"method": "grid", "parameters": {"lr": {"values": [0.1]}}})
    server, source = make(entities=[Entity("team", [Project("p q", [run, Run("other", sweep="s1")], [sweep])])])
    found = opened(source, run.id, "p q").attributes()
    url = f"{server.url}/team/p%20q/runs/id%20with%2Fblank%20%E2%9D%A4"
    assert found.created_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (found.name, found.url, found.notes, list(found.tags), found.group) == (
        "the name",
        url,
        "n",
        ["a", "❤"],
        "G",
    )
    assert found.wandb == {
        "id": run.id,
        "name": "the name",
        "url": url,
        "path": f"team/p q/{run.id}",
        "entity": "team",
        "project": "p q",
        "state": "crashed",
        "created_at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "heartbeat_at": datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC),
        "job_type": "train",
        "group": "G",
        "sweep": "s1",
        "commit": "c0ffee",
        "user": "ann",
        "description": "d",
        "history_line_count": 2,
        "last_history_step": 7,
        "read_only": False,
    }
    assert found.sweep
    assert (found.sweep.id, found.sweep.name, found.sweep.method) == ("s1", "the sweep", "grid")
    assert json.loads(found.sweep.config or "") == sweep.config
    opened(source, "other", "p q").attributes()
    assert server.log.count("GetSweep") == 1


def test_what_a_run_does_not_have_is_left_out(make: Make, opened: Opened) -> None:
    bare = Run("r", None, commit=None, heartbeat_at=None, user=None, summary={}, sweep="gone")
    _, source = make(bare)
    found = opened(source, "r").attributes()
    assert found.name is None
    assert found.wandb.keys() == {
        *("id", "url", "path", "entity", "project", "state", "created_at", "sweep", "history_line_count", "read_only")
    }
    assert found.sweep
    assert (found.sweep.id, found.sweep.config) == ("gone", None)


def test_a_sweep_that_cannot_be_had_leaves_its_id(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", sweep="gone"))
    gone = json.dumps({"errors": [{"message": "could not find sweep gone"}]})
    server.faults.set([Fault("GetSweep", "status", None, status=200, body=gone)])
    found = opened(source, "r").attributes().sweep
    assert found
    assert (found.id, found.method) == ("gone", None)


def test_the_config_loses_its_outer_wrappers_only(make: Make, opened: Opened) -> None:
    own = {"value": 42, "desc": "mine"}
    config = {
        "own": own,
        "twice": {"value": own},
        "lr": 0.1,
        "none": None,
        "nest": {"value": 1},
        "❤": [1, {"value": 2}],
    }
    bare = config | {"_wandb": {"value": {"t": 1}}, "more": {"value": 1, "unit": "s"}}
    _, source = make(Run("wrapped", config=config), Run("bare", config=bare, wrap_config=False), Run("empty"))
    found = opened(source, "wrapped").config()
    assert {key: value for key, value in found.values.items() if key != "_wandb"} == config
    assert "cli_version" in found.values["_wandb"]
    assert json.loads(found.raw)["own"] == {"desc": None, "value": own}
    unwrapped = {
        "own": 42,
        "twice": own,
        "nest": 1,
        "_wandb": {"t": 1},
    }  # a bare dict of that form cannot be told apart
    assert opened(source, "bare").config().values == bare | unwrapped
    assert opened(source, "empty").config().values.keys() == {"_wandb"}


def test_half_a_surrogate_pair_comes_as_it_is_so_that_the_parts_can_tell_of_it(make: Make, opened: Opened) -> None:
    half = "\ud83d"
    run = Run("r", config={half: ["❤", half]}, history=logged([{"x": half, "y": "❤"}]), mode="live")
    _, source = make(run)
    reader = opened(source, "r")
    assert reader.config().values[half] == ["❤", half]
    assert rows_of(reader)[0].values == {"_runtime": 0.5, "x": half, "y": "❤"}


def test_documents_are_kept_as_they_are(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    for run in server.entities["team"].project("hostile-live").runs:  # type: ignore[union-attr]
        reader = opened(source, run.id, "hostile-live")
        assert reader.config().raw == run.config_text().encode()
        assert json.loads(reader.summary().raw) == reader.summary().values == finite(run.summary_value())


def test_a_run_that_was_deleted_is_not_found_wherever_one_looks(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", history=logged([{"x": 1}]), files={"f": b"1"}))
    reader = opened(source, "r")
    server.delete_run("team/p/r")
    actions: list[Callable[[], object]] = [
        *[lambda: opened(source, "r"), lambda: rows_of(reader), reader.survey, lambda: list(reader.system(0))],
        *[lambda: list(reader.console(0)), reader.files, lambda: reader.fetch("f"), reader.used_artifacts],
        *[lambda: list(reader.artifacts()), lambda: opened(source, "r", "no-project")],
    ]
    for action in actions:
        assert error_of(Rejected, action).error_class is ErrorClass.NOT_FOUND


# ---------------------------------------------------------------- system metrics and console


@pytest.mark.parametrize("mode", ["parquet", "live"])
def test_system_metrics_are_what_was_logged_and_samples_are_called_so(mode: str, make: Make, opened: Opened) -> None:
    runs = [run for run in hostile_runs(mode) if "streams" in run.id]  # type: ignore[arg-type]
    _, source = make(*runs, Run("none", mode=mode))
    for run in runs:
        reader = opened(source, run.id)
        found = [row for page in reader.system(0) for row in page]
        assert (reader.partial("system") is not None) is (mode == "live")
        assert [row.number for row in found] == list(range(len(run.events)))
        for row, event in zip(found, run.events, strict=True):  # type: ignore[arg-type]
            assert row.time == event.get("_timestamp")
            assert same(row.values, {key[7:]: value for key, value in event.items() if key.startswith("system.")})
        again = [row for page in opened(source, run.id).system(3) for row in page]
        assert [row.number for row in again] == list(range(3, len(run.events)))
    reader = opened(source, "none")
    assert list(reader.system(0)) == []
    assert reader.partial("system") is None


def test_a_server_that_refuses_so_many_samples_is_asked_for_fewer(make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S, "system.cpu": 1.5}]
    server, source = make(Run("r", mode="live", events=events))
    server.faults.set([Fault("RunFullHistory", "status", status=400, times=2)])
    assert len(next(opened(source, "r").system(0))) == 1
    server.faults.set([Fault("RunFullHistory", "status", status=400, times=None)])
    error_of(Rejected, lambda: list(opened(source, "r").system(0)))


def test_a_resumed_run_does_not_get_the_old_export_of_its_system_metrics(make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S, "system.cpu": 1.5}]
    _, source = make(Run("r", state="running", events=events))
    reader = opened(source, "r")
    assert len(next(reader.system(0))) == 1
    assert reader.partial("system")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /artifact-files/", "status", None, status=404),
        Fault("GetArtifactMembershipFileUrls", "status", None, status=200, body='{"data": {"project": null}}'),
        Fault("RunOutputArtifacts", "status", None, status=403, body="{}"),
    ],
    ids=["a file is gone", "no addresses", "not allowed"],
)
def test_system_metrics_whose_export_cannot_be_had_are_samples(fault: Fault, make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S + n, "system.cpu": 1.5} for n in range(3)]
    server, source = make(Run("r", events=events))
    server.faults.set([fault])
    reader = opened(source, "r")
    assert [row.number for page in reader.system(0) for row in page] == [0, 1, 2]
    assert reader.partial("system")


def test_console_lines_have_the_numbers_that_the_server_gives(make: Make, opened: Opened) -> None:
    lines = [{"number": number, "line": f"line {number}"} for number in (7, 8, 12)]
    page = {"edges": [{"node": line} for line in lines], "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"run": {"logLines": page}}}})
    server, source = make(Run("r"))
    server.faults.set([Fault("RunConsoleLogPage", "status", None, status=200, body=body)])
    reader = opened(source, "r")
    assert [(line.number, line.text) for page in reader.console(8) for line in page] == [(8, "line 8"), (12, "line 12")]


def console_page(numbers: list[int | None], *, cursor: str, counted: int) -> str:
    edges = [{"node": {"number": n, "line": f"line {n}"}, "cursor": cursor} for n in numbers]
    page = {"edges": edges, "pageInfo": {"endCursor": cursor, "hasNextPage": bool(numbers)}}
    return json.dumps({"data": {"project": {"run": {"logLineCount": counted, "logLines": page}}}})


@pytest.mark.parametrize(
    ("second", "counted", "lines", "partial"),
    [
        ([1, 2, 3], 4, [0, 1, 2, 3], None),  # a line of the first page comes again
        ([2, 3], 9, [0, 1, 2, 3], "W&B counts 9 lines, gives 4"),
        ([None, None], 4, [0, 1, 2, 3], None),
    ],
)
def test_console_lines_come_once_and_missing_ones_are_told(
    second: list[int | None], counted: int, lines: list[int], partial: str | None, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r"))
    reader = opened(source, "r")
    for numbers in ([0, 1], second, []):
        body = console_page(numbers, cursor=str(numbers), counted=counted)
        server.faults.add(Fault("RunConsoleLogPage", "status", times=1, status=200, body=body))
    assert [line.number for page in reader.console(0) for line in page] == lines
    assert reader.partial("console") == partial


def test_console_lines_keep_their_times_streams_and_order(
    server: WandbServer, source: WandbApiSource, opened: Opened
) -> None:
    for run_id in ("streams", "long-streams"):
        run = server.run(f"team/hostile-parquet/{run_id}")
        reader = opened(source, run_id, "hostile-parquet")
        lines = [line for page in reader.console(0) for line in page]
        expected = [
            (n, _epoch(time), "stderr" if level == "error" else "stdout", text)
            for n, (time, level, text) in enumerate(run.console)
        ]
        assert [tuple(line) for line in lines] == expected
        again = opened(source, run_id, "hostile-parquet").console(4)
        assert [line.number for page in again for line in page] == list(range(4, len(run.console)))


def _epoch(time: str | None) -> float | None:
    return datetime.fromisoformat(time.removesuffix("Z")).replace(tzinfo=UTC).timestamp() if time else None


@pytest.mark.parametrize("old_server", [True, False])
def test_without_a_console_log_the_lines_come_from_output_log(old_server: bool, make: Make, opened: Opened) -> None:
    text = "one\ntwo\r\n\x1b[31mred\rdone\n\nlast ❤".encode() + b"\xff"
    server, source = make(Run("r", files={"output.log": text}), Run("none"))
    if old_server:
        unknown = json.dumps({"errors": [{"message": 'Cannot query field "logLines" on type "Run".'}]})
        server.faults.set([Fault("RunConsoleLogPage", "status", status=400, times=None, body=unknown)])
    reader = opened(source, "r")
    lines = [line for page in reader.console(0) for line in page]
    assert [line.text for line in lines] == ["one", "two", "\x1b[31mred\rdone", "", "last ❤�"]
    assert {(line.time, line.stream) for line in lines} == {(None, "stdout")}
    assert [line.number for page in reader.console(3) for line in page] == [3, 4]
    none = opened(source, "none")
    assert list(none.console(0)) == []


# ---------------------------------------------------------------- files


def test_files_are_listed_by_name_and_fetched_whole(
    server: WandbServer, source: WandbApiSource, opened: Opened, tmp_path: Path
) -> None:
    run = server.run("team/hostile-live/files")
    assert {
        "clash",
        "clash/inner.txt",
        "empty.bin",
        "with space.txt",
        "ünï/码❤.txt",
        "dot/../x",
        "a//b",
    } <= run.files.keys()
    reader = opened(source, "files", "hostile-live")
    files = reader.files()
    assert [file.name for file in files] == sorted(run.files)
    assert [(file.size_bytes, file.md5) for file in files] == [
        (len(run.files[file.name]), hashlib.md5(run.files[file.name]).hexdigest()) for file in files
    ]
    with ThreadPoolExecutor(8) as threads:
        for file, local in zip(files, threads.map(lambda file: reader.fetch(file.name), files), strict=True):
            assert local
            assert (local.name, local.size_bytes, local.md5) == (file.name, file.size_bytes, file.md5)
            assert local.path.read_bytes() == run.files[file.name]
            assert local.path.is_relative_to(tmp_path)
            reader.release(local)
            assert not local.path.exists()
    assert reader.fetch("no such file") is None


def test_a_size_of_0_without_md5_says_nothing(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"content"}))
    url = f"{server.url}/files/team/p/r/a"
    nodes = [{"node": {"id": "1", "name": "a", "url": url, "sizeBytes": 0, "md5": None}}]
    files = {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"internalId": "1", "run": {"fileCount": 1, "files": files}}}})
    server.faults.set([Fault("RunFiles", "status", None, status=200, body=body)])
    local = opened(source, "r").fetch("a")
    assert local
    assert local.path.read_bytes() == b"content"


def test_a_file_without_an_address_is_none(make: Make, opened: Opened) -> None:
    nodes = [{"node": {"id": "1", "name": "a", "url": None, "directUrl": None, "sizeBytes": 1}}]
    files = {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"internalId": "1", "run": {"fileCount": 1, "files": files}}}})
    server, source = make(Run("r"))
    server.faults.set([Fault("RunFiles", "status", None, status=200, body=body)])
    reader = opened(source, "r")
    assert [file.name for file in reader.files()] == ["a"]
    assert reader.fetch("a") is None


def test_a_file_of_the_list_that_is_not_there_is_none(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /files/", "status", status=404, times=None)])
    assert opened(source, "r").fetch("a") is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /files/", "truncate"),
        Fault("GET /files/", "drop"),
        Fault("GET /files/", "status", status=502),
        Fault("GET /files/", "status", status=429, headers={"Retry-After": "0"}),
        Fault("GET /files/", "status", status=403, body="<Error>Request has expired</Error>"),
        Fault("GET /files/", "status", status=200, body="another file"),
    ],
    ids=lambda fault: f"{fault.action}-{fault.status}",
)
def test_downloads_get_over_faults_that_pass(fault: Fault, make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a b": bytes(range(256)) * 999}))
    server.faults.set([fault])
    local = opened(source, "r").fetch("a b")
    assert local
    assert local.path.read_bytes() == bytes(range(256)) * 999


def test_a_file_that_does_not_match_its_md5_is_never_taken(make: Make, opened: Opened) -> None:
    run = Run("r", files={"a": b"1"})
    run.cache["md5 a"] = base64.b64encode(bytes(16)).decode()
    server, source = make(run)
    assert error_of(Retryable, lambda: opened(source, "r").fetch("a")).error_class is ErrorClass.BAD_DATA
    assert server.log.count("GET /files/") == 4


@pytest.mark.parametrize(("status", "error_class"), [(500, ErrorClass.UNAVAILABLE), (403, ErrorClass.PERMISSION)])
def test_downloads_that_stay_refused_say_why(status: int, error_class: ErrorClass, make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /files/", "status", status=status, times=None)])
    assert error_of(RunError, lambda: opened(source, "r").fetch("a")).error_class is error_class


def test_a_long_pause_that_storage_asks_for_is_passed_on(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /files/", "status", status=429, times=None, headers={"Retry-After": "3600"})])
    told = error_of(Throttled, lambda: opened(source, "r").fetch("a"))
    assert isinstance(told, Throttled)
    assert (told.error_class, told.service, told.retry_after_s) == (ErrorClass.RATE_LIMITED, "wandb", 3600)
    assert server.log.count("GET /files/") == 1


class Storage(Server):
    """A storage service that keeps what it was told of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.authorizations: list[str | None] = []

    def handle(self, request: Request) -> Response:
        self.authorizations.append(request.headers.get("Authorization"))
        return Response(200, b"stored", "application/octet-stream")


class Redirecting(WandbServer):
    """W&B as it is: files are redirects to a storage service."""

    storage: Storage

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if request.path.startswith("/files/") and answer.status == 200:
            return Response(302, headers={"Location": f"{self.storage.url}/bucket/a?signature=s"})
        return answer


def test_the_key_does_not_follow_a_redirect_to_storage(
    make: Make, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password " + "p" * 40)
    monkeypatch.setenv("NETRC", str(netrc))
    with Storage() as storage:
        server, source = make(Run("r", files={"a": b"stored"}), server=Redirecting)
        server.storage = storage  # type: ignore[attr-defined]
        assert opened(source, "r").fetch("a")
        assert storage.authorizations == [None]


# ---------------------------------------------------------------- artifacts


def test_artifacts_come_with_their_files_and_references(make: Make, opened: Opened) -> None:
    (run,) = [run for run in hostile_runs() if run.id == "artifacts"]
    _, source = make(run)
    reader = opened(source, "artifacts")
    found = list(reader.artifacts())
    assert [(one.name, one.version, one.type) for one in found] == [
        ("data", "v0", "dataset"),
        ("data", "v1", "dataset"),
        ("run-artifacts-table", "v0", "run_table"),
    ]
    for one, expected in zip(found, run.logged, strict=True):
        assert list(one.aliases) == list(expected.aliases)
        assert one.references == expected.references
        assert json.loads(one.metadata) == expected.metadata
        assert one.created_at == datetime.fromtimestamp(EPOCH_S, UTC)
        assert (one.digest, one.size_bytes) == (expected.digest, sum(map(len, expected.files.values())))
        for file in one.files:
            local = reader.fetch_artifact_file(one, file.name)
            assert local.path.read_bytes() == expected.files[file.name]
            assert (local.name, local.md5) == (file.name, file.md5)
            reader.release(local)
        assert {file.name for file in one.files} == expected.files.keys()
    assert reader.used_artifacts() == ["team/p/weights:v0", "team/p/data:v0"]
    later = opened(source, "artifacts")  # a run opened anew knows them, too
    assert later.fetch_artifact_file(found[1], "train/a.bin").size_bytes == 1000
    assert error_of(Rejected, lambda: later.fetch_artifact_file(found[0], "no")).error_class is ErrorClass.NOT_FOUND


def test_an_expired_address_of_an_artifact_file_is_asked_for_again(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", logged=[Artifact("a", files={"x": b"1", "y": b"2"})]))
    reader = opened(source, "r")
    (artifact,) = reader.artifacts()
    server.faults.set([Fault("GET /artifact-files/.*/y", "status", status=403)])
    assert [reader.fetch_artifact_file(artifact, name).path.read_bytes() for name in ("x", "y")] == [b"1", b"2"]
    assert server.log.count("GetArtifactMembershipFileUrls") == 2


# ---------------------------------------------------------------- listing

P = SourceProject("team", "p", "")


def test_projects_are_listed_by_name_with_their_pages(make: Make) -> None:
    names = [f"p{n:03}" for n in range(450)] + ["with space", "Ünï"]
    home = Entity("team", [Project(name) for name in reversed(names)])
    server, source = make(entities=[home, Entity("other", [Project("x")])])
    found = list(source.projects(None))
    assert [project.name for project in found] == sorted(names)
    assert {project.entity for project in found} == {"team"}
    assert found[-2].url == f"{server.url}/team/with%20space"
    assert [project.name for project in source.projects("other")] == ["x"]
    assert server.log.count("GetProjects") == 4


def test_unknown_entities_and_projects_are_for_a_person(source: WandbApiSource) -> None:
    nowhere = SourceProject("team", "nowhere", "")
    actions: list[Callable[[], object]] = [
        *[lambda: list(source.projects("nobody")), lambda: source.count_runs(nowhere)],
        lambda: list(source.runs(nowhere, RunFilter())),
    ]
    for action in actions:
        with pytest.raises(UserError, match="Check"):
            action()


def test_runs_are_listed_oldest_first_a_page_a_request(make: Make) -> None:
    runs = light_runs(1_234)
    server, source = make(*runs)
    found = list(source.runs(P, RunFilter()))
    assert [listing.run_id for listing in found] == [run.id for run in runs]
    assert server.log.count("Runs") == 3
    assert source.count_runs(P) == 1_234


def test_a_listing_says_what_the_inventory_needs(make: Make) -> None:
    bare = Run("bare", None, user=None, heartbeat_at=None, created_at=iso(EPOCH_S + 9))
    _, source = make(Run("r", "name", state="killed", tags=["a", "b"], history=logged([{}, {}])), bare)
    first, second = source.runs(P, RunFilter())
    assert (first.run_id, first.name, first.source_state, first.history_rows) == ("r", "name", "killed", 2)
    assert first.created_at == datetime.fromtimestamp(EPOCH_S, UTC)
    assert first.heartbeat_at == datetime.fromtimestamp(EPOCH_S + 3600, UTC)
    assert (tuple(first.tags), first.location, first.fork) == (("a", "b"), None, None)
    assert (second.run_id, second.name, second.heartbeat_at) == ("bare", "", None)


def test_the_fingerprint_changes_when_and_only_when_the_run_does(make: Make) -> None:
    run = Run("r", "name", history=logged([{"x": 1}]))
    server, source = make(run)

    def fingerprint() -> str:
        (listing,) = source.runs(P, RunFilter())
        return listing.fingerprint

    seen = [fingerprint(), fingerprint()]
    assert len(set(seen)) == 1
    changes: list[dict[str, Any]] = [{"state": "crashed"}, {"tags": ["t"]}, {"notes": "n"}, {"display_name": "x"}]
    changes += [{"group": "g"}, {"heartbeat_at": iso(EPOCH_S)}, {"history": logged([{"x": 1}, {"x": 2}])}]
    for change in changes:
        server.set_run("team/p/r", **change)
        seen.append(fingerprint())
    assert len(set(seen)) == 1 + len(changes)


FILTERS = [
    RunFilter(states=["running", "crashed"]),
    RunFilter(tags=["even"]),
    RunFilter(run_ids=["run00001", "run00004", "none"]),
    RunFilter(created_after=datetime.fromtimestamp(EPOCH_S + 120, UTC)),
    RunFilter(created_before=datetime.fromtimestamp(EPOCH_S + 120, UTC)),
    RunFilter(created_after=datetime.fromtimestamp(EPOCH_S + 59.5, UTC).astimezone(None)),
    RunFilter(states=["finished"], tags=["even"], created_before=datetime.fromtimestamp(EPOCH_S + 60, UTC)),
]


@pytest.mark.parametrize("only", FILTERS, ids=range(len(FILTERS)))
def test_filters_are_applied_by_the_server_and_checked_again(only: RunFilter, make: Make) -> None:
    runs = [
        replace(run, state=state)
        for run, state in zip(sample_runs(6), ["finished", "running", "crashed"] * 2, strict=True)
    ]
    server, source = make(*runs)
    everything = list(source.runs(P, RunFilter()))
    expected = [listing.run_id for listing in everything if only.accepts(listing)]
    assert 0 < len(expected) < 6
    assert [listing.run_id for listing in source.runs(P, only)] == expected
    assert not server.unknown


def test_runs_that_are_deleted_while_listing_do_not_hide_others(make: Make) -> None:
    runs = light_runs(1_100)
    server, source = make(*runs)
    listing = source.runs(P, RunFilter())
    found = [next(listing).run_id]
    for run in runs[:5]:
        server.delete_run(f"team/p/{run.id}")
    found += [one.run_id for one in listing]
    assert {run.id for run in runs[5:]} <= set(found)
    assert len(found) == len(set(found))


def short_listing(times: int | None) -> Fault:
    node = {"name": "a", "createdAt": iso(EPOCH_S)}
    page = {"edges": [{"node": node, "cursor": "0"}], "pageInfo": {"endCursor": "0", "hasNextPage": False}}
    body = json.dumps({"data": {"project": {"runCount": 2, "runs": page}}})
    return Fault("Runs", "status", status=200, body=body, times=times)


def test_a_listing_that_is_too_short_is_made_again(make: Make) -> None:
    server, source = make(Run("a"), Run("b", created_at=iso(EPOCH_S + 1)))
    server.faults.set([short_listing(1)])
    assert [listing.run_id for listing in source.runs(P, RunFilter())] == ["a", "b"]
    server.faults.set([short_listing(None)])
    assert error_of(Retryable, lambda: list(source.runs(P, RunFilter()))).error_class is ErrorClass.BAD_DATA


# ---------------------------------------------------------------- failures of the service


@pytest.mark.parametrize(
    ("fault", "kind", "error_class"),
    [
        (Fault("", "status", status=403), Rejected, ErrorClass.PERMISSION),
        (Fault("", "status", status=404), Rejected, ErrorClass.NOT_FOUND),
        (Fault("", "status", status=400), Rejected, ErrorClass.UNKNOWN),
        (Fault("", "status", status=429, headers={"Retry-After": "0"}), Throttled, ErrorClass.RATE_LIMITED),
        (Fault("", "status", status=503, headers={"Retry-After": "0"}), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "status", status=500, headers={"Retry-After": "0"}), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "status", status=200), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "truncate"), Retryable, ErrorClass.UNAVAILABLE),
    ],
    ids=lambda value: f"{value.action}-{value.status}" if isinstance(value, Fault) else "",
)
def test_failures_are_told_apart(
    fault: Fault, kind: type[RunError], error_class: ErrorClass, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r"))
    server.faults.set([replace(fault, match="graphql Run$", times=None)])
    assert error_of(kind, lambda: opened(source, "r")).error_class is error_class


@pytest.mark.parametrize(
    ("message", "kind", "error_class"),
    [
        ("the service process is busy and did not respond in time.", Retryable, ErrorClass.TIMEOUT),
        ("giving up: Post: dial tcp 10.0.0.1:443: connect: connection refused", Throttled, ErrorClass.UNAVAILABLE),
        ("giving up after 3 attempt(s)\nwhile retrying: HTTP 429: slow down", Throttled, ErrorClass.RATE_LIMITED),
        ("giving up after 3 attempt(s)\nwhile retrying: HTTP 502: oops", Retryable, ErrorClass.UNAVAILABLE),
        ("input: permission denied\n", Rejected, ErrorClass.PERMISSION),
        ("input: run not found\n", Rejected, ErrorClass.NOT_FOUND),
        ("input: internal error\n", Retryable, ErrorClass.UNAVAILABLE),
    ],
)
def test_what_wandb_core_says_is_understood(message: str, kind: type[RunError], error_class: ErrorClass) -> None:
    told = of_message(message, "run")
    assert isinstance(told, kind)
    assert told.error_class is error_class


def test_messages_keep_no_secrets() -> None:
    text = clean(f"Get https://storage/a/b?X-Signature=abc&k=1: key {API_KEY}\n  refused")
    assert text == "Get https://storage/a/b?... key *** refused"


@pytest.mark.parametrize("action", ["truncate", "drop"])
def test_answers_that_are_cut_are_asked_for_again(action: str, make: Make, opened: Opened) -> None:
    server, source = make(Run("r", "name"))
    server.faults.set([Fault("graphql Run$", action)])
    assert opened(source, "r").attributes().name == "name"


def test_a_short_limit_of_requests_is_waited_for(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", "name"))
    server.faults.set([Fault("graphql Run$", "status", status=429, times=2, headers={"Retry-After": "0"})])
    assert opened(source, "r").attributes().name == "name"


def test_listing_what_one_may_not_see_is_for_a_person(make: Make) -> None:
    server, source = make(Run("r"))
    server.faults.set([Fault("Runs", "status", status=403, times=None)])
    with pytest.raises(UserError) as caught:
        list(source.runs(P, RunFilter()))
    assert caught.value.exit_code is ExitCode.CREDENTIALS


def test_a_key_that_is_refused_later_ends_the_command(make: Make, opened: Opened) -> None:
    server, source = make(Run("r"))
    server.faults.set([Fault("graphql Run$", "status", status=401, times=None)])
    with pytest.raises(UserError) as caught:
        opened(source, "r")
    assert caught.value.exit_code is ExitCode.CREDENTIALS


def test_wandb_core_is_started_again_when_it_was_killed(make: Make, opened: Opened) -> None:
    _, source = make(Run("r", "name"))
    killed = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    assert killed
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    assert opened(source, "r").attributes().name == "name"


# ---------------------------------------------------------------- the account and the process


@pytest.mark.parametrize("key", ["w" * 40, "short"])
def test_a_refused_key_ends_with_what_to_do(key: str, server: WandbServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WANDB_API_KEY") as caught:
        WandbApiSource(server.url, key, tmp_path)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert key not in str(caught.value)
    assert "wandb login" in str(caught.value)


def test_a_missing_key_ends_with_what_to_do_and_netrc_will_do(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"WANDB_API_KEY.*wandb login") as caught:
        WandbApiSource(server.url, None, tmp_path)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    netrc.write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {API_KEY}\n")
    source = WandbApiSource(server.url, None, tmp_path)
    assert list(source.projects(None))
    with source.open_run(RunRef("team", "sample", "run00001"), tmp_path / "s") as run:
        assert run.fetch("config.yaml")
    source.close()


def test_a_service_that_is_down_is_waited_for(tmp_path: Path) -> None:
    with WandbServer(Entity("team")) as gone:
        pass
    with pytest.raises(Throttled) as caught:
        WandbApiSource(gone.url, API_KEY, tmp_path)
    assert caught.value.error_class is ErrorClass.UNAVAILABLE


def test_an_address_that_is_none_is_for_a_person(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WANDB_BASE_URL"):
        WandbApiSource("not an address", API_KEY, tmp_path)


def test_settings_of_the_surroundings_do_not_leak_in_and_come_back_at_the_end(
    server: WandbServer, source: WandbApiSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a process of its own: this one's wandb is already set up
    script = """
import os, sys, psutil
from pathlib import Path
from migrator.sources.wandb.listing import WandbApiSource
assert "wandb" not in sys.modules and "pyarrow" not in sys.modules
before = dict(os.environ)
source = WandbApiSource(None, None, Path(sys.argv[1]) / "scratch")
print(sorted(project.name for project in source.projects(None)))
assert "wandb-core" in [child.name() for child in psutil.Process().children()]
source.close()
assert not psutil.Process().children(), psutil.Process().children()
assert {**os.environ, "WANDB_SERVICE": ""} == before, before.items() ^ os.environ.items()
"""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\nentity = nobody\n")
    surroundings = {
        "WANDB_ENTITY": "nobody",
        "WANDB_PROJECT": "nothing",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SERVICE": "",
    }
    surroundings |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "PYTHONPATH": os.getcwd()}
    done = _run_python(script, tmp_path, os.environ | surroundings)
    assert done == str(sorted(project.name for project in server.entities["team"].projects))
    assert not [name for name in os.listdir(tmp_path) if name not in ("wandb", "scratch")]


def _run_python(script: str, directory: Path, environment: dict[str, str]) -> str:
    import subprocess
    import sys

    command = [sys.executable, "-c", script, str(directory)]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_source_serves_many_threads(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    def read(number: int) -> int:
        reader = opened(source, f"run{number % 3:05}", "sample")
        files = [reader.fetch(file.name) for file in reader.files()]
        return len(rows_of(reader)) + len(files)

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(read, range(48))) == {56}
