"""Sources that count more items than they return: they are asked again, and in the end the rest is skipped.

Three things, each on its own: what the cursor keeps (`Shortage`), when an answer is believed (`is_believed`), and what
the ledger says of the items that are lost (`skip_lost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from migrator.errors import ErrorClass, Retryable
from migrator.parts.base import Cursor
from migrator.records import Batch, Entry, Kind

SHORT_TRIES = 3  # after this many equal answers in a row, what a source counts but does not return is skipped
SHORT = "short"  # its key in the cursor


class Shortage(NamedTuple):
    """How many of the items that it counts a source returns, and how many times in a row. The cursor keeps it."""

    given: int
    counted: int
    times: int

    @classmethod
    def seen(cls, cursor: Cursor, given: int, counted: int) -> Shortage:
        """This answer, and how often the cursor has seen the same one."""
        *before, times = cursor.get(SHORT) or (0, 0, 0)
        return cls(given, counted, times + 1 if before == [given, counted] else 1)

    def __str__(self) -> str:
        return f"the source counts {self.counted} but returns {self.given}"


def is_believed(short: Shortage) -> bool:
    """Whether an answer is taken for the truth: nothing is missing, or it was the same `SHORT_TRIES` times.

    A source that counts items but returns none at all is never believed.
    """
    return short.given >= short.counted or (short.given > 0 and short.times >= SHORT_TRIES)


def insist(short: Shortage, what: str, so_far: Callable[[], Batch]) -> Iterator[Batch]:
    """If the answer is not believed, yield the batch `so_far` with it in the cursor, and raise `Retryable`."""
    if is_believed(short):
        return
    batch = so_far()
    batch.cursor[SHORT] = short
    yield batch
    instead = f"seen {short.times} of {SHORT_TRIES} times" if short.given else f"--exclude {what} copies the rest"
    raise Retryable(ErrorClass.BAD_DATA, f"{what}: {short}; {instead}")


def skip_lost(batch: Batch, short: Shortage, reason: str, known: int = 0) -> None:
    """Add the lost items to the ledger of `batch`, without the `known` ones that an earlier batch has."""
    if (lost := short.counted - short.given - known) > 0:
        batch.read += lost
        batch.ledger.append(Entry(Kind.SKIPPED, str(short), reason, lost))
