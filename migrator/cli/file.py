"""Options from `migrate.toml`, which lies beside the state database. They become typer's defaults.

The order is: command line, environment, file, state database. Options of every command are at the top of the file, and
each command has a table of its own. Relative paths start at the file's directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from migrator.errors import UserError
from migrator.help import GROUPS, ReadableCommand, ReadableGroup
from migrator.visible import tell

if TYPE_CHECKING:
    from migrator.commands.config import Setting

NAME = "migrate.toml"
#: a plan says what `migrate run` would do, so it takes the options that both have from the other's table
FALLS_BACK = {"plan": "run"}
PATHS = frozenset({"DIR", "FILE"})  # metavars of options that are paths
READ_FILES = frozenset({"run_id", "project_map", "filter"})  # options whose values may be `@FILE`
_FILE = "migrator.cli.file"  # the key of the file's path in click's shared `meta`


class Program(ReadableGroup):
    """The program, which reads its file before its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            ctx.default_map = _default_map(self, ctx, args)
        except UserError:
            if not ctx.resilient_parsing and not {*ctx.help_option_names, "--version"} & {*args}:
                raise  # help and completion work whatever the file says
        return list(super().parse_args(ctx, args))


class FiledCommand(ReadableCommand):
    """A command that says which of its options the file has, and so do errors about these options."""

    def invoke(self, ctx: Any) -> Any:
        named = [param.opts[0] for param in self.params if _origin(ctx, param) == "file"]
        if named and not (ctx.obj.quiet or ctx.obj.json):
            tell(f"Options from {ctx.meta[_FILE]}: {' '.join(named)}")
        try:
            return super().invoke(ctx)
        except UserError as error:
            if told := [flag for flag in named if re.search(rf"{flag}(?![\w-])", str(error))]:
                raise UserError(f"{error} ({', '.join(told)}: from {ctx.meta[_FILE]})", error.exit_code) from error
            raise


# ---------------------------------------------------------------- the values in force


def settings_of(context: typer.Context, command: str) -> list[Setting]:
    """All options of `command` (empty: of all commands), and those of every command."""
    group: Any = context.parent
    commands: Mapping[str, Any] = group.command.commands
    if command and command not in commands:
        raise UserError(f"there is no command {command}{_similar(command, commands)}")
    found = [*_settings("", group.command, group)]
    for name in [command] if command else commands:
        found += _settings(name, commands[name], commands[name].make_context(name, [], parent=group))
    return found


def file_of(context: typer.Context) -> Path | None:
    """The file that was read. None: there is none."""
    path: Path | None = context.meta.get(_FILE)
    return path


def _settings(name: str, command: Any, context: Any) -> Iterator[Setting]:
    from migrator.commands.config import Setting

    for key, param in _known(command).items():
        origin = _origin(context, param)
        where = {"environment": str(param.envvar), "file": str(context.meta.get(_FILE))}.get(origin, "")
        usual = re.search(r"Default: (.*?)\.(?: |$)", param.help or "")
        yield Setting(name, f"--{key}", context.params[param.name], origin, where, usual[1] if usual else "")


def _origin(context: Any, param: Any) -> str:
    source = context.get_parameter_source(param.name)
    words = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}
    return words.get(source.name if source else "", "default")


# ---------------------------------------------------------------- the file


def _default_map(group: Any, context: Any, args: Sequence[str]) -> dict[str, Any] | None:
    """What click takes as defaults: by option, and by command. None: there is no file."""
    typed, _, _ = group.make_parser(context).parse_args(args=list(args))
    db, chosen = (_value_before(group, context, typed, name) for name in ("db", "config"))
    path = Path(chosen) if chosen else _beside(str(db))
    if not chosen and not path.is_file():
        return None
    context.meta[_FILE] = path
    return _File(path, group, context).default_map()


def _value_before(group: Any, context: Any, typed: Mapping[str, Any], name: str) -> Any:
    """The value of an option before the file is known: from the command line, the environment, or its default."""
    value, _ = next(param for param in group.params if param.name == name).consume_value(context, typed)
    return value if isinstance(value, str | Path) else None


def _beside(db: str) -> Path:
    """The place of the file: beside a database that is a file, else the working directory."""
    scheme, is_url, rest = db.partition("://")
    if not is_url:
        return Path(db).parent / NAME
    return Path(rest.partition("?")[0][1:]).parent / NAME if scheme.startswith("sqlite") else Path(NAME)


class _File:
    """A file of options for `group`. Every mistake in it is a `UserError` with the file, the key and close names."""

    def __init__(self, path: Path, group: Any, context: Any) -> None:
        self._path, self._group, self._context = path, group, context

    def default_map(self) -> dict[str, Any]:
        commands: Mapping[str, Any] = self._group.commands
        read = self._read()
        tables = {key: value for key, value in read.items() if key in commands or isinstance(value, dict)}
        found = self._options("", self._group, {key: value for key, value in read.items() if key not in tables})
        for name, table in tables.items():
            if name not in commands:
                raise UserError(f"{self._path}: [{name}]: there is no such command{_similar(name, commands)}")
            if not isinstance(table, dict):
                raise UserError(f"{self._path}: {name} is a command: its options go into a table [{name}]")
            found[name] = self._options(name, commands[name], table)
        for name, other in FALLS_BACK.items():
            own = {param.name for param in commands[name].params}
            shared = {key: value for key, value in found.get(other, {}).items() if key in own}
            found[name] = shared | found.get(name, {})
        return found

    def _read(self) -> dict[str, Any]:
        import tomllib

        try:
            return tomllib.loads(self._path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(f"--config {self._path}: it cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path} is not text in UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._path} is not TOML: {error}") from error

    def _options(self, command: str, of: Any, table: Mapping[str, Any]) -> dict[str, Any]:
        known, found = _known(of), {}
        for key, value in table.items():
            param = known.get(key.replace("_", "-"))
            told = f"{self._path}: [{command}] {key}" if command else f"{self._path}: {key}"
            if param is None:
                raise UserError(f"{told}: there is no such option{self._elsewhere(key) or _similar(key, known)}")
            if param.name in found:
                raise UserError(f"{told}: it is there twice")
            found[param.name] = self._checked(param, value, told)
        return found

    def _elsewhere(self, key: str) -> str:
        """For options that are in the wrong place: where they belong."""
        if key in _known(self._group):
            return f" of this command: {key} goes to the top of the file, before all tables"
        having = [name for name, command in self._group.commands.items() if key in _known(command)]
        return f" here: it goes into the table [{'] or ['.join(having)}]" if having else ""

    def _checked(self, param: Any, value: Any, told: str) -> Any:
        """A value as the command line would give it, after a trial."""
        as_typed = _as_typed(param, value, told)
        try:
            param.process_value(self._context, as_typed)
        except typer.BadParameter as error:
            raise UserError(f"{told}: {error.message}") from error
        if param.name == "db":
            is_file = "://" not in as_typed and "=" not in as_typed
            return self._from_here(as_typed) if is_file else as_typed
        if param.metavar in PATHS:
            return [*map(self._from_here, as_typed)] if param.multiple else self._from_here(as_typed)
        if param.name in READ_FILES:
            return [*map(self._file_from_here, as_typed)] if param.multiple else self._file_from_here(as_typed)
        return as_typed

    def _from_here(self, name: str) -> str:
        return str(self._path.parent.absolute() / Path(name).expanduser())

    def _file_from_here(self, text: str) -> str:
        return f"@{self._from_here(text[1:])}" if text.startswith("@") else text


def _as_typed(param: Any, value: Any, told: str) -> Any:
    """The texts (or the boolean, or the list) that the command line gives for a value of TOML."""
    match value:
        case dict() if param.name == "filter":
            return json.dumps(value, default=str)
        case dict() if param.name == "project_map":
            return [f"{old}={new}" for old, new in value.items()]
        case list() if param.multiple:
            return [_text(param, one, told) for one in value]
        case list() if param.metavar == "NAMES":
            return ",".join(_text(param, one, told) for one in value)
        case list():
            raise UserError(f"{told}: it takes one value, not a list")
    return [_text(param, value, told)] if param.multiple else _text(param, value, told)


def _text(param: Any, value: Any, told: str) -> Any:
    if param.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"{told}: it is true or false")
        return value
    if isinstance(value, bool | dict | list):
        kind = {bool: "true or false", dict: "a table", list: "a list"}[type(value)]
        raise UserError(f"{told}: it takes {param.metavar or 'a text'}, not {kind}")
    return str(value)


def _known(command: Any) -> dict[str, Any]:
    """The options of a command (or the program) that a file may hold: by name, without the dashes."""
    return {
        param.opts[0].removeprefix("--"): param
        for param in command.params
        if getattr(param, "rich_help_panel", None) in GROUPS and param.name != "config"
    }


def _similar(word: str, known: Mapping[str, Any]) -> str:
    from migrator.commands.choosing import did_you_mean  # only here: it takes a third of the time allowed for `--help`

    return did_you_mean([word], known) or f". There are: {', '.join(known)}"
