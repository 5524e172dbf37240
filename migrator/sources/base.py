"""The source contract: how runs are listed and read. Nothing here ever writes to the source.

Every method may raise `Retryable` (network, 429, 5xx, cut answers), `Rejected` (gone, unreadable) or `UserError`
(wrong key, unknown entity or project). Iterators are lazy: memory is bounded by a page, not by a run. A source is
used by one process and may be used by several threads; a `SourceRun` belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    HistoryColumns,
    HistoryRow,
    LeftOut,
    LocalFile,
    RunAttributes,
    RunListing,
    RunRef,
    SourceFile,
    SourceProject,
    SystemRow,
)
from migrator.values import SeriesKey


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; empty fields do not filter. Times are aware, `after` inclusive, `before` exclusive.

    `names` are globs for display names.
    """

    states: Sequence[str] = ()
    tags: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    run_ids: Sequence[str] = ()
    names: Sequence[str] = ()
    groups: Sequence[str] = ()
    sweeps: Sequence[str] = ()

    def accepts(self, listing: RunListing) -> bool:
        """Any value of each field, inside the times. Unknown times pass."""
        return (
            (not self.states or listing.source_state in self.states)
            and (not self.tags or bool(set(self.tags) & set(listing.tags)))
            and (not self.run_ids or listing.run_id in self.run_ids)
            and (not self.names or any(fnmatchcase(listing.name, glob) for glob in self.names))
            and (not self.groups or listing.group in self.groups)
            and (not self.sweeps or listing.sweep in self.sweeps)
            and (not self.created_after or not listing.created_at or listing.created_at >= self.created_after)
            and (not self.created_before or not listing.created_at or listing.created_at < self.created_before)
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """What a run's history holds, known before the first row is converted.

    `series` are in source order: the order of first appearance (columns of the exports first; inside a local row,
    where the order is random, by key). `media` are the run's files that the history refers to: (key, name of the
    file). `rows` are those that `history` gives, `counted` those that the source says there are; `bad_rows` are there,
    but have no step or cannot be read: they are in neither.
    """

    series: Sequence[SeriesKey]
    media: frozenset[tuple[str, str]]
    rows: int
    counted: int
    bad_rows: int = 0


class Withheld(Exception):
    """A file that is there and is not read on purpose: a skip, for `reason` (a code of the ledger)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source(Protocol):
    """A place that runs come from."""

    #: "wandb" or "local": names the service in messages and in shared pauses
    service: str

    @property
    def problems(self) -> Sequence[str]:
        """What the listing had to leave out so far, or found damaged: a line each, for people."""
        ...

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """What the listing found so far and no run holds, or not whole."""
        ...

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        """The projects of `entity` (None: the account's own), by name. Unknown entity: `UserError`."""
        ...

    def count_runs(self, project: SourceProject) -> int | None:
        """How many runs `runs` without a filter will list; None when only listing tells."""
        ...

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        """The runs of a project, page by page, oldest first."""
        ...

    def missing(self, project: SourceProject) -> str | None:
        """Why the last listing of the project may have left out runs that are there; None: it was whole."""
        ...

    def open_run(self, ref: RunRef, scratch: Path) -> SourceRun:
        """Open a run for reading; `scratch` is an empty directory of its own. Gone: `Rejected(NOT_FOUND)`."""
        ...

    def ping(self) -> None:
        """Ask a simple question: `Retryable` if there is no answer, `Rejected` or `TurnedAway` if the answer is no."""
        ...

    def close(self) -> None:
        """Give back connections and processes."""
        ...


class SourceRun(Protocol):
    """One run, read part by part. A context manager: leaving it frees what it holds (not the scratch directory)."""

    def attributes(self) -> RunAttributes: ...

    def findings(self) -> Sequence[Entry]:
        """What the ledger must tell of the run as a whole: what cannot be read of it, or was read as part of it."""
        ...

    def config(self) -> Document: ...

    def summary(self) -> Document: ...

    def survey(self) -> Survey:
        """What the history holds; cached. Reads the whole history once where nothing cheaper tells."""
        ...

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        """Rows with a step above `after_step`, ascending, unsampled, in pages of some thousand values.

        Rows of equal step stay together in one page, in source order. Keys that start with `_` (but `_step` and
        `_timestamp`, which are `step` and `time`) are in `values`, too.
        """
        ...

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        """Samples of system metrics from number `first_row` on."""
        ...

    def partial(self, part: str) -> str | None:
        """Why there may be more of `part` than was given; None: that was all. Ask after reading it."""
        ...

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        """Lines of output from number `first_line` on, in the order in which they were logged.

        Without times where they are from `output.log`.
        """
        ...

    def files(self) -> Sequence[SourceFile]:
        """All files of the run that the source lists, sorted by name; artifacts are not among them."""
        ...

    def file_count(self) -> int:
        """How many files the source says there are."""
        ...

    def fetch(self, name: str) -> LocalFile | None:
        """A file of the run, complete and checked against the source's size and md5; None if there is none.

        `Withheld` if the file is not read on purpose.

        It lies in the scratch directory or stays where it is (local runs): the caller must not change it, and
        calls `release` when done. May be called from several threads at once.
        """
        ...

    def release(self, file: LocalFile) -> None:
        """The caller needs `file` no more: its scratch space may be used again."""
        ...

    def artifacts(self) -> Iterator[Artifact]:
        """Logged artifacts but W&B's own (`wandb-history`, `wandb-events`), in source order."""
        ...

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        """A file of an artifact, like `fetch`."""
        ...

    def used_artifacts(self) -> Sequence[str]:
        """Full names of the artifacts that the run used."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: Any) -> None: ...


@runtime_checkable
class OffersColumns(Protocol):
    """An optional ability of a `SourceRun`: history whose numbers need not become rows."""

    def history_pages(self, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
        """As `history`, but pages may be columns. No step is in two pages."""
        ...
