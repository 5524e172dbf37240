"""Settings that commands share, from options and the environment. Keys are in job.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from migrator.errors import UserError

Mode = Literal["online", "offline"]

DEFAULT_DB = "migration.db"
LOG_DIR = Path("migration-logs")
OFFLINE_DIR = Path("neptune-offline")
OFFLINE_WORKSPACE = "workspace"  # stands in an offline file until `migrate sync` knows the real one
MAX_DEFAULT_WORKERS = 8
LEASE_S = 60.0  # of a claim: workers renew it every few seconds


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command."""

    db: str = DEFAULT_DB
    json: bool = False
    verbose: bool = False
    quiet: bool = False


def tool_version() -> str:
    return version("wandb-to-neptune")


def default_workers() -> int:
    """One worker a core that this process may use, within reason."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MAX_DEFAULT_WORKERS))


def lease_s() -> float:
    """MIGRATE_LEASE_S is for tests: shorter than three heartbeats, a busy machine loses claims of live workers."""
    text = os.environ.get("MIGRATE_LEASE_S")
    try:
        return float(text or LEASE_S)
    except ValueError as error:
        raise UserError(f"MIGRATE_LEASE_S is a number of seconds, not '{text}'") from error


def token_is_set() -> bool:
    return bool(os.environ.get("NEPTUNE_API_TOKEN"))


def default_workspace(mode: Mode) -> str | None:
    """The workspace of NEPTUNE_PROJECT ("workspace/project"); offline files need one, too, but any will do."""
    workspace, _, _ = os.environ.get("NEPTUNE_PROJECT", "").partition("/")
    return workspace or (OFFLINE_WORKSPACE if mode == "offline" else None)


def workspace(chosen: str, mode: Mode) -> str:
    """The chosen Neptune workspace (empty: the default), or a `UserError`."""
    name = chosen or default_workspace(mode)
    if name is None:
        raise UserError("which Neptune workspace? Give --neptune-workspace W, or set NEPTUNE_PROJECT=workspace/project")
    if not all(char.isalnum() or char in "._-" for char in name):
        raise UserError(f"--neptune-workspace: '{name}' is no workspace name (letters, digits, '.', '-', '_')")
    return name


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def parse_time(text: str, option: str) -> datetime | None:
    """An ISO date or time; without a zone it is UTC."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option} takes a date such as 2024-05-01 or 2024-05-01T12:00:00Z, not '{text}'") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def parse_size(text: str, option: str) -> int | None:
    """Bytes, with an optional unit: 500, 10kB, 2.5MB, 1GiB."""
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


def parse_project_map(pairs: Sequence[str]) -> dict[str, str]:
    """`old=new` pairs."""
    result: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old or not new:
            raise UserError(f"--project-map takes W&B-project=neptune-project, not '{pair}'")
        if not all(char.isascii() and (char.isalnum() or char in ".-_") for char in new):
            raise UserError(f"--project-map: '{new}' is no Neptune project name (letters, digits, '.', '-', '_')")
        result[old] = new
    return result


def work_directory(chosen: Path | None) -> Path:
    """Where scratch directories are made."""
    return chosen if chosen is not None else Path(tempfile.gettempdir())
