"""Read-only queries: `migrate status`, progress bars, one run in full. Each result is as of one moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, cast, func, or_, select

from migrations_db.claiming import in_selection, lacks, one_of
from migrations_db.columns import seconds_until
from migrations_db.database import Database
from migrations_db.details import read_details, read_ledgers
from migrations_db.forks import circles
from migrations_db.jobs import last_job
from migrations_db.measured import read_measured
from migrations_db.models import Attempt, Ledger, LeftOut, Part, Project, Run, Service
from migrations_db.report_types import (
    Example,
    FailureGroup,
    LedgerGroup,
    LedgerRow,
    LeftOutGroup,
    Measured,
    Overview,
    PartSums,
    Progress,
    ProjectCounts,
    ReasonGroup,
    RunDetail,
    RunningRun,
    RunSummary,
    WorkerRow,
)
from migrations_db.rows import AnyRow, AnySelect, ref, run_query, to_project
from migrations_db.states import Phase, RunStatus
from migrations_db.types import EVERYTHING, Pause, Selection
from migrations_db.verification import count_verdicts
from migrations_db.working import count_reading, read_workers

PAGE_ROWS = 1_000  # ours: rows held in memory when a report streams
PAGE_RUNS = 200  # ours: runs held in memory in full
MEASURED_RUNS = 3  # ours: once this many runs have ended, their sizes are used to estimate the others
LEFT_OUT_EXAMPLES = 3  # paths shown per cause


class Reports:
    """`store.reports`. Readers never block writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def overview(self, only: Selection = EVERYTHING, wanted_parts: Collection[str] = ()) -> Overview:
        """Everything that `migrate status` shows about these runs. Workers and pauses are those of all runs.

        `wanted_parts`: report how many runs are done without these parts.
        """
        with self._database.read() as connection:
            counted = connection.execute(_counters(only)).all()
            uploads = any(r.phase is Phase.UPLOAD and r.status is not RunStatus.DONE for r in counted)
            return Overview(
                runs=_by_status(counted),
                phases={p: _by_status(row for row in counted if row.phase is p) for p in Phase},
                parts=_part_sums(connection, only),
                projects=_projects(connection, counted, all_of_them=only == EVERYTHING),
                failures=_failures(connection, only),
                ledger=_ledger_groups(connection, only),
                reasons=_reasons(connection, only),
                workers=read_workers(connection),
                pauses=_pauses(connection),
                verdicts=count_verdicts(connection, only),
                left_out=_left_out(connection, wanted_parts, only),
                progress=_progress(counted, [], Phase.UPLOAD if uploads else Phase.COPY),
                job=last_job(connection),
                problems=_problems(connection),
            )

    def problems(self) -> list[LeftOutGroup]:
        """What inventories found and left out, completely or in part, by cause, most frequent first."""
        with self._database.read() as connection:
            return _problems(connection)

    def workers(self) -> list[WorkerRow]:
        """All workers that have not stopped, with their claims, and with what verifications are reading."""
        with self._database.read() as connection:
            workers = read_workers(connection)
            reading = count_reading(connection) if any(row.command == "verify" for row in workers) else {}
            return [replace(row, reading=reading.get(row.id, 0)) for row in workers]

    def progress(self, phase: Phase, only: Selection = EVERYTHING) -> Progress:
        """Counters for the progress bars. Cheap enough to call twice per second."""
        with self._database.read() as connection:
            counted = connection.execute(_counters(only)).all()
            running = _running(connection, phase, only)
        return _progress(counted, running, phase)

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
            return _left_out(connection, parts, only)

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


# ---------------------------------------------------------------- counters


def _counters(only: Selection) -> AnySelect:
    """Sums by project, phase and status. Uses only the index `run_progress`."""
    keys = (Run.project_id, Run.phase, Run.status)
    sums = [
        cast(func.coalesce(func.sum(column), 0), BigInteger).label(column.key)
        for column in (Run.size_hint, Run.points_read, Run.points_written, Run.size_bytes)
    ]
    return select(*keys, func.count().label("runs"), *sums).where(*in_selection(Run, only)).group_by(*keys)


def _by_status(counted: Iterable[AnyRow]) -> dict[RunStatus, int]:
    counts = dict.fromkeys(RunStatus, 0)
    for row in counted:
        counts[row.status] += row.runs
    return counts


def _progress(counted: Sequence[AnyRow], running: Sequence[RunningRun], phase: Phase) -> Progress:
    if phase is Phase.COPY:
        return _copy_progress(counted, running)
    return _upload_progress([row for row in counted if row.phase is Phase.UPLOAD], running)


def _copy_progress(counted: Sequence[AnyRow], running: Sequence[RunningRun]) -> Progress:
    runs = _by_status(row for row in counted if row.phase is Phase.COPY)
    runs[RunStatus.DONE] += sum(row.runs for row in counted if row.phase is Phase.UPLOAD)
    wanted = [row for row in counted if row.status is not RunStatus.SKIPPED]
    ended = [row for row in wanted if _has_ended(row)]
    others = [row for row in wanted if not _has_ended(row)]
    whole = [row for row in ended if row.status is not RunStatus.FAILED]
    hinted, count = sum(row.size_hint for row in whole), sum(row.runs for row in whole)
    is_measured = count >= MEASURED_RUNS
    per_hint = sum(row.points_read for row in whole) / hinted if is_measured and hinted else 1.0
    bytes_each = sum(row.size_bytes for row in whole) / count if is_measured else 0.0
    return Progress(
        runs=runs,
        points_read=sum(row.points_read for row in wanted),
        points_written=sum(row.points_written for row in wanted),
        points_expected=sum(row.points_read for row in ended)
        + sum(max(round(row.size_hint * per_hint), row.points_read) for row in others),
        size_bytes=sum(row.size_bytes for row in wanted),
        running=running,
        bytes_expected=sum(row.size_bytes for row in ended)
        + sum(max(round(row.runs * bytes_each), row.size_bytes) for row in others),
        is_measured=is_measured or not others,
    )


def _has_ended(row: AnyRow) -> bool:
    """Whether it is known how much there is to read of these runs."""
    return row.status in (RunStatus.DONE, RunStatus.FAILED) or row.phase is Phase.UPLOAD


def _upload_progress(counted: Sequence[AnyRow], running: Sequence[RunningRun]) -> Progress:
    """The progress of uploads. The points to upload are those that the copy wrote. Running runs count by their part."""
    wanted = [row for row in counted if row.status is not RunStatus.SKIPPED]
    done = [row for row in wanted if row.status is RunStatus.DONE]
    points = sum(row.points_written for row in done) + sum(run.points_read for run in running)
    return Progress(
        runs=_by_status(counted),
        points_read=points,
        points_written=points,
        points_expected=sum(row.points_written for row in wanted),
        size_bytes=sum(row.size_bytes for row in done),
        running=running,
        bytes_expected=sum(row.size_bytes for row in done),
    )


def _running(connection: Connection, phase: Phase, only: Selection) -> list[RunningRun]:
    query = (
        run_query()
        .add_columns(
            seconds_until(Run.active_at).label("left"),
            func.coalesce(Part.read, 0).label("part_read"),
            seconds_until(func.coalesce(Attempt.started_at, Run.active_at)).label("began"),
        )
        .outerjoin(Part, and_(Part.run == Run.id, Part.name == Run.part))
        .outerjoin(Attempt, and_(Attempt.run == Run.id, Attempt.number == Run.attempt))
        .where(Run.claimed_by.is_not(None), Run.phase == phase, *in_selection(Run, only))
        .order_by(Run.started_at, Run.id)
    )
    return [_running_run(row) for row in connection.execute(query)]


def _running_run(row: AnyRow) -> RunningRun:
    read, expected = row.points_read, max(row.size_hint, row.points_read)
    if row.phase is Phase.UPLOAD:
        read, expected = min(row.part_read, row.points_written), row.points_written
    return RunningRun(
        run=row.id,
        ref=ref(row),
        name=row.name,
        worker_id=row.claimed_by,
        part=row.part,
        points_read=read,
        points_expected=expected,
        idle_s=max(0.0, -row.left),
        elapsed_s=max(0.0, -row.began),
    )


# ---------------------------------------------------------------- what `status` shows


def _part_sums(connection: Connection, only: Selection) -> list[PartSums]:
    sums = [func.sum(column) for column in (Part.read, Part.written, Part.skipped, Part.size_bytes)]
    query = select(Part.name, *sums).group_by(Part.name).order_by(Part.name)
    if only != EVERYTHING:
        query = query.join(Run, Run.id == Part.run).where(*in_selection(Run, only))
    return [PartSums(name, *map(int, numbers)) for name, *numbers in connection.execute(query)]


def _projects(connection: Connection, counted: Sequence[AnyRow], *, all_of_them: bool) -> list[ProjectCounts]:
    query = select(Project.__table__).order_by(Project.entity, Project.name, Project.id)
    by_project: dict[int, list[AnyRow]] = {}
    for row in counted:
        by_project.setdefault(row.project_id, []).append(row)
    return [
        ProjectCounts(to_project(row), _by_status(by_project.get(row.id, ())))
        for row in connection.execute(query)
        if all_of_them or row.id in by_project
    ]


def _failures(connection: Connection, only: Selection) -> list[FailureGroup]:
    error_class = func.coalesce(Run.error_class, "unknown")
    count = func.count()
    query = (
        select(error_class, count, func.min(Run.id))
        .where(Run.status == RunStatus.FAILED, *in_selection(Run, only))
        .group_by(error_class)
        .order_by(count.desc(), error_class)
    )
    groups = connection.execute(query).all()
    examples = _named(connection, [run for _, _, run in groups])
    return [
        FailureGroup(word, count, Example(ref(examples[run]), examples[run].error_message or ""))
        for word, count, run in groups
    ]


def _ledger_groups(connection: Connection, only: Selection) -> list[LedgerGroup]:
    keys = (Ledger.reason, Ledger.part, Ledger.kind)
    count = func.sum(Ledger.count)
    query = (
        select(*keys, count, func.count(Ledger.run.distinct()), func.min(Ledger.run))
        .group_by(*keys)
        .order_by(count.desc(), *keys)
    )
    if only != EVERYTHING:
        query = query.join(Run, Run.id == Ledger.run).where(*in_selection(Run, only))
    groups = connection.execute(query).all()
    examples = _named(connection, [group[-1] for group in groups])
    found = []
    for reason, part, kind, count_, runs, run in groups:
        same = (Ledger.reason == reason, Ledger.part == part, Ledger.kind == kind)
        path = connection.execute(select(func.min(Ledger.path)).where(Ledger.run == run, *same)).scalar_one()
        found.append(LedgerGroup(reason, part, kind, int(count_), runs, Example(ref(examples[run]), path or "")))
    return found


def _reasons(connection: Connection, only: Selection) -> list[ReasonGroup]:
    count = func.count()
    query = (
        select(Run.status, Run.reason, count, func.min(Run.id))
        .where(Run.reason.is_not(None), *in_selection(Run, only))
        .group_by(Run.status, Run.reason)
        .order_by(count.desc(), Run.reason)
    )
    groups = connection.execute(query).all()
    examples = _named(connection, [run for *_, run in groups])
    return [ReasonGroup(status, reason or "", count, ref(examples[run])) for status, reason, count, run in groups]


def _pauses(connection: Connection) -> list[Pause]:
    left = seconds_until(Service.not_before)
    query = select(Service.name, left, Service.reason).where(left > 0).order_by(Service.name)
    return [Pause(*row) for row in connection.execute(query)]


def _problems(connection: Connection) -> list[LeftOutGroup]:
    count = func.count()
    groups = select(LeftOut.cause, count).group_by(LeftOut.cause).order_by(count.desc(), LeftOut.cause)
    found = []
    for cause, number in connection.execute(groups).all():
        paths = select(LeftOut.path).where(LeftOut.cause == cause).order_by(LeftOut.path).limit(LEFT_OUT_EXAMPLES)
        found.append(LeftOutGroup(cause, number, list(connection.execute(paths).scalars())))
    return found


def _named(connection: Connection, runs: Sequence[int]) -> dict[int, AnyRow]:
    """The rows of example runs, by number."""
    return {row.id: row for row in connection.execute(run_query().where(one_of(Run.id, runs)))}


def _left_out(connection: Connection, parts: Collection[str], only: Selection) -> dict[str, int]:
    done = [Run.status == RunStatus.DONE, Run.reason.is_(None), *in_selection(Run, only)]
    runs = connection.execute(select(func.count()).select_from(Run).where(*done)).scalar_one()
    query = (
        select(Part.name, func.count())
        .join(Run, Run.id == Part.run)
        .where(*done, Part.name.in_(parts), Part.done_fingerprint == Run.fingerprint)
        .group_by(Part.name)
    )
    missing = dict.fromkeys(parts, int(runs))
    for name, complete in connection.execute(query):
        missing[name] -= complete
    return {name: count for name, count in missing.items() if count}


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
