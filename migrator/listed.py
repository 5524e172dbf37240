"""What a source lists: its projects and runs, and what looks like a run but cannot be copied. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from migrator.records import Fork


@dataclass(frozen=True, slots=True)
class SourceProject:
    """One W&B project. `url` is its web page; for local directories, a file: URL."""

    entity: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class RunListing:
    """What the inventory stores about a run.

    `fingerprint` changes if, and only if, the source run has changed. `location` has the places of a local run (None
    for the API). `history_rows` is the source's own count (None: not known).
    """

    run_id: str
    name: str
    source_state: str
    created_at: datetime | None
    heartbeat_at: datetime | None
    history_rows: int | None
    fingerprint: str
    location: Sequence[str] | None = None
    fork: Fork | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    sweep: str | None = None


UNKNOWN_ENTITY = "local"  #: the entity of local runs whose entity is not known


class Cause(StrEnum):
    """Why something that looks like a run, or a part of one, is not copied completely."""

    LFS_POINTER = "lfs_pointer"  #: the log is a Git LFS pointer
    CRLF = "crlf"  #: line ends in the log were converted
    EMPTY_LOG = "empty_log"  #: the log is empty
    NO_RUN = "no_run"  #: the log does not say to which run it belongs
    NOT_A_LOG = "not_a_log"  #: the file is something else
    UNREADABLE = "unreadable"  #: reading it is not allowed or not possible
    INCOMPLETE = "incomplete"  #: parts of the log are damaged
    NO_HISTORY = "no_history"  #: a run directory without a log
    NO_LOG = "no_log"  #: a run directory without a log and without files
    LINK = "link"  #: a linked directory


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that a listing found and that is not copied, or only in part. `path` may include details."""

    cause: Cause
    path: str


@dataclass(frozen=True, slots=True)
class RunRef:
    """Everything needed to open a run in its source."""

    entity: str
    project: str
    run_id: str
    location: Sequence[str] | None = None

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/{self.run_id}"
