"""Finds the numbers of the runs that a user asks for, and what matches nothing in the table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sqlalchemy import Connection, select

from migrations_db.claiming import one_of
from migrations_db.columns import safe
from migrations_db.models import Project, Run
from migrations_db.rows import AnyRow
from migrations_db.types import EVERYTHING, Selection


@dataclass(frozen=True, slots=True)
class Wanted:
    """The runs to find: those with one of the values in each field. An empty field does not limit. Globs respect case.

    `projects` and `exclude_projects` are globs for "name" or "entity/name", `names` for display names. `run_ids` are
    run ids or "entity/project/run id".
    """

    projects: Sequence[str] = ()
    exclude_projects: Sequence[str] = ()
    run_ids: Sequence[str] = ()
    names: Sequence[str] = ()
    groups: Sequence[str] = ()
    sweeps: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The runs found and, by field of `Wanted`, the values that match nothing in the table."""

    selection: Selection
    unmatched: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find(connection: Connection, wanted: Wanted) -> Found:
    """Find runs. Fork ancestors of single runs are included, because a fork waits for its parent."""
    if wanted == Wanted():
        return Found(EVERYTHING)
    rows = connection.execute(select(Project.id, Project.entity, Project.name)).all()
    names = {row.id: (row.name, f"{row.entity}/{row.name}") for row in rows}
    projects = {
        number: both[1]
        for number, both in names.items()
        if (not wanted.projects or _any_match(both, wanted.projects)) and not _any_match(both, wanted.exclude_projects)
    }
    unmatched: dict[str, list[str]] = {
        field_name: [glob for glob in globs if not any(_any_match(both, [glob]) for both in names.values())]
        for field_name, globs in (("projects", wanted.projects), ("exclude_projects", wanted.exclude_projects))
    }
    if not (wanted.run_ids or wanted.names or wanted.groups or wanted.sweeps):
        return Found(Selection(projects=tuple(sorted(projects))), _filled(unmatched))
    found = _named_runs(connection, projects, wanted.run_ids, unmatched) if wanted.run_ids else None
    if wanted.names or wanted.groups or wanted.sweeps:
        described = _described_runs(connection, projects, wanted, unmatched)
        found = described if found is None else {number: found[number] for number in found.keys() & described.keys()}
    return Found(Selection(runs=_with_ancestors(connection, (found or {}).values())), _filled(unmatched))


def _filled(unmatched: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: values for name, values in unmatched.items() if values}


def _any_match(names: Iterable[str], globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def _named_runs(
    connection: Connection, projects: Mapping[int, str], run_ids: Sequence[str], unmatched: dict[str, list[str]]
) -> dict[int, AnyRow]:
    asked = {safe(text): text for text in run_ids}
    found: dict[int, AnyRow] = {}
    seen: set[str] = set()
    for run in _by_run_id(connection, {text.rpartition("/")[2] for text in asked} | asked.keys()):
        if run.project_id in projects:
            names = {run.run_id, f"{projects[run.project_id]}/{run.run_id}"} & asked.keys()
            seen |= names
            if names:
                found[run.id] = run
    unmatched["run_ids"] = [text for key, text in asked.items() if key not in seen]
    return found


def _described_runs(
    connection: Connection, projects: Mapping[int, str], wanted: Wanted, unmatched: dict[str, list[str]]
) -> dict[int, AnyRow]:
    found: dict[int, AnyRow] = {}
    seen: dict[str, set[str]] = {"names": set(), "groups": set(), "sweeps": set()}
    columns = (Run.id, Run.project_id, Run.run_id, Run.fork_run_id, Run.name, Run.run_group, Run.sweep)
    for run in connection.execute(select(*columns).where(one_of(Run.project_id, list(projects)))):
        names = {glob for glob in wanted.names if fnmatchcase(run.name, glob)}
        groups, sweeps = {run.run_group} & {*wanted.groups}, {run.sweep} & {*wanted.sweeps}
        for field_name, values in (("names", names), ("groups", groups), ("sweeps", sweeps)):
            seen[field_name] |= values
        if all(
            met or not asked for met, asked in ((names, wanted.names), (groups, wanted.groups), (sweeps, wanted.sweeps))
        ):
            found[run.id] = run
    for field_name, values in seen.items():
        unmatched[field_name] = [value for value in getattr(wanted, field_name) if value not in values]
    return found


def _with_ancestors(connection: Connection, runs: Iterable[AnyRow]) -> tuple[int, ...]:
    """The numbers of these runs and of their fork ancestors in the table."""
    new = list(runs)
    found: set[int] = set()
    while new:
        found |= {run.id for run in new}
        parents = {(run.project_id, run.fork_run_id) for run in new if run.fork_run_id}
        named = _by_run_id(connection, {run_id for _, run_id in parents}) if parents else ()
        new = [run for run in named if (run.project_id, run.run_id) in parents and run.id not in found]
    return tuple(sorted(found))


def _by_run_id(connection: Connection, run_ids: Collection[str]) -> Sequence[AnyRow]:
    query = select(Run.id, Run.project_id, Run.run_id, Run.fork_run_id).where(one_of(Run.run_id, run_ids))
    return connection.execute(query).all()
