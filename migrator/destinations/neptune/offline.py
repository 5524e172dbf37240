"""Neptune's offline files: the same records, kept in files that `migrate sync` (or `neptune sync`) uploads later.

    <offline dir>/<project>/<run>/run_operations.sqlite3    the operation log
    <offline dir>/<project>/<run>/<digest>.<extension>      files to upload

A barrier is passed when the operations are committed. Its position says where the file ended, so that whatever a
crashed attempt wrote behind the last checkpoint is cut off again: each point is in the file once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from migrator.destinations.base import UPLOADED, Confirm, Refused, RunTarget, unfenced
from migrator.destinations.neptune.connection import check_version
from migrator.destinations.neptune.offline_log import LOG_NAME, OfflineLog, disk_errors
from migrator.destinations.neptune.wire import OperationBuilder, Upload, create_operation
from migrator.destinations.neptune.wire_columns import Operation
from migrator.errors import ErrorClass, Rejected, Vanished
from migrator.naming import cut_utf8, hex_digest
from migrator.records import Record

# ours: archives outlive the umask of their day, and hold copies of files that only their owner could read
PRIVATE_FILE, PRIVATE_DIRECTORY = 0o600, 0o700
EXTENSION_MAX = 18  # of a kept file's name: as in the names that Neptune's storage gets


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


class OfflineDestination:
    """A directory of Neptune's offline files."""

    service = "offline"

    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        check_version()
        self.directory = directory.absolute()
        self._now = now

    def ensure_project(self, project: str, description: str) -> None:
        """Nothing to do: `migrate sync` creates the project."""

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> OfflineRun:
        directory = run_directory(self.directory, target.project, target.run_id)
        builder = OperationBuilder(target.project, target.run_id, self._now())
        confirm()
        if position is None or position == UPLOADED:
            _check_source(directory, target)
            return OfflineRun(_new_log(self.directory, directory, target), builder, confirm)
        return OfflineRun(_cut_log(directory, position), builder, confirm)

    def ping(self) -> None:
        """Always there."""

    def close(self) -> None:
        """Nothing held."""


def _check_source(directory: Path, target: RunTarget) -> None:
    """Raise `Rejected` if the directory holds a copy of another source run, which stays as it is.

    A copy of the same source run may be replaced, whichever state database it was made with: the source is the same.
    A file that does not name its source ended before its first attributes, and may be replaced, too.
    """
    if not target.source_url or not (directory / LOG_NAME).exists():
        return
    with OfflineLog(directory) as log:
        there = log.source_url()
    if there not in (None, target.source_url):
        raise Rejected(
            ErrorClass.BAD_DATA,
            f"{directory} holds a copy of another run, {there}, and was left as it is. Use another --offline-dir, "
            "or another project: `migrate inventory --project-map OLD=NEW`.",
        )


def _new_log(offline_dir: Path, directory: Path, target: RunTarget) -> OfflineLog:
    """A log with the run's creation; what an attempt left that never reached a checkpoint goes away."""
    with disk_errors(directory):
        if directory.exists():
            shutil.rmtree(directory)
        offline_dir.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(mode=PRIVATE_DIRECTORY)
    log = OfflineLog(directory)
    log.create(target.project, target.run_id)
    log.append([create_operation(target)])
    return log


def _cut_log(directory: Path, position: str) -> OfflineLog:
    """The log as it was at the last checkpoint."""
    if not (directory / LOG_NAME).exists():
        raise Vanished(f"offline file {directory / LOG_NAME}")
    log = OfflineLog(directory)
    log.cut(position)
    return log


class OfflineRun:
    """Appends to one offline file."""

    def __init__(self, log: OfflineLog, builder: OperationBuilder, confirm: Confirm) -> None:
        self._log = log
        self._builder = builder
        self._confirm = confirm
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="offline")
        self._position = self._writer.submit(log.position)

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        for record in records:
            self._builder.add(record)
            if self._builder.is_full:
                self._append()

    def flush(self) -> OfflineBarrier:
        self._append()
        return OfflineBarrier(self._position)

    def _append(self) -> None:
        """Hand over what was built; one earlier handover may still be on its way to the disk."""
        operations, uploads = self._builder.take()
        if operations:
            self._position.result()
            self._position = self._writer.submit(self._save, operations, uploads)

    def _save(self, operations: Sequence[Operation], uploads: Sequence[Upload]) -> str:
        kept = [self._kept(upload) for upload in uploads]
        self._confirm()
        self._log.append(operations, kept)
        return self._log.position()

    def _kept(self, upload: Upload) -> Upload:
        """The upload of a copy beside the log, which is on disk when this returns."""
        name = hex_digest(upload.destination, 16) + upload.file.path.suffix[:EXTENSION_MAX]
        path = self._log.directory / name
        partial = path.with_name(f"{name}.part")
        self._confirm()
        with disk_errors(self._log.directory):
            with upload.file.path.open("rb") as source, partial.open("wb") as copy:
                os.fchmod(copy.fileno(), PRIVATE_FILE)
                shutil.copyfileobj(source, copy, 1024 * 1024)
                copy.flush()
                os.fsync(copy.fileno())
            partial.replace(path)
        return replace(upload, file=replace(upload.file, path=path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._writer.shutdown()
        self._log.__exit__(*exc)


class OfflineBarrier:
    """Passed when the file is committed; a failure of the disk comes out of `wait`."""

    def __init__(self, saved: Future[str]) -> None:
        self.position: str | None = None
        self._saved = saved

    def ready(self) -> bool:
        return self._saved.done()

    def wait(self) -> Sequence[Refused]:
        self.position = self._saved.result()
        return ()
