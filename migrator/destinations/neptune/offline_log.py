"""Reads and writes Neptune's own offline files: the operation log of neptune-scale 0.30 (version "v5")."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from errno import EACCES, EPERM, EROFS
from hashlib import file_digest
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self, TypeVar

from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_scale.exceptions import NeptuneLocalStorageInUnsupportedVersion, NeptuneUnableToLogData
from neptune_scale.sync.operations_repository import OperationsRepository, OperationType

from migrator.destinations.neptune.wire import REQUEST_BYTES, Upload
from migrator.destinations.neptune.wire_columns import Encoded, Operation
from migrator.errors import DiskFull, ErrorClass, Rejected, Retryable, RunError, Vanished, disk_full
from migrator.records import Entry, Kind, LocalFile

LOG_NAME = "run_operations.sqlite3"
MISSING, DAMAGED = "missing_file", "damaged_file"  # skip reasons for files that do not exist or are incomplete
NOTHING_LOST: Mapping[str, str] = MappingProxyType({})
SOURCE_URL = "migration/source_url"
ROWS_AT_A_TIME = 5_000  # held in memory when the whole log is read
REQUEST_VALUES = 100_000  # per request of an upload. There is a checkpoint after each: at most this many are sent twice
SNAPSHOT_OVERHEAD_BYTES = 8  # of a snapshot inside a request, at most

T = TypeVar("T")


class LoggedOperation(NamedTuple):
    """Consecutive rows of the log as one request. `last_id` is the id of the last row.

    `values` counts the values in the rows. `lost` are values left out of the request because their files are lost.
    """

    operation: RunOperation
    last_id: int
    values: int
    lost: Sequence[Entry] = ()


class LoggedUpload(NamedTuple):
    """A file to upload (None: the file is lost), and the id of its row in the log."""

    id: int
    upload: Upload | None


class OfflineLog:
    """Neptune's own offline file of one run: what `Run(mode="offline")` writes and `neptune sync` reads.

    The files to upload are in the same directory, so it can be moved as a whole. All methods raise `RunError` if the
    disk fails.
    """

    def __init__(self, directory: Path, project: str | None = None, home: Path | None = None) -> None:
        """`project` ("workspace/name"): the project to read operations for, whatever project they were written for.

        `home`: where the directory will be once the file is complete (None: it does not move).
        """
        self.directory = directory.absolute()
        self.home = (home or directory).absolute()
        self.path = self.directory / LOG_NAME
        self._project = project
        self._repository = OperationsRepository(db_path=self.path)

    def create(self, project: str, run_id: str) -> None:
        """Create the file."""
        with disk_errors(self.directory):
            self._repository.init_db()
            self._repository.save_metadata(project, run_id)

    def target(self) -> tuple[str, str]:
        """(project, run id) of the file."""
        with disk_errors(self.directory):
            metadata = self._repository.get_metadata()
        if metadata is None:
            raise Rejected(ErrorClass.BAD_DATA, f"{self.path} is not a complete Neptune offline file")
        return metadata.project, metadata.run_id

    def source_url(self) -> str | None:
        """The source run of which the file is a copy. None: the file ends before it says so."""
        return self._first(OperationType.UPDATE_SNAPSHOT, _source_url)

    def created_at(self) -> datetime | None:
        """When the run was created, according to the file. None: the file ends before it says so."""
        return self._first(OperationType.CREATE_RUN, _creation_time)

    def _first(self, kind: OperationType, answer: Callable[[bytes], T | None]) -> T | None:
        """The first answer from an operation of this kind. None: none has one, or the table does not exist yet."""
        with self._transaction() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run_operations'").fetchone():
                return None
            query = "SELECT operation FROM run_operations WHERE operation_type = ? ORDER BY sequence_id"
            answers = (answer(blob) for (blob,) in connection.execute(query, (kind,)))
            return next((found for found in answers if found is not None), None)

    def append(self, operations: Sequence[Operation], uploads: Sequence[Upload] = ()) -> None:
        """Add operations, and files to upload that are in the directory: all or nothing, durably."""
        now_ms = int(time.time() * 1000)
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO run_operations (timestamp, operation_type, operation, operation_size_bytes) "
                "VALUES (?, ?, ?, ?)",
                [(now_ms, kind, blob, len(blob)) for operation in operations for kind, blob in _rows(operation)],
            )
            # A file that was written before and has changed is uploaded only once.
            connection.executemany(
                "DELETE FROM file_upload_requests WHERE destination = ?", [(upload.destination,) for upload in uploads]
            )
            connection.executemany(
                "INSERT INTO file_upload_requests (source_path, destination, mime_type, size_bytes, is_temporary) "
                "VALUES (?, ?, ?, ?, 1)",
                [(str(self.home / u.file.path.name), u.destination, u.mime_type, u.file.size_bytes) for u in uploads],
            )

    def position(self) -> str:
        """The current end of the file: the last operation and the last file to upload."""
        operation, upload = self._ends()
        return f"{operation}:{upload}"

    def _ends(self) -> tuple[int, int]:
        with self._transaction() as connection:
            operation, upload = connection.execute(
                "SELECT (SELECT COALESCE(MAX(sequence_id), 0) FROM run_operations), "
                "(SELECT COALESCE(MAX(id), 0) FROM file_upload_requests)"
            ).fetchone()
        return operation, upload

    def cut(self, position: str) -> None:
        """Remove everything after `position`. `Vanished` if the file ends before it (it is an older copy)."""
        operation, upload = (int(number) for number in position.split(":"))
        if any(there < wanted for there, wanted in zip(self._ends(), (operation, upload), strict=True)):
            raise Vanished(f"the end of offline file {self.path}")
        with self._transaction() as connection:
            connection.execute("DELETE FROM run_operations WHERE sequence_id > ?", (operation,))
            connection.execute("DELETE FROM file_upload_requests WHERE id > ?", (upload,))

    def next_operation(
        self, after: int, lost_files: Mapping[str, str] = NOTHING_LOST, max_bytes: int = REQUEST_BYTES
    ) -> LoggedOperation | None:
        """The rows after id `after` for one request of about `max_bytes`, or of REQUEST_VALUES. None: no more rows.

        Values that refer to one of the `lost_files` are left out: there would be no file behind them.
        """
        written_for, run_id = self.target()
        project = self._project or written_for
        operation, last, values, size_bytes = RunOperation(project=project, run_id=run_id), after, 0, 0
        lost: list[Entry] = []
        with self._transaction() as connection:
            for row, kind, blob in connection.execute(
                "SELECT sequence_id, operation_type, operation FROM run_operations WHERE sequence_id > ? "
                "ORDER BY sequence_id",
                (after,),
            ):
                size_bytes += len(blob) + SNAPSHOT_OVERHEAD_BYTES
                if last != after and (kind == OperationType.CREATE_RUN or size_bytes > max_bytes):
                    break
                if kind == OperationType.CREATE_RUN:
                    operation.create.ParseFromString(blob)
                    if operation.create.HasField("fork_point"):
                        operation.create.fork_point.parent_project = project
                    last = row
                    break
                snapshot = UpdateRunSnapshot.FromString(blob)
                values_more = len(snapshot.append) + len(snapshot.assign) + len(snapshot.modify_sets)
                if last != after and values + values_more > REQUEST_VALUES:
                    break
                if lost_files:
                    lost += _without(snapshot, lost_files)
                operation.update_batch.snapshots.append(snapshot)
                last, values = row, values + values_more
        return LoggedOperation(operation, last, values, lost) if last != after else None

    def changes(self) -> Iterator[CreateRun | UpdateRunSnapshot]:
        """All operations in the file, in order."""
        after = 0
        while True:
            with self._transaction() as connection:
                rows = connection.execute(
                    "SELECT sequence_id, operation_type, operation FROM run_operations WHERE sequence_id > ? "
                    "ORDER BY sequence_id LIMIT ?",
                    (after, ROWS_AT_A_TIME),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            for _, kind, blob in rows:
                message = CreateRun if kind == OperationType.CREATE_RUN else UpdateRunSnapshot
                yield message.FromString(blob)

    def kept(self) -> dict[str, Path]:
        """The files kept with the log, by destination."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT destination, source_path FROM file_upload_requests").fetchall()
        return {destination: self.directory / Path(source).name for destination, source in rows}

    def lost_files(self) -> dict[str, str]:
        """By destination, why a file cannot be uploaded: it is missing, or its size has changed."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT source_path, destination, size_bytes FROM file_upload_requests"
            ).fetchall()
        lost: dict[str, str] = {}
        with disk_errors(self.directory):
            for source, destination, size_bytes in rows:
                path = self.directory / Path(source).name
                if not path.is_file():
                    lost[destination] = MISSING
                elif path.stat().st_size != size_bytes:
                    lost[destination] = DAMAGED
        return lost

    def next_uploads(self, after: int, count: int, lost_files: Mapping[str, str] = NOTHING_LOST) -> list[LoggedUpload]:
        """At most `count` files after id `after`. Lost files are None."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, source_path, size_bytes, destination, mime_type FROM file_upload_requests WHERE id > ? "
                "ORDER BY id LIMIT ?",
                (after, count),
            ).fetchall()
        return [
            LoggedUpload(
                row,
                None
                if destination in lost_files
                else Upload(self._kept_file(Path(source).name, size_bytes), destination, mime_type),
            )
            for row, source, size_bytes, destination, mime_type in rows
        ]

    def _kept_file(self, name: str, size_bytes: int) -> LocalFile:
        path = self.directory / name
        try:
            with path.open("rb") as stream:
                digest = file_digest(stream, "md5").hexdigest()
                size_found = stream.tell()
        except OSError as error:
            raise _disk_error(self.directory, error) from error
        if size_found != size_bytes:
            raise Retryable(ErrorClass.BAD_DATA, f"{path} changed while it was uploaded")
        return LocalFile(path, name, size_bytes, digest)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with disk_errors(self.directory), self._repository._get_connection(timer=None) as connection:
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._repository.close(cleanup_files=False)


def _source_url(snapshot: bytes) -> str | None:
    assigned = UpdateRunSnapshot.FromString(snapshot).assign
    return str(assigned[SOURCE_URL].string) if SOURCE_URL in assigned else None


def _creation_time(creation: bytes) -> datetime | None:
    created: datetime = CreateRun.FromString(creation).creation_time.ToDatetime(UTC)
    return created


def _rows(operation: Operation) -> Iterator[tuple[OperationType, bytes]]:
    if isinstance(operation, Encoded):
        for encoded in operation.snapshots():
            yield OperationType.UPDATE_SNAPSHOT, encoded
        return
    if operation.HasField("create"):
        yield OperationType.CREATE_RUN, operation.create.SerializeToString()
    for snapshot in operation.update_batch.snapshots:
        yield OperationType.UPDATE_SNAPSHOT, snapshot.SerializeToString()


def _without(snapshot: UpdateRunSnapshot, lost_files: Mapping[str, str]) -> Iterator[Entry]:
    """Remove values of lost files from the snapshot."""
    for values in (snapshot.assign, snapshot.append):
        for path in [path for path, value in values.items() if value.file_ref.path in lost_files]:
            yield Entry(Kind.SKIPPED, path, lost_files[values[path].file_ref.path])
            del values[path]


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Translate exceptions of the operating system, SQLite and the SDK's log into `RunError`."""
    try:
        yield
    except NeptuneLocalStorageInUnsupportedVersion as error:
        raise Rejected(ErrorClass.BAD_DATA, f"{directory} was written by another version of neptune-scale") from error
    except NeptuneUnableToLogData as error:
        raise _disk_error(directory, error.__cause__ or error) from error
    except (OSError, sqlite3.Error) as error:
        raise _disk_error(directory, error) from error


def _disk_error(directory: Path, error: BaseException) -> RunError:
    number = getattr(error, "errno", None)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # SQLite's primary error code
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("offline files", directory)
    if full := disk_full(error, "offline files", directory):
        return full
    if number in (EACCES, EPERM, EROFS) or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return Rejected(ErrorClass.PERMISSION, f"offline files cannot be written in {directory}: {error}")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return Rejected(ErrorClass.BAD_DATA, f"the offline file in {directory} is damaged: {error}")
    return Retryable(ErrorClass.UNKNOWN, f"offline files in {directory}: {error}")
