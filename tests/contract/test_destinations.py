"""The destination contract: one suite for memory, Neptune's offline files (then uploaded) and both clients online."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrator.destinations.base import Refused
from migrator.destinations.neptune.answers import UNKNOWN_PATH
from migrator.errors import ErrorClass, Rejected
from migrator.limits import STRING_MAX_BYTES
from migrator.records import AddTags, Assign, AssignFile, Columns, Fork, Histogram, Points, Record
from tests.contract.neptune_places import (
    PROJECT,
    START,
    START_US,
    Place,
    Seen,
    connected,
    local_file,
    memory_place,
    offline_place,
    online_place,
    safe_place,
    target,
)

__all__ = ["connected", "memory_place", "offline_place", "online_place", "safe_place"]  # fixtures

MIB = 1024 * 1024


@pytest.fixture(params=["memory", "offline", "online", pytest.param("safe", marks=pytest.mark.heavy)])
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


@pytest.fixture
def telling_place(place: Place) -> Place:
    if not place.tells:
        pytest.skip("offline files hear of refusals when they are uploaded")
    return place


@pytest.fixture
def exact_place(place: Place) -> Place:
    if not place.exact:
        pytest.skip("this client computes in doubles")
    return place


def written(place: Place, *records: Record, **options: Any) -> Seen:
    """Write the records to run r1, wait until they are durable, without a refusal, and read the run.

    Only a client that is not exact may have doubts (notes).
    """
    with place.destination.open_run(target(**options), None) as run:
        run.write(records)
        assert [refused for refused in run.flush().wait() if place.exact or refused.count] == []
    return place.read()


def told(place: Place, path: str, reason: str, count: int) -> Refused:
    """How a place tells what it refused in one request."""
    return Refused(path, reason, count) if place.exact else Refused(UNKNOWN_PATH, reason, 1)


def points(path: str, values: list[Any]) -> list[Points]:
    return [Points(step, START_US + step, {path: value}) for step, value in enumerate(values)]


# ---------------------------------------------------------------- the run itself


def test_a_run_arrives_with_its_name_creation_time_and_fork(place: Place) -> None:
    with place.destination.open_run(target("parent"), None) as parent:
        parent.write(points("loss", [3.0, 2.0, 1.0]))
        parent.flush().wait()
    place.read("parent")
    with place.destination.open_run(target(name="naïve 名前", fork=Fork("parent", 1.5)), None) as run:
        run.write([Points(2, START_US, {"loss": 1.5})])
        assert list(run.flush().wait()) == []
    seen = place.read()
    assert (seen.name, seen.created_at, seen.fork) == ("naïve 名前", START, Fork("parent", 1.5))
    assert seen.series["loss"] == [(2.0, START_US, 1.5)]


def test_opening_a_run_again_goes_on_where_it_stood(place: Place) -> None:
    with place.destination.open_run(target(), None) as run:
        run.write(points("loss", [1.0, 2.0]))
        barrier = run.flush()
        barrier.wait()
    with place.destination.open_run(target(), barrier.position) as run:
        run.write([Points(2, START_US + 2, {"loss": 3.0})])
        assert list(run.flush().wait()) == []
    assert place.read().series["loss"] == [(0, START_US, 1.0), (1, START_US + 1, 2.0), (2, START_US + 2, 3.0)]


def test_making_sure_of_a_project_again_changes_nothing(place: Place) -> None:
    place.destination.ensure_project(PROJECT, "another description")
    written(place, Assign({"a": 1}))


# ---------------------------------------------------------------- what arrives


def test_every_kind_of_single_value_arrives_as_it_is(place: Place) -> None:
    values: dict[str, Any] = {
        "int": 7,
        "large": 2**63 - 1,
        "small": -(2**63),
        "float": 0.1,
        "whole float": 3.0,
        "yes": True,
        "no": False,
        "text": "grüße 名前 🌊\n\0",
        "empty": "",
        "time": datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "old": datetime(1901, 2, 3, 4, 5, 6, tzinfo=UTC),
        "far": datetime(2242, 3, 4, 5, 6, 7, 890123, tzinfo=UTC),
        "members": frozenset({"ä", "b", ""}),
        "infinite": math.inf,
        "sys/description": "notes",
        "config/ключ/名前": 1,
        "x" * 1024: 2,
    }
    seen = written(place, Assign({**values, "nan": math.nan}))
    assert math.isnan(seen.values.pop("nan"))
    assert seen.values == values
    assert {path: type(value) for path, value in seen.values.items()} == {p: type(v) for p, v in values.items()}


def test_the_strangest_times_arrive_as_they_are(exact_place: Place) -> None:
    values: dict[str, Any] = {
        "old": datetime(1901, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
        "far": datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "odd": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    }
    seen = written(exact_place, Assign(values), Points(0, -1, {"a": 1.0}))
    assert (seen.values, seen.series["a"]) == (values, [(0, -1, 1.0)])


def test_the_largest_steps_arrive_as_they_are(exact_place: Place) -> None:
    steps = [2**39, 10**12 - 2, 10**12 - 0.5]
    series = written(exact_place, *(Points(step, START_US, {"loss": 1.0}) for step in steps)).series["loss"]
    assert [step for step, _, _ in series] == steps


def test_tags_and_group_tags_arrive(place: Place) -> None:
    seen = written(place, AddTags(frozenset({"a", "ü"})), AddTags(frozenset({"b"})), AddTags(frozenset({"g"}), True))
    assert (seen.tags, seen.group_tags) == ({"a", "ü", "b"}, {"g"})


def test_tags_that_are_gone_are_removed_and_sets_may_become_empty(place: Place) -> None:
    seen = written(
        place,
        AddTags(frozenset({"a", "b"})),
        AddTags(frozenset({"c"}), gone=frozenset({"a", "never there"})),
        AddTags(frozenset({"g"}), group=True),
        AddTags(frozenset(), group=True, gone=frozenset({"g"})),
        Assign({"aliases": frozenset({"latest"})}),
        Assign({"aliases": frozenset()}),
    )
    assert (seen.tags, seen.group_tags, seen.values["aliases"]) == ({"b", "c"}, set(), frozenset())


def test_numbers_arrive_with_exact_steps_times_and_values(place: Place) -> None:
    steps = [0, 0.000001, 0.5, 1, 1.999999, 7.654321, 12_345.678901, 2**31, 9 * 10**9 - 2]
    values = [0, 1, -2.5, 1e308, 5e-324, math.inf, -math.inf, 2**53, 0.1]
    records = [
        Points(step, START_US + i, {"loss/名前": value})
        for i, (step, value) in enumerate(zip(steps, values, strict=True))
    ]
    records.append(Points(9 * 10**9 - 0.5, START_US + 10, {"loss/名前": math.nan}))
    series = written(place, *records).series["loss/名前"]
    step, time_us, value = series.pop()
    assert (step, time_us) == (9 * 10**9 - 0.5, START_US + 10)
    assert math.isnan(value)
    assert series == [(s, START_US + i, v) for i, (s, v) in enumerate(zip(steps, values, strict=True))]


def test_columns_of_numbers_arrive_as_their_points(place: Place) -> None:
    steps = np.array([0, 1, 5, 2**20], np.int64)
    values = {"loss": np.array([0.5, -0.0, 1e300, 5e-324]), "acc/名前": np.array([1.0, 2.0, 3.0, 4.0])}
    columns = Columns(steps, START_US + 1_000_000 * steps, values, {"acc/名前": steps > 0})
    expected: dict[str, list[Any]] = {}
    for step, time_us, row in columns.points():
        for path, value in row.items():
            expected.setdefault(path, []).append((step, time_us, value))
    assert written(place, Assign({"a": 1}), columns, Points(0, START_US, {"text": "x"})).series == {
        **expected,
        "text": [(0, START_US, "x")],
    }


def test_text_series_arrive(place: Place) -> None:
    lines = ["", "grüße 名前 🌊", "\0\n", "x" * STRING_MAX_BYTES, "🌊" * (STRING_MAX_BYTES // 4)]
    series = written(place, *points("console", lines)).series["console"]
    assert [value for _, _, value in series] == lines


def test_histograms_arrive_as_counts_or_densities(place: Place) -> None:
    counts = Histogram((-1.5, 0.0, 2.5), (0, 2**63))
    densities = Histogram((0.0, 1e-300, 1e300), (0.25, 0.75))
    widest = Histogram(tuple(float(edge) for edge in range(513)), tuple(range(512)))
    seen = written(place, *points("gradients", [counts, densities, widest]))
    assert [value for _, _, value in seen.series["gradients"]] == [counts, densities, widest]


def test_files_and_file_series_arrive(place: Place, tmp_path: Path) -> None:
    empty, text = local_file(tmp_path / "empty", b""), local_file(tmp_path / "a.txt", b"text", "some/dir/ä b.txt")
    images = [local_file(tmp_path / f"{n}.png", bytes([n]) * n) for n in range(4)]
    seen = written(
        place,
        AssignFile("files/empty", empty),
        AssignFile("files/some/dir/ä b.txt", text),
        *points("media/image", [*images]),
    )
    assert seen.files == {"files/empty": b"", "files/some/dir/ä b.txt": b"text"}
    assert [value for _, _, value in seen.series["media/image"]] == [bytes([n]) * n for n in range(4)]


def test_a_file_that_is_written_again_has_its_new_content(place: Place, tmp_path: Path) -> None:
    with place.destination.open_run(target(), None) as run:
        run.write([AssignFile("files/log", local_file(tmp_path / "log", b"short"))])
        run.flush().wait()
        run.write([AssignFile("files/log", local_file(tmp_path / "log", b"much longer"))])
        run.flush().wait()
    assert place.read().files == {"files/log": b"much longer"}


def test_all_that_one_run_can_hold_arrives_together(place: Place, tmp_path: Path) -> None:
    seen = written(
        place,
        Assign({"config/lr": 0.1}),
        AddTags(frozenset({"t"})),
        AssignFile("files/a", local_file(tmp_path / "a", b"a")),
        Points(0, START_US, {"loss": 1.0, "line": "x", "h": Histogram((0.0, 1.0), (3,)), "acc": 2}),
        Points(1, START_US, {"loss": 0.5, "image": local_file(tmp_path / "i", b"i")}),
        Assign({"config/lr": 0.2}),
    )
    assert seen.values == {"config/lr": 0.2}
    assert seen.files == {"files/a": b"a"}
    assert seen.series == {
        "loss": [(0, START_US, 1.0), (1, START_US, 0.5)],
        "line": [(0, START_US, "x")],
        "h": [(0, START_US, Histogram((0.0, 1.0), (3,)))],
        "acc": [(0, START_US, 2)],
        "image": [(1, START_US, b"i")],
    }


# ---------------------------------------------------------------- large records


def test_a_step_with_1500_metrics_of_the_longest_names_arrives_whole(place: Place) -> None:
    paths = [f"{number:04}{'名' * 340}" for number in range(1500)]
    seen = written(place, *(Points(step, START_US, dict.fromkeys(paths, step / 2)) for step in range(3)))
    assert seen.series == {path: [(0, START_US, 0.0), (1, START_US, 0.5), (2, START_US, 1.0)] for path in paths}


def test_3000_config_values_arrive_whole(place: Place) -> None:
    values: dict[str, Any] = {f"config/{number}": "ü" * 500 for number in range(3000)}
    assert written(place, Assign(values)).values == values


def test_several_texts_of_1_mib_arrive_whole(place: Place) -> None:
    texts: dict[str, Any] = {f"text/{number}": str(number) * MIB for number in range(6)}
    seen = written(place, Points(0, START_US, texts), Assign({f"config/{path}": text for path, text in texts.items()}))
    assert {path: series[0][2] for path, series in seen.series.items()} == texts
    assert {path.removeprefix("config/"): value for path, value in seen.values.items()} == texts


def test_more_than_one_request_takes_arrives_in_order(place: Place) -> None:
    with place.destination.open_run(target(), None) as run:
        for batch in range(3):
            run.write([Points(batch * 10 + n, START_US, {f"m{m}": float(n) for m in range(2000)}) for n in range(10)])
        assert list(run.flush().wait()) == []
    series = place.read().series
    assert len(series) == 2000
    assert all([step for step, _, _ in points] == list(range(30)) for points in series.values())


# ---------------------------------------------------------------- barriers


def test_several_barriers_may_be_open_at_once(place: Place) -> None:
    with place.destination.open_run(target(), None) as run:
        barriers = []
        for step in range(5):
            run.write([Points(step, START_US, {"loss": 1.0})])
            barriers.append(run.flush())
        for barrier in barriers:
            assert list(barrier.wait()) == []
            assert barrier.ready()
    assert len(place.read().series["loss"]) == 5


def test_a_barrier_behind_nothing_is_passed(place: Place) -> None:
    with place.destination.open_run(target(), None) as run:
        run.flush().wait()
        assert run.flush().ready()


def test_a_barrier_can_be_asked_again(telling_place: Place) -> None:
    telling_place.refuse("bad")
    with telling_place.destination.open_run(target(), None) as run:
        run.write([Assign({"bad": 1})])
        barrier = run.flush()
        assert list(barrier.wait()) == list(barrier.wait()) != []


# ---------------------------------------------------------------- refusals


def test_refusals_are_told_by_path_and_reason_and_the_rest_arrives(telling_place: Place) -> None:
    telling_place.refuse("bad")
    with telling_place.destination.open_run(target(), None) as run:
        run.write([*points("bad", [1.0, 2.0, 3.0]), *points("good", [1.0])])
        [refused] = run.flush().wait()
        run.write([Assign({"fine": 1})])
        assert list(run.flush().wait()) == []
    assert refused == told(telling_place, "bad", "FIELD_PATH_INVALID", 3)
    assert list(telling_place.read().series) == ["good"]


def test_a_barrier_tells_only_of_what_was_written_since_the_one_before(telling_place: Place) -> None:
    with telling_place.destination.open_run(target(), None) as run:
        run.write([Assign({"a": 1})])
        first = run.flush()
        run.write([Assign({"a": "text"})])
        second = run.flush()
        assert list(first.wait()) == []
        [refused] = second.wait()
    assert refused == told(telling_place, "a", "FIELD_TYPE_CONFLICTING", 1)


@pytest.mark.parametrize("again", [[1.0, 2.0], [2.0], [1.0]])
def test_points_that_an_earlier_attempt_sent_are_no_refusals_when_replayed(
    telling_place: Place, again: list[float]
) -> None:
    with telling_place.destination.open_run(target(), None) as run:
        run.write(points("loss", [1.0, 2.0]))
        run.flush().wait()
    repeated = [Points(int(value) - 1, START_US + int(value) - 1, {"loss": value}) for value in again]
    with telling_place.destination.open_run(target(), None) as run:
        run.write(repeated, replayed=True)
        run.write([Points(2, START_US + 2, {"loss": 3.0})])
        assert list(run.flush().wait()) == []
    assert [value for _, _, value in telling_place.read().series["loss"]] == [1.0, 2.0, 3.0]


def test_points_at_steps_that_are_taken_are_refusals_when_nothing_explains_them(telling_place: Place) -> None:
    with telling_place.destination.open_run(target(), None) as run:
        run.write(points("loss", [1.0, 2.0]))
        run.flush().wait()
        run.write(points("loss", [3.0]))
        [refused] = run.flush().wait()
    assert refused == told(telling_place, "loss", "SERIES_STEP_NON_INCREASING", 1)


def test_other_refusals_are_told_even_when_replayed(telling_place: Place) -> None:
    telling_place.refuse("bad")
    with telling_place.destination.open_run(target(), None) as run:
        run.write(points("bad", [1.0]), replayed=True)
        assert [refused.reason for refused in run.flush().wait()] == ["FIELD_PATH_INVALID"]


def test_a_run_in_a_project_that_is_not_there_is_rejected(telling_place: Place) -> None:
    def copy() -> None:
        with telling_place.destination.open_run(replace(target(), project="team/other"), None) as run:
            run.flush().wait()

    with pytest.raises(Rejected, match="team/other") as caught:
        copy()
    assert caught.value.error_class is ErrorClass.NOT_FOUND
