"""History from the W&B API against the loopback server, through the real SDK: what was logged is what is read."""

from __future__ import annotations

import functools
import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from migrator.errors import ErrorClass, Retryable
from migrator.records import HistoryRow
from migrator.sources.wandb import exports as wandb_parquet
from migrator.sources.wandb import page_sizes
from migrator.sources.wandb.listing import WandbApiSource
from migrator.values import SeriesKind, leaves
from tests.contract.api_source import MODES, Make, Opened, as_logged, assert_same_rows, error_of, parquet, rows_of
from tests.servers.http import Fault
from tests.servers.wandb_data import (
    EPOCH_S,
    Entity,
    Project,
    Run,
    logged,
)
from tests.servers.wandb_server import WandbServer

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
    assert max(others) < 1.2 * page_sizes.PAGE_BYTES
    assert len(others) < 12


def test_the_summary_tells_how_long_rows_are_before_any_is_read(make: Make, opened: Opened) -> None:
    run = Weighed("r", history=logged([{"text": f"{n}".ljust(200_000)} for n in range(90)]), mode="live")
    _, source = make(run)
    assert_same_rows(rows_of(opened(source, "r")), as_logged(run))
    assert max(run.weights) < 1.2 * page_sizes.PAGE_BYTES


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
    assert max(run.weights) < 1.2 * page_sizes.PAGE_BYTES


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


class Stepless(Run):
    """A run of which some live rows have no step, or are no rows; W&B counts them, too."""

    bad = ('{"x": 7}', '{"_step": null, "x": 7}', '{"_step": "NaN"}', "[1]", "{")

    @property
    def line_count(self) -> int:
        return super().line_count + len(self.bad) if self.state == "finished" else super().line_count

    def page(self, *steps: int) -> list[str]:
        return [*self.bad, *super().page(*steps)]


def test_live_rows_without_a_step_are_counted_and_the_others_read(make: Make, opened: Opened) -> None:
    history = logged([{"x": n} for n in range(9)])
    run = Stepless("r", history=history, mode="live")
    _, source = make(run, Stepless("live", history=history, mode="live", state="running"))
    for run_id in ("r", "live"):
        reader = opened(source, run_id)
        survey = reader.survey()
        assert (survey.rows, survey.counted, survey.bad_rows) == (9, 9, 5)
        assert_same_rows(rows_of(reader), as_logged(Run("r", history=history)))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_exported_rows_without_a_step_are_counted_and_the_others_read(
    kind: pa.DataType, make: Make, opened: Opened
) -> None:
    run = Run("r", history=logged([{"_step": step} for step in (0, 1, 2, 2, 3, 3, 5, 5)]))
    image = {"_type": "image-file", "path": "media/a.png"}
    run.cache["parquet"] = [
        parquet(_step=pa.array([0, None, 2], kind), x=[0.0, 1.0, 2.0], image=[None, image, None]),
        parquet(_step=pa.array([5, None, 3], kind), x=[5.0, 4.0, 3.0]),
        parquet(_step=pa.array([None], kind), x=[7.0]),
        parquet(x=[8.0]),
    ]
    _, source = make(run)
    reader = opened(source, "r")
    survey = reader.survey()
    assert (survey.rows, survey.counted, survey.bad_rows) == (4, 4, 4)
    assert not survey.media
    assert [(row.step, row.values["x"]) for row in rows_of(reader)] == [(0, 0.0), (2, 2.0), (3, 3.0), (5, 5.0)]
    assert [row.step for row in rows_of(reader, 2)] == [3, 5]


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
