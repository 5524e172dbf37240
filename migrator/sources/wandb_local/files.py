"""Files of a local run: all regular files below `files/` of its directories, where they lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path


def run_files(directories: Sequence[Path]) -> dict[str, tuple[Path, int]]:
    """Paths and sizes of a run's files by name, sorted; of one name, that of the latest directory that has it.

    Files that were given to `run.save()` are symlinks to their place. All links are listed, those to directories and
    `files` itself, too, but not walked: `local_file` decides which of them is read.
    """
    found: dict[str, tuple[Path, int]] = {}
    for directory in directories:
        root = directory / "files"
        if root.is_symlink():
            found["files"] = (root, 0)
            continue
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
