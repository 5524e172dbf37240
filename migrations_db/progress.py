"""Sums over runs by project, phase and status, and what the progress bars show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, and_, func, select

from migrations_db.claiming import in_selection
from migrations_db.columns import seconds_until, total
from migrations_db.models import Attempt, Part, Run
from migrations_db.report_types import Progress, RunningRun
from migrations_db.rows import AnyRow, AnySelect, ref, run_query
from migrations_db.states import Phase, RunStatus
from migrations_db.types import Selection

MEASURED_RUNS = 3  # ours: once this many runs have ended, their sizes are used to estimate the others


def counters(only: Selection) -> AnySelect:
    """Sums by project, phase and status. Uses only the index `run_progress`."""
    keys = (Run.project_id, Run.phase, Run.status)
    columns = (Run.size_hint, Run.points_read, Run.points_written, Run.size_bytes)
    sums = [total(column).label(column.key) for column in columns]
    return select(*keys, func.count().label("runs"), *sums).where(*in_selection(Run, only)).group_by(*keys)


def by_status(counted: Iterable[AnyRow]) -> dict[RunStatus, int]:
    counts = dict.fromkeys(RunStatus, 0)
    for row in counted:
        counts[row.status] += row.runs
    return counts


def progress_of(counted: Sequence[AnyRow], running: Sequence[RunningRun], phase: Phase) -> Progress:
    if phase is Phase.COPY:
        return _copy_progress(counted, running)
    return _upload_progress([row for row in counted if row.phase is Phase.UPLOAD], running)


def _copy_progress(counted: Sequence[AnyRow], running: Sequence[RunningRun]) -> Progress:
    runs = by_status(row for row in counted if row.phase is Phase.COPY)
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
        runs=by_status(counted),
        points_read=points,
        points_written=points,
        points_expected=sum(row.points_written for row in wanted),
        size_bytes=sum(row.size_bytes for row in done),
        running=running,
        bytes_expected=sum(row.size_bytes for row in done),
    )


def running_runs(connection: Connection, phase: Phase, only: Selection) -> list[RunningRun]:
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
