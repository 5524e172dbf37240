"""What verifications claim, read and save: the runs to read back, what was written to them, and what was found.

    claim (some runs of one project) -> digests -> save (verdict, findings) | release

A run is claimed by storing the worker's id with it. A worker that has stopped or is silent holds no claims.
A claim to copy (`Store.claim`) removes the verdict, which is then out of date.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, literal, or_, select, update

from migrations_db.claiming import in_selection, one_of
from migrations_db.columns import now_plus
from migrations_db.database import Database
from migrations_db.models import Digest, Finding, Ledger, Part, Project, Run, Worker
from migrations_db.report_types import FindingRow, ProjectVerdicts, VerdictCounts
from migrations_db.rows import read_digests, ref, run_query, to_claim, to_project
from migrations_db.states import Phase, RunStatus, Verdict, proof_of
from migrations_db.types import EVERYTHING, Claim, DigestRow, Selection
from migrations_db.workers import SILENT_S

PAGE_ROWS = 1_000  # ours: rows held in memory when findings stream


@dataclass(frozen=True, slots=True)
class ToVerify:
    """A run that is done and is to be read back. `run` is the claim of the copy, with about `points` points.

    `source_changed`: according to the last inventory, the source run has changed since it was copied.
    """

    run: Claim
    source_changed: bool
    points: int

    @property
    def ref(self) -> str:
        return self.run.ref


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """What was found of a claimed run."""

    run: ToVerify
    verdict: Verdict
    findings: Sequence[FindingRow]


class Verification:
    """`store.verification`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def done(self, only: Selection = EVERYTHING) -> list[int]:
        """The numbers of all runs that are done, in inventory order."""
        query = select(Run.id).where(Run.status == RunStatus.DONE, *in_selection(Run, only)).order_by(Run.id)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def begin_again(self, only: Selection = EVERYTHING) -> int:
        """Delete the verdicts, so that all runs are verified again. Returns how many had one."""
        known = update(Run).where(Run.status == RunStatus.DONE, Run.verdict.is_not(None), *in_selection(Run, only))
        with self._database.write() as connection:
            return connection.execute(known.values(verdict=None, verified_at=None)).rowcount

    def claim(
        self, worker_id: str, limit: int, only: Selection = EVERYTHING, points: int | None = None
    ) -> list[ToVerify]:
        """Claim at most `limit` runs of one project and one phase for a registered worker. Empty: none is left.

        `points`: how many they may have together, so that other workers get large runs, too; one run may have more.
        """
        with self._database.write() as connection:
            head = connection.execute(_free(Run.project_id, Run.phase, only=only).limit(1)).one_or_none()
            if head is None:
                return []
            of_it = Run.project_id == head.project_id, Run.phase == head.phase
            same = _free(Run.id, Run.points_written, only=only).where(*of_it).limit(limit)
            free = connection.execute(same.with_for_update(skip_locked=True)).all()
            sums = accumulate(row.points_written for row in free)
            runs = [row.id for n, (row, total) in enumerate(zip(free, sums, strict=True)) if _fits(n, total, points)]
            connection.execute(update(Run).where(one_of(Run.id, runs)).values(verifier=worker_id))
            rows = connection.execute(run_query().where(one_of(Run.id, runs)).order_by(Run.id)).all()
        return [ToVerify(to_claim(row), row.fingerprint != row.copied_fingerprint, row.points_written) for row in rows]

    def digests(self, run: int) -> dict[str, DigestRow]:
        """The digests of what was written, by path."""
        with self._database.read() as connection:
            return read_digests(connection, run)

    def save(self, run: ToVerify, worker_id: str, verdict: Verdict, how: str, findings: Sequence[FindingRow]) -> bool:
        """Save the result for a claimed run. False: nothing is saved, because the run was copied again meanwhile."""
        return bool(self.save_all(worker_id, how, [VerifiedRun(run, verdict, findings)]))

    def save_all(self, worker_id: str, how: str, results: Sequence[VerifiedRun]) -> list[VerifiedRun]:
        """Save the results for claimed runs. Returns those that were saved: others were copied again meanwhile."""
        values = {"verified_at": now_plus(), "verified_by": how, "verifier": None}
        saved: list[VerifiedRun] = []
        with self._database.write() as connection:
            for one in results:
                claim = one.run.run
                mine = [Run.id == claim.run, Run.attempt == claim.attempt, Run.verifier == worker_id]
                known = update(Run).where(*mine, Run.status == RunStatus.DONE)
                if connection.execute(known.values(values | {"verdict": one.verdict})).rowcount == 1:
                    saved.append(one)
            connection.execute(delete(Finding).where(one_of(Finding.run, [one.run.run.run for one in saved])))
            rows = [
                {"run": one.run.run.run, "path": row.path, "verdict": row.verdict, "want": row.want, "got": row.got}
                for one in saved
                for row in one.findings
            ]
            if rows:
                connection.execute(insert(Finding), rows)
        return saved

    def release(self, worker_id: str) -> None:
        """Release the runs that the worker has claimed but not saved."""
        with self._database.write() as connection:
            connection.execute(update(Run).where(Run.verifier == worker_id).values(verifier=None))

    def counts(self, only: Selection = EVERYTHING) -> VerdictCounts:
        """The number of done runs, by verdict."""
        with self._database.read() as connection:
            return count_verdicts(connection, only)

    def by_project(self, only: Selection = EVERYTHING) -> list[ProjectVerdicts]:
        """What is proved of the runs of each project, sorted by entity and name."""
        explained = exists().where(Ledger.run == Run.id).label("explained")
        each = select(Run.project_id, Run.status, Run.verdict, explained).where(*in_selection(Run, only)).subquery()
        counted = select(*each.c, func.count().label("runs")).group_by(*each.c)
        ordered = select(Project.__table__).order_by(Project.entity, Project.name, Project.id)
        sums: dict[int, dict[str, int]] = {}
        with self._database.read() as connection:
            for row in connection.execute(counted):
                of_project = sums.setdefault(row.project_id, {})
                name = proof_of(row.status, row.verdict, explained=row.explained)
                of_project[name] = of_project.get(name, 0) + row.runs
            projects = [to_project(row) for row in connection.execute(ordered)]
        return [ProjectVerdicts(project, **sums[project.id]) for project in projects if project.id in sums]

    def findings(self, only: Selection = EVERYTHING) -> Iterator[tuple[str, FindingRow]]:
        """(ref of the run, finding) in inventory order. Runs without a verdict are left out."""
        columns = (Project.entity, Project.name.label("project"), Run.run_id)
        query = (
            select(*columns, Finding.path, Finding.verdict, Finding.want, Finding.got)
            .join(Run, Run.id == Finding.run)
            .join(Project, Project.id == Run.project_id)
            .where(Run.verdict.is_not(None), *in_selection(Run, only))
            .order_by(Finding.run, Finding.path)
        )
        with self._database.browse() as connection:
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield ref(row), FindingRow(row.path, row.verdict, row.want, row.got)

    def retry_differing(self, only: Selection = EVERYTHING) -> int:
        """Make runs that differ pending, to be copied again from the start. Returns how many.

        The record of the copy is deleted, so that everything is sent again. The destination keeps what it has.
        """
        differs = [Run.status == RunStatus.DONE, Run.verdict == Verdict.DIFFERS, *in_selection(Run, only)]
        fresh: dict[str, Any] = {
            "phase": Phase.COPY,
            "status": RunStatus.PENDING,
            "position": None,
            "part": None,
            "mapping": None,
            "verdict": None,
            "verified_at": None,
            "finished_at": None,
        } | dict.fromkeys(("points_read", "points_written", "size_bytes", "failures", "silent_attempts"), 0)
        with self._database.write() as connection:
            runs = list(connection.execute(select(Run.id).where(*differs).order_by(Run.id).with_for_update()).scalars())
            for table in (Part, Ledger, Digest, Finding):
                connection.execute(delete(table).where(one_of(table.run, runs)))
            connection.execute(update(Run).where(one_of(Run.id, runs)).values(fresh))
        return len(runs)


def count_verdicts(connection: Connection, only: Selection = EVERYTHING) -> VerdictCounts:
    """Like `Verification.counts`, within a transaction."""
    query = select(Run.verdict, func.count()).where(Run.status == RunStatus.DONE, *in_selection(Run, only))
    found = {row[0]: row[1] for row in connection.execute(query.group_by(Run.verdict))}
    verified, differs = found.pop(Verdict.VERIFIED, 0), found.pop(Verdict.DIFFERS, 0)
    return VerdictCounts(verified, differs, sum(found.values()))


def forget_digests(connection: Connection, conditions: Collection[ColumnElement[bool]]) -> None:
    """Delete digests, within a transaction."""
    connection.execute(delete(Digest).where(*conditions))


def _fits(number: int, total: int, points: int | None) -> bool:
    """Whether a run with this number in a row fits, if all up to it have `total` points."""
    return not number or points is None or total <= points


def _free(*columns: Any, only: Selection) -> Any:
    """Runs that are done, have no verdict, and are not claimed by a worker that is alive."""
    alive = exists().where(
        Worker.id == Run.verifier, Worker.stopped_at.is_(None), Worker.heartbeat_at > now_plus(-SILENT_S)
    )
    done = literal(RunStatus.DONE, Run.status.type, literal_execute=True)  # so that the partial index is used
    return (
        select(*columns)
        .where(Run.status == done, Run.verdict.is_(None), *in_selection(Run, only))
        .where(or_(Run.verifier.is_(None), ~alive))
        .order_by(Run.project_id, Run.phase, Run.id)
    )
