"""How fast a job goes, and how long it will still take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from migrations_db.report_types import Progress
from migrations_db.states import RunStatus

WINDOW_S = 60.0  # the speed is that of the last minute
STEADY_S = 15.0  # a speed measured for less time, or for a smaller share, says nothing about the time left
STEADY_SHARE = 0.2  # of the values


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed per second over the last minute. `left_s` is None while the time left is unknown."""

    values: float
    size_bytes: float
    left_s: float | None


class Pace:
    """Follows the figures of a job; `at_s` is any steady clock."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, progress: Progress, at_s: float) -> Speed:
        """The speed now."""
        self._seen.append((at_s, progress.points_read, progress.size_bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= at_s - WINDOW_S:
            self._seen.popleft()
        began_s, values, size_bytes = self._seen[0]
        elapsed_s = at_s - began_s
        if elapsed_s <= 0:
            return Speed(0.0, 0.0, None)
        speed = Speed(
            max(0.0, (progress.points_read - values) / elapsed_s),
            max(0.0, (progress.size_bytes - size_bytes) / elapsed_s),
            None,
        )
        is_steady = elapsed_s >= STEADY_S or progress.points_read - values >= STEADY_SHARE * progress.points_expected
        left_s = time_left_s(progress, speed.values, speed.size_bytes) if is_steady else None
        return Speed(speed.values, speed.size_bytes, left_s)


def time_left_s(progress: Progress, values_per_s: float, bytes_per_s: float) -> float | None:
    """Estimate the time left, separately for values and bytes. The longer of the two counts.

    None: there is no speed yet, or the remaining sizes cannot be estimated because too few runs have ended.
    """
    waiting = progress.runs[RunStatus.PENDING] + progress.runs[RunStatus.RUNNING]
    if not waiting:
        return 0.0
    if not progress.is_measured:
        return None
    values_left = max(0, progress.points_expected - progress.points_read)
    bytes_left = max(0, progress.bytes_expected - progress.size_bytes)
    return slower_s(values_left, bytes_left, values_per_s, bytes_per_s)


def slower_s(values_left: float, bytes_left: float, values_per_s: float, bytes_per_s: float) -> float | None:
    """How long the slower of the two takes; None: there is nothing left, or no speed for what is."""
    times = []
    for left, per_s in ((values_left, values_per_s), (bytes_left, bytes_per_s)):
        if left:
            if per_s <= 0:
                return None
            times.append(left / per_s)
    return max(times, default=None)  # None: more was copied than expected
