"""A source whose runs are Python objects: the fake that tests use, held to the same contract suite as the others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, Self, TypeVar

from migrator.errors import ErrorClass, Rejected, UserError
from migrator.listed import LeftOut, RunListing, RunRef, SourceProject
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    Fork,
    HistoryColumns,
    HistoryRow,
    LocalFile,
    RunAttributes,
    Scalar,
    SourceFile,
    Sweep,
    SystemRow,
)
from migrator.sources.base import RunFilter, Survey
from migrator.sources.row_columns import columns_of_rows
from migrator.values import SeriesKey, SeriesKind, leaves

PAGE_ROWS = 100

_Row = TypeVar("_Row", HistoryRow, SystemRow, ConsoleLine)


@dataclass
class MemoryData:
    """One run as described by a test. A change of it changes its fingerprint."""

    run_id: str
    name: str = ""
    state: str = "finished"
    created_at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    notes: str | None = None
    tags: Sequence[str] = ()
    group: str | None = None
    fork: Fork | None = None
    sweep: Sweep | None = None
    wandb: Mapping[str, Scalar] = field(default_factory=dict)  # further W&B attributes
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Entry] = ()
    history: list[HistoryRow] = field(default_factory=list)
    history_rows: int | None = None  # as the source counts them, if that differs from the length of `history`
    system: list[SystemRow] = field(default_factory=list)
    partial: Mapping[str, str] = field(default_factory=dict)  # by part
    bad_rows: int = 0  # of the history, not in `history`
    console: list[ConsoleLine] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    file_count: int | None = None  # as the source counts them, if that differs from the length of `files`
    artifacts: list[Artifact] = field(default_factory=list)
    artifact_files: dict[str, bytes] = field(default_factory=dict)  # by "name:version/path"
    used_artifacts: Sequence[str] = ()

    def fingerprint(self) -> str:
        return md5(repr(self).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


class MemorySource:
    """Projects of one entity: name -> runs.

    `page_rows`: rows of series per page. `columns`: whether runs offer their history as columns.
    """

    service = "memory"
    problems: Sequence[str] = ()
    left_out: Sequence[LeftOut] = ()

    def __init__(
        self,
        projects: Mapping[str, list[MemoryData]],
        entity: str = "team",
        page_rows: int = PAGE_ROWS,
        *,
        columns: bool = False,
    ) -> None:
        self.entity = entity
        self.data = projects
        self._page_rows = page_rows
        self.shortages: dict[str, str] = {}  # by project: the result of `missing`
        self._run = ColumnarMemoryRun if columns else MemoryRun

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
                group=data.group,
                sweep=data.sweep.id if data.sweep else None,
            )
            if only.accepts(listing):
                yield listing

    def missing(self, project: SourceProject) -> str | None:
        return self.shortages.get(project.name)

    def open_run(self, ref: RunRef, scratch: Path) -> MemoryRun:
        for data in self.data.get(ref.project, ()):
            if data.run_id == ref.run_id:
                return self._run(data, ref, scratch, self._page_rows)
        raise Rejected(ErrorClass.NOT_FOUND, f"run {ref} is gone")

    def ping(self) -> None:
        """Always available."""

    def close(self) -> None:
        """Nothing to release."""


class MemoryRun:
    """Reads one `MemoryData`."""

    def __init__(self, data: MemoryData, ref: RunRef, scratch: Path, page_rows: int = PAGE_ROWS) -> None:
        self._data = data
        self._ref = ref
        self._scratch = scratch
        self._page_rows = page_rows
        self._numbers = itertools.count()

    def attributes(self) -> RunAttributes:
        data = self._data
        return RunAttributes(
            name=data.name,
            created_at=data.created_at,
            url=f"memory:{self._ref}",
            notes=data.notes,
            tags=data.tags,
            group=data.group,
            wandb={"id": data.run_id, "state": data.state, **data.wandb},
            sweep=data.sweep,
            fork=data.fork,
        )

    def findings(self) -> Sequence[Entry]:
        return self._data.findings

    def config(self) -> Document:
        return Document(self._data.config, json.dumps(self._data.config).encode())

    def summary(self) -> Document:
        return Document(self._data.summary, json.dumps(self._data.summary).encode())

    def survey(self) -> Survey:
        found: dict[SeriesKey, None] = {}
        media: set[tuple[str, str]] = set()
        for row in self._data.history:
            for key, value in row.values.items():
                for leaf in leaves(key, value, row.step):
                    found[leaf.series] = None
                    if leaf.series.kind is SeriesKind.FILE and isinstance(leaf.payload, Mapping):
                        media.add((key, str(leaf.payload["path"])))
        rows = len(self._data.history)
        counted = self._data.history_rows
        return Survey(list(found), frozenset(media), rows, rows if counted is None else counted, self._data.bad_rows)

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        rows = [row for row in self._data.history if after_step is None or row.step > after_step]
        yield from _pages(rows, self._page_rows)

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        yield from _pages(self._data.system[first_row:], self._page_rows)

    def partial(self, part: str) -> str | None:
        return self._data.partial.get(part)

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        yield from _pages([line for line in self._data.console if line.number >= first_line], self._page_rows)

    def files(self) -> Sequence[SourceFile]:
        return [
            SourceFile(name, len(content), md5(content, usedforsecurity=False).hexdigest())
            for name, content in sorted(self._data.files.items())
        ]

    def file_count(self) -> int:
        return len(self._data.files) if self._data.file_count is None else self._data.file_count

    def fetch(self, name: str) -> LocalFile | None:
        content = self._data.files.get(name)
        return None if content is None else self._saved(name, content)

    def release(self, file: LocalFile) -> None:
        file.path.unlink(missing_ok=True)

    def artifacts(self) -> Iterator[Artifact]:
        return iter(self._data.artifacts)

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        content = self._data.artifact_files.get(f"{artifact.name}:{artifact.version}/{name}")
        if content is None:
            raise Rejected(ErrorClass.NOT_FOUND, f"{artifact.name} has no file {name}")
        return self._saved(name, content)

    def used_artifacts(self) -> Sequence[str]:
        return self._data.used_artifacts

    def _saved(self, name: str, content: bytes) -> LocalFile:
        """Write a new scratch file, so that releasing it does not affect another reader."""
        path = self._scratch / f"file-{next(self._numbers)}"
        path.write_bytes(content)
        return LocalFile(path, name, len(content), md5(content, usedforsecurity=False).hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        """Nothing to release."""


class ColumnarMemoryRun(MemoryRun):
    """A `MemoryRun` that also offers columns."""

    def history_pages(self, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
        for rows in self.history(after_step):
            yield columns_of_rows(rows) or rows


def _pages(rows: list[_Row], page_rows: int) -> Iterator[list[_Row]]:
    start = 0
    while start < len(rows):
        end = start + page_rows
        while end < len(rows) and _step(rows[end]) == _step(rows[end - 1]):
            end += 1  # rows of equal step stay together
        yield rows[start:end]
        start = end


def _step(row: Any) -> Any:
    return row[0]
