"""The store's reports on the whole job and on single runs: frozen data, never rows. Terms and units as in `types`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from migrations_db.states import Outcome, Phase, RunStatus, Verdict
from migrations_db.types import PartProgress, Pause, Project


@dataclass(frozen=True, slots=True)
class PartSums:
    """Totals of one part over all runs."""

    name: str
    read: int
    written: int
    skipped: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ProjectCounts:
    """Runs of one project by status. Every status is present."""

    project: Project
    runs: Mapping[RunStatus, int]


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Done runs by the verdict of their last verification. `not_verified` includes those never verified."""

    verified: int
    differs: int
    not_verified: int


@dataclass(frozen=True, slots=True)
class ProjectVerdicts:
    """Runs of one project by what is proved of them. `equal` and `explained` are verified.

    `explained`: the ledger says why something was skipped or changed. `not_verified` are copied, the rest is not.
    """

    project: Project
    equal: int = 0
    explained: int = 0
    differs: int = 0
    not_verified: int = 0
    not_copied: int = 0


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A path that a verification did not find as it was sent. `path` "" is the run itself."""

    path: str
    verdict: Verdict
    want: str
    got: str


@dataclass(frozen=True, slots=True)
class Example:
    """One run of a group. Its `ref` is "entity/project/run id"."""

    ref: str
    text: str


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed runs of one error class. The text of the example is its message."""

    error_class: str
    count: int
    example: Example


@dataclass(frozen=True, slots=True)
class LedgerGroup:
    """Ledger lines of equal reason, part and kind. The text of the example is a path. `runs`: number of runs."""

    reason: str
    part: str
    kind: str
    count: int
    runs: int
    example: Example


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """Runs with equal status and reason: why they are skipped, or a note ("gone from the source")."""

    status: RunStatus
    reason: str
    count: int
    example_ref: str


@dataclass(frozen=True, slots=True)
class LeftOutGroup:
    """What inventories left out for one cause. `examples` are some of the paths, in order."""

    cause: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that has not stopped, and one of its claims (None: idle).

    `command` started it. `since`: when the claim began or, if it is idle, the worker; `elapsed_s` ago. `reading`: how
    many runs a verification has in hand.
    """

    id: str
    host: str
    pid: int
    heartbeat_age_s: float
    run: int | None
    ref: str | None
    part: str | None
    idle_s: float | None
    command: str | None = None
    since: datetime | None = None
    elapsed_s: float = 0.0
    reading: int = 0


@dataclass(frozen=True, slots=True)
class JobRow:
    """The command that is running (the first, if there are several) or else the last one, and its results.

    `elapsed_s`: until now, or until it ended. `values_read` and `size_bytes` are of runs that began after its start.
    """

    command: str
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    elapsed_s: float
    values_read: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredPart:
    """A part of the runs that were copied with it: how many runs, values read and bytes written in all."""

    runs: int
    values: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """What the last commands (`jobs` of them) copied from its start to its end, and how long they took in all."""

    jobs: int
    runs: int
    values: int
    size_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The runs that have been copied, `uploads` of them on their way from an offline file to Neptune or there.

    `written` values in all. `rows`: of the histories whose rows the source has counted, with their values and bytes.
    """

    runs: int
    uploads: int
    written: int
    rows: int
    row_values: int
    row_bytes: int
    parts: Mapping[str, MeasuredPart] = field(default_factory=dict)
    speed: MeasuredSpeed | None = None  #: None: nothing was copied by a command that has ended


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that `migrate status` shows, as of one moment."""

    runs: Mapping[RunStatus, int]  #: every status is present
    phases: Mapping[Phase, Mapping[RunStatus, int]]
    parts: Sequence[PartSums]
    projects: Sequence[ProjectCounts]
    failures: Sequence[FailureGroup]  #: most frequent first
    ledger: Sequence[LedgerGroup]  #: most frequent first
    reasons: Sequence[ReasonGroup]  #: most frequent first
    workers: Sequence[WorkerRow]
    pauses: Sequence[Pause]
    verdicts: VerdictCounts = VerdictCounts(0, 0, 0)  #: of the runs that are done
    left_out: Mapping[str, int] = field(default_factory=dict)  #: by part, how many runs are done without it
    progress: Progress | None = None  #: of the current phase
    job: JobRow | None = None  #: None: nothing has been copied or uploaded so far
    problems: Sequence[LeftOutGroup] = ()  #: what inventories left out, by cause, most frequent first


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run in progress, for its progress bar. `points_expected` is an estimate."""

    run: int
    ref: str
    name: str
    worker_id: str
    part: str | None
    points_read: int
    points_expected: int
    idle_s: float
    elapsed_s: float = 0.0  #: of this attempt


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a phase. `runs` has every status. In the copy phase, runs that wait for their upload are done.

    `points_expected` and `bytes_expected` are estimates from the runs that have ended, and become exact as others end.
    Skipped runs do not count. `is_measured`: enough runs have ended for an estimate.
    """

    runs: Mapping[RunStatus, int]
    points_read: int
    points_written: int
    points_expected: int
    size_bytes: int
    running: Sequence[RunningRun] = ()
    bytes_expected: int = 0
    is_measured: bool = True

    @property
    def runs_total(self) -> int:
        """All runs except skipped ones."""
        return sum(self.runs.values()) - self.runs[RunStatus.SKIPPED]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list. `history_rows` and `location` as the inventory found them; `points_read` so far."""

    run: int
    ref: str
    name: str
    phase: Phase
    status: RunStatus
    error_class: str | None
    error_message: str | None
    reason: str | None
    run_id: str = ""
    project_id: int = 0
    history_rows: int | None = None
    points_read: int = 0
    size_bytes: int = 0
    location: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt. `outcome` is None while it is running. `log`: the file of its command; None: not known."""

    number: int
    phase: Phase
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    error_class: str | None
    message: str | None
    log: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One line of a run's ledger."""

    part: str
    kind: str
    path: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class RunDetail:
    """One run in full, without its ledger, which `Reports.ledger` yields."""

    run: int
    project: Project
    run_id: str
    name: str
    source_state: str
    created_at: datetime | None
    heartbeat_at: datetime | None
    history_rows: int | None
    size_hint: int
    fingerprint: str
    copied_fingerprint: str | None
    location: Sequence[str] | None
    fork_run_id: str | None
    fork_step: float | None
    tags: Sequence[str]
    phase: Phase
    status: RunStatus
    reason: str | None
    claimed_by: str | None
    lease_until: datetime | None
    attempt: int
    failures: int
    not_before: datetime | None
    position: str | None
    error_class: str | None
    error_message: str | None
    points_read: int
    points_written: int
    size_bytes: int
    part: str | None
    active_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    verdict: Verdict | None = None
    verified_at: datetime | None = None
    verified_by: str | None = None
    findings: Sequence[FindingRow] = ()
    parts: Mapping[str, PartProgress] = field(default_factory=dict)
    attempts: Sequence[AttemptRow] = ()
    run_group: str | None = None
    sweep: str | None = None
    mapping: Mapping[str, Any] | None = None

    @property
    def ref(self) -> str:
        return f"{self.project.source}/{self.run_id}"
