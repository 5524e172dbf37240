"""Projects that Neptune does not create: what to tell of it."""

from __future__ import annotations

import re
from collections.abc import Collection

from migrator.destinations.neptune.errors import SERVICE
from migrator.errors import ExitCode, TurnedAway, UserError

WORDS_MAX = 300  # characters of what a server says
#: what servers say where a plan has no private projects, whatever the status
ABOUT_PLAN = re.compile(r"privat|visib|\bplan\b|subscription|access control|upgrade|licen[sc]e", re.IGNORECASE)


def check_case(project: str, there: Collection[str]) -> None:
    """`UserError` if Neptune says that the project exists, but has it in another case only: it may be anybody's."""
    if project in there:
        return
    for other in there:
        if other.casefold() == project.casefold():
            raise UserError(
                f"Neptune takes project {project} for {other}, which it has already: names that differ only in case "
                "are one project there. Choose another name with `migrate inventory --project-map OLD=NEW`, or the "
                "same one, if the runs are to go there"
            )


def is_refusal_of_all(status: int, words: str) -> bool:
    """Whether every other project would be refused, too; a name or a key concerns one project only."""
    return status in (402, 403) or (status == 422 and ABOUT_PLAN.search(words) is not None)


def not_created(project: str, words: str, visibility: str) -> TurnedAway:
    """The error for a refusal, with the server's own words."""
    said = f" ({' '.join(words.split())[:WORDS_MAX]})" if words.strip() else ""
    private = visibility == "priv" and ABOUT_PLAN.search(words)
    what_helps = "use --visibility workspace if your plan has no private projects, or " if private else ""
    return TurnedAway(
        f"Neptune does not let you create project {project}{said}: {what_helps}ask an administrator to create it or "
        "to give you access",
        SERVICE,
        ExitCode.CREDENTIALS,
    )
