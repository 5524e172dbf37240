"""The artifacts that a run logged and used, and their files. W&B's own export of system metrics is one of them."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.errors import ErrorClass, Rejected, TooLong
from migrator.listed import RunRef
from migrator.records import Artifact, LocalFile, SourceFile
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import (
    fewer,
    nodes,
    number,
    run_of,
)
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.connections import pages, sizes
from migrator.sources.wandb.downloads import Downloads, Recorded
from migrator.sources.wandb.errors import NotKnown
from migrator.sources.wandb.files import ScratchNames
from migrator.sources.wandb_facts import EVENTS_TYPE, OWN_TYPES, iso_time, sum_hex

log = logging.getLogger(__name__)

SUMS = {"MD5": "md5", "XXH128": "xxh128"}  # by their names in manifests (wandb 0.31)
MANIFEST_BYTES_MAX = 256 << 20  # about a million files; held in memory, parsed
PAGE_ARTIFACTS = 100
PAGE_URLS = 5_000  # as in wandb 0.31
VERSION_ALIAS = re.compile(r"v\d+")  # some servers list the version among the aliases


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """An artifact version and its place: `entity/project/name:version`."""

    id: str
    entity: str
    project: str
    name: str
    version: str
    type: str
    node: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}/{self.name}:{self.version}"


class RunArtifacts:
    """One run's artifacts. `fetch` may be called from several threads."""

    def __init__(self, client: WandbClient, downloads: Downloads, ref: RunRef, scratch: Path) -> None:
        self._client, self._downloads, self._ref = client, downloads, ref
        self._places = ScratchNames(scratch / "artifacts")
        self._lock = threading.Lock()
        self._logged: list[ArtifactRef] | None = None
        self.partial: str | None = None  # see `SourceRun.partial`
        self._addresses: tuple[str, dict[str, str]] = ("", {})  # only for one artifact: it may have a million files

    def logged(self) -> Iterator[Artifact]:
        """Logged artifacts except W&B's own, in W&B's order, each with the contents of its manifest."""
        for one in self._outputs():
            if one.type not in OWN_TYPES:
                yield self._artifact(one)

    def used(self) -> Sequence[str]:
        """The full names of used artifacts."""
        return [str(one) for one in self._list(queries.INPUT_ARTIFACTS)]

    def events_export(self) -> list[Path] | None:
        """Download W&B's unsampled export of the system metrics. Returns its files in order. None: there is none.

        `Rejected` if it is listed but cannot be downloaded.
        """
        own = [one for one in self._outputs() if one.type == EVENTS_TYPE]
        if not own:
            return None
        newest = max(own, key=lambda one: int(one.version[1:]))
        names = sorted(name for name in self._urls(newest) if name.endswith(".parquet"))
        return [self._fetch(newest, name, None).path for name in names] or None

    def fetch(self, artifact: Artifact, name: str) -> LocalFile:
        file = next((file for file in artifact.files if file.name == name), None)
        for one in self._outputs():
            if (one.name, one.version) == (artifact.name, artifact.version) and file:
                return self._fetch(one, name, file)
        raise Rejected(ErrorClass.NOT_FOUND, f"{artifact.name}:{artifact.version}/{name} is not (or no longer) at W&B")

    def release(self, file: LocalFile) -> None:
        if self._places.owns(file.path):
            file.path.unlink(missing_ok=True)

    # ------------------------------------------------------------ listing

    def _outputs(self) -> list[ArtifactRef]:
        with self._lock:
            if self._logged is None:
                self._logged = self._list(queries.OUTPUT_ARTIFACTS)
            return self._logged

    def _list(self, document: str) -> list[ArtifactRef]:
        found: dict[str, dict[str, Any]] = {}  # by id: some servers list things twice
        counted: int | None = None
        asked = {"entity": self._ref.entity, "project": self._ref.project, "run": self._ref.run_id}

        def ask(cursor: str | None, at_most: int) -> dict[str, Any]:
            nonlocal counted
            page = asked | {"cursor": cursor, "perPage": at_most}
            answer = self._client.ask(document, page, f"artifacts of {self._ref}")
            artifacts = run_of(answer, self._ref).get("artifacts") or {}
            counted = number(artifacts.get("totalCount"))
            return dict(artifacts)

        try:
            for size in sizes(PAGE_ARTIFACTS):
                for page in pages(ask, size):
                    found |= {node["id"]: node for node in nodes(page)}
                if len(found) >= (counted or 0):
                    break
        except NotKnown as error:
            log.warning("%s", error)
            self.partial = "this W&B server does not list artifacts"
        self.partial = self.partial or fewer("artifacts", len(found), counted)
        # others are deleted, or uploads that were never finished
        return [self._ref_of(node) for node in found.values() if node.get("state") in (None, "COMMITTED")]

    def _ref_of(self, node: dict[str, Any]) -> ArtifactRef:
        home = node.get("artifactSequence") or {}
        project = home.get("project") or {}
        return ArtifactRef(
            id=node["id"],
            entity=(project.get("entity") or {}).get("name") or self._ref.entity,
            project=project.get("name") or self._ref.project,
            name=home.get("name") or "",
            version=f"v{node.get('versionIndex') or 0}",
            type=(node.get("artifactType") or {}).get("name") or "",
            node=node,
        )

    def _artifact(self, one: ArtifactRef) -> Artifact:
        node = one.node
        entries = self._manifest(one)
        files = [
            SourceFile(path, int(entry.get("size") or 0), **_sum_of(entry))
            for path, entry in entries.items()
            if not entry.get("ref")
        ]
        return Artifact(
            name=one.name,
            version=one.version,
            type=one.type,
            aliases=_aliases(one),
            digest=node.get("digest") or "",
            size_bytes=int(node.get("size") or 0),
            created_at=iso_time(node.get("createdAt")),
            metadata=node.get("metadata") or "{}",
            files=files,
            references={path: str(entry["ref"]) for path, entry in entries.items() if entry.get("ref")},
        )

    def _manifest(self, one: ArtifactRef) -> dict[str, dict[str, Any]]:
        """Entries by path in the artifact: base64 `digest`, `size`, `extra`, and `ref` for data stored elsewhere."""

        def addresses(again: bool) -> list[str]:
            found = self._client.ask(queries.MANIFEST, {"id": one.id}, f"manifest of {one}").get("artifact") or {}
            url = ((found.get("currentManifest") or {}).get("file") or {}).get("directUrl")
            return [self._client.absolute(url)] if url else []

        what = f"manifest of {one}"
        saved = self._downloads.save(addresses, self._places.new(), what, at_most=MANIFEST_BYTES_MAX)
        if saved is None:
            raise Rejected(ErrorClass.NOT_FOUND, f"{one} has no manifest (deleted, or never finished)")
        try:
            if saved.size_bytes > MANIFEST_BYTES_MAX:
                raise TooLong(what, "W&B", MANIFEST_BYTES_MAX)
            return dict(sorted(json.loads(saved.path.read_bytes())["contents"].items()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Rejected(ErrorClass.BAD_DATA, f"the manifest of {one} cannot be read") from error
        finally:
            saved.path.unlink(missing_ok=True)

    # ------------------------------------------------------------ files

    def _fetch(self, one: ArtifactRef, name: str, file: SourceFile | None) -> LocalFile:
        def addresses(again: bool) -> list[str]:
            url = self._urls(one, again).get(name)
            return [url] if url else []

        expected = Recorded(file.size_bytes, file.md5, file.xxh128) if file else None
        saved = self._downloads.save(addresses, self._places.new(), f"{one}/{name}", expected)
        if saved is None:
            raise Rejected(ErrorClass.NOT_FOUND, f"{one}/{name} is not (or no longer) at W&B")
        return LocalFile(saved.path, name, saved.size_bytes, saved.md5)

    def _urls(self, one: ArtifactRef, again: bool = False) -> dict[str, str]:
        """Addresses by path in the artifact. They are signed, so they expire. Kept for the last artifact only."""
        with self._lock:
            if again or self._addresses[0] != one.id:
                self._addresses = one.id, dict(self._ask_urls(one))
            return self._addresses[1]

    def _ask_urls(self, one: ArtifactRef) -> Iterator[tuple[str, str]]:
        asked = {"entity": one.entity, "project": one.project, "collection": one.name, "alias": one.version}

        def ask(cursor: str | None, at_most: int) -> dict[str, Any]:
            page = asked | {"cursor": cursor, "perPage": at_most}
            answer = self._client.ask(queries.ARTIFACT_FILES, page, f"files of {one}")
            collection = (answer.get("project") or {}).get("artifactCollection") or {}
            return (collection.get("artifactMembership") or {}).get("files") or {}

        for page in pages(ask, PAGE_URLS):
            for node in nodes(page):
                if url := node.get("directUrl"):
                    yield node["name"], self._client.absolute(url)


def _sum_of(entry: dict[str, Any]) -> dict[str, str | None]:
    """The checksum in a manifest's entry, by field of `SourceFile`. Unknown kinds are left out."""
    extra = entry.get("extra")
    name = extra.get("alg", "MD5") if isinstance(extra, dict) else "MD5"
    field = SUMS.get(name)
    return {field: sum_hex(entry.get("digest"))} if field else {}


def _aliases(one: ArtifactRef) -> list[str]:
    """Aliases in the artifact's own collection. (A registry that links the artifact has its own aliases.)"""
    found = []
    for alias in one.node.get("aliases") or ():
        home = (alias.get("artifactCollection") or {}).get("name")
        if home in (None, one.name) and not VERSION_ALIAS.fullmatch(alias["alias"]):
            found.append(alias["alias"])
    return found
