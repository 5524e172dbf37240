"""`migrate inventory`: lists the source's runs and saves them in the state database, or refreshes it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from migrations_db import StateMissing, open_store
from migrations_db.report_types import LeftOutGroup
from migrations_db.states import Unseen
from migrations_db.store import Store
from migrations_db.types import Counts, LeftOutRow, Project, RunRow
from migrator.commands.left_out import grouped, left_out_json, print_left_out
from migrator.commands.projects import save_projects
from migrator.commands.scope import Scope, check_filters, find_projects
from migrator.commands.text import add_row, confirmed, counted, new_table, print_table, say
from migrator.errors import ExitCode, UserError
from migrator.job.job import build_api_source, build_local_source
from migrator.job.log import log_path, start_log
from migrator.job.scratch import scratch_directory
from migrator.listed import UNKNOWN_ENTITY, RunListing, SourceProject
from migrator.naming import NOT_ALLOWED
from migrator.settings import Globals, tool_version
from migrator.sources.base import RunFilter, Source
from migrator.visible import tell, visible

PAGE_RUNS = 500  # runs saved in one transaction
POINTS_PER_ROW = 10  # an estimate, for the order of claims and for progress bars


@dataclass(frozen=True, slots=True)
class ProjectResult:
    """What was found in one project. `unseen` runs are in the database but were not listed this time."""

    project: Project
    listed: int
    counts: Counts
    history_rows: int
    states: Mapping[str, int]
    unseen: int


def take_inventory(
    source: Source,
    found: Sequence[SourceProject],
    store: Store,
    scope: Scope,
    inventory_id: int,
    tick: Callable[[str, int, int | None], None],
) -> Iterator[ProjectResult]:
    """List all runs in scope of the found projects, one project after another, and save them page by page.

    Runs that are in the database but not listed are gone; with `scope.whole`, also those of projects that were not
    found. Runs that the inventory did not look for, such as those outside `scope.roots`, are not changed.

    `tick(project, runs listed, runs in total or None)` is called to show the progress.
    """
    saved = save_projects(store, source, found, scope.project_map)
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
        unseen = 0
        # If the listing is incomplete, a run that was not listed may still exist.
        if not filtered and source.missing(project) is None:
            unseen = store.inventory.finish_inventory(row.id, inventory_id, Unseen.GONE, scope.roots)
        yield ProjectResult(row, listed, counts, history_rows, states, unseen)
    if scope.roots is not None:
        rows = [LeftOutRow(one.cause, one.path) for one in source.left_out]
        store.inventory.save_left_out(source.service, scope.roots, rows, inventory_id)
    if scope.whole and not filtered:
        entities, listed_ids = {project.entity for project in found}, {row.id for row in saved}
        for row in store.inventory.projects():
            looked_at = row.entity in entities or scope.roots is not None
            if row.source_service != source.service or not looked_at or row.id in listed_ids:
                continue
            if unseen := store.inventory.finish_inventory(row.id, inventory_id, Unseen.GONE, scope.roots):
                yield ProjectResult(row, 0, Counts(), 0, {}, unseen)


def run_row(listing: RunListing) -> RunRow:
    """Convert a listing to what the state database stores."""
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
        group=listing.group,
        sweep=listing.sweep,
    )


def _pages(listings: Iterable[RunListing], size: int) -> Iterator[list[RunListing]]:
    iterator = iter(listings)
    while page := list(islice(iterator, size)):
        yield page


# ---------------------------------------------------------------- what it prints


def inventory_command(scope: Scope, local: Sequence[Path], work_dir: Path, common: Globals) -> None:
    """List, save, report."""
    if scope.narrow and not scope.agreed and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError("--only asks before it leaves runs out, and there is no terminal: add --yes if you agree")
    log_file = log_path("inventory")
    start_log(log_file, common.verbose)
    with scratch_directory(work_dir) as scratch:
        known = _known_places(common.db) if local else {}
        source = build_local_source(local, known=known) if local else build_api_source(scratch / "wandb")
        with ExitStack() as stack:
            stack.enter_context(closing(source))
            found = find_projects(source, scope)  # first, so that a wrong key or name leaves no empty database behind
            check_filters(source, found, scope.only)
            store = stack.enter_context(open_store(common.db))
            inventory_id = store.begin_invocation(
                "inventory", socket.gethostname(), os.getpid(), tool_version(), str(log_file)
            )
            exit_code = ExitCode.UNEXPECTED
            bar = _Bar(hidden=common.quiet or not sys.stderr.isatty())
            try:
                results = []
                for result in take_inventory(source, found, store, scope, inventory_id, bar.tick):
                    results.append(result)
                bar.close()
                left_out = narrow(store, inventory_id, scope.agreed) if scope.narrow else 0
                twins = store.inventory.listed_twice()
                exit_code = ExitCode.OK
            finally:
                bar.close()
                store.end_invocation(inventory_id, exit_code)
        for problem in source.problems:
            tell(f"Warning: {problem}")
        for twin in twins:
            one, other = twin.one, twin.other
            tell(
                f"Warning: {counted(twin.runs, 'run')} listed twice, in {one.source} ({one.source_service}) and in "
                f"{other.source} ({other.source_service}), would be copied twice, to {one.destination_name} and to "
                f"{other.destination_name}. To copy them once, list only one of the two in this state database"
            )
    problems = grouped(source.left_out)
    if common.json:
        projects = [_as_json(result) for result in results]
        document = {
            "schema_version": 1,
            "projects": projects,
            "left_out": left_out,
            "problems": left_out_json(problems),
        }
        print(json.dumps(document))
    else:
        _print(results, left_out, problems, quiet=common.quiet)


def narrow(store: Store, inventory_id: int, agreed: bool) -> int:
    """Leave out the pending runs that this inventory did not list, if the user agrees. Returns how many."""
    waiting = store.inventory.not_listed(inventory_id)
    if not waiting:
        return 0
    names = {project.id: project.source for project in store.inventory.projects()}
    tell(f"--only: {counted(sum(waiting.values()), 'pending run')} of earlier inventories did not pass the filters:")
    for project_id, count in waiting.items():
        tell(f"  {names[project_id]}: {count:,}")
    if not agreed and not confirmed("Leave them out? They can be listed again later."):
        tell("They stay pending.")
        return 0
    return sum(store.inventory.finish_inventory(project_id, inventory_id, Unseen.EXCLUDED) for project_id in waiting)


def _known_places(db: str) -> Mapping[tuple[str, str, str], Sequence[str]]:
    """The places of runs that earlier inventories of local directories have listed."""
    try:
        with open_store(db, create=False) as store:
            return store.inventory.locations("local")
    except StateMissing:
        return {}


def _entity_note(project: Project) -> str | None:
    """A note if the entity of a project is unknown, otherwise None."""
    is_unknown = project.source_service == "local" and project.entity == UNKNOWN_ENTITY
    return f"no log says which entity it belongs to: called '{UNKNOWN_ENTITY}'" if is_unknown else None


class _Bar:
    """Runs listed, over all projects."""

    def __init__(self, *, hidden: bool) -> None:
        self._bar: Any = tqdm(desc="inventory", unit="run", total=0, dynamic_ncols=True, disable=hidden)
        self._earlier = 0
        self._listed = 0

    def tick(self, project: str, listed: int, total: int | None) -> None:
        if listed == 0:
            self._earlier += self._listed
            self._bar.total = (self._bar.total or 0) + (total or 0) or None
        self._listed = listed
        self._bar.set_postfix_str(visible(project[:30]), refresh=False)
        self._bar.update(self._earlier + listed - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _as_json(result: ProjectResult) -> dict[str, Any]:
    return {
        "source": result.project.source,
        "destination": result.project.destination_name,
        "name_note": result.project.name_note,
        "entity_note": _entity_note(result.project),
        "listed": result.listed,
        "new": result.counts.new,
        "changed": result.counts.changed,
        "unchanged": result.counts.unchanged,
        "left_out": result.unseen,
        "history_rows": result.history_rows,
        "states": dict(result.states),
    }


def _print(results: Sequence[ProjectResult], left_out: int, problems: Sequence[LeftOutGroup], *, quiet: bool) -> None:
    console = Console()
    table = new_table(console, "W&B project", "Neptune project", ">runs", "states", ">rows", ">new", ">changed")
    for result in results:
        states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
        add_row(
            table,
            result.project.source,
            result.project.destination_name or "",
            str(result.listed),
            states,
            f"{result.history_rows:,}",
            str(result.counts.new),
            str(result.counts.changed),
        )
    print_table(console, table)
    for result in results:
        if result.project.name_note and result.project.name_note != NOT_ALLOWED:
            name = f"{result.project.source} → {result.project.destination_name}"
            say(console, f"{name}: {result.project.name_note}")
        if note := _entity_note(result.project):
            say(console, f"{result.project.source}: {note}")
    unseen = sum(result.unseen for result in results)
    if unseen:
        say(console, f"{counted(unseen, 'run')} of earlier inventories gone from W&B: left out")
    if left_out:
        say(console, f"{counted(left_out, 'run')} of earlier inventories left out, as --only asks")
    print_left_out(console, problems)
    if not quiet:
        total = sum(result.listed for result in results)
        found = f"{counted(total, 'run')} in {counted(len(results), 'project')}"
        print(f"{found}. Next: `migrate run`", file=sys.stderr)
