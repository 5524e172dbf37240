"""Digests: the same whatever the order and the batches, different for anything else."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.copying.digests import FLOATS, SeriesDigest, decode, encode, series_digest
from migrator.copying.run_digests import TABLE_VALUES, Digests, measure
from migrator.destinations.base import Refused
from migrator.records import AddTags, Assign, AssignFile, Histogram, LocalFile, Points, Record

NUMBERS = st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1))
FILE = LocalFile(Path("a"), "a", 3, "0" * 32)
VALUES = st.one_of(
    st.tuples(st.sampled_from(["loss", "acc", "lr"]), NUMBERS),
    st.tuples(st.just("text"), st.text(max_size=5)),
    st.tuples(st.just("histogram"), st.just(Histogram((0.0, 1.0, 2.0), (3, 4)))),
    st.tuples(st.just("image"), st.builds(lambda size: replace(FILE, size_bytes=size), st.integers(0, 9))),
)
ROWS = st.lists(st.lists(VALUES, min_size=1, max_size=4).map(dict), max_size=30)


def points(rows: list[dict[str, Any]]) -> list[Points]:
    return [Points(step / 2, 1_700_000_000_000_400 + 1_700 * step, row) for step, row in enumerate(rows)]


def digests_of(*groups: list[Any]) -> dict[str, Any]:
    digests = Digests({})
    for group in groups:
        digests.add(measure(group))
    return {path: decode(row) for path, row in digests.take().items()}


@given(ROWS, st.integers(0, 30), st.randoms())
def test_batches_add_up_in_any_order(rows: list[dict[str, Any]], cut: int, chance: random.Random) -> None:
    records = points(rows)
    shuffled = chance.sample(records, len(records))
    assert digests_of(shuffled[:cut], shuffled[cut:]) == digests_of(records)


def test_many_points_at_the_same_paths_give_what_each_of_them_gives() -> None:
    chance = random.Random(7)
    odd = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1, 2**62, 1e308]
    rows = [{"a": chance.choice(odd), "b": step, "c": chance.random()} for step in range(TABLE_VALUES)]
    records = points(rows)
    one_by_one = digests_of(*([record] for record in records))
    assert digests_of(records) == one_by_one
    assert digests_of(records[::-1]) == one_by_one
    numbers = np.array([float(row["a"]) for row in rows])
    a = one_by_one["a"][1]
    assert (a.count, a.nan, a.infinite) == (len(rows), np.isnan(numbers).sum(), np.isinf(numbers).sum())
    assert (a.low, a.high) == (numbers[np.isfinite(numbers)].min(), 1e308)


@given(ROWS)
def test_what_is_saved_goes_on(rows: list[dict[str, Any]]) -> None:
    records = points(rows)
    first, half = Digests({}), len(records) // 2
    first.add(measure(records[:half]))
    saved = first.take()
    second = Digests(saved)
    second.add(measure(records[half:]))
    assert {path: decode(row) for path, row in (saved | second.take()).items()} == digests_of(records)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p._replace(step=p.step + 1e-6),
        lambda p: p._replace(time_us=p.time_us + 1_000),
        lambda p: p._replace(values={"loss": math.nextafter(0.25, 1)}),
        lambda p: p._replace(values={"loss": math.nan}),
        lambda p: p._replace(values={"other": 0.25}),
        lambda p: p._replace(values={"loss": "0.25"}),
    ],
)
def test_any_change_of_a_point_shows(change: Any) -> None:
    records = points([{"loss": 0.25}] * 1000)
    changed = [*records[:500], change(records[500]), *records[501:]]
    assert digests_of(changed) != digests_of(records)


def test_two_values_that_change_places_show() -> None:
    rows = [{"loss": float(n)} for n in range(1000)]
    assert digests_of(points(rows)) != digests_of(points([rows[1], rows[0], *rows[2:]]))


def test_points_that_are_read_back_have_the_digest_of_those_sent() -> None:
    records = points([{"loss": x} for x in (0.5, math.nan, -0.0, math.inf, 3)])
    steps = np.array([2_000_000, 1_500_000, 1_000_000, 500_000, 0])  # newest first
    times = np.array([record.time_us // 1000 for record in reversed(records)])
    back = series_digest(steps, times, np.array([3.0, np.inf, 0.0, np.nan, 0.5]))
    [(kind, sent)] = digests_of(records).values()
    assert kind == FLOATS
    assert back == replace(sent, rounded_ms=back.rounded_ms)
    assert series_digest(*(np.array([], kind) for kind in (np.int64, np.int64, np.float64))) == SeriesDigest()


def test_later_values_files_and_tags_take_the_place_of_earlier_ones() -> None:
    early: list[Record] = [Assign({"config/lr": 1}), AssignFile("files/a", FILE), AddTags(frozenset({"a", "b"}))]
    late: list[Record] = [Assign({"config/lr": 2}), AssignFile("files/a", replace(FILE, md5="1" * 32))]
    late.append(AddTags(frozenset({"c"}), gone=frozenset({"a"})))
    now = [Assign({"config/lr": 2, "sys/tags": frozenset({"b", "c"})}), late[1]]
    assert digests_of(early, late) == digests_of(now)


def test_what_was_refused_is_not_expected() -> None:
    digests = Digests({})
    rows = points([{"good": 1.0, "bad": 1.0, "some": 1.0}] * 4)
    singles = Assign({"config/good": 1, "config/bad": 1})
    refused = [Refused("bad", "CODE", 4), Refused("some", "CODE", 1), Refused("config/bad", "CODE", 1)]
    digests.add(measure([singles, *rows]), refused)
    found = {path: decode(row)[1] for path, row in digests.take().items()}
    assert found.keys() == {"config/good", "good", "some"}
    assert (found["good"].refused, found["some"].refused) == (0, 1)
    digests.refuse([Refused("good", "LATER", 2), Refused("(path unknown)", "LATER", 1)])
    later = {path: decode(row)[1] for path, row in digests.take().items()}
    assert (later["good"].refused, later["some"].refused, later["config/good"].uncertain) == (3, 2, True)


@given(st.dictionaries(st.sampled_from("abc"), st.one_of(st.booleans(), NUMBERS, st.text(), st.frozensets(st.text()))))
def test_single_values_survive_being_saved(values: dict[str, Any]) -> None:
    found = digests_of([Assign(values)])
    assert {path: decode(encode(kind, digest)) for path, (kind, digest) in found.items()} == found
    assert found.keys() == values.keys()
