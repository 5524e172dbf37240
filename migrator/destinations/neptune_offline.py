"""Neptune's offline files: the same records, kept in files that `migrate sync` (or `neptune sync`) uploads later.

    <offline dir>/<project>/<run>/run_operations.sqlite3    the operation log
    <offline dir>/<project>/<run>/<n>-<file name>           files to upload

A barrier is passed when the operations are committed. Its position says where the file ended, so that whatever a
crashed attempt wrote behind the last checkpoint is cut off again: each point is in the file once.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any, Self

from neptune_scale.exceptions import NeptuneUnableToLogData

from migrator.destinations.base import Refused, RunTarget
from migrator.destinations.neptune_log import LOG_NAME, OfflineLog
from migrator.destinations.neptune_sdk import check_version
from migrator.destinations.neptune_wire import OperationBuilder, Upload, create_operation
from migrator.errors import ErrorClass, Rejected, Retryable, RunError
from migrator.naming import cut_utf8, hex_digest
from migrator.records import Record

UPLOADED = "uploaded"  # position of a run whose offline file was uploaded and removed: the next one starts anew
WRITE_BYTES = 4 * 1024 * 1024  # operations held in memory before they are committed


def run_directory(offline_dir: Path, project: str, run_id: str) -> Path:
    """Where a run's offline file lies: readable, and different for different runs on any file system."""
    workspace_project = re.sub(r"[^A-Za-z0-9.-]", "_", project)
    readable = cut_utf8(re.sub(r"[^A-Za-z0-9._-]", "_", run_id), 100)
    if readable != run_id or readable.lower() != run_id or readable.startswith("."):
        readable = f"{readable.lstrip('.')}-{hex_digest(run_id, 8)}"
    return offline_dir / workspace_project / readable


class OfflineDestination:
    """A directory of Neptune's offline files."""

    service = "offline"

    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        check_version()
        self.directory = directory.absolute()
        self.address = f"offline:{self.directory}"
        self._now = now

    def ensure_project(self, project: str, description: str) -> None:
        """Nothing to do: `migrate sync` creates the project."""

    def open_run(self, target: RunTarget, position: str | None) -> OfflineRun:
        directory = run_directory(self.directory, target.project, target.run_id)
        return OfflineRun(directory, target, position, self._now())

    def close(self) -> None:
        """Nothing held."""


class OfflineRun:
    """Appends to one offline file."""

    def __init__(self, directory: Path, target: RunTarget, position: str | None, written_at: datetime) -> None:
        self._directory = directory
        self._builder = OperationBuilder(target.project, target.run_id, written_at)
        self._stored = 0
        with _disk_errors(directory):
            if position in (None, UPLOADED):
                position = None
                if directory.exists():
                    shutil.rmtree(directory)  # an attempt that never reached a checkpoint
            directory.mkdir(parents=True, exist_ok=True)
            if position is not None and not (directory / LOG_NAME).exists():
                raise Rejected(
                    ErrorClass.NOT_FOUND,
                    f"offline file {directory / LOG_NAME} is gone, but part of the run was already in it",
                )
            self._log = OfflineLog(directory)
            if self._log.create(target.project, target.run_id):
                create = create_operation(target.project, target.run_id, target.name, target.created_at, target.fork)
                self._log.append(create)
            elif position is not None:
                self._log.cut(position)

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        for record in records:
            self._builder.add(record)
            if self._builder.size_bytes >= WRITE_BYTES:
                self._append()

    def flush(self) -> OfflineBarrier:
        self._append()
        with _disk_errors(self._directory):
            return OfflineBarrier(self._log.position())

    def _append(self) -> None:
        operation, uploads = self._builder.take()
        with _disk_errors(self._directory):
            if uploads:
                self._log.add_uploads(uploads, [self._keep(upload) for upload in uploads])
            if operation is not None:
                self._log.append(operation)

    def _keep(self, upload: Upload) -> Path:
        """A copy of the file beside the log, on disk when this returns."""
        path = self._directory / f"{hex_digest(upload.destination, 16)}{upload.file.path.suffix}"
        with upload.file.path.open("rb") as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1024 * 1024)
            copy.flush()
            os.fsync(copy.fileno())
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._log.close()


class OfflineBarrier:
    """Already passed: appending commits."""

    def __init__(self, position: str) -> None:
        self.position: str | None = position

    def ready(self) -> bool:
        return True

    def wait(self) -> Sequence[Refused]:
        return ()


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except NeptuneUnableToLogData as error:
        raise _disk_error(directory, error.__cause__ or error) from error
    except (OSError, sqlite3.Error) as error:
        raise _disk_error(directory, error) from error


def _disk_error(directory: Path, error: BaseException) -> RunError:
    if (isinstance(error, OSError) and error.errno == ENOSPC) or "disk is full" in str(error):
        return Retryable(ErrorClass.DISK_FULL, f"no space left for offline files in {directory}")
    if isinstance(error, PermissionError) or "readonly database" in str(error):
        return Rejected(ErrorClass.PERMISSION, f"offline files cannot be written in {directory}: {error}")
    return Retryable(ErrorClass.UNKNOWN, f"offline file in {directory}: {error}")
