"""The arguments and results of the store: frozen data, never rows.

`run` is always the number of a run in this database; `run_id` is the source's own id. Datetimes are aware, UTC.
Points, read, written and skipped are counts of values (not rows); sizes are in bytes; `_s` is in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from migrations_db.states import PartStatus, Phase

# ---------------------------------------------------------------- inventory


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project as the inventory found it. (`source_service`, `entity`, `name`) identifies it.

    `destination_name` and `name_note` are used only if the project has no destination yet.
    """

    entity: str
    name: str
    source_service: str
    url: str
    destination_name: str | None = None
    name_note: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A stored project. `name_note`: why the destination's name differs from the source's (None: it does not)."""

    id: int
    entity: str
    name: str
    source_service: str
    url: str
    destination_name: str | None
    name_note: str | None

    @property
    def source(self) -> str:
        return f"{self.entity}/{self.name}"


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the inventory found it. `size_hint`: approximate number of points (for order of claims, bars)."""

    run_id: str
    name: str
    source_state: str
    fingerprint: str
    created_at: datetime | None = None
    heartbeat_at: datetime | None = None
    history_rows: int | None = None
    size_hint: int = 0
    location: Sequence[str] | None = None
    fork_run_id: str | None = None
    fork_step: float | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    sweep: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """What an inventory found and left out, completely or in part. `cause`: any short word."""

    cause: str
    path: str


@dataclass(frozen=True, slots=True)
class Counts:
    """The result of an inventory page. `changed`: runs that now wait to be copied again."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.new + other.new, self.changed + other.changed, self.unchanged + other.unchanged)


@dataclass(frozen=True, slots=True)
class Selection:
    """The runs that a command concerns, from `Store.select`. None does not limit; an empty tuple selects nothing.

    At most one of the two is set. `runs` also includes the fork ancestors of the requested runs.
    """

    projects: tuple[int, ...] | None = None
    runs: tuple[int, ...] | None = None


EVERYTHING = Selection()

# ---------------------------------------------------------------- claims


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process. `id` is "host:pid:token"; `pid_started` (s) distinguishes it from others with its pid."""

    id: str
    host: str
    pid: int
    pid_started: float
    invocation_id: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that one worker may write until its lease ends, with everything needed to copy it.

    `attempt` is the fencing number: a later claim has a higher one, and writes with this one are then refused.
    `fingerprint` is that of the source when the copy began. `position` is the destination's position at the last
    checkpoint (None: nothing saved yet). `failures`: failures in a row before this attempt. `suspect`: the previous
    attempt ended in silence; the run is copied alone, to find out whether it kills its worker. `mapping`: the options
    with which the copy began (None: not recorded). `fork_run_id`: the run of the same project from which it was forked,
    after `fork_step` (both None: it is not a fork).
    """

    run: int
    attempt: int
    worker_id: str
    phase: Phase
    project_id: int
    source_service: str
    entity: str
    project: str
    project_url: str
    destination_name: str | None
    run_id: str
    name: str
    source_state: str
    created_at: datetime | None
    fork_run_id: str | None
    fork_step: float | None
    location: Sequence[str] | None
    history_rows: int | None
    size_hint: int
    fingerprint: str
    position: str | None
    failures: int
    suspect: bool = False
    mapping: Mapping[str, Any] | None = None

    @property
    def ref(self) -> str:
        return f"{self.entity}/{self.project}/{self.run_id}"


@dataclass(frozen=True, slots=True)
class PartProgress:
    """The progress of a part. `intent`: the highest step that may have been sent (None: none)."""

    status: PartStatus = PartStatus.OPEN
    cursor: dict[str, Any] | None = None
    intent: float | None = None
    read: int = 0
    written: int = 0
    skipped: int = 0
    size_bytes: int = 0


class LedgerLine(Protocol):
    """Something that did not arrive exactly as it was. Equal (kind, path, reason) are added up. `kind`: any word."""

    @property
    def kind(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PartUpdate:
    """One part's share of a checkpoint: the new cursor, and what was added since the last checkpoint (not totals).

    `cursor` must be JSON data; None keeps the saved one. A list at its key `items` only grows (except in a `fresh`
    update), and of a long list only new items are written. Entries in `ledger` do not count as skipped; only `skipped`
    does. `fresh`: the part was read from its start again, so this update replaces earlier counts and ledger entries.
    """

    name: str
    cursor: Mapping[str, Any] | None
    done: bool = False
    read: int = 0
    written: int = 0
    skipped: int = 0
    size_bytes: int = 0
    ledger: Sequence[LedgerLine] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class DigestRow:
    """The digest of what was written at one path, in the program's own form: a kind, and JSON."""

    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended. `error_class` is a short word that groups failures in `status`."""

    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`, unless this was the `max_failures`-th failure in a row."""

    max_failures: int
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Activity:
    """What a worker is doing with a run: the part, and how long ago it last made progress."""

    part: str | None
    idle_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A service asked all workers to wait."""

    service: str
    seconds_left: float
    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """A claim without progress for `idle_s`."""

    worker_id: str
    run: int
    ref: str
    part: str | None
    idle_s: float
