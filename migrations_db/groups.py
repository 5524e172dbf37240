"""What `migrate status` shows, grouped: parts, projects, failures, ledger lines, reasons, workers, pauses."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, func, select

from migrations_db.claiming import in_selection, one_of
from migrations_db.columns import seconds_until
from migrations_db.models import Ledger, LeftOut, Part, Project, Run, Service
from migrations_db.progress import by_status
from migrations_db.report_types import (
    Example,
    FailureGroup,
    LedgerGroup,
    LeftOutGroup,
    PartSums,
    ProjectCounts,
    ReasonGroup,
)
from migrations_db.rows import AnyRow, ref, run_query, to_project
from migrations_db.states import RunStatus
from migrations_db.types import EVERYTHING, Pause, Selection

LEFT_OUT_EXAMPLES = 3  # paths shown per cause


def part_sums(connection: Connection, only: Selection) -> list[PartSums]:
    sums = [func.sum(column) for column in (Part.read, Part.written, Part.skipped, Part.size_bytes)]
    query = select(Part.name, *sums).group_by(Part.name).order_by(Part.name)
    if only != EVERYTHING:
        query = query.join(Run, Run.id == Part.run).where(*in_selection(Run, only))
    return [PartSums(name, *map(int, numbers)) for name, *numbers in connection.execute(query)]


def projects(connection: Connection, counted: Sequence[AnyRow], *, all_of_them: bool) -> list[ProjectCounts]:
    query = select(Project.__table__).order_by(Project.entity, Project.name, Project.id)
    by_project: dict[int, list[AnyRow]] = {}
    for row in counted:
        by_project.setdefault(row.project_id, []).append(row)
    return [
        ProjectCounts(to_project(row), by_status(by_project.get(row.id, ())))
        for row in connection.execute(query)
        if all_of_them or row.id in by_project
    ]


def failures(connection: Connection, only: Selection) -> list[FailureGroup]:
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


def ledger_groups(connection: Connection, only: Selection) -> list[LedgerGroup]:
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


def reasons(connection: Connection, only: Selection) -> list[ReasonGroup]:
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


def pauses(connection: Connection) -> list[Pause]:
    left = seconds_until(Service.not_before)
    query = select(Service.name, left, Service.reason).where(left > 0).order_by(Service.name)
    return [Pause(*row) for row in connection.execute(query)]


def problems(connection: Connection) -> list[LeftOutGroup]:
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


def left_out(connection: Connection, parts: Collection[str], only: Selection) -> dict[str, int]:
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
