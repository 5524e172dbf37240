"""The destination contract: how a run's records become durable.

`write` accepts records in order; `flush` returns a barrier after everything written so far. The barrier's `wait`
returns when everything before it is durable: processed by the server (online) or committed to the offline file
(offline). Only then may a cursor be saved. Several barriers may be open at once, which hides latency.

`ReadBack` reads back what has arrived, for `migrate verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from migrator.records import Entry, Fork, Histogram, Kind, PointKind, Record, Scalar

if TYPE_CHECKING:  # commands that only supervise need no numpy
    import numpy as np
    import numpy.typing as npt

Confirm = Callable[[], None]

UPLOADED = "uploaded"  # position of a run whose offline file was uploaded and removed: the next one is a new file


def unfenced() -> None:
    """The `confirm` of a single writer: never raises."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Points or values at `path` that the destination did not accept; `reason` is the destination's own code."""

    path: str
    reason: str
    count: int

    def entry(self) -> Entry:
        """The ledger entry. A count of 0 means that nothing was lost, only changed."""
        if self.count:
            return Entry(Kind.SKIPPED, self.path or "run", f"refused: {self.reason}", self.count)
        return Entry(Kind.CONVERTED, self.path or "run", self.reason)


@dataclass(frozen=True, slots=True)
class RunTarget:
    """The run to write. Creating it again with the same values is harmless. `project` is `workspace/name`.

    `source_url`: what is copied, as stored in `migration/source_url`; empty: not known.
    """

    project: str
    run_id: str
    name: str
    created_at: datetime
    fork: Fork | None = None
    source_url: str = ""


class Barrier(Protocol):
    """Marks the end of everything written before the `flush` that returned it."""

    #: how far the destination is, to be saved with the cursor and passed to `open_run`; None: nothing to save
    position: str | None

    def ready(self) -> bool:
        """Whether `wait` would return at once. Cheap; asks the server at most once per about 10 ms."""
        ...

    def wait(self) -> Sequence[Refused]:
        """Wait until everything before the barrier is durable.

        Returns what was refused since the previous barrier; a `count` of 0 is a note: changed, but not lost. Raises
        `Retryable`, `Rejected` if the destination refused the run itself, or `UserError` if it refuses our access.
        Errors that an earlier attempt explains (`replayed`) are not refusals.
        """
        ...


class Destination(Protocol):
    """A place to which runs are copied."""

    #: "neptune" or "offline": the name of the service in messages and shared pauses
    service: str

    def ensure_project(self, project: str, description: str) -> None:
        """Create `workspace/name` unless it exists (then it is not changed). `UserError` if that is not allowed."""
        ...

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> DestinationRun:
        """Open a run for writing; create it if it does not exist.

        `begun`: an earlier attempt may have sent something. `position` is the last saved one (None: none yet); what
        was written after it is removed where possible (offline files). `confirm` is called before every change of the
        destination, on the thread that makes the change. It raises `LeaseLost` if another worker has the run: then
        nothing may be changed.
        """
        ...

    def ping(self) -> None:
        """Send a simple request. `Retryable` if there is no answer, `Rejected` or `TurnedAway` if it is refused."""
        ...

    def close(self) -> None: ...


class DestinationRun(Protocol):
    """One run, written by one thread. Leaving the context without `flush` may lose what was written since the last."""

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        """Accept records, in order. Files must exist until the next barrier has passed.

        `replayed`: an earlier attempt may have sent the same points, so answers that say so are harmless.
        """
        ...

    def flush(self) -> Barrier: ...

    def identify(self) -> None:
        """Raise `Rejected` if the destination's run with this id is a copy of another source.

        Call it before the first `write`, unless the copy is known to have begun. Afterwards, both would be mixed.
        """
        ...

    def finish(self) -> str | None:
        """Called when the run is complete and durable: it now replaces an older copy, if one was kept until now.

        Returns the position to save from now on. None: it does not change.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: Any) -> None: ...


# ---------------------------------------------------------------- the way back


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file as the run refers to it. `address` is its address in the storage of the destination."""

    address: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReadSeries:
    """What is known of a series without its points: the last step in millionths (None: not known), the extremes."""

    kind: PointKind
    last_step: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class ReadOther:
    """A value of a type that this program never writes."""

    type: str


ReadValue = Scalar | frozenset[str] | ReadFile | ReadSeries | ReadOther


@dataclass(slots=True)
class ReadRun:
    """A run that was found. `key` is the destination's own id. Times of single values are exact to the millisecond.

    `fork` is also None if the destination does not report forks (`tells_fork` is then False).
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
    """The number of points of a series (None: the destination does not say), and its first step in millionths."""

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
    """A file in the storage. `size_bytes` None: it is missing or, if there is a `problem`, cannot be read."""

    size_bytes: int | None
    md5: str | None = None
    problem: str | None = None


class ReadBack(Protocol):
    """Reads the runs of one destination. Used by several threads. Methods raise `RunError` or `UserError`."""

    def runs(self, project: str, run_ids: Sequence[str]) -> dict[str, ReadRun]:
        """The runs with these ids in `workspace/name`. A run missing from the answer does not exist."""
        ...

    def heads(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesHead]:
        """Numbers of points and first steps of series of numbers. Series without points of their own are left out."""
        ...

    def pages(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesPage]:
        """All points of the series, except those that a fork inherits from its parent."""
        ...

    def stored(self, project: str, files: Sequence[ReadFile], *, content: bool) -> Iterator[Stored]:
        """What the storage has of `files`, in the same order: sizes, and with `content` the md5 of each whole file."""
        ...

    def close(self) -> None: ...
