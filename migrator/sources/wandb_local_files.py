"""Files of a local run: all regular files below `files/` of its directories, where they lie."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from migrator.records import LocalFile
from migrator.sources.wandb_log import opened

READ_BYTES = 1024 * 1024


def run_files(directories: Sequence[Path]) -> dict[str, tuple[Path, int]]:
    """Paths and sizes of a run's files by name, sorted; of one name, that of the latest directory that has it.

    Files that were given to `run.save()` are symlinks to their place. Links that lead to no file are listed, too
    (those to directories are not followed): something was there, and `local_file` says None for it.
    """
    found: dict[str, tuple[Path, int]] = {}
    for directory in directories:
        root = directory / "files"
        for folder, folders, names in os.walk(root):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                path = Path(folder, name)
                size_bytes, known = _size_bytes(path), path.relative_to(root).as_posix()
                if size_bytes is not None:
                    found[known] = (path, size_bytes)
                elif path.is_symlink():
                    found.setdefault(known, (path, 0))
    return dict(sorted(found.items()))


def _size_bytes(path: Path) -> int | None:
    """The size of a regular file, links followed; None for anything else."""
    try:
        status = path.stat()
    except OSError:  # a dangling link, or removed meanwhile
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def local_file(path: Path, name: str) -> LocalFile | None:
    """A regular file with its size and md5 as they are now; None if there is none (any more)."""
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError):  # gone, or a loop of links
        return None
    if not place.is_file():
        return None
    digest, size_bytes = hashlib.md5(usedforsecurity=False), 0
    with opened(place) as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return LocalFile(place, name, size_bytes, digest.hexdigest())
