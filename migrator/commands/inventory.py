"""`migrate inventory`: lists the source's runs into the state database. Again: refreshes it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from migrations_db.states import Unseen
from migrations_db.store import Store
from migrations_db.types import Counts, Project, ProjectRow, RunRow
from migrator.errors import UserError
from migrator.naming import project_names
from migrator.records import RunListing, SourceProject
from migrator.sources.base import RunFilter, Source

PAGE_RUNS = 500  # runs saved in one transaction
POINTS_PER_ROW = 10  # a guess, for the order of claims and for progress bars


@dataclass(frozen=True, slots=True)
class Scope:
    """What to list. `projects` are names or globs ("name" or "entity/name"); empty: all."""

    entity: str | None = None
    projects: Sequence[str] = ()
    only: RunFilter = field(default_factory=RunFilter)
    project_map: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False  # the source tells all projects that the entity has, and all are in scope


@dataclass(frozen=True, slots=True)
class ProjectResult:
    """What was found in one project. `unseen` runs are in the database, but were not listed this time."""

    project: Project
    listed: int
    counts: Counts
    history_rows: int
    states: Mapping[str, int]
    unseen: int


def matches(project: SourceProject, patterns: Sequence[str]) -> bool:
    """Whether a project is meant: its name, or "entity/name", by any pattern; no pattern means all."""
    full_name = f"{project.entity}/{project.name}"
    return not patterns or any(
        fnmatch.fnmatchcase(project.name, pattern) or fnmatch.fnmatchcase(full_name, pattern) for pattern in patterns
    )


def find_projects(source: Source, scope: Scope) -> list[SourceProject]:
    """The projects in scope. `UserError` when nothing matches, or one of the patterns does not."""
    found = [project for project in source.projects(scope.entity) if matches(project, scope.projects)]
    if not found:
        wanted = ", ".join(scope.projects) or "any project"
        raise UserError(
            f"no project matches {wanted}"
            + (f" in entity '{scope.entity}'" if scope.entity else "")
            + ": `migrate inventory` without --projects lists all"
        )
    for pattern in scope.projects:  # a name that matches nothing is a typing error; better told than left out
        if not any(matches(project, [pattern]) for project in found):
            raise UserError(f"no project matches '{pattern}': `migrate inventory` without --projects lists all")
    return found


def take_inventory(
    source: Source,
    found: Sequence[SourceProject],
    store: Store,
    scope: Scope,
    inventory_id: int,
    tick: Callable[[str, int, int | None], None],
) -> Iterator[ProjectResult]:
    """List all runs in scope of the projects that were found, one after the other, and save them page by page.

    Runs that are in the database, but not listed, are gone; with `scope.whole` also those of projects not found.

    `tick(project, runs listed, runs in all or None)` follows the progress.
    """
    saved = save_projects(store, source.service, found, scope.project_map)
    filtered = scope.only != RunFilter()
    for project, row in zip(found, saved, strict=True):
        total = None if filtered else source.count_runs(project)
        states: dict[str, int] = {}
        counts, listed, history_rows = Counts(), 0, 0
        tick(project.name, 0, total)
        for page in _pages(source.runs(project, scope.only), PAGE_RUNS):
            counts += store.inventory.save_runs(row.id, [run_row(listing) for listing in page], inventory_id)
            for listing in page:
                listed += 1
                history_rows += listing.history_rows or 0
                states[listing.source_state] = states.get(listing.source_state, 0) + 1
            tick(project.name, listed, total)
        unseen = store.inventory.finish_inventory(row.id, inventory_id, Unseen.EXCLUDED if filtered else Unseen.GONE)
        yield ProjectResult(row, listed, counts, history_rows, states, unseen)
    if scope.whole and not filtered:
        entities, listed_ids = {project.entity for project in found}, {row.id for row in saved}
        for row in store.inventory.projects():
            is_gone = row.source_service == source.service and row.entity in entities and row.id not in listed_ids
            if is_gone and (unseen := store.inventory.finish_inventory(row.id, inventory_id, Unseen.GONE)):
                yield ProjectResult(row, 0, Counts(), 0, {}, unseen)


def save_projects(
    store: Store, service: str, found: Sequence[SourceProject], project_map: Mapping[str, str]
) -> list[Project]:
    """Store the projects with their Neptune names; names given earlier stay, and are taken for newcomers."""
    known = store.inventory.projects()
    owners: dict[str, tuple[str, str]] = {}  # the source (service and entity) that a plain project name stands for
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
    names = project_names([*keys, *fixed], {**fixed, **project_map})
    for name, chosen in project_map.items():
        if name not in keys:
            raise UserError(f"--project-map names project '{name}', which is not among those listed")
        clash = next((other for other, renamed in names.items() if renamed.name == chosen and other != name), None)
        if clash:
            raise UserError(f"--project-map sends '{name}' to '{chosen}', where project '{clash}' goes already")
    rows = [
        ProjectRow(project.entity, project.name, service, project.url, *names[name])
        for project, name in zip(found, keys, strict=True)
    ]
    ids = store.inventory.save_projects(rows)
    for project_id, name in zip(ids, keys, strict=True):
        if name in project_map:
            store.inventory.set_destination(project_id, *names[name])
    by_id = {project.id: project for project in store.inventory.projects()}
    return [by_id[project_id] for project_id in ids]


def run_row(listing: RunListing) -> RunRow:
    """A listing as the state database keeps it."""
    return RunRow(
        run_id=listing.run_id,
        name=listing.name,
        source_state=listing.source_state,
        fingerprint=listing.fingerprint,
        created_at=listing.created_at,
        heartbeat_at=listing.heartbeat_at,
        history_rows=listing.history_rows,
        size_hint=(listing.history_rows or 0) * POINTS_PER_ROW,
        location=listing.location,
        fork_run_id=listing.fork.run_id if listing.fork else None,
        fork_step=listing.fork.step if listing.fork else None,
        tags=listing.tags,
    )


def _pages(listings: Iterable[RunListing], size: int) -> Iterator[list[RunListing]]:
    iterator = iter(listings)
    while page := list(islice(iterator, size)):
        yield page
