"""Finds the W&B project of a run whose log does not name it.

Only runs that were started with an entity have it in their log (those of sweep agents, for example); for others, the
server chose it. It is then in files that the SDK wrote next to the log, or in another run of the same project.
"""

from __future__ import annotations

import configparser
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from migrator.errors import RunError
from migrator.sources.wandb_local.log import opened

UNKNOWN_PROJECT = "uncategorized"  # W&B's own name for it
READ_BYTES = 4 * 1024 * 1024  # of each file next to the log
#: the SDK's last message (wandb_run.py): entity/project/run id; without an entity only project/run id
_FINISHING = re.compile(r"finishing run ([^/\s]+)/([^/\s]+)/(\S+)")
_SETTING = r"['\"]%s['\"]: ['\"]([^'\"/]+)['\"]"
_ENTITY, _PROJECT = (re.compile(_SETTING % name) for name in ("entity", "project"))


@dataclass(frozen=True, slots=True)
class Identity:
    """A run in a directory. `entity` and `project` are empty while they are not known.

    `start` identifies the start of the run: copies of a log have the same one.
    """

    directory: Path
    run_id: str
    start: object
    entity: str = ""
    project: str = ""

    @property
    def neighbours(self) -> Path:
        """The directory that contains the run directories: `wandb/`."""
        return self.directory.parent


def identified(runs: Sequence[Identity]) -> list[Identity]:
    """The runs, in order, with everything that can be found out. What remains unknown is empty."""
    runs = [_beside(run) for run in runs]
    agreed = _Agreed((run.project, [(run.run_id, run.start), run.neighbours]) for run in runs)
    runs = [
        run if run.project else replace(run, project=agreed.on((run.run_id, run.start), run.neighbours)) for run in runs
    ]
    agreed = _Agreed((run.entity, _kin(run)) for run in runs)
    return [run if run.entity else replace(run, entity=agreed.on(*_kin(run))) for run in runs]


def _kin(run: Identity) -> list[object]:
    """Keys that a run shares with other runs of the same entity, the closest relation first."""
    return [
        (run.project, run.run_id, run.start),  # copies of its log
        (run.project, run.neighbours, run.run_id),  # its other starts
        (run.project, run.neighbours),
    ]


class _Agreed:
    """The values on which runs with a common key agree."""

    def __init__(self, told: Iterable[tuple[str, Sequence[object]]]) -> None:
        self._known: defaultdict[object, set[str]] = defaultdict(set)
        for value, keys in told:
            for key in keys if value else ():
                self._known[key].add(value)

    def on(self, *keys: object) -> str:
        """The value of the first key that has exactly one value. Empty: there is no such key."""
        return next((min(self._known[key]) for key in keys if len(self._known[key]) == 1), "")


def _beside(run: Identity) -> Identity:
    """Complete a run from the files in its directory."""
    if run.entity and run.project:
        return run
    entity, project = run.entity, run.project
    for told_entity, told_project in (
        _of_debug_log(run.directory, run.run_id),
        _of_metadata(run.directory),
        _of_settings(run.neighbours),
    ):
        if project and told_project and told_project != project:
            continue  # from another run
        entity, project = entity or told_entity, project or told_project
    return replace(run, entity=entity, project=project)


def _of_debug_log(directory: Path, run_id: str) -> tuple[str, str]:
    text = text_of(directory / "logs" / "debug.log")
    for entity, project, named in _FINISHING.findall(text):
        if named == run_id:
            return entity, project
    entities, projects = _ENTITY.findall(text), _PROJECT.findall(text)
    return entities[-1] if entities else "", projects[-1] if projects else ""


def _of_metadata(directory: Path) -> tuple[str, str]:
    metadata = metadata_of(directory)
    entity, project = metadata.get("entity"), metadata.get("project")
    return entity if isinstance(entity, str) else "", project if isinstance(project, str) else ""


def metadata_of(directory: Path) -> dict[str, Any]:
    """The contents of `wandb-metadata.json` in a run directory. Empty: there is no readable one."""
    for place in (directory / "files", directory):
        try:
            found = json.loads(text_of(place / "wandb-metadata.json"))
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _of_settings(neighbours: Path) -> tuple[str, str]:
    """`wandb/settings`, which `wandb init` writes."""
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read_string(text_of(neighbours / "settings"))
    except configparser.Error:
        return "", ""
    return settings.get("default", "entity", fallback=""), settings.get("default", "project", fallback="")


def text_of(path: Path) -> str:
    """The text of a small file that belongs to the run. Empty: there is none. Links are not followed."""
    if path.is_symlink() or path.parent.is_symlink():
        return ""
    try:
        with opened(path) as file:
            return file.read(READ_BYTES).decode(errors="replace")
    except RunError:
        return ""
