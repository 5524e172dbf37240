"""How large runs were that have been copied, and how fast it went: what estimates for the others stand on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, and_, func, or_, select

from migrations_db.columns import total
from migrations_db.models import Attempt, Invocation, Part, Run
from migrations_db.report_types import Measured, MeasuredPart, MeasuredSpeed
from migrations_db.states import Outcome, Phase, RunStatus

JOBS_MAX = 3  # ours: the last commands that copied something; older ones had another network, or other runs
LOOKED_AT = 20  # ours: commands among which those are looked for

COPIED = or_(and_(Run.phase == Phase.COPY, Run.status == RunStatus.DONE), Run.phase == Phase.UPLOAD)


def read_measured(connection: Connection) -> Measured:
    """As `Measured` says, inside a transaction."""
    sums = (total(Part.read), total(Part.size_bytes))
    of_parts = select(Part.name, func.count(), *sums).join(Run, Run.id == Part.run).where(COPIED).group_by(Part.name)
    of_rows = select(total(Run.history_rows), *sums).join(Part, Part.run == Run.id)
    of_rows = of_rows.where(COPIED, Part.name == "history", Run.history_rows.is_not(None))
    counts = select(func.count(), func.count().filter(Run.phase == Phase.UPLOAD), total(Run.points_written))
    runs, uploads, written = map(int, connection.execute(counts.where(COPIED)).one())
    rows, row_values, row_bytes = map(int, connection.execute(of_rows).one())
    return Measured(
        runs=runs,
        uploads=uploads,
        written=written,
        rows=rows,
        row_values=row_values,
        row_bytes=row_bytes,
        parts={name: MeasuredPart(*map(int, numbers)) for name, *numbers in connection.execute(of_parts)},
        speed=_speed(connection),
    )


def _speed(connection: Connection) -> MeasuredSpeed | None:
    """By the runs that each command began and ended with one attempt or several."""
    columns = (Invocation.started_at, Invocation.ended_at)
    commands = select(*columns).where(Invocation.command == "run", Invocation.ended_at.is_not(None))
    jobs, runs, values, size_bytes, elapsed_s = 0, 0, 0, 0, 0.0
    for began, ended in connection.execute(commands.order_by(Invocation.id.desc()).limit(LOOKED_AT)):
        done = _done_between(connection, began, ended) if ended and jobs < JOBS_MAX else (0, 0, 0)
        if done[0] and ended:
            jobs, runs, values, size_bytes = jobs + 1, runs + done[0], values + done[1], size_bytes + done[2]
            elapsed_s += (ended - began).total_seconds()
    return MeasuredSpeed(jobs, runs, values, size_bytes, elapsed_s) if jobs and elapsed_s > 0 else None


def _done_between(connection: Connection, began: datetime, ended: datetime) -> tuple[int, int, int]:
    """Runs whose first claim and whose end lie in that time; their values and bytes."""
    whole = (
        select(Attempt.run)
        .where(Attempt.phase == Phase.COPY, Attempt.outcome == Outcome.DONE)
        .where(Attempt.started_at >= began, Attempt.ended_at <= ended)
    )
    sums = select(func.count(), total(Run.points_read), total(Run.size_bytes))
    found = connection.execute(sums.where(Run.id.in_(whole), Run.started_at >= began)).one()
    return int(found[0]), int(found[1]), int(found[2])
