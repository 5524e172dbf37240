"""Reads W&B's lists page by page: in smaller pages if the server fails, and again if it returns too little.

Some servers time out or answer 5xx if a page is too large. Some list fewer items than they count, or the same item
twice (wandb issues 5828, 6435, 6614, 7666, 8291).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from migrator.errors import ErrorClass, Retryable, Throttled
from migrator.sources.wandb.answers import Json, next_cursor

SHRINK = 8  # factor by which pages shrink after a failure, which costs up to 100 s with wandb-core's own tries
GROW = 2  # factor by which they grow after each success

#: Requests the page after a cursor (None: the first page) with at most N items. Returns the connection in the answer
AskPage = Callable[[str | None, int], Json]

log = logging.getLogger(__name__)


def is_too_much(error: Retryable) -> bool:
    """Whether the server may answer a request for less."""
    return error.error_class in (ErrorClass.TIMEOUT, ErrorClass.UNAVAILABLE) and not isinstance(error, Throttled)


def pages(ask: AskPage, size: int) -> Iterator[Json]:
    """The pages of a connection, with `size` items or, after a failure, fewer. Raises if a page of one item fails."""
    cursor: str | None = None
    now = size
    while True:
        try:
            page = ask(cursor, now)
        except Retryable as error:
            if now == 1 or not is_too_much(error):
                raise
            now = max(1, now // SHRINK)
            log.warning("%s; requesting %d at a time", error, now)
            continue
        yield page
        now = min(size, now * GROW)
        cursor = next_cursor(page, cursor)
        if cursor is None:
            return


def sizes(size: int) -> Iterator[int]:
    """Page sizes for one list after another, while they return fewer items than the server counts."""
    yield size
    yield max(1, size * 2 // 3)  # what was at the border of two pages is now inside one
