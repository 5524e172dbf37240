"""What a report tells of every run, in a few queries for each thousand of them, however many there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, select

from migrations_db.claiming import in_selection, one_of
from migrations_db.database import Database
from migrations_db.details import read_attempts
from migrations_db.models import Attempt, Finding, Invocation, Ledger, Project, Run
from migrations_db.report_types import AttemptRow, FindingRow
from migrations_db.rows import AnyRow, AnySelect, ref, run_query, to_project
from migrations_db.states import Outcome, Phase, RunStatus, Verdict
from migrations_db.types import EVERYTHING, Selection
from migrations_db.types import Project as ProjectData

PAGE_RUNS = 1_000  # ours: runs held in memory at a time
SKIPPED = "skipped"  # kind of the ledger's lines about what was not written; all others were written, but changed


@dataclass(frozen=True, slots=True)
class RunAccount:
    """One run. `skipped` and `changed` count values; `differing` and `unverifiable` count paths that were read back.

    `copy_s` is the time of all attempts to copy it, `copied_at` the end of the last one that succeeded.
    """

    run: int
    ref: str
    run_id: str
    project_id: int
    name: str
    source_state: str
    phase: Phase
    status: RunStatus
    reason: str | None
    error_class: str | None
    error_message: str | None
    verdict: Verdict | None
    verified_at: datetime | None
    verified_by: str | None
    values_read: int
    values_written: int
    size_bytes: int
    finished_at: datetime | None
    skipped: int = 0
    changed: int = 0
    differing: int = 0
    unverifiable: int = 0
    attempts: int = 0
    copy_s: float = 0.0
    copied_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LedgerSample:
    """Lines of one run's ledger that are alike. `count`: values, `paths`: lines, `examples`: some of their paths."""

    part: str
    kind: str
    reason: str
    count: int
    paths: int
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class RunStory:
    """What there is to tell of one run beyond its account. `findings` are some of them, the first by path."""

    ledger: Sequence[LedgerSample] = ()
    findings: Sequence[FindingRow] = ()
    attempts: Sequence[AttemptRow] = field(default=())


class InvocationRow(NamedTuple):
    """One start of the program; `ended_at` None: it goes on, or was killed."""

    command: str
    version: str
    host: str
    pid: int
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None


class Accounts:
    """`store.accounts`. Readers never block writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, only: Selection = EVERYTHING) -> Iterator[RunAccount]:
        """All runs, by project, then in the order of the inventory."""
        keys = (Project.entity, Project.name, Project.id)
        query = run_query().where(*in_selection(Run, only)).order_by(*keys, Run.id)
        with self._database.browse() as connection:
            pages = connection.execution_options(yield_per=PAGE_RUNS).execute(query).partitions(PAGE_RUNS)
            for page in pages:
                yield from _accounts(connection, page)

    def stories(self, runs: Sequence[int], examples: int, findings: int) -> Iterator[tuple[int, RunStory]]:
        """(number of the run, its story) in the order given, with so many paths of each kind and findings at most."""
        with self._database.browse() as connection:
            for start in range(0, len(runs), PAGE_RUNS):
                page = runs[start : start + PAGE_RUNS]
                told = _stories(connection, page, examples, findings)
                yield from ((run, told[run]) for run in page)

    def projects(self) -> dict[int, ProjectData]:
        """All projects by their numbers."""
        with self._database.read() as connection:
            return {row.id: to_project(row) for row in connection.execute(select(Project.__table__))}

    def invocations(self, limit: int) -> list[InvocationRow]:
        """The last commands that wrote into this database, the newest first."""
        return self._invocations(_invocation_query().limit(limit))

    def unended(self) -> list[InvocationRow]:
        """The commands whose end was not recorded, the newest first."""
        return self._invocations(_invocation_query().where(Invocation.ended_at.is_(None)))

    def _invocations(self, query: AnySelect) -> list[InvocationRow]:
        with self._database.read() as connection:
            return [InvocationRow(*row) for row in connection.execute(query)]

    def listed_at(self) -> datetime | None:
        """When the last inventory that ended well began: what is younger at the source is not known here."""
        query = select(func.max(Invocation.started_at)).where(
            Invocation.command == "inventory", Invocation.exit_code == 0
        )
        with self._database.read() as connection:
            return connection.execute(query).scalar()


def _invocation_query() -> AnySelect:
    """The columns of `InvocationRow`, the newest first."""
    return select(*(getattr(Invocation, name) for name in InvocationRow._fields)).order_by(Invocation.id.desc())


def _accounts(connection: Connection, page: Sequence[AnyRow]) -> Iterator[RunAccount]:
    numbers = [row.id for row in page]
    ledger = _ledger_counts(connection, numbers)
    findings = _finding_counts(connection, numbers)
    attempts = _attempt_sums(connection, numbers)
    for row in page:
        skipped, changed = ledger.get(row.id, (0, 0))
        yield RunAccount(
            run=row.id,
            ref=ref(row),
            run_id=row.run_id,
            project_id=row.project_id,
            name=row.name,
            source_state=row.source_state,
            phase=row.phase,
            status=row.status,
            reason=row.reason,
            error_class=row.error_class,
            error_message=row.error_message,
            verdict=row.verdict,
            verified_at=row.verified_at,
            verified_by=row.verified_by,
            values_read=row.points_read,
            values_written=row.points_written,
            size_bytes=row.size_bytes,
            finished_at=row.finished_at,
            skipped=skipped,
            changed=changed,
            differing=findings.get((row.id, Verdict.DIFFERS), 0) if row.verdict else 0,
            unverifiable=findings.get((row.id, Verdict.NOT_VERIFIED), 0) if row.verdict else 0,
            **attempts.get(row.id, {}),
        )


def _finding_counts(connection: Connection, runs: Collection[int]) -> dict[tuple[int, Verdict], int]:
    query = select(Finding.run, Finding.verdict, func.count()).where(one_of(Finding.run, runs))
    rows = connection.execute(query.group_by(Finding.run, Finding.verdict))
    return {(run, verdict): count for run, verdict, count in rows}


def _ledger_counts(connection: Connection, runs: Collection[int]) -> dict[int, tuple[int, int]]:
    """(values skipped, values changed) by run."""
    skipped = func.sum(case((Ledger.kind == SKIPPED, Ledger.count), else_=0))
    query = select(Ledger.run, skipped, func.sum(Ledger.count)).where(one_of(Ledger.run, runs)).group_by(Ledger.run)
    return {run: (int(lost), int(all_of_them) - int(lost)) for run, lost, all_of_them in connection.execute(query)}


def _attempt_sums(connection: Connection, runs: Collection[int]) -> dict[int, dict[str, Any]]:
    """The fields of `RunAccount` that tell of attempts, by run."""
    columns = (Attempt.run, Attempt.phase, Attempt.started_at, Attempt.ended_at, Attempt.outcome)
    query = select(*columns).where(one_of(Attempt.run, runs)).order_by(Attempt.run, Attempt.number)
    sums: dict[int, dict[str, Any]] = {}
    for run, phase, started_at, ended_at, outcome in connection.execute(query):
        told = sums.setdefault(run, {"attempts": 0, "copy_s": 0.0, "copied_at": None})
        told["attempts"] += 1
        if phase is Phase.COPY and ended_at is not None:
            told["copy_s"] += (ended_at - started_at).total_seconds()
            told["copied_at"] = ended_at if outcome is Outcome.DONE else told["copied_at"]
    return sums


def _stories(connection: Connection, runs: Collection[int], examples: int, findings: int) -> dict[int, RunStory]:
    ledger = _samples(connection, runs, examples)
    found = _first_findings(connection, runs, findings)
    attempts = read_attempts(connection, runs)
    return {run: RunStory(ledger.get(run, ()), found.get(run, ()), attempts.get(run, ())) for run in runs}


def _samples(connection: Connection, runs: Collection[int], examples: int) -> dict[int, list[LedgerSample]]:
    keys = (Ledger.run, Ledger.part, Ledger.kind, Ledger.reason)
    place = func.row_number().over(partition_by=keys, order_by=Ledger.path).label("place")
    values = func.sum(Ledger.count).over(partition_by=keys).label("values")
    paths = func.count().over(partition_by=keys).label("paths")
    lines = select(*keys, Ledger.path, place, values, paths).where(one_of(Ledger.run, runs)).subquery()
    query = select(lines).where(lines.c.place <= examples).order_by(*(lines.c[key.key] for key in keys), lines.c.place)
    told: dict[int, list[LedgerSample]] = {}
    for (run, part, kind, reason), same in groupby(
        connection.execute(query), attrgetter("run", "part", "kind", "reason")
    ):
        first, *others = same
        shown = [row.path for row in (first, *others)]
        sample = LedgerSample(part, kind, reason, int(first._mapping["values"]), first.paths, shown)
        told.setdefault(run, []).append(sample)
    return told


def _first_findings(connection: Connection, runs: Collection[int], limit: int) -> dict[int, list[FindingRow]]:
    columns = (Finding.path, Finding.verdict, Finding.want, Finding.got)
    place = func.row_number().over(partition_by=Finding.run, order_by=(Finding.verdict, Finding.path)).label("place")
    lines = select(Finding.run, *columns, place).where(one_of(Finding.run, runs)).subquery()
    query = select(lines).where(lines.c.place <= limit).order_by(lines.c.run, lines.c.place)
    told: dict[int, list[FindingRow]] = {}
    for row in connection.execute(query):
        told.setdefault(row.run, []).append(FindingRow(row.path, row.verdict, row.want, row.got))
    return told
