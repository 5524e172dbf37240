"""`migrate` without a command, on a terminal: a few questions, a plan, a confirmation, and the copy begins."""

from __future__ import annotations

from pathlib import Path

import typer

from migrations_db.selecting import Wanted
from migrations_db.states import Phase
from migrator import settings as s
from migrator.commands.inventory import inventory_command
from migrator.commands.plan import plan_command
from migrator.commands.run import RunSettings, run_command
from migrator.commands.scope import Scope
from migrator.errors import ExitCode, UserError
from migrator.job.supervisor import Supervision
from migrator.parts.base import MappingOptions
from migrator.visible import tell


def guide(common: s.Globals) -> ExitCode:
    """Ask what the ancestor script asked. Blank answers take the defaults."""
    typer.echo("Moves your W&B runs to Neptune. Blank answers take the default. Ctrl-C stops at any time;")
    typer.echo("everything is kept in a state database, and the same command continues.\n")
    projects = _list_runs(common)
    mode: s.Mode = "online" if s.token_is_set() else "offline"
    if mode == "offline":
        typer.echo(f"NEPTUNE_API_TOKEN is not set: runs go to Neptune offline files in {s.OFFLINE_DIR}/")
    workspace = _workspace(mode)
    automatic = s.default_workers()
    answer = _ask(f"Workers (blank: automatic, {automatic})")
    while answer and not (answer.isdigit() and int(answer) > 0):
        answer = _ask("Workers: a number from 1 on, or blank")
    settings = RunSettings(
        phase=Phase.COPY,
        mode=mode,
        workspace=workspace,
        offline_dir=s.OFFLINE_DIR,
        work_dir=s.work_directory(None),
        supervision=Supervision(int(answer) if answer else automatic),
        options=MappingOptions(),
        wanted=Wanted(projects=projects),
    )
    typer.echo("\nThe plan:")
    plan_command(settings, common)
    if not typer.confirm("\nGo?", default=True):
        typer.echo("Nothing was copied. `migrate run` does it later.")
        return ExitCode.OK
    return run_command(settings, common)


def _list_runs(common: s.Globals) -> tuple[str, ...]:
    """Ask which runs to copy, until the source has them, and list them. Returns the projects (empty: all)."""
    while True:
        entity = _ask("W&B entity, or a local directory with W&B runs (blank: your account's default)")
        local = (Path(entity).expanduser(),) if entity and ("/" in entity or Path(entity).is_dir()) else ()
        projects = s.comma_separated(_ask("W&B projects, comma-separated (blank: all)"))
        scope = Scope(None if local else entity or None, projects, whole=not (projects or local))
        typer.echo("\nListing the runs:")
        try:
            inventory_command(scope, local, s.work_directory(None), s.Globals(common.db, quiet=True))
        except UserError as error:
            if error.exit_code is not ExitCode.USAGE:
                raise
            tell(f"{error}\n")
        else:
            return projects


def _workspace(mode: s.Mode) -> str:
    known = s.default_workspace(mode)
    default = f"blank: {known}" if known else "there is no default: NEPTUNE_PROJECT is not set"
    while True:
        try:
            return s.workspace(_ask(f"Neptune workspace ({default})"), mode)
        except UserError as error:
            tell(str(error))


def _ask(question: str) -> str:
    answer: str = typer.prompt(question, default="", show_default=False)
    return answer.strip()
