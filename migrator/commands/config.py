"""`migrate config`: the value in force of every option, and where it comes from. What may be secret is masked."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console

from migrations_db.states import Phase
from migrator.commands.remembered import remembered_options
from migrator.commands.text import add_row, heading, new_table, print_table, say
from migrator.redaction import without_keys, without_secrets
from migrator.settings import OFFLINE_DIR, Globals, default_workers, token_is_set

#: commands that take what they are not given from the state database
REMEMBERING = {"run": Phase.COPY, "plan": Phase.COPY, "doctor": Phase.COPY, "sync": Phase.UPLOAD}


@dataclass(frozen=True, slots=True)
class Setting:
    """An option's value in force. `command` "": of every command.

    `origin`: command line, environment, file, database or default. `where`: the variable or the file. `usual`: the
    default in words, for values that do not say it.
    """

    command: str
    option: str
    value: Any
    origin: str
    where: str = ""
    usual: str = ""


def config_command(settings: Sequence[Setting], file: Path | None, common: Globals) -> None:
    """Print the settings. `file`: the file of options, if there is one."""
    phases = {REMEMBERING[one.command] for one in settings if one.command in REMEMBERING}
    known = {phase: remembered_options(common.db, phase) for phase in phases}
    found = [_in_force(one, known[REMEMBERING[one.command]] if one.command in REMEMBERING else {}) for one in settings]
    if common.json:
        options = [
            {
                "command": one.command or None,
                "option": one.option,
                "value": _masked(one),
                "usual": one.usual or None,
                "from": one.origin,
                "where": one.where or None,
            }
            for one in found
        ]
        print(json.dumps({"schema_version": 1, "file": file and str(file), "options": options}))
    else:
        _print(found, file)


def _in_force(setting: Setting, known: Mapping[str, object]) -> Setting:
    """What a command will use that was not given the option."""
    if setting.origin != "default":
        return setting
    if setting.option == "--neptune-workspace" and (name := os.environ.get("NEPTUNE_PROJECT", "").partition("/")[0]):
        return replace(setting, value=name, origin="environment", where="NEPTUNE_PROJECT")
    if setting.option in known:
        return replace(setting, value=known[setting.option], origin="database")
    usual = _usual(setting.option) if setting.value in (None, "") and setting.command in REMEMBERING else None
    return setting if usual is None else replace(setting, value=usual)


def _usual(option: str) -> Any:
    """What a command uses if nobody has said otherwise, for options whose default depends on the machine."""
    match option:
        case "--mode":
            return "online" if token_is_set() else "offline"
        case "--offline-dir":
            return OFFLINE_DIR
        case "--workers":
            return default_workers()
        case "--include-private" | "--stringify-config":
            return False
    return None


def _masked(setting: Setting) -> Any:
    """The value for JSON. Of a command only the program is shown: its arguments may be addresses that are secret."""
    match setting.value:
        case str(command) if setting.option == "--notify" and command:
            return _program(command)
        case list() | tuple() as several:
            return [_text(one) for one in several]
        case None | bool() | int() | float() as plain:
            return plain
        case other:
            return _text(other)


def _program(command: str) -> str:
    try:
        first, *others = shlex.split(command)
    except ValueError:
        return "..."
    return f"{first} ..." if others else first


def _text(value: object) -> str:
    return without_keys(without_secrets(str(value.value if isinstance(value, Enum) else value)))


def _print(found: Iterable[Setting], file: Path | None) -> None:
    console = Console()
    say(console, f"File of options: {file}" if file else "There is no file of options (migrate.toml).")
    by_command: dict[str, list[Setting]] = {}
    for one in found:
        by_command.setdefault(one.command, []).append(one)
    for command, settings in by_command.items():
        heading(console, f"migrate {command}" if command else "Every command")
        table = new_table(console, "option", "value", "from")
        for one in settings:
            where = f"{one.origin}: {one.where}" if one.where else one.origin
            add_row(table, one.option, _shown(one), where)
        print_table(console, table)


def _shown(setting: Setting) -> str:
    match _masked(setting):
        case None | "" | []:
            return setting.usual or "-"
        case bool(value):
            return "yes" if value else "no"
        case list() as several:
            return ", ".join(several)
        case other:
            return str(other)
