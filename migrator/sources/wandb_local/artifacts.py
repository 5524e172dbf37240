"""Artifacts of a local run: records in its log, and files where the SDK staged them.

A log does not have the version that the service gave an artifact (here, versions are counted by name within the run,
equal content once, as in the service), aliases that other runs moved, the time of logging, and, of an artifact that
the run used, the entity, project and version.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.errors import ErrorClass, Rejected, RunError
from migrator.records import Artifact, LocalFile, SourceFile
from migrator.sources.base import Withheld
from migrator.sources.wandb_facts import OWN_TYPES, sum_hex
from migrator.sources.wandb_local.access import is_inside, local_file
from migrator.sources.wandb_local.log import WandbLog, opened

MANIFEST_NAME = "wandb_manifest.json"  # W&B's name for the file
LINE_CHARS_MAX = 1024 * 1024  # of an entry in a long manifest; without a limit, a few bytes may expand to gigabytes
MD5_ALGORITHMS = frozenset({"", "MANIFEST_MD5"})  # ArtifactRecord.digest_algorithm; "" before wandb 0.31


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """A version of an artifact. Its record begins at `offset` in `log`."""

    name: str
    version: str
    log: Path
    offset: int


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file (`local_path` may be empty, or no longer exist) or, with `ref`, a reference."""

    path: str
    size_bytes: int
    md5: str | None
    ref: str
    local_path: str


class ArtifactIndex:
    """The artifacts that a run logged, in order. Records stay on disk, because manifests may be long."""

    def __init__(self) -> None:
        self._by_digest: dict[str, dict[str, LoggedArtifact]] = {}
        self._holders: dict[str, dict[str, LoggedArtifact]] = {}
        self.logged: list[LoggedArtifact] = []

    def add(self, record: Any, log: Path, offset: int) -> None:
        """Add a record. Equal content with one name is one version. An alias belongs to the last version with it."""
        if record.type in OWN_TYPES:
            return
        versions = self._by_digest.setdefault(record.name, {})
        artifact = versions.get(record.digest)
        if artifact is None:
            artifact = LoggedArtifact(record.name, f"v{len(versions)}", log, offset)
            versions[record.digest] = artifact
            self.logged.append(artifact)
        holders = self._holders.setdefault(record.name, {})
        holders.update(dict.fromkeys(record.aliases, artifact))

    def find(self, name: str, version: str) -> LoggedArtifact | None:
        versions = self._by_digest.get(name, {}).values()
        return next((artifact for artifact in versions if artifact.version == version), None)

    def aliases(self, artifact: LoggedArtifact) -> list[str]:
        return [alias for alias, holder in self._holders[artifact.name].items() if holder is artifact]


def read_artifact(
    logged: LoggedArtifact, aliases: list[str], places: Sequence[Path]
) -> tuple[Artifact, dict[str, ManifestEntry]]:
    """The artifact, and its files by path, including files whose staged copy is gone.

    `places` are the directories where the SDK leaves manifests and staged files: nothing else is read.
    """
    record = _record(logged)
    entries = {entry.path: entry for entry in sorted(_entries(record, places), key=lambda entry: entry.path)}
    files = {path: entry for path, entry in entries.items() if not entry.ref}
    artifact = Artifact(
        name=record.name,
        version=logged.version,
        type=record.type,
        aliases=aliases,
        digest=record.digest,
        size_bytes=sum(entry.size_bytes for entry in entries.values()),  # including references, as in W&B
        created_at=None,
        metadata=record.metadata or "{}",
        files=[SourceFile(path, entry.size_bytes, entry.md5) for path, entry in files.items()],
        references={path: entry.ref for path, entry in entries.items() if entry.ref},
    )
    return artifact, files


def staged_file(
    artifact: Artifact, entry: ManifestEntry | None, name: str, keys: Set[bytes], places: Sequence[Path]
) -> LocalFile:
    """The staged copy of an artifact's file, checked against its manifest. `Withheld` if it is not in `places`."""
    title = f"{artifact.name}:{artifact.version}/{name}"
    if entry is None or not entry.local_path:
        raise Rejected(ErrorClass.NOT_FOUND, f"{title} is not on this machine")
    if Path(entry.local_path).exists() and not is_inside(Path(entry.local_path), places):
        raise Withheld("outside")
    file = local_file(Path(entry.local_path), name, link_allowed=False, keys=keys)
    if file is None:
        raise Rejected(ErrorClass.NOT_FOUND, f"{title} is no longer on this machine: {entry.local_path} is gone")
    if file.size_bytes != entry.size_bytes or file.md5 != (entry.md5 or file.md5):
        raise Rejected(ErrorClass.NOT_FOUND, f"{title}: {entry.local_path} is no longer what was logged")
    return file


def _record(logged: LoggedArtifact) -> Any:
    for record, _ in WandbLog(logged.log, logged.offset).records():
        if record.HasField("artifact"):
            return record.artifact
        break
    raise Rejected(ErrorClass.BAD_DATA, f"{logged.log} has changed: there is no artifact at byte {logged.offset}")


def _entries(record: Any, places: Sequence[Path]) -> Iterator[ManifestEntry]:
    manifest = record.manifest
    with_md5 = record.digest_algorithm in MD5_ALGORITHMS
    if manifest.manifest_file_path:
        yield from _entries_of_file(Path(manifest.manifest_file_path), with_md5, places)
    for entry in manifest.contents:
        md5 = sum_hex(entry.digest) if with_md5 else None
        yield ManifestEntry(entry.path, entry.size, md5, entry.ref, entry.local_path)


def _entries_of_file(path: Path, with_md5: bool, places: Sequence[Path]) -> Iterator[ManifestEntry]:
    """The entries of a long manifest: gzipped JSON lines next to the staged files (wandb 0.31 `interface.py`).

    If that file is gone or may not be read, the artifact's files are unknown, and the manifest is their only entry.
    """
    if not is_inside(path, places):
        yield ManifestEntry(MANIFEST_NAME, 0, None, "", str(path))
        return
    try:
        with opened(path) as file, gzip.open(file, "rt", encoding="utf-8") as lines:
            while line := lines.readline(LINE_CHARS_MAX):
                entry = json.loads(line)
                md5 = sum_hex(entry["digest"]) if with_md5 else None
                yield ManifestEntry(
                    entry["path"], entry.get("size") or 0, md5, entry.get("ref") or "", entry.get("local_path") or ""
                )
    except (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, RunError):
        yield ManifestEntry(MANIFEST_NAME, 0, None, "", str(path))
