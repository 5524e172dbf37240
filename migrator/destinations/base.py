"""The destination contract: how a run's records become durable.

`write` takes records in order; `flush` makes a barrier behind all that was written. A barrier's `wait` returns when
everything before it is durable: processed by the server (online) or committed to the offline file (offline). Only then
may a cursor be saved. Several barriers may be open at once: that is how latency is hidden.

`ReadBack` is the way back: what has arrived, for `migrate verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from migrator.records import Entry, Fork, Histogram, Kind, Record, Scalar, SeriesKind

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
        """Ask a simple question: `Retryable` if there is no answer, `Rejected` or `TurnedAway` if the answer is no."""
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

    def identify(self) -> None:
        """Raise `Rejected` if the destination's run of this id is a copy of another source. Before the first `write`
        of a copy that is not known to have begun: after it, both would be mixed.
        """
        ...

    def finish(self) -> str | None:
        """The run is whole, and all of it durable: now it replaces an older copy, where that was kept so far.

        Returns the position to be saved from now on; None: it stays.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: Any) -> None: ...


# ---------------------------------------------------------------- the way back


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file as the run refers to it. `address` finds it in the storage of the destination."""

    address: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReadSeries:
    """What a run tells of a series without its points: the last step in millionths (None: not told), the extremes."""

    kind: SeriesKind
    last_step: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class ReadOther:
    """Something of a type that this program never writes."""

    type: str


ReadValue = Scalar | frozenset[str] | ReadFile | ReadSeries | ReadOther


@dataclass(slots=True)
class ReadRun:
    """A run that was found. `key` is the destination's own id. Times of single values are exact to the millisecond.

    `fork` is None also where the destination does not tell forks (`tells_fork`).
    """

    run_id: str
    key: str
    values: dict[str, ReadValue] = field(default_factory=dict)
    fork: Fork | None = None
    tells_fork: bool = False


class SeriesRef(NamedTuple):
    """One series of a run."""

    run: ReadRun
    path: str


class SeriesHead(NamedTuple):
    """The number of points of a series (None: the destination does not tell), and its first step in millionths."""

    series: SeriesRef
    points: int | None
    first_step: int


class SeriesPage(NamedTuple):
    """Some points of a series, in any order: steps in millionths, times in ms, values of one kind."""

    series: SeriesRef
    steps: npt.NDArray[np.int64]
    times_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | Sequence[str] | Sequence[Histogram] | Sequence[ReadFile]


class Stored(NamedTuple):
    """A file in the storage. `size_bytes` None: it is not there; or it cannot be read, then `problem` says why."""

    size_bytes: int | None
    md5: str | None = None
    problem: str | None = None


class ReadBack(Protocol):
    """Reads runs of one destination. Used by several threads. Methods raise `RunError` or `UserError`."""

    def runs(self, project: str, run_ids: Sequence[str]) -> dict[str, ReadRun]:
        """The runs with these ids in `workspace/name`; one that is missing in the answer is not there."""
        ...

    def heads(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesHead]:
        """Counts and first steps of series of numbers, without those that have no points of their own."""
        ...

    def pages(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesPage]:
        """All points of the series, without those that a fork has from its parent."""
        ...

    def stored(self, project: str, files: Sequence[ReadFile], *, content: bool) -> Iterator[Stored]:
        """What the storage has of the files, in their order: sizes, with `content` also the md5 of the whole file."""
        ...

    def close(self) -> None: ...
