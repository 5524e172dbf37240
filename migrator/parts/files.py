"""The files of a run, fetched several at a time and checked by size and md5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from migrator.naming import Paths, Renamed
from migrator.parts.base import BATCH_FILE_BYTES, BATCH_FILES, BatchLedger, Context, Cursor, MappingOptions
from migrator.parts.shortage import SHORT, Shortage, insist, skip_lost
from migrator.records import AssignFile, Batch, Kind, SourceFile
from migrator.sources.base import SourceRun, Withheld


def file_path(name: str) -> str:
    """The path of a W&B file: the first matching rule of the mapping decides."""
    if name.startswith("code/"):
        return f"source_code/files/{name.removeprefix('code/')}"
    if name == "requirements.txt":
        return "source_code/requirements.txt"
    if "ckpt" in name or "checkpoint" in name:
        return f"checkpoints/{name}"
    return f"files/{name}"


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy all files that are not copied yet.

    The cursor's `items` record, batch by batch, what was done with each file: name -> its version if copied, None if
    skipped. They only grow, so a checkpoint costs the same however many files came before. If the source has changed,
    the first batch counts the unchanged copies again, and all other files are examined again.
    """
    saved = cursor.get("items", cursor.get("outcomes", ()))  # "outcomes": cursors of version 1.0
    outcomes: list[dict[str, str | None]] = list(saved)
    known = {name: version for outcome in outcomes for name, version in outcome.items()}
    listed = run.files()
    short = Shortage.seen(cursor, len(listed), run.file_count())
    yield from insist(short, "files", lambda: Batch({**cursor}))
    files = _without_media(listed, run, context.options) if context.has_history else listed
    targets = _targets(files, known)
    ledger = BatchLedger()

    def reached() -> dict[str, Any]:
        return {"items": [*outcomes], "listed": context.fingerprint, SHORT: cursor.get(SHORT)}

    if cursor.get("listed", context.fingerprint) != context.fingerprint:
        known = {name: version or _AGAIN for name, version in known.items()}
        outcomes = [known]
        kept = [file for file in files if known.get(file.name) == file.version]
        for file in kept:
            ledger.renamed(file.name, targets[file.name])
        yield Batch(
            cursor=reached(),
            ledger=ledger.take(),
            read=len(kept),
            written=len(kept),
            size_bytes=sum(file.size_bytes for file in kept),
            fresh=True,
        )
    for group in _groups(file for file in files if known.get(file.name, _AGAIN) not in (None, file.version)):
        batch = _copy(group, run, context, targets, ledger)
        copied = {record.file.name for record in batch.records if isinstance(record, AssignFile)}
        outcomes.append({file.name: file.version if file.name in copied else None for file in group})
        batch.cursor = reached()
        yield batch
    last = Batch(cursor=reached(), done=True)
    skip_lost(last, short, "missing_file")
    yield last


_AGAIN = ""  # instead of a version: skipped before the source changed, so to be examined again


def _without_media(files: Sequence[SourceFile], run: SourceRun, options: MappingOptions) -> Sequence[SourceFile]:
    """`files` without those that are copied as file series of the history."""
    if not any(file.name.startswith("media/") for file in files):
        return files
    in_history = {name for key, name in run.survey().media if options.wants(key)}
    return [file for file in files if file.name not in in_history]


def _targets(files: Iterable[SourceFile], known: Iterable[str]) -> dict[str, Renamed]:
    """The path of each file. Known files come first and in order, so they keep their paths whatever is listed later."""
    paths = Paths()
    names = dict.fromkeys([*known, *(file.name for file in files)])
    return {name: paths.take(name, file_path(name)) for name in names}


def _copy(
    group: Sequence[SourceFile], run: SourceRun, context: Context, targets: dict[str, Renamed], ledger: BatchLedger
) -> Batch:
    """Fetch the files of `group`. Returns a batch whose cursor is still empty."""
    batch = Batch(cursor={}, read=len(group))
    limit = context.options.max_file_bytes
    fetching = []
    for file in group:
        if limit is not None and file.size_bytes > limit:
            ledger.add(Kind.SKIPPED, file.name, "too_large")
        else:
            fetching.append((file, context.downloads.submit(run.fetch, file.name)))
    for file, future in fetching:
        try:
            local = future.result()
        except Withheld as withheld:
            ledger.add(Kind.SKIPPED, file.name, withheld.reason)
            continue
        if local is None:
            ledger.add(Kind.SKIPPED, file.name, "missing_file")
            continue
        ledger.renamed(file.name, targets[file.name])
        ledger.linked(local)
        batch.records.append(AssignFile(targets[file.name].name, local))
        batch.size_bytes += local.size_bytes
        batch.written += 1
    batch.ledger = ledger.take()
    return batch


def _groups(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Group files into batches of limited number and size. A file above the size limit gets a batch of its own."""
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
