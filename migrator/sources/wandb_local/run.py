"""One run of the local W&B directories, read part by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Any, Self

from migrator.errors import ErrorClass, Rejected
from migrator.listed import UNKNOWN_ENTITY, RunRef
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    HistoryColumns,
    HistoryRow,
    Kind,
    LocalFile,
    RunAttributes,
    Scalar,
    SourceFile,
    Sweep,
    SystemRow,
)
from migrator.sources.base import Survey
from migrator.sources.paging import pages
from migrator.sources.wandb_local.access import console_files, local_file, staging_directories
from migrator.sources.wandb_local.artifacts import LoggedArtifact, ManifestEntry, read_artifact, staged_file
from migrator.sources.wandb_local.files import FoundFile, run_files
from migrator.sources.wandb_local.glance import LogGlance, first_head, glance, last_sign
from migrator.sources.wandb_local.head import RunHead
from migrator.sources.wandb_local.rows import console_lines, history_pages, output_file_lines, system_rows
from migrator.sources.wandb_local.scan import LogScan, RunScan, Span, scan_run
from migrator.sources.wandb_local.starts import RunStarts, Start, first_floor, inherited_starts, run_of
from migrator.sources.wandb_local.values import json_object

QUIET_AFTER = timedelta(minutes=10)  # an unfinished log that was not written for this long is of a crashed run


def log_of(place: Path, run_id: str) -> Path:
    """The log at a place in a run's location: the place itself or, in a directory, the log with the run's name.

    If a directory has a single log, it may have any name.
    """
    if not place.is_dir():
        if place.is_file():
            return place
        raise Rejected(ErrorClass.NOT_FOUND, f"{place} is gone")
    named = place / f"run-{run_id}.wandb"
    if named.is_file():
        return named
    others = list(place.glob("*.wandb"))
    if len(others) != 1:
        raise Rejected(ErrorClass.NOT_FOUND, f"{named} is gone")
    return others[0]


def location_of(log: Path, run_id: str) -> str:
    """The place from which `log_of` finds a log."""
    try:
        return str(log.parent if log_of(log.parent, run_id) == log else log)
    except Rejected:
        return str(log)


def run_state(exit_code: int | None, last_sign: datetime, now: datetime) -> str:
    """W&B's name for the state of a run whose last log ends with this exit code (None: without one)."""
    if exit_code is not None:
        return "finished" if exit_code == 0 else "failed"
    return "crashed" if now - last_sign >= QUIET_AFTER else "running"


NO_ENTITY = f"the entity of the run is unknown: called '{UNKNOWN_ENTITY}'"
INHERITED = "the parent of this fork has changed: the rows that it had then are copied into this run"
#: the SDK sends the artifacts of an online run only to W&B; offline, they are in the log
ONLINE_ARTIFACTS = "the directory of an online run does not contain them"


class LocalRun:
    """A `SourceRun`. Makes one pass over the logs as soon as it is needed, which provides everything except rows."""

    def __init__(
        self, ref: RunRef, now: Callable[[], datetime], *, follow_links: bool = True, keys: Set[bytes] = frozenset()
    ) -> None:
        if not ref.location:
            raise Rejected(ErrorClass.NOT_FOUND, f"{ref}: the inventory has no directory for this run")
        self._ref = ref
        self._logs = [log_of(Path(place), ref.run_id) for place in ref.location]
        self._now = now()
        self._follow_links = follow_links
        self._keys = keys  # files that contain one are withheld
        self._open_artifact: tuple[LoggedArtifact, dict[str, ManifestEntry]] | None = None

    # ------------------------------------------------------------ single values

    def attributes(self) -> RunAttributes:
        head, scan = self._head, self._scan
        values: dict[str, Scalar | None] = {
            "id": head.run_id,
            "name": head.name,
            "path": str(self._ref),
            "entity": self._ref.entity,
            "project": self._ref.project,
            "state": self._state,
            "created_at": head.started_at,
            "heartbeat_at": datetime.fromtimestamp(scan.last_time_s, UTC) if scan.last_time_s else self._written_at,
            "job_type": head.job_type,
            "group": head.group,
            "sweep": head.sweep_id,
            "commit": head.commit,
            "user": scan.user,
            "host": head.host,
            "history_line_count": scan.rows,
            "last_history_step": scan.last_step(),
            **scan.extras.attributes(dict.fromkeys(series.key for series in scan.series)),
        }
        return RunAttributes(
            name=head.name or None,
            created_at=head.started_at,
            url=self._directories[0].absolute().as_uri(),
            notes=head.notes or None,
            tags=head.tags,
            group=head.group or None,
            wandb={name: value for name, value in values.items() if value not in (None, "")},
            sweep=Sweep(head.sweep_id) if head.sweep_id else None,
            fork=None if self._inherited else head.fork,
        )

    def findings(self) -> Sequence[Entry]:
        found = [*self._scan.entries]
        if self._ref.entity == UNKNOWN_ENTITY:
            found.append(Entry(Kind.ESTIMATED, "entity", NO_ENTITY))
        if self._run:
            found += self._run.entries()
            for start in self._run.overwritten:
                if files := len(run_files([start.log.parent])):
                    found.append(Entry(Kind.SKIPPED, f"{start.glance.title}: files", "overwritten", files))
        if self._inherited and (fork := self._head.fork):
            found.append(Entry(Kind.JOINED, f"fork of {fork.run_id} after step {fork.step:g}", INHERITED))
        for log in self._scan.logs:
            if what := self._unreadable(log):
                found.append(Entry(Kind.SKIPPED, f"{log.log.parent.name}/{log.log.name}: {what}", "unreadable"))
        return found

    def _unreadable(self, log: LogScan) -> str:
        """What is damaged in a log. While a log is being written, its last record is seldom complete."""
        tail = log.tail
        if self._state == "running" and (log is self._scan.logs[-1] or self._scan.concurrent):
            tail = tail.without_torn_end()
        return str(tail) if tail.bytes_lost else ""

    def config(self) -> Document:
        """The config. Its raw form is W&B's: each value as {"value": ...}. Both forms have `_wandb`, W&B's own data."""
        config = self._scan.config
        raw = json_object((key, f'{{"value": {text}}}') for key, text in config.texts())
        return Document(config.values(), raw.encode())

    def summary(self) -> Document:
        """The summary, sorted by key, because the log's order is random. Steps in it are as logged, not renumbered."""
        summary = self._scan.summary
        raw = json_object(sorted(summary.texts()))
        return Document(dict(sorted(summary.values().items())), raw.encode())

    # ------------------------------------------------------------ rows

    def survey(self) -> Survey:
        scan = self._scan
        return Survey(tuple(scan.series), frozenset(scan.media), scan.rows, scan.rows)

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        for page in self.history_pages(after_step):
            yield page.rows() if isinstance(page, HistoryColumns) else page

    def history_pages(self, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
        return history_pages(self._scan, after_step)

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        return pages(system_rows(self._scan, first_row))

    def partial(self, part: str) -> str | None:
        online = any(log.head and not log.head.offline for log in self._scan.logs)
        return ONLINE_ARTIFACTS if part == "artifacts" and online else None

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        """The console lines. A line counts from its first character on, as in W&B's own log; see `terminal`."""
        logged = any(log.pieces for log in self._scan.logs)
        lines = (
            console_lines(self._scan)
            if logged
            else output_file_lines(console_files(self._start_directories, self._keys))
        )
        return pages(dropwhile(lambda sized: sized[0].number < first_line, lines))

    # ------------------------------------------------------------ files

    def files(self) -> Sequence[SourceFile]:
        return [file.known_as(name) for name, file in self._files.items()]

    def file_count(self) -> int:
        return len(self._files)

    def fetch(self, name: str) -> LocalFile | None:
        found = self._files.get(name) or self._inherited_media.get(name)
        if found is None:
            return None
        home = next((place for place in self._directories if found.path.is_relative_to(place)), found.path.parent)
        return local_file(found.path, name, link_allowed=name in self._linked, keys=self._keys, home=home)

    def release(self, file: LocalFile) -> None:
        """Nothing to release: files stay where they are."""

    # ------------------------------------------------------------ artifacts

    def artifacts(self) -> Iterator[Artifact]:
        """The logged artifacts. Versions and aliases are those that this run can know; see `artifacts`."""
        index = self._scan.artifacts
        for logged in index.logged:
            artifact, entries = read_artifact(logged, index.aliases(logged), self._artifact_places)
            self._open_artifact = logged, entries
            yield artifact

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        index = self._scan.artifacts
        logged = index.find(artifact.name, artifact.version)
        if logged is None:
            raise Rejected(ErrorClass.NOT_FOUND, f"{self._ref} logged no artifact {artifact.name}:{artifact.version}")
        if self._open_artifact is None or self._open_artifact[0] is not logged:
            self._open_artifact = logged, read_artifact(logged, index.aliases(logged), self._artifact_places)[1]
        return staged_file(artifact, self._open_artifact[1].get(name), name, self._keys, self._artifact_places)

    def used_artifacts(self) -> Sequence[str]:
        return list(self._scan.used)

    # ------------------------------------------------------------ the run itself

    @cached_property
    def _glances(self) -> dict[str, list[LogGlance]]:
        """The logs by run id: its own, and those of runs from which it inherited rows."""
        found: defaultdict[str, list[LogGlance]] = defaultdict(list)
        for path in self._logs:
            if log := glance(path):
                found[log.head.run_id].append(log)
        if self._ref.run_id not in found:
            raise Rejected(ErrorClass.BAD_DATA, f"{self._logs[0]} has no record of a run {self._ref.run_id}")
        return found

    @cached_property
    def _run(self) -> RunStarts | None:
        """The combination of its logs. None: there is only one log, which needs no second pass."""
        return run_of(self._glances[self._ref.run_id]) if len(self._logs) > 1 else None

    @cached_property
    def _inherited(self) -> list[Start]:
        """Starts of other runs, if the inventory has added them because the parent now has other rows."""
        return inherited_starts(self._run.head, self._glances) if self._run and len(self._glances) > 1 else []

    @cached_property
    def _scan(self) -> RunScan:
        if not self._run:
            (log,) = self._logs
            head = first_head(log)
            return scan_run([Span(log, first_floor(log, head) if head else None)], self._keys)
        scan = scan_run(_spans(self._run.starts), self._keys, concurrent=self._run.concurrent, shared=self._run.shared)
        if self._inherited:
            scan.inherit(scan_run(_spans(self._inherited), self._keys))
        return scan

    @cached_property
    def _head(self) -> RunHead:
        head = self._run.head if self._run else self._scan.logs[0].head
        if head is None or head.run_id != self._ref.run_id:
            raise Rejected(ErrorClass.BAD_DATA, f"{self._logs[0]} has no record of a run {self._ref.run_id}")
        return head

    @cached_property
    def _written_at(self) -> datetime:
        try:
            return datetime.fromtimestamp(max(log.log.stat().st_mtime for log in self._scan.logs), UTC)
        except FileNotFoundError as error:
            raise Rejected(ErrorClass.NOT_FOUND, f"{error.filename} is gone") from error

    @cached_property
    def _state(self) -> str:
        scan = self._scan
        exit_code = scan.logs[self._run.deciding if self._run else -1].exit_code
        return run_state(exit_code, last_sign(self._written_at, scan.last_time_s, self._head), self._now)

    @cached_property
    def _directories(self) -> list[Path]:
        """Its directories, where later ones take precedence. Directories of copies come before their originals."""
        if not self._run:
            return [self._logs[0].parent]
        logs = [log.log for start in self._run.starts for log in (*start.copies, start.glance)]
        return [*dict.fromkeys(log.parent for log in reversed(logs))][::-1]

    @cached_property
    def _start_directories(self) -> list[Path]:
        return [*dict.fromkeys(log.log.parent for log in self._scan.logs)]

    @cached_property
    def _inherited_media(self) -> dict[str, FoundFile]:
        if not self._scan.inherited:
            return {}
        media = {name for _, name in self._scan.media}
        files = run_files([*dict.fromkeys(log.log.parent for log in self._scan.inherited)])
        return {name: found for name, found in files.items() if name in media}

    @cached_property
    def _linked(self) -> Set[str]:
        """The names of files that may be links, because the log names them."""
        if not self._follow_links:
            return frozenset()
        return self._scan.saved | {name for _, name in self._scan.media}

    @cached_property
    def _artifact_places(self) -> list[Path]:
        return [*staging_directories(), *self._directories]

    @cached_property
    def _files(self) -> dict[str, FoundFile]:
        return run_files(self._directories)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        return None


def _spans(starts: Sequence[Start]) -> list[Span]:
    return [Span(start.log, start.floor, start.until) for start in starts]
