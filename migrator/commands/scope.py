"""What an inventory lists, checked in the source before anything is saved."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from migrator.commands.choosing import OPTIONS, nothing_has
from migrator.commands.left_out import grouped, left_out_lines
from migrator.commands.text import counted
from migrator.errors import UserError
from migrator.listed import RunListing, SourceProject
from migrator.sources.base import RunFilter, Source


@dataclass(frozen=True, slots=True)
class Scope:
    """What to list. `projects` are names or globs ("name" or "entity/name"); empty: all except `exclude_projects`.

    Filters choose what is added. `narrow`: copy nothing else, so pending runs that are not listed are left out if the
    user agrees (`agreed`: has already agreed).
    """

    entity: str | None = None
    projects: Sequence[str] = ()
    exclude_projects: Sequence[str] = ()
    only: RunFilter = field(default_factory=RunFilter)
    project_map: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False  # the source lists all projects of the entity, and all are in scope
    roots: Sequence[str] | None = None  # the directories that are examined for local runs; None: not local
    narrow: bool = False
    agreed: bool = False


def matches(project: SourceProject, patterns: Sequence[str]) -> bool:
    """Whether a project matches any of the patterns, by its name or "entity/name". No patterns match all."""
    full_name = f"{project.entity}/{project.name}"
    return not patterns or any(
        fnmatch.fnmatchcase(project.name, pattern) or fnmatch.fnmatchcase(full_name, pattern) for pattern in patterns
    )


def find_projects(source: Source, scope: Scope) -> list[SourceProject]:
    """The projects in scope. `UserError` if nothing matches, or one of the patterns matches nothing."""
    there = list(source.projects(scope.entity))
    if not there and source.left_out:
        reasons = "\n".join(f"  {line}" for line in left_out_lines(grouped(source.left_out)))
        raise UserError(f"nothing that could be copied was found:\n{reasons}")
    lists_all = "`migrate inventory` without --projects lists all"
    for option, patterns in (("--projects", scope.projects), ("--exclude-projects", scope.exclude_projects)):
        # a name that matches nothing is a typing error, to be reported
        if unmatched := [pattern for pattern in patterns if not any(matches(one, [pattern]) for one in there)]:
            raise UserError(nothing_has(option, unmatched, (f"{one.entity}/{one.name}" for one in there), lists_all))
    excluded = scope.exclude_projects
    found = [one for one in there if matches(one, scope.projects) and not (excluded and matches(one, excluded))]
    if not found:
        where = f" in entity '{scope.entity}'" if scope.entity else ""
        raise UserError(f"there is no project to list{where}" + (": --exclude-projects names all" if there else ""))
    for name in scope.project_map:
        if name not in (known := {text for one in found for text in (one.name, f"{one.entity}/{one.name}")}):
            raise UserError(nothing_has("--project-map", [name], sorted(known), "it takes W&B-project=neptune-project"))
    return found


def check_filters(source: Source, projects: Sequence[SourceProject], only: RunFilter) -> None:
    """`UserError` if no run passes the filters, or no run has one of their values. Checked before anything is saved."""
    if only == RunFilter():
        return
    values = {name: getattr(only, name) for name in _VALUES}
    missing = {name: set(wanted) for name, wanted in values.items()}
    passes = False
    for listing in (listing for project in projects for listing in source.runs(project, only)):
        passes = True
        _discard(missing, listing)
        if not any(missing.values()):
            return
    if only == RunFilter(wandb=only.wandb):  # counted by W&B: listing all of them could take minutes
        counts = [source.count_runs(project) for project in projects]
        there = "" if None in counts else f". Without filters there are {counted(sum(filter(None, counts)), 'run')}"
        raise UserError(f"--filter: W&B has no such run{there}")
    known: dict[str, dict[str, None]] = {name: {} for name in _VALUES}
    for listing in (listing for project in projects for listing in source.runs(project, RunFilter())):
        _discard(missing, listing)
        for name, of in _VALUES.items():
            known[name].update(dict.fromkeys(of(listing)))
    for name, wanted in values.items():
        if unmatched := [value for value in wanted if value in missing[name]]:
            lists_all = "`migrate inventory` without filters lists all runs"
            raise UserError(nothing_has(OPTIONS[name][0], unmatched, sorted(known[name]), lists_all))
    if not passes:
        count = counted(len(known["run_ids"]), "run")
        raise UserError(f"no run passes all of these filters together. Without filters there are {count}")


#: the values of a run for each field of `RunFilter` that has values
_VALUES: Mapping[str, Callable[[RunListing], Sequence[str]]] = {
    "states": lambda listing: [listing.source_state],
    "tags": lambda listing: listing.tags,
    "run_ids": lambda listing: [listing.run_id],
    "names": lambda listing: [listing.name],
    "groups": lambda listing: [listing.group] if listing.group else [],
    "sweeps": lambda listing: [listing.sweep] if listing.sweep else [],
}


def _discard(missing: Mapping[str, set[str]], listing: RunListing) -> None:
    for name, values in missing.items():
        if values and name == "names":
            values.difference_update([glob for glob in values if fnmatch.fnmatchcase(listing.name, glob)])
        elif values:
            values.difference_update(_VALUES[name](listing))
