"""The source contract: how runs are listed and read. Nothing here ever writes to the source.

Every method may raise `Retryable` (network, 429, 5xx, truncated answers), `Rejected` (gone, unreadable) or `UserError`
(wrong key, unknown entity or project). Iterators are lazy, so memory use is limited by a page, not by a run. A source
belongs to one process and may be used by several threads; a `SourceRun` belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from migrator.listed import LeftOut, RunListing, RunRef, SourceProject
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    HistoryColumns,
    HistoryRow,
    LocalFile,
    RunAttributes,
    SourceFile,
    SystemRow,
)
from migrator.values import SeriesKey


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list. Empty fields do not filter. Times are aware; `after` is inclusive, `before` exclusive.

    `names` are globs for display names. `wandb` is a filter in W&B's own form, which only its API can apply.
    """

    states: Sequence[str] = ()
    tags: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    run_ids: Sequence[str] = ()
    names: Sequence[str] = ()
    groups: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    wandb: Mapping[str, Any] = field(default_factory=dict)

    def accepts(self, listing: RunListing) -> bool:
        """Whether a run has one of the values of each field and was created between the times. Unknown times pass.

        `wandb` is not looked at: what it concerns is not in a listing.
        """
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
    """The contents of a run's history, known before the first row is converted.

    `series` are in source order: the order of first appearance (columns of the exports first; within a local row,
    where the order is random, by key). `media` are the run's files to which the history refers: (key, name of the
    file). `rows` is the number of rows that `history` returns, `counted` the number according to the source, and
    `bad_rows` the number without a step or unreadable, which the other two do not include.
    """

    series: Sequence[SeriesKey]
    media: frozenset[tuple[str, str]]
    rows: int
    counted: int
    bad_rows: int = 0


class Withheld(Exception):
    """An existing file is deliberately not read and is skipped for `reason` (a code of the ledger)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source(Protocol):
    """A place from which runs are copied."""

    #: "wandb" or "local": the name of the service in messages and shared pauses
    service: str

    @property
    def problems(self) -> Sequence[str]:
        """What the listing so far had to leave out or found damaged: one line each, for the user."""
        ...

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """What the listing found so far that no run contains, or contains only in part."""
        ...

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        """The projects of `entity` (None: the account's own), by name. Unknown entity: `UserError`."""
        ...

    def count_runs(self, project: SourceProject) -> int | None:
        """How many runs `runs` without a filter will list. None: only listing them can tell."""
        ...

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        """The runs of a project, page by page, oldest first."""
        ...

    def missing(self, project: SourceProject) -> str | None:
        """Why the last listing of the project may have left out existing runs. None: it was complete."""
        ...

    def open_run(self, ref: RunRef, scratch: Path) -> SourceRun:
        """Open a run for reading. `scratch` is an empty directory for this run. Run gone: `Rejected(NOT_FOUND)`."""
        ...

    def ping(self) -> None:
        """Send a simple request. `Retryable` if there is no answer, `Rejected` or `TurnedAway` if it is refused."""
        ...

    def close(self) -> None:
        """Release connections and processes."""
        ...


class SourceRun(Protocol):
    """One run, read part by part. A context manager: leaving it frees its resources (not the scratch directory)."""

    def attributes(self) -> RunAttributes: ...

    def findings(self) -> Sequence[Entry]:
        """Ledger entries about the run as a whole: what cannot be read, or what was read as part of it."""
        ...

    def config(self) -> Document: ...

    def summary(self) -> Document: ...

    def survey(self) -> Survey:
        """The contents of the history; cached. Reads the whole history once if there is no cheaper way."""
        ...

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        """Rows with a step above `after_step`, ascending, unsampled, in pages of a few thousand values.

        Rows of equal step are together in one page, in source order. Keys that start with `_` are in `values` too,
        except `_step` and `_timestamp`, which are `step` and `time`.
        """
        ...

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        """Samples of system metrics from number `first_row` on."""
        ...

    def partial(self, part: str) -> str | None:
        """Why the source may have more of `part` than it returned. None: that was all. Call it after reading."""
        ...

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        """Lines of output from number `first_line` on, in the order in which they were logged.

        Lines from `output.log` have no times.
        """
        ...

    def files(self) -> Sequence[SourceFile]:
        """All files of the run that the source lists, sorted by name, without artifacts."""
        ...

    def file_count(self) -> int:
        """How many files there are, according to the source."""
        ...

    def fetch(self, name: str) -> LocalFile | None:
        """A file of the run, complete and checked against the source's size and md5. None: there is no such file.

        `Withheld` if the file is deliberately not read.

        The file is in the scratch directory, or stays where it is (local runs): the caller must not change it, and
        calls `release` when done. May be called from several threads at once.
        """
        ...

    def release(self, file: LocalFile) -> None:
        """The caller no longer needs `file`: its scratch space may be used again."""
        ...

    def artifacts(self) -> Iterator[Artifact]:
        """Logged artifacts except W&B's own (`wandb-history`, `wandb-events`), in source order."""
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
    """An optional ability of a `SourceRun`: history whose numbers come as columns instead of rows."""

    def history_pages(self, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
        """Like `history`, but pages may be columns. No step is in two pages."""
        ...
