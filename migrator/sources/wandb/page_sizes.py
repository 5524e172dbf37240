"""How wide the pages of a live history are: ranges of steps, of which it is not known how many rows they have. Pure.

It begins with few rows, sizes each page by the rows and bytes of the previous one, and takes the whole rest once that
is small. Where it is known which steps there are, a page ends behind as many of them as it should have rows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from migrator.sources.wandb.connections import SHRINK

PAGE_BYTES = 4 * 1024 * 1024  # target per HistoryPage; wandb-core, its message and our rows each hold a copy
PAGE_BYTES_MAX = 64 * 1024 * 1024  # accepted in a page whose rows are longer than expected
PAGE_ROWS = 5_000  # target per page, at most
FIRST_ROWS = 100  # target of the first page, at most: the length of rows is not known before
WIDEN = 8  # a page may be at most this many times larger than the previous one


class PageSizer:
    """Sizes the pages of the steps from `at` (included) to `stop` (excluded).

        while (span := sizer.next()) is not None:
            request the rows of the span, then call `read` or `failed`

    `left`: how many rows there should be (inf: not known). `row_bytes`: of the longest row, as far as is known; 0 if
    it is not. `listed`: the steps that are known to exist, ascending. `bad_steps`: how many steps in a row failed even
    alone.
    """

    def __init__(self, at: int, stop: int, left: float, row_bytes: int, listed: Sequence[float] = ()) -> None:
        self._at, self._end, self._stop = at, at, stop
        self._left, self._row_bytes, self._listed = left, row_bytes, listed
        self._aim = self._rows_of(FIRST_ROWS, row_bytes)  # rows of the next page
        self._width = self._aim  # steps of the next page
        self._at_most = math.inf  # steps, because W&B failed at more
        self.bad_steps = 0

    def next(self) -> tuple[int, int] | None:
        """The next page: its first step, and the step after its last. None: there is no more."""
        if self._at >= self._stop:
            return None
        end: float = self._stop if self._left <= self._aim else min(self._at + self._width, self._stop)
        behind = bisect_left(self._listed, self._at) + self._aim
        if behind < len(self._listed):
            end = min(end, max(math.floor(self._listed[behind]), self._at + 1))
        self._end = int(min(end, self._at + self._at_most))
        return self._at, self._end

    def read(self, rows: int, size_bytes: int) -> None:
        """The page was read: it had so many rows and bytes."""
        steps = self._end - self._at
        self._at_most, self.bad_steps = self._at_most * WIDEN, 0
        self._left -= rows
        self._width = WIDEN * steps
        if rows:
            self._aim = self._rows_of(WIDEN * self._aim, size_bytes // rows)
            self._width = max(1, min(self._width, steps * self._aim // rows))
        self._at = self._end

    def failed(self) -> bool:
        """W&B failed at the page: the next one is smaller. True: it had one step, which is left out."""
        steps = self._end - self._at
        self._at_most = max(1, steps // SHRINK)
        if steps > 1:
            return False
        self.bad_steps += 1
        self._at = self._end
        return True

    def _rows_of(self, at_most: int, row_bytes: int) -> int:
        """How many rows to request if they had `row_bytes` so far. The next ones may be as long as the longest."""
        worst = PAGE_BYTES_MAX // max(self._row_bytes, 1)
        return max(1, min(at_most, PAGE_ROWS, worst, PAGE_BYTES // max(row_bytes, 1)))
