"""Who is at work: the workers that have not stopped, and their claims."""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, literal, select

from migrations_db.columns import seconds_until
from migrations_db.models import Attempt, Invocation, Project, Run, Worker
from migrations_db.report_types import WorkerRow
from migrations_db.rows import ref
from migrations_db.states import RunStatus


def read_workers(connection: Connection) -> list[WorkerRow]:
    """One row for each claim, and one for each worker without a claim."""
    query = (
        select(
            Worker.id,
            Worker.host,
            Worker.pid,
            seconds_until(Worker.heartbeat_at).label("heartbeat_left"),
            Invocation.command,
            Run.id.label("run"),
            Run.run_id,
            Run.part,
            seconds_until(Run.active_at).label("active_left"),
            Project.entity,
            Project.name.label("project"),
            func.coalesce(Attempt.started_at, Worker.started_at).label("since"),
            seconds_until(func.coalesce(Attempt.started_at, Worker.started_at)).label("since_left"),
        )
        .outerjoin(Run, Run.claimed_by == Worker.id)
        .outerjoin(Project, Project.id == Run.project_id)
        .outerjoin(Attempt, and_(Attempt.run == Run.id, Attempt.number == Run.attempt))
        .outerjoin(Invocation, Invocation.id == Worker.invocation_id)
        .where(Worker.stopped_at.is_(None))
        .order_by(Worker.id, Run.id)
    )
    return [
        WorkerRow(
            id=row.id,
            host=row.host,
            pid=row.pid,
            heartbeat_age_s=max(0.0, -row.heartbeat_left),
            run=row.run,
            ref=ref(row) if row.run is not None else None,
            part=row.part,
            idle_s=None if row.active_left is None else max(0.0, -row.active_left),
            command=row.command,
            since=row.since,
            elapsed_s=max(0.0, -row.since_left),
        )
        for row in connection.execute(query)
    ]


def count_reading(connection: Connection) -> dict[str, int]:
    """How many runs each verification has in hand, by its worker."""
    done = literal(RunStatus.DONE, Run.status.type, literal_execute=True)  # so that the partial index is used
    query = (
        select(Run.verifier, func.count())
        .where(Run.status == done, Run.verdict.is_(None), Run.verifier.is_not(None))
        .group_by(Run.verifier)
    )
    return {str(verifier): count for verifier, count in connection.execute(query)}
