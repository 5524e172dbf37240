"""Finds what the user asks for by name. If it does not exist, the message has similar names and what exists."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from migrations_db.selecting import Wanted
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.errors import UserError

CLOSE = 3  # names offered as a correction
LISTED = 10  # names of what there is
COMPARED = 5_000  # names searched for similar ones at most: difflib takes about 10 µs per name

OPTIONS = {
    "projects": ("--projects", "project"),
    "exclude_projects": ("--exclude-projects", "project"),
    "run_ids": ("--run-id", "run"),
    "names": ("--name", "run name"),
    "groups": ("--group", "group"),
    "sweeps": ("--sweep", "sweep"),
    "states": ("--state", "state"),
    "tags": ("--tag", "tag"),
    "project_map": ("--project-map", "project"),
}


def chosen(store: Store, wanted: Wanted) -> Selection:
    """The runs that the user asks for. `UserError` if one of the values, or all of them together, match no run."""
    found = store.find(wanted)
    for field, values in found.unmatched.items():
        option, _ = OPTIONS[field]
        raise UserError(nothing_has(option, values, store.listing.values(field, COMPARED), _elsewhere(field)))
    if found.selection.runs == () or found.selection.projects == ():
        raise UserError("no run matches all of these options together: `migrate runs` lists what there is")
    return found.selection


def _elsewhere(field: str) -> str:
    return "`migrate inventory` adds new ones" if field.endswith("projects") else "`migrate runs` lists them"


def nothing_has(option: str, values: Sequence[str], known: Iterable[str], more: str) -> str:
    """The message for values that match nothing. `known`: existing values; `more`: where to look for others."""
    noun = next(noun for name, noun in OPTIONS.values() if name == option)
    there = list(islice(dict.fromkeys(known), COMPARED))
    told = f"{option} {', '.join(values[:LISTED])}{', ...' if len(values) > LISTED else ''}: there is no such {noun}"
    return f"{told}{did_you_mean(values, there)}. {what_there_is(noun, there)}{more}"


def did_you_mean(words: Sequence[str], known: Collection[str]) -> str:
    """ " (did you mean 'a' or 'b'?)", or "" if no name is similar."""
    by_lower = {name.lower(): name for name in known}
    by_lower |= {name.lower().rpartition("/")[2]: name for name in known}
    close: list[str] = []
    for word in words[:LISTED]:
        for lower in difflib.get_close_matches(word.lower().strip("*?"), by_lower, CLOSE, cutoff=0.6):
            close += [by_lower[lower]] if by_lower[lower] not in close else []
    return f" (did you mean {' or '.join(close[:CLOSE])}?)" if close else ""


def what_there_is(noun: str, known: Sequence[str]) -> str:
    if not known:
        return "There are none; "
    more = ", ..." if len(known) > LISTED else ""
    return f"There are: {', '.join(known[:LISTED])}{more}; "
