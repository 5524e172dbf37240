"""From what options say to what commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator import settings as s
from migrator.errors import UserError

if TYPE_CHECKING:
    from migrations_db.selecting import Wanted


def parse_mode(text: str) -> s.Mode | None:
    match text:
        case "":
            return None
        case "online" | "offline":
            return text
    raise UserError(f"--mode is online or offline, not '{text}'")


def given(**options: object) -> dict[str, object]:
    """The options that the command line has."""
    return {name: value for name, value in options.items() if value is not None}


def chosen_runs(
    projects: str,
    exclude_projects: str,
    run_ids: list[str] | None,
    names: list[str] | None,
    groups: list[str] | None,
    sweeps: list[str] | None,
) -> Wanted:
    from migrations_db.selecting import Wanted

    return Wanted(
        projects=s.comma_separated(projects),
        exclude_projects=s.comma_separated(exclude_projects),
        run_ids=tuple(s.from_files(run_ids, "--run-id")),
        names=tuple(names or ()),
        groups=tuple(groups or ()),
        sweeps=tuple(sweeps or ()),
    )


def parse_namespace(text: str) -> str:
    """Empty: none."""
    from migrator.naming import RESERVED_LEVELS

    level = text.strip("/").split("/")[0]
    if level in RESERVED_LEVELS:
        raise UserError(f"--metrics-namespace {text}: '{level}' has other things of a run. Choose another name")
    return text.strip("/")


def parse_visibility(text: str) -> str:
    codes = {"private": "priv", "workspace": "workspace", "public": "pub"}
    if text not in codes:
        raise UserError(f"--visibility is private, workspace or public, not '{text}'")
    return codes[text]
