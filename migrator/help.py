"""Help that can be read: options in groups, defaults in words, examples. Plain text: `migrate --help` is instant."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WHAT = "What to copy"
WHERE = "Where to"
HOW = "How"
TROUBLE = "When things go wrong"
SCRATCH = "Scratch files and notes"
SHOWN = "What to show"
EVERY = "With every command"
OTHER = "Other"
ARGUMENTS = "Arguments"
GROUPS = (ARGUMENTS, WHAT, SHOWN, WHERE, HOW, TROUBLE, SCRATCH, EVERY, OTHER)

MAX_WIDTH = 120  # columns: longer lines are hard to read

EVERYWHERE = (
    "--db, --config, --json, --quiet and --verbose go with every command, before or behind its name: see `migrate "
    "--help`. Each option has an environment variable: MIGRATE_ and its name, such as MIGRATE_OFFLINE_DIR. Where an "
    "option is repeatable, the variable holds its values with blanks between them. Options may also be in "
    "migrate.toml: see `migrate config --help`."
)

EXAMPLES = {
    "": """
        migrate inventory && migrate run && migrate status
        migrate demo
    """,
    "doctor": """
        migrate doctor
        migrate doctor --neptune-workspace team --write
    """,
    "inventory": """
        migrate inventory --projects 'vision,nlp-*' --created-after 2024-05
        migrate inventory --local ~/training/wandb --state finished --tag paper
    """,
    "plan": """
        migrate plan
        migrate plan --mode offline --include artifacts
    """,
    "run": """
        migrate run --projects vision --limit 3
        migrate run --mode offline --exclude files --exclude console
    """,
    "sync": """
        migrate sync
        migrate sync --neptune-workspace team --projects vision
    """,
    "status": """
        migrate status --short --watch
        migrate status vision/4kd2h1x9
    """,
    "runs": """
        migrate runs --status failed,pending --sort rows --reverse
        migrate runs --projects vision --csv > runs.csv
    """,
    "verify": """
        migrate verify
        migrate verify --level values --sample 5%
    """,
    "report": """
        migrate report
        migrate report --projects vision --charts 10 --out vision.html
    """,
    "forget": """
        migrate forget vision/4kd2h1x9
        migrate forget --projects vision --yes
    """,
    "clean": """
        migrate clean
        migrate clean --what logs --yes
    """,
    "retry-failed": """
        migrate retry-failed
        migrate retry-failed --class stalled --projects vision
    """,
    "config": """
        migrate config
        migrate config run
    """,
    "demo": """
        migrate demo
        migrate demo --dir ~/migrate-demo
    """,
}


class ReadableCommand(TyperCommand):
    """A command whose options come in the groups that their `rich_help_panel` names, and whose examples come last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self.name or "", formatter)
        formatter.write_paragraph()
        formatter.write_text(EVERYWHERE)


class ReadableGroup(TyperGroup):
    """The same for the program as a whole."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples("", formatter)


def _write_options(parameters: Sequence[Any], formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
    for parameter in parameters:
        if getattr(parameter, "hidden", False):
            continue
        group = ARGUMENTS if parameter.param_type_name == "argument" else getattr(parameter, "rich_help_panel", None)
        groups[group or OTHER].append((_names(parameter), getattr(parameter, "help", None) or ""))
    width = max(len(names) for records in groups.values() for names, _ in records)
    for title, records in groups.items():
        if records:
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), text) for names, text in records], col_max=width + 2)


def _write_examples(command: str, formatter: Any) -> None:
    if examples := inspect.cleandoc(EXAMPLES.get(command, "")):
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in examples.splitlines()))


def _names(parameter: Any) -> str:
    """As one types it: every name, then what follows."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names = names.replace("--", "--[no-]", 1)
    return names if parameter.is_flag else f"{names} {parameter.metavar or 'TEXT'}"


def option(
    *names: str, metavar: str | None = None, group: str, help: str, has_variable: bool = True, **more: Any
) -> Any:
    """An option as this program has them: its default told by the help's words, and with a variable MIGRATE_NAME.

    `has_variable` False: another command has an option of this name with another meaning.
    """
    variable = "MIGRATE_" + names[0].split("/")[0].strip("-").replace("-", "_").upper() if has_variable else None
    return typer.Option(
        *names, envvar=variable, metavar=metavar, help=help, rich_help_panel=group, show_default=False, **more
    )
