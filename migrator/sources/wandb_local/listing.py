"""Local W&B run directories as a source: the listing. `finding` finds the directories, `run` and `bare` read a run."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from migrator.errors import Rejected, Retryable, UserError
from migrator.listed import UNKNOWN_ENTITY, Cause, LeftOut, RunListing, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb_local.bare import BareHead, BareRun, bare_listing, directory_of
from migrator.sources.wandb_local.files import files_digest, files_in
from migrator.sources.wandb_local.finding import (
    DATED,
    OLD_FILES,
    files_of,
    find,
    has_converted_line_ends,
    what_is_wrong,
)
from migrator.sources.wandb_local.glance import LogGlance, glance, last_sign, starting_step
from migrator.sources.wandb_local.identity import UNKNOWN_PROJECT, Identity, identified
from migrator.sources.wandb_local.run import LocalRun, location_of, log_of, run_state
from migrator.sources.wandb_local.starts import inherited_starts, parent_has_changed, run_of

RunKey = tuple[str, str, str]  # entity, project, run id
LATEST = datetime.max.replace(tzinfo=UTC)
NOTHING: Mapping[RunKey, Sequence[str]] = MappingProxyType({})


def utc_now() -> datetime:
    return datetime.now(UTC)


class LocalSource:
    """A `Source` over directories: a run directory (or its log), a `wandb` directory, or any directory above these.

    The first listing reads every log once and is cached, so only a new instance sees later changes. `left_out` then
    lists each log or directory that was left out, or was only partly readable, with the cause.
    """

    service = "local"
    problems: Sequence[str] = ()

    def __init__(
        self,
        paths: Sequence[Path],
        now: Callable[[], datetime] = utc_now,
        *,
        follow_links: bool = True,
        keys: Set[bytes] = frozenset(),
        known: Mapping[RunKey, Sequence[str]] = NOTHING,
    ) -> None:
        """`known`: the places of runs that earlier inventories found."""
        self.left_out: list[LeftOut] = []
        self._paths = [Path(path).absolute() for path in paths]
        self._now = now
        self._follow_links = follow_links
        self._keys = keys
        self._known = known
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
        """None: a listing is always complete."""
        return None

    def open_run(self, ref: RunRef, scratch: Path) -> LocalRun | BareRun:
        if ref.location and all(map(is_bare, ref.location)):
            return BareRun(ref, keys=self._keys)
        return LocalRun(ref, self._now, follow_links=self._follow_links, keys=self._keys)

    def ping(self) -> None:
        """Always available."""

    def close(self) -> None:
        """Nothing to release."""

    def _places(self) -> str:
        return ", ".join(map(str, self._paths))

    def _listing(self) -> dict[tuple[str, str], list[RunListing]]:
        with self._lock:
            if self._listed is None:
                self._listed = self._list()
            return self._listed

    def _list(self) -> dict[tuple[str, str], list[RunListing]]:
        found = find(self._paths)
        self.left_out += found.left_out
        logs = [log for path in found.logs.values() if (log := self._glance(path, found.bare))]
        bare = sorted(map(BareHead.of, found.bare), key=lambda head: (head.started_at or LATEST, head.root))
        if not (logs or bare or self.left_out):
            raise UserError(
                f"No W&B runs in {self._places()}: there is no .wandb file and no run-* or dryrun-* directory in it or "
                "below it. Give --local the directory that holds `wandb/` (WANDB_DIR of the training)."
            )
        logs_of: defaultdict[tuple[str, str], dict[str, list[LogGlance]]] = defaultdict(dict)
        bare_of: defaultdict[tuple[str, str], dict[str, list[BareHead]]] = defaultdict(dict)
        both: list[LogGlance | BareHead] = [*logs, *bare]
        for run_key, one in zip(run_keys(both), both, strict=True):
            entity, project, run_id = self._as_known(run_key)
            if isinstance(one, LogGlance):
                logs_of[entity, project].setdefault(run_id, []).append(one)
            else:
                bare_of[entity, project].setdefault(run_id, []).append(one)
        self._add_known(logs_of)
        projects: defaultdict[tuple[str, str], list[RunListing]] = defaultdict(list)
        for key, runs in logs_of.items():
            projects[key] += [listing_of(run_id, runs, self._now()) for run_id in runs]
        for key, directories in bare_of.items():
            for run_id, heads in directories.items():
                has_log = run_id in logs_of[key]
                projects[key] += [] if has_log else [bare_listing(heads)]
                self._tell_bare(heads, has_log=has_log)
        for listings in projects.values():
            listings.sort(key=lambda listing: (listing.created_at or LATEST, listing.run_id))
        return {key: listings for key, listings in projects.items() if listings}

    def _as_known(self, key: RunKey) -> RunKey:
        """The key of a run. If first listed when its entity was unknown, it keeps that key and is copied only once."""
        before = (UNKNOWN_ENTITY, *key[1:])
        return before if before in self._known and key not in self._known else key

    def _add_known(self, logs_of: Mapping[tuple[str, str], dict[str, list[LogGlance]]]) -> None:
        """Add logs of these runs that an earlier inventory found elsewhere: they still belong to the runs."""
        for (entity, project), runs in logs_of.items():
            for run_id, logs in runs.items():
                seen = {log.log.resolve() for log in logs}
                for place in self._known.get((entity, project, run_id), ()):
                    try:
                        path = log_of(Path(place), run_id)
                    except Rejected:
                        continue  # gone
                    log = self._glance(path, []) if path.resolve() not in seen else None
                    if log is not None and log.head.run_id == run_id:  # a fork may have logs of its parent
                        logs.append(log)

    def _tell_bare(self, heads: Sequence[BareHead], *, has_log: bool) -> None:
        """Report directories without a log, except those of old SDKs, which are complete without one."""
        with_log = {str(Path(one.path).parent) for one in self.left_out}  # already reported for their log
        for head in heads:
            directory = str(directory_of(head.root))
            if directory not in with_log and (has_log or not head.has_history):
                self.left_out.append(LeftOut(Cause.NO_HISTORY, directory))

    def _glance(self, path: Path, bare: list[Path]) -> LogGlance | None:
        """Read a log. None: it is unreadable, and reported in `left_out`. Files next to an empty log go to `bare`."""
        cause = what_is_wrong(path)
        log = None
        if cause is None:
            try:
                log = glance(path)
            except (Rejected, Retryable):
                cause = Cause.UNREADABLE
        if cause is None and (log is None or log.tail.bytes_lost):
            if has_converted_line_ends(path):
                log, cause = None, Cause.CRLF
            elif log is None:
                cause = Cause.NO_RUN
            elif self._has_ended(log):
                self.left_out.append(LeftOut(Cause.INCOMPLETE, f"{path}: {log.tail}"))
        if cause is not None:
            self.left_out.append(LeftOut(cause, str(path)))
        if cause in (Cause.EMPTY_LOG, Cause.NO_RUN) and DATED.fullmatch(path.parent.name):
            files = files_of(path.parent)
            bare += [files] if files is not None and files not in bare else []
        return log

    def _has_ended(self, log: LogGlance) -> bool:
        """Whether a log has ended. While a log is being written, its last record is seldom complete."""
        sign = last_sign(log.written_at, log.last_time_s, log.head)
        return run_state(log.exit_code, sign, self._now()) != "running"


# ---------------------------------------------------------------- listing


def run_keys(found: Sequence[LogGlance | BareHead]) -> list[RunKey]:
    """The run to which each log or directory belongs."""
    identities = [
        Identity(one.log.parent, one.head.run_id, one.head.started_ns, one.head.entity, one.head.project)
        if isinstance(one, LogGlance)
        else Identity(directory_of(one.root), one.run_id, one.started_at)
        for one in found
    ]
    return [
        (one.entity or UNKNOWN_ENTITY, one.project or UNKNOWN_PROJECT, one.run_id) for one in identified(identities)
    ]


def is_bare(place: str) -> bool:
    """Whether a place in a run's location has files without a log, as `find` returns it."""
    path = Path(place)
    is_old = any((path / name).is_file() for name in OLD_FILES) and not any(path.glob("*.wandb"))
    return path.is_dir() and (path.name == "files" or is_old)


def file_sizes(location: Sequence[str]) -> list[int] | None:
    """The sizes of the files of a run that lies there; its log is not read. None: nothing lies there any more."""
    places = [Path(place) for place in location if Path(place).exists()]
    if not places:
        return None
    roots = [
        place if is_bare(str(place)) else (place if place.is_dir() else place.parent) / "files" for place in places
    ]
    return [file.size_bytes for file in files_in(roots).values()]


def roots_around(location: Sequence[str]) -> list[Path]:
    """The directories that hold the runs that lie there: W&B's, as far as their names say so, else the runs' own.

    Directories that are gone are left out.
    """
    roots: dict[Path, None] = {}
    for place in map(Path, location):
        directory = directory_of(place.parent if place.suffix == ".wandb" else place)
        is_wandbs = directory.parent.name == "wandb" or DATED.fullmatch(directory.name)
        roots[directory.parent if is_wandbs else directory] = None
    return [root for root in roots if root.is_dir()]


def listing_of(run_id: str, logs_of: dict[str, list[LogGlance]], now: datetime) -> RunListing:
    """The listing of a run. `logs_of`: the logs of each run in its project."""
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
    """Changes with the logs, the steps that an upload decided, other files, and the state, which depends on time."""
    content = [
        (f"{log.log.parent.name}/{log.log.name}", log.size_bytes, log.mtime_ns, starting_step(log.log)) for log in logs
    ]
    files = files_digest(list(dict.fromkeys(log.log.parent for log in logs)))
    return hashlib.sha256(json.dumps([state, content, files]).encode()).hexdigest()
