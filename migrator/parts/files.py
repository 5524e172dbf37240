"""The run's files, several at a time, each checked by size and md5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from migrator.naming import Paths
from migrator.parts.base import BATCH_FILE_BYTES, BATCH_FILES, Context, Cursor, Ledger
from migrator.records import AssignFile, Batch, Kind, SourceFile
from migrator.sources.base import SourceRun


def file_path(name: str) -> str:
    """Where a W&B file goes; the first matching rule of the mapping."""
    if name.startswith("code/"):
        return f"source_code/files/{name.removeprefix('code/')}"
    if name == "requirements.txt":
        return "source_code/requirements.txt"
    if "ckpt" in name or "checkpoint" in name:
        return f"checkpoints/{name}"
    return f"files/{name}"


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """All files that are not copied yet. The cursor holds what is: name -> md5 (or size, where there is no md5)."""
    copied: dict[str, str] = dict(cursor.get("copied", {}))
    listed = run.files()
    in_history = run.survey().media if any(file.name.startswith("media/") for file in listed) else frozenset()
    files = [file for file in listed if file.name not in in_history]

    paths, ledger = Paths(), Ledger()
    targets: dict[str, str] = {}
    for file in files:
        targets[file.name], reason = paths.claim(file.name, file_path(file.name))
        if reason and file.name not in copied:
            ledger.add(Kind.RENAMED, f"{file.name} → {targets[file.name]}", reason)

    for group in _groups(file for file in files if copied.get(file.name) != _version(file)):
        batch = Batch(cursor={})
        fetching = []
        for file in group:
            batch.read += file.name not in copied
            limit = context.options.max_file_bytes
            if limit is not None and file.size_bytes > limit:
                if file.name not in copied:
                    ledger.add(Kind.SKIPPED, file.name, "too_large")
            else:
                fetching.append((file, context.downloads.submit(run.fetch, file.name)))
        for file, future in fetching:
            local = future.result()
            is_new = file.name not in copied
            if local is None:
                if is_new:
                    ledger.add(Kind.SKIPPED, file.name, "missing_file")
                continue
            batch.records.append(AssignFile(targets[file.name], local))
            batch.size_bytes += local.size_bytes
            batch.written += is_new
        copied.update((file.name, _version(file)) for file in group)
        batch.cursor = {"copied": dict(copied)}
        batch.ledger = ledger.take()
        yield batch
    yield Batch(cursor={"copied": copied}, ledger=ledger.take(), done=True)


def _version(file: SourceFile) -> str:
    return file.md5 or f"{file.size_bytes} bytes"


def _groups(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Batches of bounded number and size; a file that is larger than the bound goes alone."""
    group: list[SourceFile] = []
    size_bytes = 0
    for file in files:
        if group and (len(group) == BATCH_FILES or size_bytes + file.size_bytes > BATCH_FILE_BYTES):
            yield group
            group, size_bytes = [], 0
        group.append(file)
        size_bytes += file.size_bytes
    if group:
        yield group
