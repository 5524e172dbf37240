"""Live history: the rows of a run that W&B has not exported to Parquet yet, read with `HistoryPage`.

A page is a range of steps, not a number of rows. Steps may be far apart (0, 10, 1e9), and rows may be long, but an
answer is held in memory as a whole: `page_sizes` decides how wide pages are. Rows come as JSON text, in which NaN and
infinities are the strings "NaN", "Infinity" and "-Infinity" (as in summaries) or bare.
"""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from migrator.errors import Retryable
from migrator.limits import WANDB_PAGE_STEPS_MAX
from migrator.listed import RunRef
from migrator.records import HistoryRow
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import parsed, run_of
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.connections import is_too_much
from migrator.sources.wandb.errors import of_disk
from migrator.sources.wandb.exports import as_time
from migrator.sources.wandb.page_sizes import PAGE_ROWS, PageSizer

BAD_STEPS_MAX = 5  # if W&B fails at this many steps in a row, it fails at the whole history
SPOOL_BYTES = 1024 * 1024  # kept in memory; more goes to a scratch file

Chunk = list[HistoryRow]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What the run record says about its history. `last_step` None: no rows; `row_count` 0: no rows, or not known."""

    last_step: float | None
    row_count: int
    row_bytes: int  # of JSON text, estimated from the summary, which has the last value of each key
    ended: bool  # while a run is active, its counts lag behind
    has_rows: bool = False  # the summary shows that there are rows, although there is no count


@dataclass(frozen=True, slots=True)
class Exported:
    """The contents of the Parquet exports: the number of rows, up to step `last` (-inf: no rows)."""

    rows: int
    last: float


class LiveRows:
    """The live rows of one run. `listed` are the steps of rows that, according to W&B, are not exported, ascending."""

    def __init__(
        self, client: WandbClient, ref: RunRef, facts: HistoryFacts, exported: Exported, listed: Sequence[float]
    ) -> None:
        self._client, self._ref, self._facts, self._exported, self._listed = client, ref, facts, exported, listed
        self._what = f"history of {ref}"
        self._bad_rows: set[str] = set()  # their texts, because pages may repeat them
        self._last = max(-1 if facts.last_step is None else facts.last_step, *listed[-1:], -1)

    @property
    def counted(self) -> int:
        """The minimum number of live rows, according to W&B."""
        return len(self._listed) or int(self._last > self._exported.last and self._facts.last_step is not None)

    @property
    def bad_rows(self) -> int:
        """How many rows read so far have no step or cannot be parsed."""
        return len(self._bad_rows)

    @property
    def overlap(self) -> bool:
        """Whether some live rows belong between exported rows."""
        return bool(self._listed) and self._listed[0] < self._exported.last

    @property
    def follow(self) -> bool:
        """Whether all live rows have higher steps than the exported rows."""
        return not self._listed or self._listed[0] > self._exported.last

    def chunks(self, after_step: float | None) -> Iterator[Chunk]:
        """The rows with a step above `after_step`, ascending, a page at a time."""
        after = -math.inf if after_step is None else after_step
        if self._last <= after or self._last < 0 or not (self._listed or self._last > self._exported.last):
            return
        within = Counter(step for step in self._listed if step <= self._exported.last)
        for rows in self._pages(math.floor(max(self._start(), after)), math.floor(self._last) + 1):
            if self._exported.rows:
                rows = list(_not_exported(rows, self._exported.last, within))
            if rows := [row for row in rows if row.step > after]:
                yield rows

    def _start(self) -> float:
        """The first step to request. The list of live steps is trusted if it has the expected length."""
        first = max(self._exported.last, 0)
        if self._listed and self._exported.rows + len(self._listed) >= self._facts.row_count:
            first = self._listed[0]
        return first

    def _pages(self, at: int, stop: int) -> Iterator[Chunk]:
        """Rows with `at` <= step < `stop`."""
        left = max(self._facts.row_count - self._exported.rows, len(self._listed)) or math.inf
        sizer = PageSizer(at, stop, left, self._facts.row_bytes, self._listed)
        while (span := sizer.next()) is not None:
            try:
                rows, size_bytes = self._page(*span)
            except Retryable as error:
                if not is_too_much(error) or sizer.bad_steps == BAD_STEPS_MAX:
                    raise
                if sizer.failed():  # its rows are then missing: W&B counts more than it returns
                    self._client.ask(queries.VIEWER, {}, "the account")  # raises if W&B fails at everything
                    log.warning("%s; step %d is left out", error, span[0])
                continue
            yield rows
            sizer.read(len(rows), size_bytes)

    def _page(self, at: int, end: int) -> tuple[Chunk, int]:
        """The rows with `at` <= step < `end`, and the total length of their texts."""
        asked: dict[str, Any] = {"entity": self._ref.entity, "project": self._ref.project, "run": self._ref.run_id}
        # W&B samples if more than pageSize rows are in the range (several rows may have the same step).
        size = min(max(end - at, PAGE_ROWS, len(self._listed)), WANDB_PAGE_STEPS_MAX)
        asked |= {"minStep": at, "maxStep": end, "pageSize": size}
        found = run_of(self._client.ask(queries.HISTORY_PAGE, asked, self._what), self._ref).get("history") or []
        size_bytes = sum(len(str(row)) for row in found)
        rows = []
        for text in found:
            try:
                row = _row(text)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                self._bad_rows.add(str(text))
                continue
            if at <= row.step < end:
                rows.append(row)
        return sorted(rows, key=attrgetter("step")), size_bytes


def _row(row: Any) -> HistoryRow:
    """Parse a row. Raises ValueError or similar if it is not a JSON object or has no `_step`."""
    values = dict(parsed(row))
    step = values.pop("_step")
    whole = int(step)
    return HistoryRow(whole if whole == step else step, as_time(values.pop("_timestamp", None)), values)


def _not_exported(rows: Iterable[HistoryRow], exported_last: float, within: Counter[float]) -> Iterator[HistoryRow]:
    """Drop rows that are exported already: up to the last exported step, keep as many per step as are listed."""
    for step, same in itertools.groupby(rows, attrgetter("step")):
        if step > exported_last:
            yield from same
        elif within[step]:
            yield from list(same)[-within[step] :]


def listed_steps(live_data: Iterable[Any]) -> list[float]:
    """The steps in `parquetHistory.liveData`, which has one object with `_step` per row that is not exported."""
    rows = map(parsed, live_data)
    return sorted(row["_step"] for row in rows if isinstance(row, dict) and isinstance(row.get("_step"), (int, float)))


class RowSpool:
    """Stores rows that were read once from W&B, in memory or in a scratch file, to read them again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(directory))  # noqa: SIM115 - closed by `close`

    def add(self, rows: Chunk) -> None:
        try:
            pickle.dump([tuple(row) for row in rows], self._file, pickle.HIGHEST_PROTOCOL)
        except OSError as error:
            raise of_disk(error, "live history", self._directory) from error

    def chunks(self, after_step: float | None) -> Iterator[Chunk]:
        """The rows with a step above `after_step`, in the order in which they were added."""
        end, at = self._file.seek(0, 2), 0
        while at < end:
            self._file.seek(at)
            rows = [HistoryRow(*row) for row in pickle.load(self._file)]
            at = self._file.tell()
            if after_step is None or rows[0].step > after_step:
                yield rows
            elif rest := [row for row in rows if row.step > after_step]:
                yield rest

    def close(self) -> None:
        self._file.close()
