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


def run_files(directories: Sequence[Path]) -> tuple[dict[str, tuple[Path, int]], list[str]]:
    """Paths and sizes of a run's files by name, sorted, the latest directory first; and links that lead nowhere.

    Files that were given to `run.save()` are symlinks to their place. Links to directories are not followed.
    """
    found: dict[str, tuple[Path, int]] = {}
    dangling: list[str] = []
    for directory in directories:
        root = directory / "files"
        for folder, folders, names in os.walk(root):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                path = Path(folder, name)
                size_bytes = _size_bytes(path)
                if size_bytes is not None:
                    found[path.relative_to(root).as_posix()] = (path, size_bytes)
                elif path.is_symlink():
                    dangling.append(f"{path}: a link to {os.readlink(path)}, which is no file")
    return dict(sorted(found.items())), dangling


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
