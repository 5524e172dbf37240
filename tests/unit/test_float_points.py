"""Points of Neptune's answers are read as columns, whatever fields are left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import ProtoFloatSeriesValuesDTO

from migrator.destinations.neptune.float_points import float_points, layout_of, one_by_one

TIMES = st.one_of(st.integers(0, 2**62), st.sampled_from([0, 127, 128, 1_700_000_000_000, 2**42 - 1, 2**42]))
NUMBERS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, math.nan, math.inf]))


def series(points: list[tuple[int, float, float]], total: int = 0, **more: Any) -> ProtoFloatSeriesValuesDTO:
    made = ProtoFloatSeriesValuesDTO(total_item_count=total)
    for time_ms, step, value in points:
        made.values.add(timestamp_millis=time_ms, step=step, value=value, **more)
    return made


def is_table(made: ProtoFloatSeriesValuesDTO) -> bool:
    """Whether all points but the first have the layout of the first."""
    data = np.frombuffer(made.SerializeToString(), np.uint8)
    layout = layout_of(data, 0)
    return layout is not None and layout.length * len(made.values) == len(data)


def check(made: ProtoFloatSeriesValuesDTO) -> None:
    for column, expected in zip(float_points(made), one_by_one(made.values), strict=True):
        assert column.dtype == expected.dtype
        assert np.array_equal(column.view(np.int64), expected.view(np.int64))  # to the bit


@given(st.lists(st.tuples(TIMES, NUMBERS, NUMBERS), max_size=40), st.integers(0, 2**40))
def test_columns_hold_what_the_points_hold(points: list[tuple[int, float, float]], total: int) -> None:
    check(series(points, total))
    check(series(points, total, is_preview=True, completion_ratio=0.5))


def test_long_series_with_zeros_in_them() -> None:
    long = [(1_700_000_000_000 + n, float(n), 0.0 if n % 5_000 == 3 else n / 7) for n in range(20_000)]
    check(series(long))
    check(series(long[::-1], len(long), completion_ratio=1.0))
    assert is_table(series(long[4:4_000], completion_ratio=1.0))  # as Neptune sends them: read as a table
    check(series([(time, step, float(step % 2)) for time, step, _ in long]))  # every second value is left out
