"""All runs of a project, whatever the server fails at.

    oldest first, page by page      newest first, if that gave fewer than W&B counts or came to a run it fails at
    around the failures             if both ends were stuck: behind the run, then back towards it

Some servers list fewer runs than they count, or some twice; and some fail at single runs, whatever page they are on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from migrator.errors import Rejected, Retryable
from migrator.sources.wandb.answers import Json, nodes, number, parse_time
from migrator.sources.wandb.connections import is_too_much, pages

PAGE_RUNS = 500  # in one answer: light fields, and configs, which have the fork points; W&B allows 1000 at most
PAGE_RUNS_MIN = 20
PAGE_CONFIG_BYTES = 4 * 1024 * 1024  # of configs in one answer, as far as the answer before lets expect
OLDEST, NEWEST = "+created_at", "-created_at"
#: one list after the other, while they give fewer runs than W&B counts
LISTS = ((OLDEST, PAGE_RUNS), (NEWEST, 333), ("+heartbeat_at", 250))
BAD_RUNS_MAX = 20  # so many that the server fails at are gone around: each costs a dozen failing requests

log = logging.getLogger(__name__)


class AskRuns(Protocol):
    """Asks for a page of runs that pass `filters`, or with size 0 for their number only: `project` of the answer."""

    def __call__(self, filters: Json, order: str, cursor: str | None, size: int) -> Json: ...


class RunLists:
    """The runs of one project that pass `filters` (W&B's form)."""

    def __init__(self, ask: AskRuns, ping: Callable[[], None], filters: Json) -> None:
        self._ask, self._ping, self._filters = ask, ping, filters
        self._seen: set[str] = set()
        self._fitting = PAGE_RUNS  # runs in one answer, by the length of the configs seen last
        self._counted: int | None = None
        self._failures: list[Retryable] = []  # of pages of one run
        self._last: datetime | None = None  # when the run was created that the list at hand gave last
        self._stuck_at: dict[str, datetime | None] = {}  # by order: `_last` of the whole list that came to a failure

    def nodes(self) -> Iterator[Json]:
        """Each run once; the first list is oldest first."""
        for order, size in LISTS:
            try:
                yield from self._list(order, size)
            except Rejected as error:  # an order that this server does not know
                if order == OLDEST:
                    raise
                log.warning("%s", error)
            if self._is_whole():
                return
            if order == NEWEST and self._failures:
                yield from self._around_failures()
                return

    def missing(self) -> str | None:
        """What the lists left out, for people; None: nothing."""
        short = self._counted is not None and len(self._seen) < self._counted
        if short and self._filters and self._counted == self._count({}):
            short = False  # this server counts all runs, whatever the filter
        if not short and not self._failures:
            return None
        told = f"W&B counts {'?' if self._counted is None else self._counted} runs, gives {len(self._seen)}"
        return told + (f"; it fails at others: {self._failures[0]}" if self._failures else "")

    def _is_whole(self) -> bool:
        if self._counted is None:
            return not self._failures
        return len(self._seen) >= self._counted

    # ------------------------------------------------------------ one list

    def _list(self, order: str, size: int, created: Mapping[str, str] | None = None) -> Iterator[Json]:
        """Runs that were not listed yet, up to one that the server fails at."""
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
                    self._last = parse_time(node.get("createdAt")) or self._last
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

    # ------------------------------------------------------------ around runs that the server fails at

    def _around_failures(self) -> Iterator[Json]:
        """Between the oldest such run and the newest: the first list from either end stops there."""
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
        """A time soon after `at` from which the server lists on: gaps double until it does."""
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
    """How many runs to ask for next, if their configs are as long as those of `runs`."""
    config_bytes = sum(len(str(run.get("config") or "")) for run in runs) // max(1, len(runs))
    return max(PAGE_RUNS_MIN, min(PAGE_RUNS, PAGE_CONFIG_BYTES // max(1, config_bytes)))


def _both(one: Json, other: Json) -> Json:
    return {"$and": [one, other]} if one else other


def _text(time: datetime) -> str:
    """In whole seconds and without a zone, as W&B documents it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
