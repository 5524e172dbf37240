"""Lists runs, for users who choose among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from migrations_db.claiming import in_selection
from migrations_db.database import Database
from migrations_db.models import Project, Run
from migrations_db.rows import ref, run_query
from migrations_db.states import Phase, RunStatus
from migrations_db.types import EVERYTHING, Selection

PAGE_ROWS = 1_000  # ours: rows held in memory when a list streams

#: the columns by which runs can be sorted
SORTS: Mapping[str, Sequence[Any]] = {
    "run": (Project.entity, Project.name, Run.run_id),
    "name": (Run.name,),
    "state": (Run.source_state,),
    "status": (Run.phase, Run.status),
    "created": (Run.created_at,),
    "rows": (Run.history_rows,),
    "values": (Run.points_read,),
    "size": (Run.size_bytes,),
    "started": (Run.started_at,),
    "finished": (Run.finished_at,),
}


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a list. `state` is the source's term, `status` ours. `values` are the values read and written."""

    ref: str
    name: str
    state: str
    phase: Phase
    status: RunStatus
    reason: str | None
    error_class: str | None
    created_at: datetime | None
    history_rows: int | None
    values_read: int
    values_written: int
    size_bytes: int
    group: str | None
    sweep: str | None
    tags: Sequence[str]
    destination: str | None
    started_at: datetime | None
    finished_at: datetime | None


class Listing:
    """`store.listing`. Readers never block writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(
        self,
        only: Selection = EVERYTHING,
        statuses: Collection[RunStatus] = (),
        states: Collection[str] = (),
        sort: str = "",
        *,
        descending: bool = False,
    ) -> Iterator[ListedRun]:
        """Runs, one by one, sorted by one of `SORTS`, else in inventory order. Unknown values come last."""
        query = run_query().where(*in_selection(Run, only))
        if statuses:
            query = query.where(Run.status.in_(list(statuses)))
        if states:
            query = query.where(Run.source_state.in_(list(states)))
        for column in SORTS[sort] if sort else ():
            query = query.order_by(column.desc().nulls_last() if descending else column.asc().nulls_last())
        query = query.order_by(Run.id)
        with self._database.browse() as connection:
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield ListedRun(
                    ref=ref(row),
                    name=row.name,
                    state=row.source_state,
                    phase=row.phase,
                    status=row.status,
                    reason=row.reason,
                    error_class=row.error_class,
                    created_at=row.created_at,
                    history_rows=row.history_rows,
                    values_read=row.points_read,
                    values_written=row.points_written,
                    size_bytes=row.size_bytes,
                    group=row.run_group,
                    sweep=row.sweep,
                    tags=row.tags or (),
                    destination=row.destination_name,
                    started_at=row.started_at,
                    finished_at=row.finished_at,
                )

    def values(self, field: str, limit: int, begin: str = "") -> list[str]:
        """The different values of runs in a field of `selecting.Wanted` that start with `begin`, at most `limit`."""
        columns = {
            "run_ids": Run.run_id,
            "names": Run.name,
            "groups": Run.run_group,
            "sweeps": Run.sweep,
            "states": Run.source_state,
        }
        with self._database.read() as connection:
            if field.endswith("projects"):
                query = select(Project.entity, Project.name).order_by(Project.entity, Project.name)
                return [f"{row.entity}/{row.name}" for row in connection.execute(query.limit(limit))]
            column = columns[field]
            begins = column.startswith(begin, autoescape=True)
            values = select(column).where(column.is_not(None), begins).distinct().order_by(column).limit(limit)
            return [str(value) for value in connection.execute(values).scalars()]

    def at_position(self, position: str) -> list[tuple[str, str]]:
        """Runs at this position of the destination: (project there, run id)."""
        query = run_query().where(Run.position == position, Project.destination_name.is_not(None)).order_by(Run.id)
        with self._database.read() as connection:
            return [(row.destination_name, row.run_id) for row in connection.execute(query)]

    def last_mapping(self) -> Mapping[str, Any] | None:
        """The mapping options of the run whose copy began last. None: no copy has begun."""
        query = select(Run.mapping).where(Run.mapping.is_not(None)).order_by(Run.started_at.desc(), Run.id.desc())
        with self._database.read() as connection:
            mapping: Mapping[str, Any] | None = connection.execute(query.limit(1)).scalar()
        return mapping

    def mappings(self, only: Selection = EVERYTHING) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Runs whose copy has begun, and may have ended: (ref, the mapping options with which it began)."""
        conditions = [Run.mapping.is_not(None), *in_selection(Run, only)]
        with self._database.browse() as connection:
            query = run_query().where(*conditions).order_by(Run.id)
            for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
                yield ref(row), row.mapping
