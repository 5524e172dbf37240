"""Finds runs below the given directories: logs, run directories without a log, and what is neither.

Any `.wandb` file is a log, whatever the name of its directory, and all directories are walked: people rename and move
run directories, and keep experiments in folders whose names look like one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from migrator.errors import RunError, UserError
from migrator.listed import Cause, LeftOut
from migrator.sources.wandb_local.log import HEADER, opened

#: the SDK's names for run directories: (date and time, run id)
DATED = re.compile(r"(?:offline-|dry)?run-(\d{8}_\d{6})-(.+)")
#: what SDKs before 0.10 wrote into a run directory itself, instead of a log and `files/`
OLD_FILES = ("wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "wandb-metadata.json")
OWN_FILES = (*OLD_FILES, "config.yaml", "output.log", "requirements.txt")
LFS_HEAD = b"version https://git-lfs"
LOOKED_AT_BYTES = 4 * 1024 * 1024  # of a log, to detect whether its line ends were converted
LINE_ENDS_MIN = 3  # fewer may look converted by chance


@dataclass(slots=True)
class FoundLogs:
    """What was found below the directories: `logs` by their resolved paths, each once.

    `bare` are directories with the files of a run that has no log: `files/` of its run directory or, from SDKs before
    0.10, the run directory itself.
    """

    logs: dict[Path, Path] = field(default_factory=dict)
    bare: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find(paths: Sequence[Path]) -> FoundLogs:
    """Walk the directories (or take logs directly). Links to directories are not followed."""
    found = FoundLogs()
    roots = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist. Give --local a directory with W&B runs.")
        roots.append(path.resolve() if path.is_symlink() else path)  # latest-run soon points elsewhere
    for root in roots:
        if root.is_dir():
            _Walk(found, root, roots).walk()
        else:
            _add_log(found, root)
    found.bare = [*{place.resolve(): place for place in found.bare}.values()]  # directories may overlap
    found.left_out = [*dict.fromkeys(found.left_out)]
    return found


class _Walk:
    """Finds everything below one directory."""

    def __init__(self, found: FoundLogs, root: Path, roots: Sequence[Path]) -> None:
        self._found, self._root = found, root
        self._roots = [one.resolve() for one in roots]
        self._without_log: list[Path] = []  # with names like run directories
        self._holding: set[Path] = set()  # directories with a run in them or below

    def walk(self) -> None:
        for folder, folders, names in os.walk(self._root, onerror=self._unreadable):
            place = Path(folder)
            folders.sort()
            logs = sorted(name for name in names if name.endswith(".wandb"))
            for name in logs:
                _add_log(self._found, place / name)
                self._holds(place)
            if not logs and (DATED.fullmatch(place.name) or ("wandb-history.jsonl" in names and place.name != "files")):
                self._without_log.append(place)
            for name in folders:
                if os.path.islink(place / name):
                    self._linked(place / name)
        for place in reversed(self._without_log):  # the deepest first: one above may only have a name like a run
            files = files_of(place)
            if files is not None and (place not in self._holding or _has_own_files(files)):
                self._found.bare.append(files)
                self._holds(place)
            elif place not in self._holding:
                self._found.left_out.append(LeftOut(Cause.NO_LOG, str(place)))

    def _holds(self, place: Path) -> None:
        self._holding.update((place, *place.parents))

    def _unreadable(self, error: OSError) -> None:
        self._found.left_out.append(LeftOut(Cause.UNREADABLE, str(error.filename)))

    def _linked(self, link: Path) -> None:
        """Report a linked directory that seems to contain runs and is not walked otherwise."""
        if "files" in link.relative_to(self._root).parts:
            return  # reported with the run's own files
        try:
            target = link.resolve(strict=True)
            holds_runs = DATED.fullmatch(target.name) or any(map(_is_called_like_runs, os.listdir(target)))
        except (OSError, RuntimeError):  # gone, not accessible, or a loop of links
            return
        if holds_runs and not any(target.is_relative_to(root) for root in self._roots):
            self._found.left_out.append(LeftOut(Cause.LINK, str(link)))


def _is_called_like_runs(name: str) -> bool:
    return name == "wandb" or name.endswith(".wandb") or DATED.fullmatch(name) is not None


def _add_log(found: FoundLogs, log: Path) -> None:
    try:
        place = log.resolve(strict=True)
    except (OSError, RuntimeError):  # a dangling link, as git-annex and DVC leave it without the data
        found.left_out.append(LeftOut(Cause.UNREADABLE, str(log)))
        return
    if place.is_file():
        found.logs.setdefault(place, log)
    else:
        found.left_out.append(LeftOut(Cause.NOT_A_LOG, str(log)))


def files_of(directory: Path) -> Path | None:
    """The place of the files of a run directory. None: there are none."""
    files = directory / "files"
    if files.is_dir() and not files.is_symlink() and any(_regular_files(files)):
        return files
    return directory if any((directory / name).is_file() for name in OLD_FILES) else None


def _has_own_files(files: Path) -> bool:
    """Whether the SDK itself has written there."""
    return any((files / name).is_file() for name in OWN_FILES)


def _regular_files(directory: Path) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        yield from (name for name in names if os.path.isfile(os.path.join(folder, name)))


# ---------------------------------------------------------------- what is wrong with a log


def what_is_wrong(log: Path) -> Cause | None:
    """Why a file cannot be a complete log, judged by its first bytes. None: it may be one."""
    try:
        with opened(log) as file:
            head = file.read(len(LFS_HEAD))
    except RunError:
        return Cause.UNREADABLE
    if head == LFS_HEAD:
        return Cause.LFS_POINTER
    if HEADER.startswith(head):
        return Cause.EMPTY_LOG
    return None if head.startswith(HEADER) else Cause.NOT_A_LOG


def has_converted_line_ends(log: Path) -> bool:
    """Whether git or an editor converted each LF byte to CRLF, which damages a binary log from its first record on."""
    try:
        with opened(log) as file:
            content = file.read(LOOKED_AT_BYTES)
    except RunError:
        return False
    line_ends = content.count(b"\n")
    return line_ends >= LINE_ENDS_MIN and line_ends == content.count(b"\r\n")
