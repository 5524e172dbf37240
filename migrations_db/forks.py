"""Finds forks that wait for each other and can never be copied. Called within transactions of the callers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, update

from migrations_db.claiming import in_selection, one_of
from migrations_db.columns import now_plus
from migrations_db.models import Run
from migrations_db.rows import AnyRow, ref, run_query
from migrations_db.states import Phase, RunStatus
from migrations_db.types import Selection

#: (number of the project, run id)
_Key = tuple[int, str]


def fail_cycles(connection: Connection, phase: Phase, only: Selection, error_class: str) -> list[str]:
    """Mark pending runs that are forks of each other, in a circle, as failed. Returns their names for users."""
    failed: list[str] = []
    for circle in circles(connection, phase, only):
        names = [ref(row) for row in circle]
        _fail(connection, circle, error_class, f"forks of each other: {' -> '.join(names)}")
        failed += names
    return failed


def circles(connection: Connection, phase: Phase, only: Selection) -> list[list[AnyRow]]:
    """The pending runs that are forks of each other."""
    query = run_query().where(
        Run.status == RunStatus.PENDING, Run.phase == phase, Run.fork_run_id.is_not(None), *in_selection(Run, only)
    )
    rows = {(row.project_id, row.run_id): row for row in connection.execute(query)}
    parents = {key: (row.project_id, row.fork_run_id) for key, row in rows.items() if row.fork_run_id != row.run_id}
    return [[rows[key] for key in circle] for circle in _circles(parents)]


def _fail(connection: Connection, runs: list[AnyRow], error_class: str, what: str) -> None:
    pending = update(Run).where(one_of(Run.id, [run.id for run in runs]), Run.status == RunStatus.PENDING)
    values = {
        "status": RunStatus.FAILED,
        "error_class": error_class,
        "error_message": f"{what}. None can be copied before the others: remove one of them from the source, then run "
        "`migrate inventory` and `migrate retry-failed`",
        "finished_at": now_plus(),
    }
    connection.execute(pending.values(values))


def _circles(parents: Mapping[_Key, _Key]) -> Iterator[list[_Key]]:
    """Yield each circle once, without runs that only lead to it."""
    seen: set[_Key] = set()
    for start in parents:
        path: dict[_Key, int] = {}
        key = start
        while key in parents and key not in seen:
            seen.add(key)
            path[key] = len(path)
            key = parents[key]
        if key in path:
            yield list(path)[path[key] :]
