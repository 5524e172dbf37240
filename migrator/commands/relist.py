"""`migrate verify --list`: compares the runs at the sources with those of the state database, and saves none of them.

Runs that no inventory has listed, and runs that the source no longer has, are reported. What is found is kept for
`migrate report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from migrations_db.relistings import ListedProject
from migrations_db.store import Store
from migrations_db.types import Project, Selection
from migrator.commands.text import counted
from migrator.errors import UserError
from migrator.job.job import build_api_source, build_local_source, local_roots
from migrator.listed import SourceProject
from migrator.sources.base import RunFilter, Source

EXAMPLES = 5  # run ids named for each project
NEXT = "Next: `migrate inventory` lists what is new and marks what is gone."


def list_again(store: Store, only: Selection, scratch: Path) -> list[ListedProject]:
    """List the projects of a selection at their sources; for all runs, also projects that no inventory has listed.

    Raises `RunError` or `UserError` if a source does not answer or refuses us.
    """
    whole = only.projects is None
    projects = [one for one in store.inventory.projects() if whole or one.id in (only.projects or ())]
    listed: list[ListedProject] = []
    for service in sorted({project.source_service for project in projects}):
        known = [project for project in projects if project.source_service == service]
        listed += (
            _of_local(store, known, whole=whole) if service == "local" else _of_api(store, known, scratch, whole=whole)
        )
    store.relistings.save(listed, whole=whole)
    return listed


def _of_api(store: Store, known: Sequence[Project], scratch: Path, *, whole: bool) -> Iterator[ListedProject]:
    with closing(build_api_source(scratch / "wandb")) as source:
        entities = dict.fromkeys(project.entity for project in known)
        there = [project for entity in entities for project in source.projects(entity)]
        yield from _compared(store, source, known, there, whole=whole)


def _of_local(store: Store, known: Sequence[Project], *, whole: bool) -> Iterator[ListedProject]:
    """The directories around the known runs are searched."""
    wanted = {(project.entity, project.name) for project in known}
    places = store.inventory.locations("local")
    roots = local_roots([place for key, some in places.items() if key[:2] in wanted for place in some])
    with closing(build_local_source(roots, known=places)) as source:
        try:
            there = list(source.projects(None)) if roots else []
        except UserError:  # nothing is left in these directories
            there = []
        yield from _compared(store, source, known, there, whole=whole)


def _compared(
    store: Store, source: Source, known: Sequence[Project], there: Sequence[SourceProject], *, whole: bool
) -> Iterator[ListedProject]:
    found = {(one.entity, one.name): one for one in there}
    for project in known:
        at_source = found.pop((project.entity, project.name), None)
        run_ids = [run.run_id for run in source.runs(at_source, RunFilter())] if at_source else []
        problem = source.missing(at_source) if at_source else None
        compared = store.relistings.compare(project.id, run_ids)
        gone = [] if problem else compared.gone
        yield ListedProject(
            source_service=source.service,
            entity=project.entity,
            name=project.name,
            runs=compared.runs if at_source else None,
            known=compared.known,
            new=len(compared.new),
            new_examples=compared.new[:EXAMPLES],
            gone=len(gone),
            gone_examples=gone[:EXAMPLES],
            problem=problem,
        )
    for one in found.values() if whole else ():
        runs = source.count_runs(one)
        yield ListedProject(source.service, one.entity, one.name, runs, known=None, new=runs or 0)


# ---------------------------------------------------------------- what is told


def listed_lines(listed: Sequence[ListedProject]) -> list[str]:
    """What the sources have that the state database does not, and the other way round: a summary, then by project."""
    known, others = [one for one in listed if one.known is not None], [one for one in listed if one.known is None]
    new, gone = sum(one.new for one in known), sum(one.gone for one in known)
    runs = sum(one.runs or 0 for one in known)
    if not (new or gone or any(one.problem for one in known)):
        summary = f"all {runs:,} runs at the source are known here, and none is gone"
    else:
        summary = f"of {counted(runs, 'run')} at the source, {new:,} were never listed; {gone:,} known here are gone"
    lines = [f"Listed again: {summary}."]
    for one in known:
        if one.new:
            lines.append(f"{one.source}: {one.new:,} never listed: {_named(one.new_examples, one.new)}")
        if one.gone:
            where = "the project is gone from the source, with " if one.runs is None else ""
            lines.append(f"{one.source}: {where}{one.gone:,} gone: {_named(one.gone_examples, one.gone)}")
        if one.problem:
            lines.append(f"{one.source}: the list is incomplete: {one.problem}")
    if others:
        names = [f"{one.source} ({'?' if one.runs is None else one.runs})" for one in others]
        projects = "Projects that were never listed, with their runs"
        lines.append(f"{projects}: {_named(names[:EXAMPLES], len(names))}")
    return lines


def is_news(listed: Sequence[ListedProject]) -> bool:
    """Whether `migrate inventory` would find anything new."""
    return any(one.new or one.gone for one in listed)


def _named(examples: Sequence[str], count: int) -> str:
    more = f" and {count - len(examples):,} more" if count > len(examples) else ""
    return f"{', '.join(examples)}{more}"


def listed_json(listed: Sequence[ListedProject]) -> list[dict[str, Any]]:
    return [
        {
            "project": one.source,
            "source": one.source_service,
            "runs": one.runs,
            "known": one.known,
            "never_listed": {"count": one.new, "examples": list(one.new_examples)},
            "gone": {"count": one.gone, "examples": list(one.gone_examples)},
            "problem": one.problem,
        }
        for one in listed
    ]
