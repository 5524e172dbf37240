"""Where offline files are, and how a new one replaces an old one.

    <offline dir>/<project>/<run>        the file of a run, with its attachments
    <offline dir>/<project>/<run>~new    a copy from the start, while there is an older file
    <offline dir>/<project>/<run>~old    the older file, while the new one replaces it

The names of runs' own directories contain no `~`. Killing the program at any moment leaves the old or the new file
complete: while `<run>` does not exist, the other two do, and the next reader finishes the swap.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from migrator.destinations.neptune.offline_log import LOG_NAME, OfflineLog
from migrator.naming import cut_utf8, hex_digest


def run_directory(offline_dir: Path, project: str, run_id: str) -> Path:
    """The directory of a run's offline file. Its name is readable, and differs for different runs on any file system.

    The workspace in `project` ("workspace/name") is not used, because it may not be known before the upload.
    """
    return offline_dir.joinpath(*(_directory_name(level) for level in (project.rpartition("/")[2], run_id)))


def find_directory(offline_dir: Path, project: str, run_id: str, is_ours: Callable[[str], bool]) -> Path:
    """The directory of a run's offline file, even if its project had another name when the file was written.

    `is_ours` says, from the `migration/source_url` of a file, whether it is a copy of this run: ids may be equal.
    """
    directory = run_directory(offline_dir, project, run_id)
    finish_swap(directory)
    if (directory / LOG_NAME).exists():
        return directory
    for other in offline_dir.glob(f"*/{directory.name}/{LOG_NAME}"):
        with OfflineLog(other.parent) as log:
            url = log.source_url()
            if url and is_ours(url) and log.target()[1] == run_id:
                return other.parent
    return directory


def all_directories(offline_dir: Path) -> Iterator[Path]:
    """The directories of all offline files, also of those that are written or replaced, in order."""
    for log in sorted(offline_dir.glob(f"*/*/{LOG_NAME}")):
        if not log.parent.is_symlink():
            yield log.parent


def _directory_name(name: str) -> str:
    """`name` itself; or, if a file system might confuse it with another name, a shortened form with a digest."""
    if re.fullmatch(r"[a-z0-9_-][a-z0-9._-]{0,99}", name):
        return name
    readable = cut_utf8(re.sub(r"[^A-Za-z0-9._-]", "_", name), 100)
    return f"{readable.lstrip('.')}-{hex_digest(name, 8)}"


def beside(directory: Path) -> Path:
    """The directory for a new copy of a run, while `directory` holds an older file."""
    return directory.with_name(f"{directory.name}~new")


def swap(directory: Path) -> None:
    """Replace the old file with the new one, which is complete, and remove the old one."""
    old = _old(directory)
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    finish_swap(directory)


def finish_swap(directory: Path) -> None:
    """Finish a swap that may have been interrupted at any point."""
    new, old = beside(directory), _old(directory)
    if not old.exists():
        return
    if not directory.exists():
        (new if new.exists() else old).rename(directory)
        _sync(directory.parent)  # otherwise a power cut could lose the old file and the new one's name
    shutil.rmtree(old, ignore_errors=True)


def _old(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}~old")


def _sync(directory: Path) -> None:
    """Flush the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
