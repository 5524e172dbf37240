"""W&B's lists, which come in pages: smaller ones where the server fails, and once more where it gives too few.

Some servers time out, or answer 5xx, where a page holds too much; and some list fewer than they count, or the same
thing twice (wandb issues 5828, 6435, 6614, 7666, 8291).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from migrator.errors import ErrorClass, Retryable, Throttled
from migrator.sources.wandb.answers import Json, next_cursor

SHRINK = 8  # pages become so many times smaller after a failure: each costs up to 100 s, with wandb-core's own tries
GROW = 2  # and larger after each success

#: Asks for the page behind a cursor (None: the first), of so many things; gives the connection in the answer
AskPage = Callable[[str | None, int], Json]

log = logging.getLogger(__name__)


def is_too_much(error: Retryable) -> bool:
    """Whether the server may answer if it is asked for less."""
    return error.error_class in (ErrorClass.TIMEOUT, ErrorClass.UNAVAILABLE) and not isinstance(error, Throttled)


def pages(ask: AskPage, size: int) -> Iterator[Json]:
    """The pages of a connection, of `size` things or, after a failure, fewer. Raises what a page of one raises."""
    cursor: str | None = None
    now = size
    while True:
        try:
            page = ask(cursor, now)
        except Retryable as error:
            if now == 1 or not is_too_much(error):
                raise
            now = max(1, now // SHRINK)
            log.warning("%s; asking for %d at once", error, now)
            continue
        yield page
        now = min(size, now * GROW)
        cursor = next_cursor(page, cursor)
        if cursor is None:
            return


def sizes(size: int) -> Iterator[int]:
    """Page sizes for one list after the other, while they give fewer things than the server counts."""
    yield size
    yield max(1, size * 2 // 3)  # what lay at the border of two pages lies inside of one
