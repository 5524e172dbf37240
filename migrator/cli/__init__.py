"""The command line: parse, build, call one function, print. Help lives here; work lives in the command's module.

copying, looking   the commands
file               options from migrate.toml
values             what commands make of options
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from migrator import options as o
from migrator import settings as s
from migrator.cli.copying import doctor, inventory, plan, run, sync
from migrator.cli.file import FiledCommand, Program
from migrator.cli.looking import clean, config, demo, forget, report, retry_failed, runs, status, verify
from migrator.help import MAX_WIDTH

app = typer.Typer(
    name="migrate",
    help="Move experiment history from Weights & Biases to Neptune: resumable, and every value is accounted for.",
    cls=Program,
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"migrate {s.tool_version()}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    db: o.Database = s.DEFAULT_DB,
    config: o.Config = None,
    json: o.Json = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options for every command; they may stand before or behind it."""
    context.obj = s.Globals(db=db, json=json, verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is None:
        if sys.stdin.isatty() and sys.stdout.isatty():
            from migrator.commands.guided import guide

            raise typer.Exit(guide(context.obj))
        typer.echo(context.get_help())


_COPYING = (doctor, inventory, plan, run, sync)
_LOOKING = (status, runs, retry_failed, forget, verify, report, config, clean, demo)
for _command in (*_COPYING, *_LOOKING):
    app.command(cls=FiledCommand)(_command)
