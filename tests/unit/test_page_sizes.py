"""The pages of a live history: together they hold every step once, and none is much larger than it should be."""

from __future__ import annotations

import math
from bisect import bisect_left

from hypothesis import example, given
from hypothesis import strategies as st

from migrator.sources.wandb.page_sizes import FIRST_ROWS, PAGE_BYTES, PAGE_ROWS, WIDEN, PageSizer

STEPS = st.lists(st.integers(0, 10_000), max_size=300).map(sorted)


@example([0, 0, 0, 0, 0, 1, 56, 4536], 599187, True, {0}, False)
@given(STEPS, st.integers(1, PAGE_BYTES), st.booleans(), st.sets(st.integers(0, 300), max_size=5), st.booleans())
def test_every_step_is_in_one_page_but_those_that_fail_alone(
    steps: list[int], row_bytes: int, counted: bool, bad: set[int], announced: bool
) -> None:
    """`bad`: pages with one of these steps fail."""
    stop = steps[-1] + 1 if steps else 0
    left = len(steps) if counted else math.inf
    sizer = PageSizer(0, stop, left, 0, [float(step) for step in steps] if announced else ())
    end, found, lost, width = 0, 0, set[int](), FIRST_ROWS
    while (span := sizer.next()) is not None:
        assert (span[0], span[1] > span[0], span[1] <= stop) == (end, True, True)
        is_last = span[1] == stop
        if not bad.isdisjoint(range(*span)):
            if sizer.failed():
                assert span[1] == span[0] + 1
                lost.add(span[0])
                end = span[1]
            continue
        aim = min(PAGE_ROWS, PAGE_BYTES // row_bytes) if found else FIRST_ROWS
        is_small_rest = counted and len(steps) - found <= aim  # it may be wide, and is taken in pieces after a failure
        assert span[1] - span[0] <= WIDEN * width or is_last or is_small_rest
        width = max(width, span[1] - span[0])
        rows = bisect_left(steps, span[1]) - bisect_left(steps, span[0])
        sizer.read(rows, rows * row_bytes)
        found, end = found + rows, span[1]
    assert end == stop
    assert lost == bad & set(range(stop))
    assert found == sum(step not in lost for step in steps)


def test_pages_grow_until_they_have_the_rows_or_bytes_that_they_should_have() -> None:
    for row_bytes, most in {10: PAGE_ROWS, 10_000: PAGE_BYTES // 10_000}.items():
        sizer = PageSizer(0, 1_000_000, 1_000_000, 0)
        widths = []
        while (span := sizer.next()) is not None and len(widths) < 20:
            widths.append(span[1] - span[0])
            sizer.read(widths[-1], widths[-1] * row_bytes)
        assert widths[0] == FIRST_ROWS
        assert widths[-1] == max(widths) == most


def test_the_rest_is_taken_at_once_when_it_is_small() -> None:
    sizer = PageSizer(0, 10**9, 50, 0)
    assert sizer.next() == (0, 10**9)


def test_rows_may_be_as_long_as_the_longest_that_is_known() -> None:
    sizer = PageSizer(0, 1000, 1000, 30 * 1024 * 1024)
    assert sizer.next() == (0, 1)
