"""A source whose runs are Python objects: the fake that tests use, held to the same contract suite as the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, Self, TypeVar

from migrator.errors import ErrorClass, Rejected, UserError
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Fork,
    HistoryRow,
    LocalFile,
    RunAttributes,
    RunListing,
    RunRef,
    SourceFile,
    SourceProject,
    SystemRow,
)
from migrator.sources.base import RunFilter, Survey
from migrator.values import SeriesKey, SeriesKind, compact_json, leaves

PAGE_ROWS = 100

_Row = TypeVar("_Row", HistoryRow, SystemRow, ConsoleLine)


@dataclass
class MemoryData:
    """One run as a test describes it. Change it and its fingerprint changes."""

    run_id: str
    name: str = ""
    state: str = "finished"
    created_at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    notes: str | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    fork: Fork | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: list[HistoryRow] = field(default_factory=list)
    system: list[SystemRow] = field(default_factory=list)
    console: list[ConsoleLine] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def fingerprint(self) -> str:
        return md5(repr(self).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


class MemorySource:
    """Projects of one entity: name -> runs."""

    service = "memory"

    def __init__(self, projects: Mapping[str, list[MemoryData]], entity: str = "team") -> None:
        self.entity = entity
        self.data = projects

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        if entity not in (None, self.entity):
            raise UserError(f"entity '{entity}' does not exist")
        for name in sorted(self.data):
            yield SourceProject(self.entity, name, f"memory:{self.entity}/{name}")

    def count_runs(self, project: SourceProject) -> int | None:
        return len(self.data[project.name])

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        for data in self.data[project.name]:
            listing = RunListing(
                run_id=data.run_id,
                name=data.name,
                source_state=data.state,
                created_at=data.created_at,
                heartbeat_at=None,
                history_rows=len(data.history),
                fingerprint=data.fingerprint(),
                fork=data.fork,
                tags=data.tags,
            )
            if only.accepts(listing):
                yield listing

    def open_run(self, ref: RunRef, scratch: Path) -> MemoryRun:
        for data in self.data.get(ref.project, ()):
            if data.run_id == ref.run_id:
                return MemoryRun(data, ref, scratch)
        raise Rejected(ErrorClass.NOT_FOUND, f"run {ref} is gone")

    def close(self) -> None:
        """Nothing to give back."""


class MemoryRun:
    """Reads one `MemoryData`."""

    def __init__(self, data: MemoryData, ref: RunRef, scratch: Path) -> None:
        self._data = data
        self._ref = ref
        self._scratch = scratch

    def attributes(self) -> RunAttributes:
        data = self._data
        return RunAttributes(
            name=data.name,
            created_at=data.created_at,
            url=f"memory:{self._ref}",
            notes=data.notes,
            tags=data.tags,
            group=data.group,
            wandb={"id": data.run_id, "state": data.state},
            fork=data.fork,
        )

    def config(self) -> Document:
        return Document(self._data.config, compact_json(self._data.config).encode())

    def summary(self) -> Document:
        return Document(self._data.summary, compact_json(self._data.summary).encode())

    def survey(self) -> Survey:
        found: dict[SeriesKey, None] = {}
        media = set()
        for row in self._data.history:
            for key, value in row.values.items():
                for leaf in leaves(key, value):
                    found[leaf.series] = None
                    if leaf.series.kind is SeriesKind.FILE and isinstance(leaf.payload, Mapping):
                        media.add(str(leaf.payload["path"]))
        return Survey(list(found), frozenset(media))

    def history_rows(self) -> int | None:
        return None if self._data.state == "running" else len(self._data.history)

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        rows = [row for row in self._data.history if after_step is None or row.step > after_step]
        yield from _pages(rows)

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        yield from _pages(self._data.system[first_row:])

    def system_is_sampled(self) -> bool:
        return False

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        yield from _pages(self._data.console[first_line:])

    def console_is_estimated(self) -> bool:
        return False

    def files(self) -> Sequence[SourceFile]:
        return [
            SourceFile(name, len(content), md5(content, usedforsecurity=False).hexdigest())
            for name, content in sorted(self._data.files.items())
        ]

    def fetch(self, name: str) -> LocalFile | None:
        content = self._data.files.get(name)
        if content is None:
            return None
        digest = md5(content, usedforsecurity=False).hexdigest()
        path = self._scratch / f"{digest}-{md5(name.encode(), usedforsecurity=False).hexdigest()}"
        path.write_bytes(content)
        return LocalFile(path, name, len(content), digest)

    def release(self, file: LocalFile) -> None:
        file.path.unlink(missing_ok=True)

    def artifacts(self) -> Iterator[Artifact]:
        return iter(())

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        raise Rejected(ErrorClass.NOT_FOUND, f"{artifact.name} has no file {name}")

    def used_artifacts(self) -> Sequence[str]:
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        """Nothing held."""


def _pages(rows: list[_Row]) -> Iterator[list[_Row]]:
    start = 0
    while start < len(rows):
        end = start + PAGE_ROWS
        while end < len(rows) and _step(rows[end]) == _step(rows[end - 1]):
            end += 1  # rows of equal step stay together
        yield rows[start:end]
        start = end


def _step(row: Any) -> Any:
    return row[0]
