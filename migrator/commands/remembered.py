"""Takes settings of earlier commands from the state database, so that they need not be given again.

The order is: option or its variable, NEPTUNE_PROJECT, state database. `Binding` later refuses contradictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from migrations_db import StateMissing, open_store
from migrations_db.states import Phase
from migrations_db.store import Store
from migrator.job.address import UPLOADS, bound_address
from migrator.parts.base import MappingOptions
from migrator.settings import OFFLINE_DIR, Globals, Mode, default_workspace, token_is_set, workspace
from migrator.visible import tell

#: the command-line names of mapping options
MAPPING_NAMES = {
    "include_private": "--include-private",
    "stringify": "--stringify-config",
    "metrics_namespace": "--metrics-namespace",
    "max_file_bytes": "--max-file-size",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The user's settings. None, empty and absent mean not given. `mapping`: the given fields of `MappingOptions`."""

    mode: Mode | None = None
    workspace: str = ""
    offline_dir: Path | None = None
    mapping: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settled:
    """Where and how a command copies runs."""

    mode: Mode
    workspace: str
    offline_dir: Path
    options: MappingOptions


@dataclass(frozen=True, slots=True)
class _Known:
    """The settings in the database. None: it has none."""

    mode: Mode | None = None
    workspace: str | None = None
    offline_dir: Path | None = None
    mapping: Mapping[str, Any] = field(default_factory=dict)


def remembered_options(db: str, phase: Phase) -> dict[str, object]:
    """The options that a command of this phase takes from the state database, by their names on the command line."""
    known = _read(db, phase)
    found = {"--mode": known.mode, "--neptune-workspace": known.workspace, "--offline-dir": known.offline_dir}
    mapping = known.mapping if phase is Phase.COPY else {}
    return {option: value for option, value in found.items() if value is not None} | {
        MAPPING_NAMES[name]: value for name, value in mapping.items() if name in MAPPING_NAMES and value is not None
    }


def remembered(phase: Phase, asked: Asked, common: Globals) -> Settled:
    """Complete the given settings from the state database, and print what was taken. `UserError` if any is missing."""
    known = _read(common.db, phase)
    usual: Mode = "online" if token_is_set() else "offline"
    mode = asked.mode or known.mode or usual
    taken = [f"--mode {mode}"] if not asked.mode and mode != usual else []
    name = asked.workspace or default_workspace("online") or ""
    if not name and known.workspace and mode == "online":
        name = known.workspace
        taken.append(f"--neptune-workspace {name}")
    directory = asked.offline_dir or known.offline_dir or OFFLINE_DIR
    uses_directory = mode == "offline" or phase is Phase.UPLOAD
    if uses_directory and not asked.offline_dir and directory.absolute() != OFFLINE_DIR.absolute():
        taken.append(f"--offline-dir {directory}")
    mapping = {**known.mapping, **asked.mapping}
    if phase is Phase.COPY:
        usual_mapping = MappingOptions().as_json()
        taken += [
            mapping_text(field_name, value)
            for field_name, value in known.mapping.items()
            if field_name not in asked.mapping and value != usual_mapping.get(field_name)
        ]
    if taken and not (common.quiet or common.json):
        tell(f"As before: {' '.join(taken)}")
    return Settled(mode, workspace(name, mode), directory, MappingOptions.from_json(mapping))


def mapping_text(name: str, value: object) -> str:
    """A mapping option as it is typed on the command line."""
    option = MAPPING_NAMES.get(name, name)
    match value:
        case True:
            return option
        case False:
            return option.replace("--", "--no-", 1)
        case None | "" | 0:
            return f"{option} ''"
    return f"{option} {value}"


def _read(db: str, phase: Phase) -> _Known:
    try:
        with open_store(db, create=False) as store:
            return _known(store, phase)
    except StateMissing:
        return _Known()  # the command will report it


def _known(store: Store, phase: Phase) -> _Known:
    copies = bound_address(store)
    known = _Known(mapping=store.listing.last_mapping() or {})
    if copies is None:
        return known
    if copies.directory:
        known = replace(known, mode="offline", offline_dir=copies.directory)
    else:
        known = replace(known, mode="online")
    bound = (bound_address(store, UPLOADS) if phase is Phase.UPLOAD else None) or copies
    return replace(known, workspace=bound.workspace) if bound.workspace else known
