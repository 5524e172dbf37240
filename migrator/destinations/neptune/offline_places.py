"""Where offline files lie, and how a new one takes the place of an old one.

    <offline dir>/<project>/<run>        the file of a run, with its attachments
    <offline dir>/<project>/<run>~new    a copy from the start, while there is an older file
    <offline dir>/<project>/<run>~old    the older file, while the new one takes its place

No run's own directory has a `~` in its name. A kill at any moment leaves the old file or the new one, whole: as long as
`<run>` is not there, both others are, and the swap is finished by whoever looks next.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from migrator.destinations.neptune.offline_log import LOG_NAME, OfflineLog
from migrator.naming import cut_utf8, hex_digest


def run_directory(offline_dir: Path, project: str, run_id: str) -> Path:
    """Where a run's offline file lies: readable, and different for different runs on any file system.

    The workspace in `project` ("workspace/name") does not matter: it may not be known before the upload.
    """
    return offline_dir.joinpath(*(_directory_name(level) for level in (project.rpartition("/")[2], run_id)))


def find_directory(offline_dir: Path, project: str, run_id: str, is_ours: Callable[[str], bool]) -> Path:
    """Where a run's offline file lies, also if its project had another name when it was written.

    `is_ours` tells a copy of the run from that of a run with the same id by its `migration/source_url`.
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


def _directory_name(name: str) -> str:
    """`name` itself, or a readable cut and a digest where a file system might mistake it for another."""
    if re.fullmatch(r"[a-z0-9_-][a-z0-9._-]{0,99}", name):
        return name
    readable = cut_utf8(re.sub(r"[^A-Za-z0-9._-]", "_", name), 100)
    return f"{readable.lstrip('.')}-{hex_digest(name, 8)}"


def beside(directory: Path) -> Path:
    """Where a run is copied anew while its directory holds an older file."""
    return directory.with_name(f"{directory.name}~new")


def swap(directory: Path) -> None:
    """The new file, which is whole, takes the place of the old one, which goes away."""
    old = _old(directory)
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    finish_swap(directory)


def finish_swap(directory: Path) -> None:
    """Finish a swap that may have been interrupted anywhere."""
    new, old = beside(directory), _old(directory)
    if not old.exists():
        return
    if not directory.exists():
        (new if new.exists() else old).rename(directory)
        _sync(directory.parent)  # or a power cut could take the old one, and the name of the new one
    shutil.rmtree(old, ignore_errors=True)


def _old(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}~old")


def _sync(directory: Path) -> None:
    """The names in a directory are on disk when this returns."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
