"""Files of a local run: all regular files below `files/` of its directories, read in place."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from migrator.records import SourceFile


class FoundFile(NamedTuple):
    """A file in its place. Links that lead to a regular file are followed."""

    path: Path
    size_bytes: int = 0
    mtime_ns: int = 0

    def known_as(self, name: str) -> SourceFile:
        return SourceFile(name, self.size_bytes, changed_at=f"{self.mtime_ns} ns")


def run_files(directories: Sequence[Path]) -> dict[str, FoundFile]:
    """A run's files by name, sorted. If several directories have a file of one name, the latest one counts.

    Files passed to `run.save()` are symlinks to their original place. All links are listed but not walked, including
    those to directories and `files` itself. `local_file` decides which of them are read.
    """
    return files_in([directory / "files" for directory in directories])


def files_in(roots: Sequence[Path]) -> dict[str, FoundFile]:
    """Like `run_files`, but `roots` contain the files themselves."""
    found: dict[str, FoundFile] = {}
    for root in roots:
        if root.is_symlink():
            found["files"] = FoundFile(root)
            continue
        for folder, folders, names in os.walk(root):
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                path = Path(folder, name)
                file, known = _regular(path), path.relative_to(root).as_posix()
                if file is not None:
                    found[known] = file
                elif path.is_symlink():
                    found.setdefault(known, FoundFile(path))
    return dict(sorted(found.items()))


def _regular(path: Path) -> FoundFile | None:
    """A regular file, after following links. None: it is something else."""
    try:
        status = path.stat()
    except OSError:  # a dangling link, or a file removed meanwhile
        return None
    return FoundFile(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def files_digest(directories: Sequence[Path]) -> str:
    """A digest that changes when a file is added, removed or changed."""
    content = [[name, file.size_bytes, file.mtime_ns] for name, file in run_files(directories).items()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
