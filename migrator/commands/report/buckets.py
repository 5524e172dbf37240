"""A long curve in few points: the least and the greatest value of equally wide intervals, so that no peak is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

INTERVALS = 200  # two points each: as many as a chart of 400 pixels can show

Points = Sequence[tuple[float, float] | None]  #: None: the curve is interrupted


class Buckets:
    """Points from `first` to `last`, in any order and any number of pieces; what lies outside counts as at the end."""

    def __init__(self, first: float, last: float, intervals: int = INTERVALS) -> None:
        self.first, self.last = float(first), float(last)
        self._count = intervals
        self._low = np.full(intervals, np.inf)
        self._high = np.full(intervals, -np.inf)
        self._low_at = np.zeros(intervals)
        self._high_at = np.zeros(intervals)
        self._broken = np.zeros(intervals, np.bool_)

    def add(self, places: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Take up points; a value that is not finite interrupts the curve where there is nothing else."""
        at = np.asarray(places, np.float64)
        numbers = np.asarray(values, np.float64)
        span = self.last - self.first
        share = (at - self.first) / span if span > 0 else np.zeros(len(at))
        where = np.clip(share * self._count, 0, self._count - 1).astype(np.int64)
        finite = np.isfinite(numbers)
        self._broken[where[~finite]] = True
        at, numbers, where = at[finite], numbers[finite], where[finite]
        order = np.lexsort((numbers, where))
        at, numbers, where = at[order], numbers[order], where[order]
        if not len(where):
            return
        starts = np.flatnonzero(np.r_[True, where[1:] != where[:-1]])
        ends = np.r_[starts[1:], len(where)] - 1
        for ends_of, extreme, extreme_at, better in (
            (starts, self._low, self._low_at, np.less),
            (ends, self._high, self._high_at, np.greater),
        ):
            touched = where[ends_of]
            improves = better(numbers[ends_of], extreme[touched])
            extreme[touched[improves]] = numbers[ends_of][improves]
            extreme_at[touched[improves]] = at[ends_of][improves]

    def points(self) -> Points:
        """(place, value) in the order of places, at most two for each interval."""
        found: list[tuple[float, float] | None] = []
        for n in range(self._count):
            if np.isfinite(self._low[n]):
                pair = {(float(self._low_at[n]), float(self._low[n])), (float(self._high_at[n]), float(self._high[n]))}
                found += sorted(pair)
            elif self._broken[n] and found and found[-1] is not None:
                found.append(None)
        return found


def of_steps(places: npt.ArrayLike, values: npt.ArrayLike, intervals: int = INTERVALS) -> Points:
    """Points that are all there, reduced."""
    at: Any = np.asarray(places, np.float64)
    if not len(at):
        return []
    buckets = Buckets(at.min(), at.max(), intervals)
    buckets.add(at, values)
    return buckets.points()
