"""The tables. `upgrades/` creates them; a test checks that both agree.

`run.id` is the number of a run in this database, `run.run_id` the source's id. Other tables call the number `run`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from migrations_db.columns import RowNumber
from migrations_db.states import Outcome, Phase, RunStatus, Verdict
from migrations_db.tables import CLAIM_ORDER, Base, partial_index

__all__ = ["Base"]


class Setting(Base):
    """A value for the whole database, such as the destination's address."""

    __tablename__ = "setting"

    #: name of the setting
    key: Mapped[str] = mapped_column(primary_key=True)
    #: its value, set once
    value: Mapped[str]


class Invocation(Base):
    """One start of the program."""

    __tablename__ = "invocation"

    #: number; also the id of an inventory
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    #: inventory, run or sync
    command: Mapped[str]
    #: machine
    host: Mapped[str]
    #: process
    pid: Mapped[int]
    #: of this program
    version: Mapped[str]
    #: start
    started_at: Mapped[datetime]
    #: end; null: still running, or was killed
    ended_at: Mapped[datetime | None]
    #: see the README
    exit_code: Mapped[int | None]
    #: its log file, a path on its machine; null: not known
    log: Mapped[str | None]


class Worker(Base):
    """A worker process."""

    __tablename__ = "worker"

    #: host:pid:token
    id: Mapped[str] = mapped_column(primary_key=True)
    #: the machine or container to which the pid belongs; an opaque name
    host: Mapped[str]
    #: process
    pid: Mapped[int]
    #: when the process started, s since boot (Linux) or the epoch: distinguishes it from others with the same pid
    pid_started: Mapped[float]
    #: the invocation that started it
    invocation_id: Mapped[int | None] = mapped_column(ForeignKey("invocation.id"))
    #: registered
    started_at: Mapped[datetime]
    #: last sign of life
    heartbeat_at: Mapped[datetime]
    #: when it stopped, crashed or was found gone; null: assumed alive
    stopped_at: Mapped[datetime | None]

    __table_args__ = (partial_index("worker_alive", "host", where="stopped_at IS NULL"),)


class Service(Base):
    """A pause that a service asked for."""

    __tablename__ = "service"

    #: "wandb", "local", "neptune"
    name: Mapped[str] = mapped_column(primary_key=True)
    #: send it nothing before this time
    not_before: Mapped[datetime]
    #: what the service said
    reason: Mapped[str]


class Project(Base):
    """A project in the source."""

    __tablename__ = "project"

    #: number
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    #: owner in the source
    entity: Mapped[str]
    #: name in the source
    name: Mapped[str]
    #: "wandb" or "local"
    source_service: Mapped[str]
    #: address for people
    url: Mapped[str]
    #: project to which its runs are copied; null: not decided
    destination_name: Mapped[str | None]
    #: why that name differs from the source's; null: it does not
    name_note: Mapped[str | None]

    __table_args__ = (UniqueConstraint("source_service", "entity", "name", name="project_source"),)


class LeftOut(Base):
    """Something that an inventory of local directories found and that is not copied, or only in part."""

    __tablename__ = "left_out"

    #: number
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    #: "local"
    source_service: Mapped[str]
    #: why: a code, which `status` explains
    cause: Mapped[str]
    #: what: a directory, a log, a project
    path: Mapped[str]
    #: number of the inventory that found it
    seen: Mapped[int]

    __table_args__ = (Index("left_out_cause", "cause", "path"),)


class Relisting(Base):
    """What a source had in one project when it was listed only to compare (`migrate verify --list`)."""

    __tablename__ = "listing"

    #: number
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    #: "wandb" or "local"
    source_service: Mapped[str]
    #: owner in the source
    entity: Mapped[str]
    #: name in the source
    project: Mapped[str]
    #: runs in the source; null: the project is not there
    runs: Mapped[int | None]
    #: runs in this database; null: no inventory has listed the project
    known: Mapped[int | None]
    #: runs that no inventory has listed
    new: Mapped[int]
    #: some of their run ids
    new_examples: Mapped[list[str]]
    #: known runs that the source no longer has
    gone: Mapped[int]
    #: some of their run ids
    gone_examples: Mapped[list[str]]
    #: why the list may be incomplete; null: it is complete
    problem: Mapped[str | None]
    #: when it was listed
    listed_at: Mapped[datetime]


class Run(Base):
    """A run and its status."""

    __tablename__ = "run"

    #: number
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    #: its project
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    #: the source's id
    run_id: Mapped[str]
    #: display name
    name: Mapped[str]
    #: state in the source: finished, crashed, running ...
    source_state: Mapped[str]
    #: creation time in the source
    created_at: Mapped[datetime | None]
    #: last sign of life in the source
    heartbeat_at: Mapped[datetime | None]
    #: the source's count of history rows; null: not known
    history_rows: Mapped[int | None]
    #: approximate number of points, for the order of claims and progress bars
    size_hint: Mapped[int]
    #: changes when the source run changes; as last listed
    fingerprint: Mapped[str]
    #: the fingerprint when the last claim to copy began; null: never claimed
    copied_fingerprint: Mapped[str | None]
    #: the places of a local run; null: not local
    location: Mapped[list[str] | None]
    #: run id of the fork's parent, in the same project; null: not a fork
    fork_run_id: Mapped[str | None]
    #: step after which it was forked
    fork_step: Mapped[float | None]
    #: tags in the source
    tags: Mapped[list[str] | None]
    #: group in the source; null: none, or listed by an older version
    run_group: Mapped[str | None]
    #: id of the sweep in the source; null: none, or listed by an older version
    sweep: Mapped[str | None]
    #: number of the inventory that last listed it
    seen: Mapped[int]

    #: the purpose of its claims
    phase: Mapped[Phase]
    #: its status in this phase
    status: Mapped[RunStatus]
    #: why it is skipped, or a note
    reason: Mapped[str | None]
    #: the worker that holds the claim; null unless running
    claimed_by: Mapped[str | None] = mapped_column(ForeignKey("worker.id"))
    #: end of the claim unless renewed; null unless running
    lease_until: Mapped[datetime | None]
    #: fencing number, increased by one with every claim
    attempt: Mapped[int]
    #: counted failures in a row; 0 after progress
    failures: Mapped[int]
    #: attempts in a row without progress or a recorded end: such runs may kill their worker, and are claimed last
    silent_attempts: Mapped[int]
    #: cannot be claimed before this time; null: at once
    not_before: Mapped[datetime | None]
    #: the mapping options with which the copy began, and which it keeps; null: not claimed since this column exists
    mapping: Mapped[dict[str, Any] | None]
    #: the destination's position at the last checkpoint
    position: Mapped[str | None]
    #: of the last failure; null after success
    error_class: Mapped[str | None]
    #: of the last failure; null after success
    error_message: Mapped[str | None]

    #: values read, sum over the parts
    points_read: Mapped[int]
    #: values written, sum over the parts
    points_written: Mapped[int]
    #: approximate size of the values and files written, in bytes, sum over the parts
    size_bytes: Mapped[int]
    #: the part being copied; null: none
    part: Mapped[str | None]
    #: last progress of the claim
    active_at: Mapped[datetime | None]
    #: first claim
    started_at: Mapped[datetime | None]
    #: done or failed; null otherwise
    finished_at: Mapped[datetime | None]

    #: of the last verification; null: not verified since it was copied
    verdict: Mapped[Verdict | None]
    #: when it was verified
    verified_at: Mapped[datetime | None]
    #: how it was verified: the level, and how files were compared
    verified_by: Mapped[str | None]
    #: the worker that is verifying it; null: none
    verifier: Mapped[str | None]

    __table_args__: Any = (
        UniqueConstraint("project_id", "run_id", name="run_source"),
        Index("run_by_run_id", "run_id"),
        # The order of claims, so that the first entry is the next claim: over all projects, and by project.
        partial_index("run_pending", *CLAIM_ORDER, where="status = 'pending'"),
        partial_index("run_pending_project", "project_id", *CLAIM_ORDER, where="status = 'pending'"),
        partial_index("run_running", "phase", "lease_until", where="status = 'running'"),
        partial_index("run_claimed_by", "claimed_by", where="claimed_by IS NOT NULL"),
        partial_index("run_failed", "error_class", "id", where="status = 'failed'"),
        partial_index("run_reason", "status", where="reason IS NOT NULL"),
        partial_index("run_unverified", "project_id", "phase", "id", where="status = 'done' AND verdict IS NULL"),
        partial_index("run_verdict", "verdict", "id", where="verdict IS NOT NULL"),
        # All columns that the progress bars add up, so that they never read the table.
        Index(
            "run_progress",
            "project_id",
            "phase",
            "status",
            "size_hint",
            "points_read",
            "points_written",
            "size_bytes",
        ),
    )


class Part(Base):
    """The progress of a part of a run. The row is created with the first checkpoint or intent."""

    __tablename__ = "part"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: history, files ...
    name: Mapped[str] = mapped_column(primary_key=True)
    #: the run's fingerprint when the part was done; if null or different from the claim's, the part is open
    done_fingerprint: Mapped[str | None]
    #: JSON, without a long list `items`; everything before it is durable at the destination; null: nothing yet
    cursor: Mapped[str | None]
    #: highest step that may have been sent; null: none
    intent: Mapped[float | None]
    #: values read
    read: Mapped[int]
    #: values written
    written: Mapped[int]
    #: values not written, each with a line in the ledger
    skipped: Mapped[int]
    #: approximate size of the values and files written, in bytes
    size_bytes: Mapped[int]
    #: last change
    updated_at: Mapped[datetime]


class CursorItem(Base):
    """One item of the list `items` in a part's cursor. Such lists only grow, so each checkpoint adds its new items."""

    __tablename__ = "cursor_item"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: its part
    part: Mapped[str] = mapped_column(primary_key=True)
    #: place in the list, from 0
    number: Mapped[int] = mapped_column(primary_key=True)
    #: JSON
    value: Mapped[str]


class Ledger(Base):
    """Something that did not arrive exactly as it was."""

    __tablename__ = "ledger"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: hash of (part, kind, path, reason), which may be too long for an index
    digest: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    #: the part that recorded it
    part: Mapped[str]
    #: skipped, renamed, converted ...
    kind: Mapped[str]
    #: what it is about, usually a name in the source
    path: Mapped[str]
    #: why
    reason: Mapped[str]
    #: how often
    count: Mapped[int]


class Digest(Base):
    """A digest of what was written at one path of a run, to compare with what is read back."""

    __tablename__ = "digest"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: at the destination
    path: Mapped[str] = mapped_column(primary_key=True)
    #: value, file, or the kind of a series
    kind: Mapped[str]
    #: JSON; the database does not interpret it
    data: Mapped[str]


class Finding(Base):
    """A path that the last verification of a run did not find as it was sent. Correct paths have no rows."""

    __tablename__ = "finding"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: at the destination; empty: the run itself
    path: Mapped[str] = mapped_column(primary_key=True)
    #: differs or not_verified
    verdict: Mapped[Verdict]
    #: what was sent
    want: Mapped[str]
    #: what was read back, or why nothing was
    got: Mapped[str]


class Attempt(Base):
    """One claim of a run, from its beginning to its end."""

    __tablename__ = "attempt"

    #: its run
    run: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    #: the fencing number of the claim
    number: Mapped[int] = mapped_column(primary_key=True)
    #: its purpose
    phase: Mapped[Phase]
    #: the worker that held it
    worker: Mapped[str]
    #: time of the claim
    started_at: Mapped[datetime]
    #: end; null: still running
    ended_at: Mapped[datetime | None]
    #: how it ended; null: still running
    outcome: Mapped[Outcome | None]
    #: of the failure, if one ended it
    error_class: Mapped[str | None]
    #: of the failure, if one ended it
    message: Mapped[str | None]
