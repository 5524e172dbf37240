"""Lists all runs of a project, even if the server fails at some of them.

    oldest first, page by page
    newest first               if that returned fewer runs than W&B counts, or got stuck at a run
    around the failures        if both lists got stuck: from a time after the run, then back towards it

Some servers list fewer runs than they count, or list some twice. Some fail at single runs, whatever page they are on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from migrator.errors import Rejected, Retryable
from migrator.sources.wandb.answers import Json, nodes, number
from migrator.sources.wandb.connections import is_too_much, pages
from migrator.sources.wandb_facts import iso_time

PAGE_RUNS = 500  # per answer: small fields, and configs, which have the fork points; W&B allows at most 1000
PAGE_RUNS_MIN = 20
PAGE_CONFIG_BYTES = 4 * 1024 * 1024  # of configs per answer, estimated from the previous answer
OLDEST, NEWEST = "+created_at", "-created_at"
#: (order, page size) of the lists to request, one after another, while they return fewer runs than W&B counts
LISTS = ((OLDEST, PAGE_RUNS), (NEWEST, 333), ("+heartbeat_at", 250))
BAD_RUNS_MAX = 20  # work around at most this many runs at which the server fails: each costs a dozen failing requests

log = logging.getLogger(__name__)


class AskRuns(Protocol):
    """Requests a page of runs that pass `filters`; with size 0 only their count. Returns `project` of the answer."""

    def __call__(self, filters: Json, order: str, cursor: str | None, size: int) -> Json: ...


class RunLists:
    """The runs of one project that pass `filters` (W&B's form)."""

    def __init__(self, ask: AskRuns, ping: Callable[[], None], filters: Json) -> None:
        self._ask, self._ping, self._filters = ask, ping, filters
        self._seen: set[str] = set()
        self._fitting = PAGE_RUNS  # runs per answer, estimated from the last configs
        self._counted: int | None = None
        self._failures: list[Retryable] = []  # of pages with a single run
        self._last: datetime | None = None  # creation time of the last run from the current list
        self._stuck_at: dict[str, datetime | None] = {}  # by order: `_last` when an unrestricted list got stuck

    def nodes(self) -> Iterator[Json]:
        """All runs, each once. The first list is ordered oldest first."""
        for order, size in LISTS:
            try:
                yield from self._list(order, size)
            except Rejected as error:  # this server does not know the order
                if order == OLDEST:
                    raise
                log.warning("%s", error)
            if self._is_whole():
                return
            if order == NEWEST and self._failures:
                yield from self._around_failures()
                return

    def missing(self) -> str | None:
        """A message about what the lists left out. None: nothing."""
        short = self._counted is not None and len(self._seen) < self._counted
        if short and self._filters and self._counted == self._count({}):
            short = False  # this server ignores the filter when it counts
        if not short and not self._failures:
            return None
        told = f"W&B counts {'?' if self._counted is None else self._counted} runs but returns {len(self._seen)}"
        return told + (f"; it fails at others: {self._failures[0]}" if self._failures else "")

    def _is_whole(self) -> bool:
        if self._counted is None:
            return not self._failures
        return len(self._seen) >= self._counted

    # ------------------------------------------------------------ one list

    def _list(self, order: str, size: int, created: Mapping[str, str] | None = None) -> Iterator[Json]:
        """Runs that were not listed yet, until the server fails at one."""
        filters = self._filters if created is None else _both(self._filters, {"createdAt": created})

        def ask(cursor: str | None, at_most: int) -> Json:
            found = self._ask(filters, order, cursor, min(at_most, self._fitting))
            if created is None:
                self._counted = number(found.get("runCount"))
            page = found.get("runs") or {}
            self._fitting = _fitting(nodes(page))
            return page

        self._last = None
        try:
            for page in pages(ask, size):
                for node in nodes(page):
                    self._last = iso_time(node.get("createdAt")) or self._last
                    if node["name"] not in self._seen:
                        self._seen.add(node["name"])
                        yield node
        except Retryable as error:
            if not is_too_much(error):
                raise
            self._ping()  # raises if the whole service does not answer
            self._failures.append(error)
            if created is None:
                self._stuck_at[order] = self._last
                self._counted = self._counted if self._counted is not None else self._count(self._filters)

    def _count(self, filters: Json) -> int | None:
        try:
            return number(self._ask(filters, OLDEST, None, 0).get("runCount"))
        except Retryable as error:
            if not is_too_much(error):
                raise
            return None

    # ------------------------------------------------------------ around runs at which the server fails

    def _around_failures(self) -> Iterator[Json]:
        """Runs between the oldest and the newest run at which the server fails: where the lists from both ends stop."""
        at, newest = self._stuck_at.get(OLDEST), self._stuck_at.get(NEWEST)
        if newest is None:
            return
        while at is not None and at < newest and not self._is_whole_but_for(1) and len(self._failures) < BAD_RUNS_MAX:
            behind = self._behind(at, newest)
            if behind is None:
                return
            yield from self._list(NEWEST, PAGE_RUNS, {"$gte": _text(at), "$lte": _text(behind)})
            failed = len(self._failures)
            yield from self._list(OLDEST, PAGE_RUNS, {"$gte": _text(behind), "$lte": _text(newest)})
            if len(self._failures) == failed:
                return
            at = max(self._last or behind, behind)

    def _is_whole_but_for(self, few: int) -> bool:
        return self._counted is not None and len(self._seen) >= self._counted - few

    def _behind(self, at: datetime, newest: datetime) -> datetime | None:
        """A time soon after `at` from which the server can list runs again. The gap doubles until it can."""
        gap_s = 1
        while at.timestamp() + gap_s < newest.timestamp():
            behind = datetime.fromtimestamp(int(at.timestamp()) + gap_s, UTC)
            created = {"$gte": _text(behind), "$lte": _text(newest)}
            try:
                self._ask(_both(self._filters, {"createdAt": created}), OLDEST, None, 1)
            except Retryable as error:
                if not is_too_much(error):
                    raise
                gap_s *= 2
                continue
            return behind
        return None


def _fitting(runs: Sequence[Json]) -> int:
    """How many runs to request next, assuming that their configs are as long as those of `runs`."""
    config_bytes = sum(len(str(run.get("config") or "")) for run in runs) // max(1, len(runs))
    return max(PAGE_RUNS_MIN, min(PAGE_RUNS, PAGE_CONFIG_BYTES // max(1, config_bytes)))


def _both(one: Json, other: Json) -> Json:
    return {"$and": [one, other]} if one else other


def _text(time: datetime) -> str:
    """Format a time in whole seconds and without a zone, as W&B documents it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
