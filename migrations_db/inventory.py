"""What an inventory writes: projects, runs, and which runs it did not find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    Connection,
    Table,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from migrations_db.claiming import one_of
from migrations_db.columns import safe
from migrations_db.database import Database
from migrations_db.models import LeftOut, Part, Project, Run
from migrations_db.rows import AnyRow, to_project
from migrations_db.states import Phase, RunStatus, Unseen, listed
from migrations_db.types import Counts, LeftOutRow, ProjectRow, RunRow
from migrations_db.types import Project as ProjectData

GONE_REASON = "gone from the source"
EXCLUDED_REASON = "does not pass the filters of `inventory --only`"


class Inventory:
    """`store.inventory`. Safe to use while workers copy."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_projects(self, rows: Sequence[ProjectRow]) -> list[int]:
        """Insert or refresh projects. Returns their ids in the given order. An existing destination name stays."""
        with self._database.write() as connection:
            return [self._save_project(connection, row) for row in rows]

    def set_destinations(self, chosen: Mapping[int, tuple[str, str | None]]) -> list[int]:
        """Change the destinations of projects. `chosen`: by project number, the new name and why it differs.

        The destination is fixed once it has data of the project. Returns the projects for which that is the case; if
        there are any, nothing is changed.
        """
        with self._database.write() as connection:
            begun = or_(Run.position.is_not(None), Run.status == RunStatus.RUNNING, exists().where(Part.run == Run.id))
            wanted = select(Project.id, Project.destination_name).where(one_of(Project.id, list(chosen)))
            moved = [row.id for row in connection.execute(wanted) if row.destination_name != chosen[row.id][0]]
            has_data = select(Run.project_id).where(one_of(Run.project_id, moved), begun).distinct()
            if fixed := list(connection.execute(has_data).scalars()):
                return fixed
            for project_id in moved:
                name, note = chosen[project_id]
                values = {"destination_name": name, "name_note": note}
                connection.execute(update(Project).where(Project.id == project_id).values(values))
        return []

    def projects(self) -> list[ProjectData]:
        """All projects, sorted by entity and name."""
        query = select(Project.__table__).order_by(Project.entity, Project.name, Project.id)
        with self._database.read() as connection:
            return [to_project(row) for row in connection.execute(query)]

    def listed_twice(self) -> list[Twin]:
        """Pairs of projects with one name at different services, and how many run ids both have.

        These are probably the same runs, listed in two ways.
        """
        one, other = aliased(Project), aliased(Project)
        run, twin = aliased(Run), aliased(Run)
        query = (
            select(one.id, other.id, func.count())
            .select_from(one)
            .join(other, (other.name == one.name) & (other.source_service > one.source_service))
            .join(run, run.project_id == one.id)
            .join(twin, (twin.project_id == other.id) & (twin.run_id == run.run_id))
            .where(run.status != RunStatus.SKIPPED, twin.status != RunStatus.SKIPPED)
            .group_by(one.id, other.id)
            .order_by(one.id, other.id)
        )
        projects = {project.id: project for project in self.projects()}
        with self._database.read() as connection:
            return [
                Twin(projects[first], projects[second], count) for first, second, count in connection.execute(query)
            ]

    def save_runs(self, project_id: int, rows: Iterable[RunRow], inventory_id: int) -> Counts:
        """Save one page of a listing, a few hundred to a few thousand rows, in one transaction.

        New runs become pending. A run that has changed since its copy began becomes pending again, in phase copy, with
        cursors and counts kept (a running run is left to its worker; a later inventory sees the change again). A
        skipped run that is listed again becomes pending. For other runs only the metadata is refreshed.
        """
        page = {safe(row.run_id): row for row in rows}
        with self._database.write() as connection:
            known = [_compare(old, page[old.run_id]) for old in _known(connection, project_id, page)]
            ids = {run.run_id: run.id for run in known}
            new = [_new_run(project_id, row, inventory_id) for run_id, row in page.items() if run_id not in ids]
            if new:
                connection.execute(self._database.insert(Run).on_conflict_do_nothing(), new)
            if differ := [run.parameters for run in known if run.differs]:
                connection.execute(_UPDATE_LISTED, differ)
            revived = update(Run).where(one_of(Run.id, [run.id for run in known if run.revived]))
            connection.execute(revived.values(_FRESH_START))
            connection.execute(
                update(Run).where(one_of(Run.id, ids.values()), Run.seen < inventory_id).values(seen=inventory_id)
            )
        changed = sum(run.changed for run in known)
        return Counts(new=len(new), changed=changed, unchanged=len(known) - changed)

    def not_listed(self, inventory_id: int) -> dict[int, int]:
        """The number of runs that wait to be copied and that this inventory did not list, by project number."""
        count = func.count().label("runs")
        query = select(Run.project_id, count).where(Run.seen < inventory_id, *_WAITS).group_by(Run.project_id)
        with self._database.read() as connection:
            return {row.project_id: row.runs for row in connection.execute(query)}

    def run_ids(self, project_id: int) -> list[str]:
        """The ids of all known runs of a project."""
        with self._database.read() as connection:
            return list(connection.execute(select(Run.run_id).where(Run.project_id == project_id)).scalars())

    def locations(self, source_service: str) -> dict[tuple[str, str, str], list[str]]:
        """The places of a service's runs on disk, by entity, project and run id."""
        query = select(Project.entity, Project.name, Run.run_id, Run.location).join(
            Project, Project.id == Run.project_id
        )
        found = query.where(Project.source_service == source_service, Run.location.is_not(None))
        with self._database.read() as connection:
            return {(row.entity, row.name, row.run_id): row.location for row in connection.execute(found)}

    def save_left_out(
        self, source_service: str, roots: Sequence[str], rows: Iterable[LeftOutRow], inventory_id: int
    ) -> None:
        """Save what an inventory of these directories left out. Replaces what earlier ones left out below them."""
        new = [
            {"source_service": source_service, "cause": row.cause, "path": safe(row.path), "seen": inventory_id}
            for row in rows
        ]
        known = select(LeftOut.id, LeftOut.path).where(LeftOut.source_service == source_service)
        with self._database.write() as connection:
            again = [row.id for row in connection.execute(known) if _is_below(row.path, roots)]
            connection.execute(delete(LeftOut).where(one_of(LeftOut.id, again)))
            if new:
                connection.execute(insert(LeftOut), new)

    def finish_inventory(
        self, project_id: int, inventory_id: int, unseen: Unseen, roots: Sequence[str] | None = None
    ) -> int:
        """Update runs that the inventory did not list. Returns how many became skipped.

        `roots`: the directories that the inventory examined. Runs elsewhere are not changed (None: it examined
        everything).

        GONE: failed runs, and pending runs of which nothing was copied, are skipped. Others stay as they are, with a
        note in `reason` unless they are running.
        EXCLUDED: pending runs are skipped. If they are listed again later, their cursors are still there.
        """
        not_listed = [Run.project_id == project_id, Run.seen < inventory_id]  # a later inventory may be listing now
        skipped = {"status": RunStatus.SKIPPED, "not_before": None, "finished_at": None}
        with self._database.write() as connection:
            if roots is not None:
                places = connection.execute(select(Run.id, Run.location).where(*not_listed)).all()
                looked_at = [run for run, place in places if place and all(_is_below(path, roots) for path in place)]
                not_listed.append(one_of(Run.id, looked_at))
            skippable = [*not_listed, Run.phase == Phase.COPY]
            if unseen is Unseen.EXCLUDED:
                pending = update(Run).where(*not_listed, *_WAITS)
                return connection.execute(pending.values(skipped | {"reason": EXCLUDED_REASON})).rowcount
            lost = update(Run).where(
                *skippable,
                or_(
                    Run.status == RunStatus.FAILED,
                    and_(Run.status == RunStatus.PENDING, ~exists().where(Part.run == Run.id)),
                ),
            )
            count = connection.execute(lost.values(skipped | {"reason": GONE_REASON})).rowcount
            copied = update(Run).where(*not_listed, Run.status.not_in([RunStatus.SKIPPED, RunStatus.RUNNING]))
            connection.execute(copied.values(reason=GONE_REASON))
            return count

    def _save_project(self, connection: Connection, row: ProjectRow) -> int:
        new = self._database.insert(Project).values(
            entity=row.entity,
            name=row.name,
            source_service=row.source_service,
            url=row.url,
            destination_name=row.destination_name,
            name_note=row.name_note,
        )
        undecided = Project.destination_name.is_(None)
        refresh = new.on_conflict_do_update(
            index_elements=[Project.source_service, Project.entity, Project.name],
            set_={
                "url": new.excluded.url,
                "destination_name": func.coalesce(Project.destination_name, new.excluded.destination_name),
                "name_note": case((undecided, new.excluded.name_note), else_=Project.name_note),
            },
        )
        return connection.execute(refresh.returning(Project.id)).scalar_one()


#: the conditions for a run that waits to be copied
_WAITS = (Run.phase == Phase.COPY, Run.status == RunStatus.PENDING)


def _is_below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path is one of the directories or below one."""
    return any(path == root or path.startswith(f"{root.rstrip('/')}/") for root in roots)


class Twin(NamedTuple):
    """Two projects that share runs."""

    one: ProjectData
    other: ProjectData
    runs: int


class _Known(NamedTuple):
    """A run that was in the table already, and how it changes."""

    id: int
    run_id: str
    #: for `_UPDATE_LISTED`
    parameters: dict[str, Any]
    #: whether the parameters contain anything new
    differs: bool
    #: whether it becomes pending again
    revived: bool
    #: whether the source run has changed
    changed: bool


def _known(connection: Connection, project_id: int, page: Iterable[str]) -> list[AnyRow]:
    """The rows for a page of runs, locked in the order of their numbers (see `attempts.held`)."""
    query = select(Run.__table__).where(Run.project_id == project_id, one_of(Run.run_id, list(page)))
    return list(connection.execute(query.order_by(Run.id).with_for_update()))


def _compare(old: AnyRow, row: RunRow) -> _Known:
    since_copy = old.copied_fingerprint not in (None, row.fingerprint)
    status = listed(old.status, changed=since_copy)
    phase = Phase.COPY if since_copy and status is not RunStatus.RUNNING else old.phase
    values = _metadata(row) | {"phase": phase, "status": status, "reason": None}
    return _Known(
        id=old.id,
        run_id=old.run_id,
        parameters={"_id": old.id} | {f"_{column}": value for column, value in values.items()},
        differs=any(getattr(old, column) != value for column, value in values.items()),
        revived=status is not old.status,
        changed=status is not old.status or row.fingerprint != old.fingerprint,
    )


#: values for a run that becomes pending again because the source has changed
_FRESH_START = {
    "failures": 0,
    "silent_attempts": 0,
    "not_before": None,
    "error_class": None,
    "error_message": None,
    "finished_at": None,
}


def _new_run(project_id: int, row: RunRow, inventory_id: int) -> dict[str, Any]:
    return _metadata(row) | {
        "project_id": project_id,
        "run_id": row.run_id,
        "seen": inventory_id,
        "phase": Phase.COPY,
        "status": RunStatus.PENDING,
        "attempt": 0,
        "failures": 0,
        "silent_attempts": 0,
        "points_read": 0,
        "points_written": 0,
        "size_bytes": 0,
    }


def _metadata(row: RunRow) -> dict[str, Any]:
    """The columns that a listing fills, in the form in which the table returns them."""
    return {
        "name": safe(row.name),
        "source_state": row.source_state,
        "created_at": row.created_at,
        "heartbeat_at": row.heartbeat_at,
        "history_rows": row.history_rows,
        "size_hint": row.size_hint,
        "fingerprint": row.fingerprint,
        "location": None if row.location is None else list(row.location),
        "fork_run_id": row.fork_run_id,
        "fork_step": row.fork_step,
        "tags": list(row.tags),
        "run_group": None if row.group is None else safe(row.group),
        "sweep": row.sweep,
    }


def _update_listed() -> Update:
    run = cast(Table, Run.__table__)
    columns = [*_metadata(RunRow("", "", "", "")), "phase", "status", "reason"]
    values = {name: bindparam(f"_{name}", type_=run.c[name].type) for name in columns}
    return update(run).where(run.c.id == bindparam("_id")).values(values)


#: updates one known run; the parameters are the columns with a leading underscore
_UPDATE_LISTED = _update_listed()
