"""Live history: the rows of a run that W&B has not exported to Parquet yet, read with `HistoryPage`.

A page is a range of steps, not a number of rows, and steps may lie far apart (0, 10, 1e9): `LiveRows` asks for all
that is left where that is little, and widens its pages where they come back empty. Rows come as JSON text, where NaN
and infinities are the strings "NaN", "Infinity" and "-Infinity" (as summaries have them), or bare.
"""

from __future__ import annotations

import itertools
import math
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from migrator.errors import ErrorClass, Rejected
from migrator.limits import WANDB_PAGE_STEPS_MAX
from migrator.records import HistoryRow, RunRef
from migrator.sources import wandb_queries as queries
from migrator.sources.wandb_answers import parsed, run_of
from migrator.sources.wandb_client import WandbClient
from migrator.sources.wandb_errors import of_disk
from migrator.sources.wandb_parquet import as_time

PAGE_ROWS = 5_000  # aimed at in one HistoryPage
PAGE_VALUES = 250_000  # at most about so many in one: an answer is held as text, some 20 bytes a value
WIDEN = 8  # times as many steps in the next page, when one came back nearly empty
SPOOL_ROW_VALUES = 100_000  # kept in memory, some 10 MB; more go to a scratch file

Chunk = list[HistoryRow]


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What the run itself says of its history. `last_step` None: it has none; `row_count` 0: none, or not known."""

    last_step: float | None
    row_count: int
    key_count: int
    ended: bool  # while a run goes on, its counts lag behind


@dataclass(frozen=True, slots=True)
class Exported:
    """What the Parquet exports hold: so many rows, up to step `last` (-inf: none)."""

    rows: int
    last: float


class LiveRows:
    """The live rows of one run. `listed` are the steps of the rows that W&B says are not exported, ascending."""

    def __init__(
        self, client: WandbClient, ref: RunRef, facts: HistoryFacts, exported: Exported, listed: Sequence[float]
    ) -> None:
        self._client, self._ref, self._facts, self._exported, self._listed = client, ref, facts, exported, listed
        self._what = f"history of {ref}"
        self._last = max(-1 if facts.last_step is None else facts.last_step, *listed[-1:], -1)

    @property
    def counted(self) -> int:
        """How many W&B says there are, at least."""
        return len(self._listed) or int(self._last > self._exported.last and self._facts.last_step is not None)

    @property
    def overlap(self) -> bool:
        """Whether some of them belong between exported rows."""
        return bool(self._listed) and self._listed[0] < self._exported.last

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
        """The first step worth asking for; the list of live steps is trusted when it is as long as it should be."""
        first = max(self._exported.last, 0)
        if self._listed and self._exported.rows + len(self._listed) >= self._facts.row_count:
            first = self._listed[0]
        return first

    def _pages(self, at: int, stop: int) -> Iterator[Chunk]:
        """Rows with `at` <= step < `stop`."""
        aim = max(1, min(PAGE_ROWS, PAGE_VALUES // max(self._facts.key_count, 1)))
        left: float = max(self._facts.row_count - self._exported.rows, len(self._listed)) or math.inf
        width = aim
        while at < stop:
            end = stop if left <= aim else min(at + width, stop)
            rows = self._page(at, end, aim)
            yield rows
            left -= len(rows)
            at = end
            if len(rows) > 2 * aim:
                width = max(1, width // 2)
            elif len(rows) < aim // 2:
                width *= WIDEN

    def _page(self, at: int, end: int, rows: int) -> Chunk:
        asked: dict[str, Any] = {"entity": self._ref.entity, "project": self._ref.project, "run": self._ref.run_id}
        # W&B samples when more than pageSize rows are in range (several rows may have one step).
        size = min(max(end - at, rows, len(self._listed)), WANDB_PAGE_STEPS_MAX)
        asked |= {"minStep": at, "maxStep": end, "pageSize": size}
        found = run_of(self._client.ask(queries.HISTORY_PAGE, asked, self._what), self._ref)
        try:
            parsed = [row for row in map(_row, found.get("history") or ()) if at <= row.step < end]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise Rejected(ErrorClass.BAD_DATA, f"{self._what}: a row that is no JSON object with _step") from error
        return sorted(parsed, key=attrgetter("step"))


def _row(row: Any) -> HistoryRow:
    values = dict(parsed(row))
    step = values.pop("_step")
    whole = int(step)
    return HistoryRow(whole if whole == step else step, as_time(values.pop("_timestamp", None)), values)


def _not_exported(rows: Iterable[HistoryRow], exported_last: float, within: Counter[float]) -> Iterator[HistoryRow]:
    """Without rows that a page repeats: up to the last exported step, only as many of a step as are listed for it."""
    for step, same in itertools.groupby(rows, attrgetter("step")):
        if step > exported_last:
            yield from same
        elif within[step]:
            yield from list(same)[-within[step] :]


def listed_steps(live_data: Iterable[Any]) -> list[float]:
    """The steps in `parquetHistory.liveData`: one object with `_step` for each row that is not exported."""
    rows = map(parsed, live_data)
    return sorted(row["_step"] for row in rows if isinstance(row, dict) and isinstance(row.get("_step"), (int, float)))


class Spool:
    """Rows set aside: read once from W&B, served again from memory or a scratch file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: list[Chunk] = []
        self._room = SPOOL_ROW_VALUES
        self._file: IO[bytes] | None = None

    def add(self, rows: Chunk) -> None:
        self._room -= sum(len(row.values) for row in rows)
        if self._room >= 0:
            self._kept.append(rows)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by `close`
            pickle.dump([tuple(row) for row in rows], self._file, pickle.HIGHEST_PROTOCOL)
        except OSError as error:
            raise of_disk(error, "live history", self._directory) from error

    def chunks(self, after_step: float | None) -> Iterator[Chunk]:
        """The rows with a step above `after_step`, in the order in which they were added."""
        for rows in self._all():
            if after_step is None or rows[0].step > after_step:
                yield rows
            elif rest := [row for row in rows if row.step > after_step]:
                yield rest

    def _all(self) -> Iterator[Chunk]:
        yield from self._kept
        if self._file is None:
            return
        end, at = self._file.seek(0, 2), 0
        while at < end:
            self._file.seek(at)
            rows = [HistoryRow(*row) for row in pickle.load(self._file)]
            at = self._file.tell()
            yield rows

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
