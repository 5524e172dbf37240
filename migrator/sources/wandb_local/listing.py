"""The source of local W&B run directories: `wandb/run-*/` and `wandb/offline-run-*/` (layout of wandb 0.31).

Finding and listing are here; `run` reads one run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from migrator.errors import ErrorClass, Rejected, Retryable, UserError
from migrator.records import RunListing, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb_local.log import Tail, WandbLog
from migrator.sources.wandb_local.run import LocalRun, run_state
from migrator.sources.wandb_local.scan import RunHead, latest, merged, starting_step
from migrator.sources.wandb_local.values import epoch_s, row_time_s

LOG_PATTERN = "run-*.wandb"
RUN_DIRECTORY = re.compile(r"(offline-)?run-")
DATED_RUN_DIRECTORY = re.compile(r"(offline-)?run-\d{8}_\d{6}-")


def utc_now() -> datetime:
    return datetime.now(UTC)


class LocalSource:
    """A `Source` over directories: a run directory (or its log), a `wandb` directory, or any directory above such.

    The first listing reads every log once and is kept: a new instance sees what has changed since. `problems` then
    says of each log (path and cause) that was left out or could be read in part only.
    """

    service = "local"

    def __init__(
        self,
        paths: Sequence[Path],
        now: Callable[[], datetime] = utc_now,
        *,
        follow_links: bool = True,
        keys: Set[bytes] = frozenset(),
    ) -> None:
        self.problems: list[str] = []
        self._paths = [Path(path).absolute() for path in paths]
        self._now = now
        self._follow_links = follow_links
        self._keys = keys
        self._lock = Lock()
        self._listed: dict[tuple[str, str], list[RunListing]] | None = None

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        listed = self._listing()
        names = sorted(name for name in listed if entity in (None, name[0]))
        if entity is not None and listed and not names:
            known = ", ".join(sorted({name[0] for name in listed}))
            raise UserError(f"No run of entity {entity!r} in {self._places()}. Entities there: {known}.")
        for owner, name in names:
            yield SourceProject(owner, name, self._paths[0].as_uri())

    def count_runs(self, project: SourceProject) -> int | None:
        return len(self._listing().get((project.entity, project.name), ()))

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        listed = self._listing().get((project.entity, project.name), ())
        return (listing for listing in listed if only.accepts(listing))

    def open_run(self, ref: RunRef, scratch: Path) -> LocalRun:
        return LocalRun(ref, self._now, follow_links=self._follow_links, keys=self._keys)

    def ping(self) -> None:
        """Always there."""

    def close(self) -> None:
        """There is nothing to give back."""

    def _places(self) -> str:
        return ", ".join(map(str, self._paths))

    def _listing(self) -> dict[tuple[str, str], list[RunListing]]:
        with self._lock:
            if self._listed is None:
                self._listed = self._list()
            return self._listed

    def _list(self) -> dict[tuple[str, str], list[RunListing]]:
        logs = find_logs(self._paths, self.problems)
        if not logs:
            raise UserError(
                f"No W&B runs in {self._places()}: there is no run-*/{LOG_PATTERN} and no offline-run-*/{LOG_PATTERN} "
                "in it or below it. Give --local the directory that holds `wandb/` (WANDB_DIR of the training)."
            )
        runs: defaultdict[tuple[str, str, str], list[LogGlance]] = defaultdict(list)
        for path in logs:
            if log := self._glance(path):
                runs[log.head.entity, log.head.project, log.head.run_id].append(log)
        projects: defaultdict[tuple[str, str], list[RunListing]] = defaultdict(list)
        for (entity, project, _), starts in runs.items():
            projects[entity, project].append(listing_of(starts, self._now()))
        latest = datetime.max.replace(tzinfo=UTC)
        for listings in projects.values():
            listings.sort(key=lambda listing: (listing.created_at or latest, listing.run_id))
        return dict(projects)

    def _glance(self, path: Path) -> LogGlance | None:
        try:
            log = glance(path)
        except (Rejected, Retryable) as error:
            self.problems.append(f"left out: {error}")
            return None
        if log is None:
            self.problems.append(f"left out: {path} holds no run, its process died before it wrote anything")
        elif log.tail.bytes_lost and self._has_ended(log):
            self.problems.append(f"incomplete: {path}: {log.tail}")
        return log

    def _has_ended(self, log: LogGlance) -> bool:
        """Of a log that is being written, the last record is seldom whole."""
        return run_state(log.exit_code, log.written_at, self._now()) != "running"


# ---------------------------------------------------------------- finding


def find_logs(paths: Sequence[Path], problems: list[str]) -> list[Path]:
    """The logs at `paths` or in run directories below them, once each. Symlinks (latest-run) are not followed."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist. Give --local a directory with W&B runs.")
        if path.is_symlink():  # latest-run: soon it will be another
            path = path.resolve()
        inside = [path] if path.is_file() else sorted(path.glob(LOG_PATTERN))
        for log in inside or _logs_below(path, problems):
            found.setdefault(log.resolve(), log)
    return list(found.values())


def _logs_below(path: Path, problems: list[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(f"left out: {error.filename}: {error.strerror}")

    for folder, folders, files in os.walk(path, onerror=unreadable):
        place = Path(folder)
        if RUN_DIRECTORY.match(place.name):
            logs = sorted(name for name in files if name.startswith("run-") and name.endswith(".wandb"))
            yield from (place / name for name in logs)
            if not logs and DATED_RUN_DIRECTORY.match(place.name):
                problems.append(f"left out: {place} holds no {LOG_PATTERN}")
            if logs or DATED_RUN_DIRECTORY.match(place.name):
                folders.clear()
        folders.sort()


# ---------------------------------------------------------------- listing


@dataclass(frozen=True, slots=True)
class LogGlance:
    """What the listing needs of one log."""

    log: Path
    head: RunHead
    rows: int
    exit_code: int | None
    last_time_s: float | None
    size_bytes: int
    mtime_ns: int
    tail: Tail

    @property
    def written_at(self) -> datetime:
        return datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)


def glance(path: Path) -> LogGlance | None:
    """Read a log once, quickly; None for one that holds no run."""
    try:
        status = path.stat()
    except OSError as error:
        raise Rejected(ErrorClass.NOT_FOUND, f"{path}: {error.strerror}") from error
    reader = WandbLog(path)
    rows, exit_code, last_time_s = 0, None, 0.0
    run: Any = None
    last_row: Any = None
    for record, _ in reader.records():
        match record.WhichOneof("record_type"):
            case "history":
                rows += 1
                last_row = record.history
            case "stats" | "output_raw" | "output" as kind:
                last_time_s = max(last_time_s, epoch_s(getattr(record, kind).timestamp))
            case "run":
                run = latest(record.run, run)
            case "exit":
                exit_code = record.exit.exit_code
    if run is None or not run.run_id:
        return None
    if last_row is not None:
        last_time_s = max(last_time_s, row_time_s(last_row) or 0.0)
    return LogGlance(
        path, RunHead.of(run), rows, exit_code, last_time_s or None, status.st_size, status.st_mtime_ns, reader.tail
    )


def listing_of(starts: list[LogGlance], now: datetime) -> RunListing:
    """The listing of a run from the logs of its starts."""
    earliest = datetime.min.replace(tzinfo=UTC)
    starts = sorted(starts, key=lambda log: (log.head.started_at or earliest, log.log))
    head = merged([log.head for log in starts])
    written_at = max(log.written_at for log in starts)
    last_time_s = max((log.last_time_s for log in starts if log.last_time_s), default=None)
    return RunListing(
        run_id=head.run_id,
        name=head.name,
        source_state=run_state(starts[-1].exit_code, written_at, now),
        created_at=head.started_at,
        heartbeat_at=datetime.fromtimestamp(last_time_s, UTC) if last_time_s else written_at,
        history_rows=sum(log.rows for log in starts),
        fingerprint=_fingerprint(starts),
        location=[str(log.log.parent) for log in starts],
        fork=head.fork,
        tags=head.tags,
    )


def _fingerprint(starts: Sequence[LogGlance]) -> str:
    """Changes with the logs, and with the step shifts that an upload decided."""
    content = [
        (f"{log.log.parent.name}/{log.log.name}", log.size_bytes, log.mtime_ns, starting_step(log.log))
        for log in starts
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
