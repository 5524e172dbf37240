"""Read-only queries: `migrate status`, progress bars, one run in full. Each result is as of one moment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, and_, func, or_, select

from migrations_db import groups
from migrations_db.claiming import in_selection, lacks
from migrations_db.database import Database
from migrations_db.details import read_details, read_ledgers
from migrations_db.forks import circles
from migrations_db.jobs import last_job
from migrations_db.measured import read_measured
from migrations_db.models import Ledger, Part, Project, Run
from migrations_db.progress import by_status, counters, progress_of, running_runs
from migrations_db.report_types import (
    LedgerRow,
    LeftOutGroup,
    Measured,
    Overview,
    Progress,
    RunDetail,
    RunSummary,
    WorkerRow,
)
from migrations_db.rows import AnyRow, ref, run_query
from migrations_db.states import Phase, RunStatus
from migrations_db.types import EVERYTHING, Selection
from migrations_db.verification import count_verdicts
from migrations_db.working import count_reading, read_workers

PAGE_ROWS = 1_000  # ours: rows held in memory when a report streams
PAGE_RUNS = 200  # ours: runs held in memory in full


class Reports:
    """`store.reports`. Readers never block writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def overview(
        self, only: Selection = EVERYTHING, wanted_parts: Collection[str] = (), *, ledger: bool = True
    ) -> Overview:
        """Everything that `migrate status` shows about these runs. Workers and pauses are those of all runs.

        `wanted_parts`: report how many runs are done without these parts. `ledger`: with its groups, which take
        half of the time.
        """
        with self._database.read() as connection:
            counted = connection.execute(counters(only)).all()
            uploads = any(r.phase is Phase.UPLOAD and r.status is not RunStatus.DONE for r in counted)
            return Overview(
                runs=by_status(counted),
                phases={p: by_status(row for row in counted if row.phase is p) for p in Phase},
                parts=groups.part_sums(connection, only),
                projects=groups.projects(connection, counted, all_of_them=only == EVERYTHING),
                failures=groups.failures(connection, only),
                ledger=groups.ledger_groups(connection, only) if ledger else [],
                reasons=groups.reasons(connection, only),
                workers=read_workers(connection),
                pauses=groups.pauses(connection),
                verdicts=count_verdicts(connection, only),
                left_out=groups.left_out(connection, wanted_parts, only),
                progress=progress_of(counted, [], Phase.UPLOAD if uploads else Phase.COPY),
                job=last_job(connection),
                problems=groups.problems(connection),
            )

    def problems(self) -> list[LeftOutGroup]:
        """What inventories found and left out, completely or in part, by cause, most frequent first."""
        with self._database.read() as connection:
            return groups.problems(connection)

    def workers(self) -> list[WorkerRow]:
        """All workers that have not stopped, with their claims, and with what verifications are reading."""
        with self._database.read() as connection:
            workers = read_workers(connection)
            reading = count_reading(connection) if any(row.command == "verify" for row in workers) else {}
            return [replace(row, reading=reading.get(row.id, 0)) for row in workers]

    def progress(self, phase: Phase, only: Selection = EVERYTHING) -> Progress:
        """Counters for the progress bars. Cheap enough to call twice per second."""
        with self._database.read() as connection:
            counted = connection.execute(counters(only)).all()
            running = running_runs(connection, phase, only)
        return progress_of(counted, running, phase)

    def measured(self) -> Measured:
        """The runs that have been copied, as a measure for the others."""
        with self._database.read() as connection:
            return read_measured(connection)

    def fork_circles(self, phase: Phase, only: Selection = EVERYTHING) -> list[list[str]]:
        """Pending runs that are forks of each other: none of them can be copied before the others."""
        with self._database.read() as connection:
            return [[ref(row) for row in circle] for circle in circles(connection, phase, only)]

    def skipped(self, only: Selection = EVERYTHING) -> int:
        """How many values of these runs could not be written."""
        skipped = select(func.coalesce(func.sum(Part.skipped), 0)).join(Run, Run.id == Part.run)
        with self._database.read() as connection:
            return int(connection.execute(skipped.where(*in_selection(Run, only))).scalar_one())

    def runs(self, status: RunStatus, only: Selection = EVERYTHING) -> Iterator[RunSummary]:
        """Runs of one status, one by one, in inventory order."""
        yield from self._runs([Run.status == status], only)

    def _runs(self, conditions: Sequence[ColumnElement[bool]], only: Selection) -> Iterator[RunSummary]:
        query = run_query().where(*conditions, *in_selection(Run, only)).order_by(Run.id)
        with self._database.browse() as connection:
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield _summary(row)

    def begun(self, only: Selection = EVERYTHING) -> Iterator[RunSummary]:
        """Runs whose copy has begun, in inventory order."""
        yield from self._runs([Run.copied_fingerprint.is_not(None)], only)

    def left_out(self, parts: Collection[str], only: Selection = EVERYTHING) -> dict[str, int]:
        """By part, how many runs are done without it. Parts that all runs have are absent."""
        with self._database.read() as connection:
            return groups.left_out(connection, parts, only)

    def awaited_files(self, phase: Phase, only: Selection, uploaded: str) -> int:
        """How many of the runs with which a command of this phase will continue must already have an offline file.

        `uploaded` is the position of a run whose file was uploaded and removed.
        """
        unfinished = and_(Run.phase == phase, Run.status.in_([RunStatus.PENDING, RunStatus.RUNNING]))
        copied = and_(Run.phase == Phase.COPY, Run.status == RunStatus.DONE)
        due = or_(unfinished, copied) if phase is Phase.UPLOAD else unfinished
        query = select(func.count()).where(due, Run.position != uploaded, *in_selection(Run, only))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def lacking(self, parts: Collection[str], only: Selection = EVERYTHING) -> Iterator[RunSummary]:
        """Runs that are done without one of these parts, in inventory order."""
        yield from self._runs(lacks(parts), only)

    def find_runs(self, text: str, limit: int = 20) -> list[RunSummary]:
        """Runs by "run id", "project/run id" or "entity/project/run id". Only a run id may contain a slash."""
        first, _, rest = text.partition("/")
        second, _, last = rest.partition("/")
        named = or_(
            Run.run_id == text,
            and_(Project.name == first, Run.run_id == rest),
            and_(Project.entity == first, Project.name == second, Run.run_id == last),
        )
        query = run_query().where(Run.run_id.in_({text, rest, last}), named)
        with self._database.read() as connection:
            return [_summary(row) for row in connection.execute(query.order_by(Run.id).limit(limit))]

    def run_detail(self, run: int) -> RunDetail | None:
        """One run in full. None: there is no such run."""
        with self._database.read() as connection:
            rows = connection.execute(run_query().where(Run.id == run)).all()
            return next(iter(read_details(connection, rows)), None)

    def every_run(self, only: Selection = EVERYTHING) -> Iterator[tuple[RunDetail, list[LedgerRow]]]:
        """Runs in full with their ledgers, in inventory order. A page of runs and one ledger are held in memory."""
        query = run_query().where(*in_selection(Run, only)).order_by(Run.id)
        with self._database.browse() as connection:
            runs = connection.execute(query, execution_options={"yield_per": PAGE_RUNS})
            for page in runs.partitions(PAGE_RUNS):
                yield from zip(read_details(connection, page), read_ledgers(connection, page), strict=True)

    def ledger(self, run: int) -> Iterator[LedgerRow]:
        """The run's ledger, sorted by part, kind and path."""
        columns = (Ledger.part, Ledger.kind, Ledger.path, Ledger.reason, Ledger.count)
        query = select(*columns).where(Ledger.run == run).order_by(*columns)
        with self._database.browse() as connection:
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield LedgerRow(*row)


# ---------------------------------------------------------------- one run


def _summary(row: AnyRow) -> RunSummary:
    return RunSummary(
        run=row.id,
        ref=ref(row),
        name=row.name,
        phase=row.phase,
        status=row.status,
        error_class=row.error_class,
        error_message=row.error_message,
        reason=row.reason,
        run_id=row.run_id,
        project_id=row.project_id,
        history_rows=row.history_rows,
        points_read=row.points_read,
        size_bytes=row.size_bytes,
        location=row.location,
    )
