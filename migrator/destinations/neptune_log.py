"""Neptune's own offline files, read and written: the operation log of neptune-scale 0.30 (version "v5")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import md5
from pathlib import Path

from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_scale.sync.operations_repository import FileUploadRequest, OperationsRepository, OperationType

from migrator.destinations.neptune_wire import Upload
from migrator.errors import ErrorClass, Rejected
from migrator.records import LocalFile

LOG_NAME = "run_operations.sqlite3"
REQUEST_BYTES = 4 * 1024 * 1024  # an operation read back: as large as those of an online copy


class OfflineLog:
    """Neptune's own offline file of one run: what `Run(mode="offline")` writes and `neptune sync` reads.

    Besides it lie the files that are to be uploaded, so that the directory can be moved as a whole.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._repository = OperationsRepository(db_path=self.directory / LOG_NAME)

    def create(self, project: str, run_id: str) -> bool:
        """Make the file unless it is there; True if it is new."""
        self._repository.init_db()
        if self._repository.get_metadata() is not None:
            return False
        self._repository.save_metadata(project, run_id)
        return True

    def target(self) -> tuple[str, str]:
        """(project, run id) of the file."""
        metadata = self._repository.get_metadata()
        if metadata is None:
            raise Rejected(ErrorClass.BAD_DATA, f"{self.directory / LOG_NAME} is not a Neptune offline file")
        return metadata.project, metadata.run_id

    def append(self, operation: RunOperation) -> None:
        """Add an operation, durably."""
        if operation.HasField("create"):
            self._repository.save_create_run(operation.create)
        else:
            self._repository.save_update_run_snapshots(list(operation.update_batch.snapshots))

    def add_uploads(self, uploads: Sequence[Upload], stored: Sequence[Path]) -> None:
        """Remember files to upload, which lie at `stored`."""
        self._repository.save_file_upload_requests(
            [
                FileUploadRequest(str(path), upload.destination, upload.mime_type, upload.file.size_bytes, True)
                for upload, path in zip(uploads, stored, strict=True)
            ]
        )

    def position(self) -> str:
        """Where the file ends now: operations and uploads counted."""
        with self._repository._get_connection(timer=None) as connection:
            row = connection.execute(
                "SELECT (SELECT COALESCE(MAX(sequence_id), 0) FROM run_operations), "
                "(SELECT COALESCE(MAX(id), 0) FROM file_upload_requests)"
            ).fetchone()
        return f"{row[0]}:{row[1]}"

    def cut(self, position: str) -> None:
        """Take back what lies behind `position`."""
        operations, uploads = (int(number) for number in position.split(":"))
        with self._repository._get_connection(timer=None) as connection:
            connection.execute("DELETE FROM run_operations WHERE sequence_id > ?", (operations,))
            connection.execute("DELETE FROM file_upload_requests WHERE id > ?", (uploads,))

    def operations(self, after: int, max_bytes: int = REQUEST_BYTES) -> tuple[RunOperation | None, int, int]:
        """The next operation of at most `max_bytes` behind sequence id `after`, its last id, and how many values.

        (None, `after`, 0) behind the last one.
        """
        project, run_id = self.target()
        operation, last, values, size_bytes = RunOperation(project=project, run_id=run_id), after, 0, 0
        with self._repository._get_connection(timer=None) as connection:
            rows: Iterable[tuple[int, int, bytes]] = connection.execute(
                "SELECT sequence_id, operation_type, operation FROM run_operations WHERE sequence_id > ? "
                "ORDER BY sequence_id",
                (after,),
            )
            for sequence_id, kind, blob in rows:
                is_create = kind == OperationType.CREATE_RUN
                if last != after and (is_create or size_bytes + len(blob) > max_bytes):
                    break
                last, size_bytes = sequence_id, size_bytes + len(blob) + 8
                if is_create:
                    operation.create.ParseFromString(blob)
                    break
                snapshot = operation.update_batch.snapshots.add()
                snapshot.ParseFromString(blob)
                values += len(snapshot.append) + len(snapshot.assign) + len(snapshot.modify_sets)
        return (operation if last != after else None), last, values

    def uploads(self) -> list[Upload]:
        """Files still to upload. A moved directory is found: the files lie beside the log."""
        with self._repository._get_connection(timer=None) as connection:
            rows = connection.execute(
                "SELECT source_path, destination, mime_type, size_bytes FROM file_upload_requests ORDER BY id"
            ).fetchall()
        uploads = []
        for source, destination, mime_type, size_bytes in rows:
            path = Path(source)
            if not path.exists():
                path = self.directory / path.name
            digest = md5(usedforsecurity=False)
            if path.exists():
                with path.open("rb") as stream:
                    while block := stream.read(1024 * 1024):
                        digest.update(block)
            uploads.append(Upload(LocalFile(path, path.name, size_bytes, digest.hexdigest()), destination, mime_type))
        return uploads

    def close(self) -> None:
        self._repository.close(cleanup_files=False)
