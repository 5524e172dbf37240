"""Workers: heartbeats that renew leases, and what happens to the claims of workers that die."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection, exists, or_, select, update

from migrations_db import attempts
from migrations_db.columns import now_plus, seconds_until
from migrations_db.database import Database
from migrations_db.models import Project, Run, Worker
from migrations_db.rows import ref
from migrations_db.states import Outcome
from migrations_db.types import Activity, Failure, Stalled, WorkerInfo

SILENT_S = 60.0  # ours: heartbeats come every few seconds


class Workers:
    """`store.workers`. Called by each worker's heartbeat and by the supervisor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, worker: WorkerInfo) -> None:
        """Register a worker, before its first claim."""
        row = {
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "pid_started": worker.pid_started,
            "invocation_id": worker.invocation_id,
            "started_at": now_plus(),
            "heartbeat_at": now_plus(),
        }
        with self._database.write() as connection:
            connection.execute(self._database.insert(Worker).values(row).on_conflict_do_nothing())

    def heartbeat(self, worker_id: str, lease_s: float, active: Mapping[int, Activity] | None = None) -> dict[int, int]:
        """Renew the leases of the worker's claims. Returns {run: attempt} of all that it still holds.

        `active` says for each run what the worker does. Leases of other runs are not renewed: if the connection broke
        before the worker learned of a claim, its run becomes free again. None: renew all. A run missing from the answer
        is lost: stop writing it.
        """
        with self._database.write() as connection:
            runs = {run.run: run.attempt for run in attempts.held(connection, Run.claimed_by == worker_id)}
            # A worker with a heartbeat is alive, even if it was recorded as stopped.
            alive = {"heartbeat_at": now_plus(), "stopped_at": None}
            connection.execute(update(Worker).where(Worker.id == worker_id).values(alive))
            if renewed := [run for run in runs if active is None or run in active]:
                leases = update(Run).where(Run.id.in_(renewed))
                connection.execute(leases.values(lease_until=now_plus(lease_s)))
            for run, activity in (active or {}).items():
                if run in runs:
                    values = {"part": activity.part, "active_at": now_plus(-activity.idle_s)}
                    connection.execute(update(Run).where(Run.id == run).values(values))
        return runs

    def alive(self) -> list[WorkerInfo]:
        """The workers that have not stopped, as far as is known (see `recover`)."""
        columns = (Worker.id, Worker.host, Worker.pid, Worker.pid_started, Worker.invocation_id)
        query = select(*columns).where(Worker.stopped_at.is_(None)).order_by(Worker.id)
        with self._database.read() as connection:
            return [WorkerInfo(*row) for row in connection.execute(query)]

    def stop(self, worker_id: str) -> None:
        """Record that the worker has ended. Claims that it still holds are released, not counted as failures."""
        with self._database.write() as connection:
            runs = attempts.held(connection, Run.claimed_by == worker_id)
            attempts.give_back(connection, [run.run for run in runs], Outcome.RELEASED)
            _mark_stopped(connection, [worker_id])

    def recover(self, host: str, is_alive: Callable[[int, float], bool]) -> int:
        """Release the claims of this host's workers whose process is gone, not counted as failures. Returns how many.

        `is_alive(pid, pid_started)` is called outside of any transaction. Workers of other hosts keep their claims
        until the leases end. They are removed when they are silent and hold no claims.
        """
        idle = ~exists().where(Run.claimed_by == Worker.id)
        query = select(Worker.id, Worker.host, Worker.pid, Worker.pid_started).where(
            Worker.stopped_at.is_(None),
            or_(Worker.host == host, (Worker.heartbeat_at < now_plus(-SILENT_S)) & idle),
        )
        with self._database.read() as connection:
            workers = connection.execute(query).all()
        gone = [worker.id for worker in workers if worker.host != host]
        dead = [w.id for w in workers if w.host == host and not is_alive(w.pid, w.pid_started)]
        if not dead and not gone:
            return 0
        with self._database.write() as connection:
            runs = attempts.held(connection, Run.claimed_by.in_(dead))
            attempts.give_back(connection, [run.run for run in runs], Outcome.LOST)
            _mark_stopped(connection, dead + gone)
        return len(runs)

    def crash(
        self,
        worker_id: str,
        culprits: Collection[int] | None,
        failure: Failure,
        outcome: Outcome,
        max_failures: int,
    ) -> int:
        """Record that a worker died or was killed. Returns how many failures were counted.

        Culprits fail with `outcome` CRASHED or STALLED. Other claims are released, not counted as failures. Culprits
        None: not known. A single claim is then the culprit; of several claims none is blamed, but those without
        progress become suspects.
        """
        with self._database.write() as connection:
            runs = attempts.held(connection, Run.claimed_by == worker_id)
            _mark_stopped(connection, [worker_id])
            if culprits is None and len(runs) > 1:
                attempts.give_back(connection, [run.run for run in runs], Outcome.CRASHED, failure=failure)
                return 0
            guilty = [run for run in runs if culprits is None or run.run in culprits]
            for run in guilty:
                attempts.count_failure(connection, run, outcome, failure, max_failures=max_failures)
            others = [run.run for run in runs if run not in guilty]
            attempts.give_back(connection, others, Outcome.LOST)
        return len(guilty)

    def stalled(self, worker_ids: Collection[str], older_than_s: float) -> list[Stalled]:
        """Claims of these workers without progress for longer than `older_than_s`, the longest first."""
        query = (
            select(
                Run.claimed_by,
                Run.id,
                Run.part,
                seconds_until(Run.active_at).label("left"),
                Project.entity,
                Project.name.label("project"),
                Run.run_id,
            )
            .join(Project, Project.id == Run.project_id)
            .where(Run.claimed_by.in_(worker_ids), Run.active_at < now_plus(-older_than_s))
            .order_by(Run.active_at)
        )
        with self._database.read() as connection:
            return [Stalled(row.claimed_by, row.id, ref(row), row.part, -row.left) for row in connection.execute(query)]


def _mark_stopped(connection: Connection, worker_ids: Collection[str]) -> None:
    connection.execute(update(Worker).where(Worker.id.in_(worker_ids)).values(stopped_at=now_plus()))
