"""Logged and used artifacts, on request."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.errors import ErrorClass, Rejected
from migrator.naming import Paths
from migrator.parts.base import BATCH_FILE_BYTES, BATCH_FILES, Context, Cursor, Ledger, single_value
from migrator.records import Artifact, Assign, AssignFile, Batch, Kind, Scalar
from migrator.sources.base import SourceRun
from migrator.values import compact_json


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """One artifact version after the other, in bounded batches; the cursor holds the versions that are complete."""
    copied: list[str] = list(cursor.get("copied", ()))
    ledger, paths = Ledger(), Paths()
    for artifact in run.artifacts():
        base = f"artifacts/{artifact.name}/{artifact.version}"
        key = f"{artifact.name}:{artifact.version}"
        info = _info(artifact, base)
        targets = {file.name: paths.claim(f"{key}/{file.name}", f"{base}/{file.name}") for file in artifact.files}
        if key in copied:
            continue
        batch = Batch(cursor={"copied": list(copied)}, records=[Assign(info)], read=len(info), written=len(info))
        for file in artifact.files:
            if len(batch.records) > BATCH_FILES or batch.size_bytes > BATCH_FILE_BYTES:
                batch.ledger = ledger.take()
                yield batch
                batch = Batch(cursor={"copied": list(copied)})
            path, reason = targets[file.name]
            if reason:
                ledger.add(Kind.RENAMED, f"{key}/{file.name} → {path}", reason)
            batch.read += 1
            limit = context.options.max_file_bytes
            if limit is not None and file.size_bytes > limit:
                ledger.add(Kind.SKIPPED, f"{key}/{file.name}", "too_large")
                continue
            try:
                local = run.fetch_artifact_file(artifact, file.name)
            except Rejected as error:
                if error.error_class is not ErrorClass.NOT_FOUND:
                    raise
                ledger.add(Kind.SKIPPED, f"{key}/{file.name}", "missing_file")
                continue
            batch.records.append(AssignFile(path, local))
            batch.size_bytes += local.size_bytes
            batch.written += 1
        copied.append(key)
        batch.cursor = {"copied": list(copied)}
        batch.ledger = ledger.take()
        yield batch
    used = frozenset(run.used_artifacts())
    records = [Assign({"artifacts/used": used})] if used else []
    fresh = 0 if cursor.get("used") or not used else 1
    yield Batch(cursor={"copied": copied, "used": True}, records=[*records], read=fresh, written=fresh, done=True)


def _info(artifact: Artifact, base: str) -> dict[str, Scalar | frozenset[str]]:
    info: dict[str, Scalar | frozenset[str]] = {
        "type": artifact.type,
        "digest": artifact.digest,
        "size": artifact.size_bytes,
        "metadata": single_value(artifact.metadata).value,
    }
    if artifact.aliases:
        info["aliases"] = frozenset(artifact.aliases)
    if artifact.created_at:
        info["created_at"] = artifact.created_at
    if artifact.references:
        info["references"] = single_value(compact_json(dict(artifact.references))).value
    return {f"{base}/info/{name}": value for name, value in info.items()}
