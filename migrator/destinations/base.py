"""The destination contract: how a run's records become durable.

`write` takes records in order; `flush` makes a barrier behind all that was written. A barrier's `wait` returns when
everything before it is durable: processed by the server (online) or committed to the offline file (offline). Only then
may a cursor be saved. Several barriers may be open at once: that is how latency is hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

from migrator.records import Entry, Fork, Kind, Record

Confirm = Callable[[], None]

UPLOADED = "uploaded"  # position of a run whose offline file was uploaded and removed: the next one starts anew


def unfenced() -> None:
    """For who writes alone."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Points or values of `path` that the destination did not take; `reason` is its own code."""

    path: str
    reason: str
    count: int

    def entry(self) -> Entry:
        """As the ledger tells it. Without a count nothing is lost, only changed."""
        if self.count:
            return Entry(Kind.SKIPPED, self.path or "run", f"refused: {self.reason}", self.count)
        return Entry(Kind.CONVERTED, self.path or "run", self.reason)


@dataclass(frozen=True, slots=True)
class RunTarget:
    """Which run to write. Creating it again with the same values is harmless. `project` is `workspace/name`.

    `source_url`: what is copied, as `migration/source_url` tells it; empty: not known.
    """

    project: str
    run_id: str
    name: str
    created_at: datetime
    fork: Fork | None = None
    source_url: str = ""


class Barrier(Protocol):
    """Stands behind everything written before the `flush` that made it."""

    #: where the destination stands now, to be saved with the cursor and given to `open_run`; None: nothing to save
    position: str | None

    def ready(self) -> bool:
        """Whether `wait` would return at once. Cheap; may ask the server at most every some 10 ms."""
        ...

    def wait(self) -> Sequence[Refused]:
        """Wait until all before it is durable.

        Returns what was refused since the barrier before; a `count` of 0 is a note: changed, but not lost. Raises
        `Retryable`, `Rejected` when the destination refused the run itself, or `UserError` when it refuses us. Errors
        that earlier attempts explain (`replayed`) are no refusals.
        """
        ...


class Destination(Protocol):
    """A place that runs go to."""

    #: "neptune" or "offline": names the service in messages and in shared pauses
    service: str

    def ensure_project(self, project: str, description: str) -> None:
        """Create `workspace/name` unless it is there (then it is left alone). `UserError` if that may not be."""
        ...

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> DestinationRun:
        """Open a run for writing, creating it if absent.

        `begun`: an earlier attempt may have sent something. `position` is the last saved one (None: none yet): what
        was written behind it and can be taken back (offline files) is taken back. `confirm` is called before each
        single change of the destination, by whatever thread makes it: it raises `LeaseLost` when another worker has
        the run. Nothing may be changed then.
        """
        ...

    def ping(self) -> None:
        """Raise `Retryable` if the service does not answer a simple question. `Rejected` is an answer, too."""
        ...

    def close(self) -> None: ...


class DestinationRun(Protocol):
    """One run, written by one thread. Leaving the context without `flush` may lose what was written since."""

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        """Take records, in order. Files must live until the next barrier is passed.

        With `replayed` an earlier attempt may have sent the same points: answers that say so are benign.
        """
        ...

    def flush(self) -> Barrier: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: Any) -> None: ...
