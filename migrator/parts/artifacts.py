"""Logged and used artifacts, on request."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.errors import ErrorClass, Rejected
from migrator.naming import Paths, clean_text
from migrator.parts.base import BATCH_FILE_BYTES, BATCH_FILES, BatchLedger, Context, Cursor, single_value
from migrator.records import Artifact, Assign, AssignFile, Batch, Kind, LocalFile, Scalar, SourceFile
from migrator.sources.base import SourceRun, Withheld
from migrator.values import compact_json

#: attributes of a version, by the last part of their path. The paths are reserved even if a source lacks the values.
INFO = ("type", "aliases", "digest", "size", "created_at", "metadata", "references")


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy one artifact version after another, in bounded batches. Names contain no `/` (wandb 0.31), so paths of
    different versions never collide.

    The cursor holds the complete versions with their aliases (which can change), the number of files already copied of
    the unfinished version, and whether `used` is counted.
    """
    copied: dict[str, list[str]] = dict(cursor.get("copied", {}))
    unfinished, files_done = cursor.get("unfinished", ("", 0))
    used_counted = bool(cursor.get("used"))
    ledger, bases = BatchLedger(), Paths()
    sets: dict[str, Scalar | frozenset[str]] = {}  # values that count once however often they are written
    for artifact in run.artifacts():
        key = f"{artifact.name}:{artifact.version}"
        base, paths = bases.take(key, f"artifacts/{artifact.name}/{artifact.version}"), Paths()
        info = _info(artifact, ledger if key not in copied and key != unfinished else BatchLedger())
        info_paths = {name: paths.take(f"info/{name}", f"{base.name}/info/{name}").name for name in INFO}
        aliases = sorted(map(clean_text, artifact.aliases))
        targets = {file.name: paths.take(file.name, f"{base.name}/{file.name}") for file in artifact.files}
        if key in copied:
            if copied[key] != aliases:
                sets[info_paths["aliases"]] = frozenset(aliases)
                copied[key] = aliases
            continue
        done = files_done if key == unfinished else 0
        batch = Batch(cursor={})
        secret = [name for name, value in info.items() if context.withholds(str(value))]
        for name in secret:
            del info[name]
        if not done:
            for name in secret:
                ledger.add(Kind.SKIPPED, f"{key} {name}", "contains_key")
            batch.records.append(Assign({info_paths[name]: value for name, value in info.items()}))
            ledger.renamed(key, base)
            batch.written = len(info)
            batch.read = len(info) + len(secret)
        if done > len(artifact.files):  # the list of files has gone since, so what is missing is unknown
            ledger.add(Kind.SKIPPED, key, "missing_file")
            batch.read = 1
        for number, file in enumerate(artifact.files[done:], done):
            if len(batch.records) > BATCH_FILES or batch.size_bytes > BATCH_FILE_BYTES:
                batch.cursor = {"copied": {**copied}, "unfinished": [key, number], "used": used_counted}
                batch.ledger = ledger.take()
                yield batch
                batch = Batch(cursor={})
            batch.read += 1
            local = _fetch(run, artifact, file, context, ledger)
            if local is not None:
                batch.records.append(AssignFile(targets[file.name].name, local))
                batch.size_bytes += local.size_bytes
                batch.written += 1
                ledger.renamed(f"{key}/{file.name}", targets[file.name])
        copied[key] = aliases
        batch.cursor = {"copied": {**copied}, "used": used_counted}
        batch.ledger = ledger.take()
        yield batch
    used = frozenset(map(clean_text, run.used_artifacts()))
    if used:
        sets["artifacts/used"] = used
    values = 1 if used and not used_counted else 0
    if why := run.partial("artifacts"):
        ledger.add(Kind.SAMPLED, "artifacts", why)
    yield Batch(
        cursor={"copied": copied, "used": bool(used) or used_counted},
        records=[Assign(sets)] if sets else [],
        ledger=ledger.take(),
        read=values,
        written=values,
        done=True,
    )


def _fetch(
    run: SourceRun, artifact: Artifact, file: SourceFile, context: Context, ledger: BatchLedger
) -> LocalFile | None:
    """Fetch a file. None: it is skipped, and an entry in the ledger says why."""
    name = f"{artifact.name}:{artifact.version}/{file.name}"
    limit = context.options.max_file_bytes
    if limit is not None and file.size_bytes > limit:
        ledger.add(Kind.SKIPPED, name, "too_large")
        return None
    try:
        return run.fetch_artifact_file(artifact, file.name)
    except Withheld as withheld:
        ledger.add(Kind.SKIPPED, name, withheld.reason)
        return None
    except Rejected as error:
        if error.error_class is not ErrorClass.NOT_FOUND:
            raise
        ledger.add(Kind.SKIPPED, name, "missing_file")
        return None


def _info(artifact: Artifact, ledger: BatchLedger) -> dict[str, Scalar | frozenset[str]]:
    """The artifact's attributes in W&B, by the last part of their path."""
    told: dict[str, Scalar | None] = {
        "type": artifact.type,
        "digest": artifact.digest,
        "size": artifact.size_bytes,
        "created_at": artifact.created_at,
        "metadata": artifact.metadata,
        "references": compact_json(dict(artifact.references)) if artifact.references else None,
    }
    info: dict[str, Scalar | frozenset[str]] = {}
    for name, value in told.items():
        if value is not None:
            info[name], note = single_value(value)
            ledger.note(f"{artifact.name}:{artifact.version} {name}", note)
    if artifact.aliases:
        info["aliases"] = frozenset(map(clean_text, artifact.aliases))
    return info
