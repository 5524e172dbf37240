"""Settings that commands share, from options and the environment, including the keys of both services."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from migrator.errors import UserError

Mode = Literal["online", "offline"]

KEYS = WANDB_KEY, NEPTUNE_KEY = ("WANDB_API_KEY", "NEPTUNE_API_TOKEN")
DEFAULT_DB = "migration.db"
LOG_DIR = Path("migration-logs")
OFFLINE_DIR = Path("neptune-offline")
REPORT = Path("migration-report.html")
OFFLINE_WORKSPACE = "workspace"  # placeholder in an offline file until `migrate sync` knows the real one
MAX_DEFAULT_WORKERS = 8
FILTER_EXAMPLE = """An example: --filter '{"config.lr": {"$gt": 0.1}}'"""
LEASE_S = 60.0  # of a claim; workers renew it every few seconds


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command."""

    db: str = DEFAULT_DB
    json: bool = False
    verbose: bool = False
    quiet: bool = False


def tool_version() -> str:
    from importlib.metadata import version  # only here: it would take a third of the time allowed for `--help`

    return version("wandb-to-neptune")


def default_workers() -> int:
    """One worker per core that this process may use, up to a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_DEFAULT_WORKERS))


def lease_s() -> float:
    """The length of a lease. MIGRATE_LEASE_S is for tests: below three heartbeats, live workers may lose claims."""
    text = os.environ.get("MIGRATE_LEASE_S")
    try:
        return float(text or LEASE_S)
    except ValueError as error:
        raise UserError(f"MIGRATE_LEASE_S must be a number of seconds, not '{text}'") from error


def keys() -> dict[str, str]:
    """The keys of both services that are set, by variable.

    The first call removes them from the environment, so that processes started later do not inherit them. Workers get
    them from their supervisor (see `hold`).
    """
    held = _held()
    for name in KEYS:
        if name in os.environ:
            held.pop(name, None)
            if value := os.environ.pop(name):
                held[name] = value
    return dict(held)


def hold(given: Mapping[str, str]) -> None:
    """Use these keys in this process."""
    _held().update(given)


@cache
def _held() -> dict[str, str]:
    return {}


def token_is_set() -> bool:
    return NEPTUNE_KEY in keys()


def default_workspace(mode: Mode) -> str | None:
    """The workspace in NEPTUNE_PROJECT ("workspace/project"). Offline files need a workspace too, but any will do."""
    workspace, _, _ = os.environ.get("NEPTUNE_PROJECT", "").partition("/")
    return workspace or (OFFLINE_WORKSPACE if mode == "offline" else None)


def workspace(chosen: str, mode: Mode) -> str:
    """The chosen Neptune workspace (empty: the default), or a `UserError`."""
    name = chosen or default_workspace(mode)
    if name is None:
        raise UserError("which Neptune workspace? Use --neptune-workspace W, or set NEPTUNE_PROJECT=workspace/project")
    if not all(char.isalnum() or char in "._-" for char in name):
        raise UserError(f"--neptune-workspace: '{name}' is not a workspace name (letters, digits, '.', '-', '_')")
    return name


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def parse_time(text: str, option: str, now: datetime) -> datetime | None:
    """Parse a date or time: in ISO form, a month or year (its start), today, yesterday, or an age ("30d", "12h", "2w").

    Without a zone it is UTC, and days begin at midnight UTC.
    """
    if not text:
        return None
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        match text.strip().lower():
            case "today":
                return midnight
            case "yesterday":
                return midnight - timedelta(days=1)
            case age if matched := re.fullmatch(r"(\d{1,6})([hdw])", age):
                return (
                    now
                    - int(matched[1]) * {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(7)}[matched[2]]
                )
            case month if re.fullmatch(r"\d{4}(-\d{2})?", month):
                time = datetime.fromisoformat(f"{month}-01" if "-" in month else f"{month}-01-01")
            case _:
                time = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{option} takes a time such as 2024-05-01, 2024-05, 2024-05-01T12:00:00Z, yesterday or 30d (days ago), "
            f"not '{text}'"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def parse_size(text: str, option: str) -> int | None:
    """Parse a size in bytes, with an optional unit: 500, 10kB, 2.5MB, 1GiB."""
    if not text:
        return None
    units = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
    units |= {f"{unit}b": factor for unit, factor in units.items() if unit and unit != "b"}
    units |= {f"{unit}ib": 1024**power for power, unit in enumerate("kmgt", 1)}
    digits = text.strip().lower().rstrip("bikmgt ")
    try:
        size = int(float(digits) * units[text.strip().lower()[len(digits) :].strip()])
        if size < 0:
            raise ValueError(size)
        return size
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{option} takes a size such as 500MB or 2GiB, not '{text}'") from error


def from_files(values: Sequence[str] | None, option: str) -> list[str]:
    """Replace `@FILE` in the values by the lines of FILE, without blank lines and those that start with `#`."""
    result: list[str] = []
    for value in values or ():
        if not value.startswith("@"):
            result.append(value)
            continue
        lines = [line.strip() for line in _text_of_file(value[1:], f"{option} {value}").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserError(f"{option} {value}: {value[1:]} is empty")
        result += found
    return result


def _text_of_file(name: str, told: str) -> str:
    """The text of a file that an option names with `@`. `told`: the option as it was typed."""
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UserError(f"{told}: {name} cannot be read: {why}") from error


def parse_filter(text: str, option: str) -> dict[str, Any]:
    """Parse a filter in W&B's form: a JSON object, or `@FILE` that contains one. Empty: no filter."""
    if not text:
        return {}
    where = option
    if text.startswith("@"):
        where, text = f"{option} {text}", _text_of_file(text[1:], f"{option} {text}")
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} is not JSON: {why}. {FILTER_EXAMPLE}") from error
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else "a single value"
        raise UserError(f"{where} must be a JSON object, not {kind}. {FILTER_EXAMPLE}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Of a key that occurs twice, Python would silently ignore the first value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key '{twice}' occurs twice")
    return found


def _no_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number in JSON")


def parse_project_map(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `old=new` pairs, also from files."""
    result: dict[str, str] = {}
    for pair in from_files(pairs, "--project-map"):
        pair = "=".join(side.strip() for side in pair.split("=", 1))
        old, equals, new = pair.partition("=")
        if not equals or not old or not new:
            raise UserError(f"--project-map takes W&B-project=neptune-project, not '{pair}'")
        if not all(char.isascii() and (char.isalnum() or char in ".-_") for char in new):
            raise UserError(f"--project-map: '{new}' is not a Neptune project name (letters, digits, '.', '-', '_')")
        result[old] = new
    return result


def roots_of(directories: Sequence[Path]) -> list[str]:
    """The directories in both forms in which runs below them are recorded: as given, and with links resolved."""
    return sorted({str(path) for one in directories for path in (one.absolute(), one.resolve())})


def work_directory(chosen: Path | None) -> Path:
    """The directory in which scratch directories are created."""
    return chosen if chosen is not None else Path(tempfile.gettempdir())
