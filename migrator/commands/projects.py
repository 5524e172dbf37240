"""The destinations of projects: their Neptune names, and which projects may share one."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from migrations_db.store import Store
from migrations_db.types import Project, ProjectRow
from migrator.commands.choosing import nothing_has
from migrator.errors import UserError
from migrator.listed import SourceProject
from migrator.naming import Renamed, project_names
from migrator.sources.base import RunFilter, Source


def save_projects(
    store: Store, source: Source, found: Sequence[SourceProject], project_map: Mapping[str, str]
) -> list[Project]:
    """Store the projects with their Neptune names. Names assigned earlier stay, and new projects cannot have them.

    Two projects go to one Neptune project only if `project_map` says so for both. `UserError` if both have a run with
    the same id.
    """
    service, known = source.service, store.inventory.projects()
    owners: dict[str, tuple[str, str]] = {}  # by plain project name, the source (service and entity) that it means
    for project in known:
        owners.setdefault(project.name, (project.source_service, project.entity))

    def key(source_service: str, entity: str, name: str) -> str:
        """A project name, with its entity if another source has the same name."""
        owner = owners.setdefault(name, (source_service, entity))
        return name if owner == (source_service, entity) else f"{entity}/{name}"

    fixed = {
        key(project.source_service, project.entity, project.name): project.destination_name
        for project in known
        if project.destination_name
    }
    keys = [key(service, project.entity, project.name) for project in found]
    full_names = {f"{project.entity}/{project.name}": name for project, name in zip(found, keys, strict=True)}
    project_map = {full_names.get(name, name): chosen for name, chosen in project_map.items()}
    names = project_names([*keys, *fixed], {**fixed, **project_map})
    for name, chosen in project_map.items():
        if name not in keys:
            raise UserError(nothing_has("--project-map", [name], keys, "it takes W&B-project=neptune-project"))
        if fixed.get(name) == chosen:
            continue
        others = (other for other in names if other != name and names[other].name.casefold() == chosen.casefold())
        if clash := next((other for other in others if project_map.get(other) != chosen), None):
            raise UserError(
                f"--project-map sends '{name}' to '{chosen}', where project '{clash}' goes already. To join the two: "
                f"--project-map {name}={chosen} --project-map {clash}={chosen}"
            )
    stored = {key(one.source_service, one.entity, one.name): one for one in known}
    _check_joined(store, source, dict(zip(keys, found, strict=True)), stored, names)
    _move(store, stored, names, project_map)
    rows = [
        ProjectRow(project.entity, project.name, service, project.url, *names[name])
        for project, name in zip(found, keys, strict=True)
    ]
    ids = store.inventory.save_projects(rows)
    by_id = {project.id: project for project in store.inventory.projects()}
    return [by_id[project_id] for project_id in ids]


def _move(store: Store, known: Mapping[str, Project], names: Mapping[str, Renamed], wanted: Collection[str]) -> None:
    """Give projects of earlier inventories the names wanted now. `UserError` if runs of them were copied already."""
    moved = {known[key].id: names[key] for key in wanted if key in known}
    fixed = store.inventory.set_destinations(moved)
    for project in known.values():
        if project.id in fixed:
            raise UserError(
                f"project {project.source} stays in '{project.destination_name}', where runs of it are already. To "
                f"move it: `migrate forget --projects {shlex.quote(project.source)}`, then the same command again, and "
                f"`migrate run` copies all of it to '{moved[project.id].name}' (what is in "
                f"'{project.destination_name}' stays there)"
            )


def _check_joined(
    store: Store,
    source: Source,
    found: Mapping[str, SourceProject],
    stored: Mapping[str, Project],
    names: Mapping[str, Renamed],
) -> None:
    """`UserError` if runs with one id would go to one Neptune project. Projects are keyed by their names for users."""
    joined: dict[str, list[str]] = {}
    for name, renamed in names.items():
        joined.setdefault(renamed.name, []).append(name)
    for destination, projects in joined.items():
        owners: dict[str, str] = {}
        for name in projects if len(projects) > 1 else ():
            listed = source.runs(found[name], RunFilter()) if name in found else ()
            known = store.inventory.run_ids(stored[name].id) if name in stored else ()
            for run_id in {*known, *(listing.run_id for listing in listed)}:
                if (other := owners.setdefault(run_id, name)) != name:
                    raise UserError(
                        f"'{other}' and '{name}' cannot both go to '{destination}': both have a run '{run_id}'. "
                        f"Send one of them elsewhere: --project-map {name}=OTHER"
                    )
