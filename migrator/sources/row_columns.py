"""Columns of numbers from rows, in the same way for every source that has nothing but rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from migrator.limits import FLOAT_EXACT_INT, STEP_MAX
from migrator.records import HistoryColumns, HistoryRow

SPARSE = 10  # values that are missing cost nothing in rows, and as much as others in columns: at most so many for each


def columns_of_rows(rows: Sequence[HistoryRow]) -> HistoryColumns | None:
    """Convert rows to columns. None: they have no numbers, or something in them must be examined row by row."""
    steps, times = [row.step for row in rows], [row.time for row in rows]
    if {*map(type, steps)} != {int} or not 0 <= steps[0] <= steps[-1] < STEP_MAX:
        return None
    if None in times or any(one >= another for one, another in pairwise(steps)):
        return None
    every = [row.values for row in rows]
    keys = dict.fromkeys(chain.from_iterable(every))
    if len(keys) * len(rows) > SPARSE * sum(map(len, every)):
        return None
    numbers, present = {}, {}
    others: list[dict[str, Any]] = []
    for key in keys:
        values = [row.get(key) for row in every]
        column = _numbers(values)
        if column is not None:
            numbers[key] = column
            if None in values:
                present[key] = np.array([value is not None for value in values])
            continue
        others = others or [{} for _ in rows]
        for row, value in zip(others, values, strict=True):
            if value is not None:
                row[key] = value
    if not numbers or may_meet(numbers, others):
        return None
    return HistoryColumns(np.array(steps, np.int64), np.array(times, np.float64), numbers, present, others)


def may_meet(numbers: Iterable[str], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the other values, if it is a dict, could lead to the name of a column."""
    within = {f"{key}." for row in others for key in row}
    return any(name.startswith(prefix) for name in numbers for prefix in within)


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float64] | None:
    """The values as doubles, 0 for None. None: not all of them are numbers that are exact as doubles, or none is."""
    kinds = {*map(type, values)}
    if not kinds <= {float, int, NoneType} or kinds == {NoneType}:
        return None
    if int in kinds and any(type(value) is int and abs(value) > FLOAT_EXACT_INT for value in values):
        return None
    return np.array([0 if value is None else value for value in values] if NoneType in kinds else values, np.float64)
