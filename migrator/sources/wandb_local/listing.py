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
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from migrator.errors import Rejected, Retryable, UserError
from migrator.records import RunListing, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb_local.glance import LogGlance, glance, last_sign, starting_step
from migrator.sources.wandb_local.run import LocalRun, location_of, run_state
from migrator.sources.wandb_local.starts import inherited_starts, parent_has_changed, run_of

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

    def missing(self, project: SourceProject) -> str | None:
        """None: a listing is whole."""
        return None

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
        logs_of: defaultdict[tuple[str, str], dict[str, list[LogGlance]]] = defaultdict(dict)
        for path in logs:
            if log := self._glance(path):
                logs_of[log.head.entity, log.head.project].setdefault(log.head.run_id, []).append(log)
        projects = {name: [listing_of(run_id, runs, self._now()) for run_id in runs] for name, runs in logs_of.items()}
        latest = datetime.max.replace(tzinfo=UTC)
        for listings in projects.values():
            listings.sort(key=lambda listing: (listing.created_at or latest, listing.run_id))
        return projects

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
        sign = last_sign(log.written_at, log.last_time_s, log.head)
        return run_state(log.exit_code, sign, self._now()) != "running"


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


def listing_of(run_id: str, logs_of: dict[str, list[LogGlance]], now: datetime) -> RunListing:
    """The listing of a run; `logs_of`: the logs of each run of its project."""
    logs = sorted(logs_of[run_id], key=lambda log: (log.began_s or 0.0, log.log))
    run = run_of(logs)
    head = run.head
    starts = [start.glance for start in run.starts]
    written_at = max(log.written_at for log in starts)
    last_time_s = max((log.last_time_s for log in starts if log.last_time_s), default=None)
    state = run_state(starts[run.deciding].exit_code, last_sign(written_at, last_time_s, head), now)
    is_root = parent_has_changed(head, logs_of)
    ancestors = [start.glance for start in inherited_starts(head, logs_of)] if is_root else []
    return RunListing(
        run_id=run_id,
        name=head.name,
        source_state=state,
        created_at=head.started_at,
        heartbeat_at=datetime.fromtimestamp(last_time_s, UTC) if last_time_s else written_at,
        history_rows=sum(log.rows for log in starts),
        fingerprint=_fingerprint([*logs, *ancestors], state),
        location=[location_of(log.log, log.head.run_id) for log in (*logs, *ancestors)],
        fork=None if is_root else head.fork,
        tags=head.tags,
        group=head.group or None,
        sweep=head.sweep_id or None,
    )


def _fingerprint(logs: Sequence[LogGlance], state: str) -> str:
    """Changes with the logs, with the steps that an upload decided, and with the state, which also time changes."""
    content = [
        (f"{log.log.parent.name}/{log.log.name}", log.size_bytes, log.mtime_ns, starting_step(log.log)) for log in logs
    ]
    return hashlib.sha256(json.dumps([state, content]).encode()).hexdigest()
