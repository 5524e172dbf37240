"""Pictures of a report: no peak is lost, any number can be drawn, and titles are only text."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.commands.report.buckets import Buckets, of_steps
from migrator.commands.report.svg import HEIGHT, WIDTH, bar, curve, frame_of, stack

POINTS = st.lists(st.tuples(st.integers(0, 10**18), st.floats(width=64)), min_size=1, max_size=60)


@given(POINTS, st.integers(1, 20), st.randoms(use_true_random=False))
def test_extremes_are_kept_whatever_the_order_of_the_points(
    points: list[tuple[int, float]], intervals: int, random: object
) -> None:
    steps = [step for step, _ in points]
    pieces = [points[::2], points[1::2]]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    buckets = Buckets(min(steps), max(steps), intervals)
    for piece in pieces:
        buckets.add([step for step, _ in piece], [value for _, value in piece])
    drawn = [point for point in buckets.points() if point is not None]
    finite = [value for _, value in points if math.isfinite(value)]
    assert len(drawn) <= 2 * intervals
    assert [place for place, _ in drawn] == sorted(place for place, _ in drawn)
    assert set(drawn) <= {(float(step), value) for step, value in points}
    assert {value for _, value in drawn} >= {f(finite) for f in (min, max) if finite}


def test_a_short_curve_is_drawn_as_it_is() -> None:
    steps, values = np.arange(100) * 1_000_000, np.sin(np.arange(100))
    assert of_steps(steps, values) == [(float(s), float(v)) for s, v in zip(steps, values, strict=True)]


def test_what_is_not_finite_interrupts_the_curve() -> None:
    assert of_steps([0, 1, 2, 3], [1.0, math.nan, math.inf, 2.0], 4) == [(0.0, 1.0), None, (3.0, 2.0)]
    assert of_steps([0, 1], [math.nan, math.nan]) == []


@pytest.mark.parametrize(
    "values",
    [[1.0], [2.0, 2.0], [-1.7e308, 1.7e308], [5e-324, 1e-323], [math.nan], [], [1.0, math.nan, 3.0], [-0.0, 0.0]],
    ids=str,
)
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    points = of_steps(range(len(values)), values)
    picture = ElementTree.fromstring(curve("x", points, frame_of(points, 0.0), [0.0, 1.0]))
    path = picture.findall("path")[-1].attrib["d"]
    numbers = [tuple(map(float, pair)) for pair in re.findall(r"[ML](\S+) ([\d.-]+)", path)]
    assert len(numbers) == sum(map(math.isfinite, values))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in numbers)


def test_titles_are_text_and_nothing_else() -> None:
    title = '</title><script>alert(1)</script>\x1b[2J"&'
    for picture in (curve(title, [(0.0, 1.0)], frame_of([(0.0, 1.0)])), stack(title, [("equal", 0.25)])):
        tree = ElementTree.fromstring(picture)
        assert tree.attrib["role"] == "img"
        assert tree.findtext("title") == title.replace("\x1b", "\\x1b")
        assert not [element for element in tree.iter() if element.tag == "script"]


def test_bars_stay_within_their_rails() -> None:
    widths = [float(ElementTree.fromstring(bar(share))[1].attrib["width"]) for share in (-1.0, 0.0, 0.5, 1.0, 7.0)]
    assert widths == [0, 0, 50, 100, 100]
