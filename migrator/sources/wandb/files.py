"""The files of a run: one listing, and downloads to scratch files whose names do not depend on the remote names."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.listed import RunRef
from migrator.records import LocalFile, SourceFile
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import nodes, number, run_of
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.connections import pages, sizes
from migrator.sources.wandb.downloads import Downloads, Recorded
from migrator.sources.wandb_facts import sum_hex

PAGE_FILES = 500  # per answer: about 300 kB


@dataclass(frozen=True, slots=True)
class _File:
    """A file as listed. None: W&B does not say. Without `urls`, the file does not exist although it is listed."""

    name: str
    urls: Sequence[str]  # W&B's own address, and that of the storage behind it: either may be refused
    size_bytes: int | None
    md5: str | None


class RunFiles:
    """One run's files. `fetch` may be called from several threads."""

    def __init__(self, client: WandbClient, downloads: Downloads, ref: RunRef, scratch: Path) -> None:
        self._client, self._downloads, self._ref = client, downloads, ref
        self._places = ScratchNames(scratch / "files")
        self._lock = threading.Lock()
        self._listed: tuple[dict[str, _File], int] | None = None

    def all(self) -> Sequence[SourceFile]:
        """All files, sorted by name."""
        return [SourceFile(one.name, one.size_bytes or 0, one.md5) for _, one in sorted(self._list()[0].items())]

    def count(self) -> int:
        """The number of files according to W&B."""
        return self._list()[1]

    def fetch(self, name: str) -> LocalFile | None:
        """Download the file `name`, checked against W&B's size and md5. None: the run has no such file, or W&B
        has lost it."""
        file = self._list()[0].get(name)
        if file is None:
            return None

        def addresses(again: bool) -> Sequence[str]:
            found = self._ask([name])[0] if again else {name: file}
            return found[name].urls if name in found else ()

        return self._downloads.save(addresses, self._places.new(), name, Recorded(file.size_bytes, file.md5))

    def release(self, file: LocalFile) -> None:
        """Delete the scratch file. Files elsewhere are left alone."""
        if self._places.owns(file.path):
            file.path.unlink(missing_ok=True)

    def _list(self) -> tuple[dict[str, _File], int]:
        with self._lock:
            if self._listed is None:
                found: dict[str, _File] = {}
                counted = 0
                for size in sizes(PAGE_FILES):
                    more, counted = self._ask([], size)
                    found |= more
                    if len(found) >= counted:
                        break
                self._listed = found, counted
            return self._listed

    def _ask(self, names: Sequence[str], size: int = PAGE_FILES) -> tuple[dict[str, _File], int]:
        """All files (or those in `names`), and how many the run has according to W&B."""
        found: dict[str, _File] = {}
        counted = 0

        def ask(cursor: str | None, at_most: int) -> dict[str, Any]:
            nonlocal counted
            asked: dict[str, Any] = {"fileNames": names, "fileLimit": at_most, "fileCursor": cursor}
            asked |= {"project": self._ref.project, "entity": self._ref.entity, "name": self._ref.run_id}
            asked |= {"upload": False, "pattern": None}
            run = run_of(self._client.ask(queries.FILES, asked, f"files of {self._ref}"), self._ref)
            counted = number(run.get("fileCount")) or 0
            return run.get("files") or {}

        for page in pages(ask, size):
            found |= {file.name: file for file in map(self._file, nodes(page))}
        return found, counted

    def _file(self, node: dict[str, Any]) -> _File:
        urls = [self._client.absolute(url) for url in (node.get("url"), node.get("directUrl")) if url]
        size_bytes, md5 = number(node.get("sizeBytes")), sum_hex(node.get("md5"))
        if md5 is None and not size_bytes:
            size_bytes = None  # 0 may mean that the size is unknown
        return _File(node["name"], urls, size_bytes, md5)


class ScratchNames:
    """New paths in a directory of our own. Remote names are not used: they may contain `..`, `/` and anything else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def new(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / str(next(self._numbers))

    def owns(self, path: Path) -> bool:
        return path.parent == self._directory
