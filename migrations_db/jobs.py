"""The command that is copying or uploading now, or was the last to do so."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from migrations_db.columns import seconds_until, total
from migrations_db.models import Invocation, Run, Worker
from migrations_db.report_types import JobRow


def last_job(connection: Connection) -> JobRow | None:
    """The current or last job, as `JobRow` describes. None: there was none."""
    alive = (
        select(func.min(Invocation.id))
        .join(Worker, Worker.invocation_id == Invocation.id)
        .where(Worker.stopped_at.is_(None), Invocation.ended_at.is_(None))
    )
    last = select(func.max(Invocation.id)).where(Invocation.command.in_(["run", "sync"]))
    number = func.coalesce(alive.scalar_subquery(), last.scalar_subquery())
    columns = (Invocation.command, Invocation.started_at, Invocation.ended_at, Invocation.exit_code)
    ages = (seconds_until(Invocation.started_at).label("began"), seconds_until(Invocation.ended_at).label("ended"))
    row = connection.execute(select(*columns, *ages).where(Invocation.id == number)).one_or_none()
    if row is None:
        return None
    began_since = select(total(Run.points_read), total(Run.size_bytes)).where(Run.started_at >= row.started_at)
    values_read, size_bytes = map(int, connection.execute(began_since).one())
    elapsed_s = max(0.0, (row.ended or 0.0) - row.began)
    return JobRow(row.command, row.started_at, row.ended_at, row.exit_code, elapsed_s, values_read, size_bytes)
