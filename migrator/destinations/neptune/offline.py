"""Neptune's offline files: the same records, written to files that `migrate sync` (or `neptune sync`) uploads later.

    <offline dir>/<project>/<run>/run_operations.sqlite3    the operation log
    <offline dir>/<project>/<run>/<digest>.<extension>      files to upload

A barrier passes when the operations are committed. Its position says where the file ended, so that whatever a crashed
attempt wrote after the last checkpoint can be cut off: each point is in the file once. If a run that already has a file
is copied from the start, it gets a new file next to the old one (its positions end with BESIDE), which replaces the old
file once it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from migrator.destinations.base import UPLOADED, Confirm, Refused, RunTarget, unfenced
from migrator.destinations.neptune.connection import check_version
from migrator.destinations.neptune.offline_log import LOG_NAME, OfflineLog, disk_errors
from migrator.destinations.neptune.offline_places import beside, finish_swap, run_directory, swap
from migrator.destinations.neptune.provenance import SAME_TIME
from migrator.destinations.neptune.wire import OperationBuilder, Upload, create_operation
from migrator.destinations.neptune.wire_columns import Operation
from migrator.errors import ErrorClass, Rejected, Vanished
from migrator.naming import hex_digest
from migrator.records import Record

# private, whatever the umask: archives are kept long, and contain copies of files that only their owner could read
PRIVATE_FILE, PRIVATE_DIRECTORY = 0o600, 0o700
BESIDE = "+"  # at the end of positions of a file that is written next to an older one
EXTENSION_MAX = 18  # characters of a kept file's extension, as in the names in Neptune's storage


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
        with disk_errors(directory):
            finish_swap(directory)
        if position is None or position == UPLOADED:
            check = partial(_check_sources, directory, target)
            check()
            place = beside(directory) if (directory / LOG_NAME).exists() else directory
            return OfflineRun(_new_log(self.directory, place, directory, target), builder, confirm, check)
        place = beside(directory) if position.endswith(BESIDE) and beside(directory).exists() else directory
        log = _cut_log(place, directory, position.removesuffix(BESIDE))
        return OfflineRun(log, builder, confirm, partial(_check_sources, directory, target))

    def ping(self) -> None:
        """Always available."""

    def close(self) -> None:
        """Nothing to release."""


def _check_sources(directory: Path, target: RunTarget) -> None:
    """Raise `Rejected` if there is a copy of another source run, complete or unfinished."""
    for place in (directory, beside(directory)):
        _check_source(place, target)


def _check_source(directory: Path, target: RunTarget) -> None:
    """Raise `Rejected` if the directory holds a copy of another source run, which is then left unchanged.

    A copy of the same source run may be replaced, whichever state database it was made with. A file that does not name
    its source (an attempt ended early, or --exclude attributes) counts as a copy of the same run if the creation times
    are equal.
    """
    if not target.source_url or not (directory / LOG_NAME).exists():
        return
    with OfflineLog(directory) as log:
        there, created_at = log.source_url(), log.created_at()
    if there is None and (created_at is None or abs(created_at - target.created_at) <= SAME_TIME):
        return
    if there != target.source_url:
        raise Rejected(
            ErrorClass.BAD_DATA,
            f"{directory} holds a copy of another run, {there or f'created at {created_at}'}, and was left as it is. "
            "Use another --offline-dir, or another project: `migrate inventory --project-map OLD=NEW`.",
        )


def _new_log(offline_dir: Path, directory: Path, home: Path, target: RunTarget) -> OfflineLog:
    """Create a log with the run's creation. Removes the rest of an attempt that never reached a checkpoint."""
    with disk_errors(directory):
        if directory.exists():
            shutil.rmtree(directory)
        offline_dir.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(mode=PRIVATE_DIRECTORY)
    log = OfflineLog(directory, home=home)
    log.create(target.project, target.run_id)
    log.append([create_operation(target)])
    return log


def _cut_log(directory: Path, home: Path, position: str) -> OfflineLog:
    """Open the log and cut it to where it was at the last checkpoint."""
    if not (directory / LOG_NAME).exists():
        raise Vanished(f"offline file {directory / LOG_NAME}")
    log = OfflineLog(directory, home=home)
    log.cut(position)
    return log


class OfflineRun:
    """Appends to one offline file."""

    def __init__(
        self, log: OfflineLog, builder: OperationBuilder, confirm: Confirm, check_sources: Callable[[], None]
    ) -> None:
        self._log = log
        self._check_sources = check_sources
        self._mark = "" if log.directory == log.home else BESIDE
        self._builder = builder
        self._confirm = confirm
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="offline")
        self._position = self._writer.submit(self._end)

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        for record in records:
            self._builder.add(record)
            if self._builder.is_full:
                self._append()

    def flush(self) -> OfflineBarrier:
        self._append()
        return OfflineBarrier(self._position)

    def identify(self) -> None:
        """Done by `open_run`."""

    def finish(self) -> str | None:
        """Replace an older file, unless another command has meanwhile put a copy of another source there."""
        position = self._position.result()
        if not self._mark:
            return None
        self._log.__exit__()
        self._check_sources()
        self._confirm()
        with disk_errors(self._log.home):
            swap(self._log.home)
        return position.removesuffix(BESIDE)

    def _append(self) -> None:
        """Pass on what was built to the writer. At most one earlier batch may still be on its way to the disk."""
        operations, uploads = self._builder.take()
        if operations:
            self._position.result()
            self._position = self._writer.submit(self._save, operations, uploads)

    def _save(self, operations: Sequence[Operation], uploads: Sequence[Upload]) -> str:
        kept = [self._kept(upload) for upload in uploads]
        self._confirm()
        self._log.append(operations, kept)
        return self._end()

    def _end(self) -> str:
        return self._log.position() + self._mark

    def _kept(self, upload: Upload) -> Upload:
        """Copy the file next to the log, durably. Returns the upload of that copy."""
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
    """Passes when the file is committed. `wait` raises if the disk failed."""

    def __init__(self, saved: Future[str]) -> None:
        self.position: str | None = None
        self._saved = saved

    def ready(self) -> bool:
        return self._saved.done()

    def wait(self) -> Sequence[Refused]:
        self.position = self._saved.result()
        return ()
