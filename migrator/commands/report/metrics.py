"""Pictures of metrics as they are read back from the destination, a run after the other.

Beside each curve stands what the digest says that was sent: so many points, from which step to which, between which
values; and, if it is asked for, what the source has now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from markupsafe import Markup

from migrations_db.accounts import RunAccount
from migrations_db.states import Phase
from migrations_db.store import Store
from migrations_db.types import DigestRow, Project
from migrator.commands.report.buckets import Buckets
from migrator.commands.report.source import SourceReader
from migrator.commands.report.svg import curve, frame_of
from migrator.commands.run import neptune_binding
from migrator.commands.status.conclusions import Bound
from migrator.copying.digests import FLOATS, SeriesDigest, decode, series_digest
from migrator.copying.verify_words import points_told
from migrator.destinations.base import ReadBack, ReadRun, ReadSeries, SeriesPage, SeriesRef
from migrator.errors import RunError, UserError
from migrator.job.address import COPIES, UPLOADS, bound_address
from migrator.job.job import build_read_back
from migrator.naming import neptune_run_id
from migrator.settings import OFFLINE_WORKSPACE

CURVES_PER_RUN = 24  # of one run: the metrics of people first, then those of the system
FILES_AT_A_TIME = 1  # no file is looked at


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric. `found` and `sent` tell its points; `as_sent` None: whether they are what was sent is not known."""

    path: str
    picture: Markup
    low: float
    high: float
    first: float
    last: float
    found: str
    sent: str
    as_sent: bool | None
    not_drawn: int = 0
    source: str = ""  #: what the source has now; empty: it was not read
    as_source: bool = False


@dataclass(frozen=True, slots=True)
class RunPictures:
    """The curves of one run, and how many more metrics it has; `problem`: why there are none."""

    run: RunAccount
    curves: Sequence[Curve] = ()
    more: int = 0
    problem: str = ""
    source_problem: str = ""  #: why the source could not be read


@dataclass(slots=True)
class Reader:
    """Reads runs of one state database back. What cannot be read is told, and asked for no more."""

    store: Store
    bound: Bound
    projects: Mapping[int, Project]
    source: SourceReader | None = None
    _backs: dict[Phase, ReadBack] = field(default_factory=dict)
    _problems: dict[Phase, str] = field(default_factory=dict)

    def pictures(self, runs: Sequence[RunAccount]) -> Iterator[RunPictures]:
        """Of each of the runs."""
        with ThreadPoolExecutor(FILES_AT_A_TIME) as downloads:
            try:
                for run in runs:
                    yield self._of_run(run, downloads)
            finally:
                for back in self._backs.values():
                    back.close()

    def _of_run(self, run: RunAccount, downloads: ThreadPoolExecutor) -> RunPictures:
        if problem := self._problems.get(run.phase):
            return RunPictures(run, problem=problem)
        try:
            back = self._backs.get(run.phase) or self._backs.setdefault(run.phase, self._connect(run.phase, downloads))
            workspace = self.bound.workspace or OFFLINE_WORKSPACE
            project = f"{workspace}/{self.projects[run.project_id].destination_name}"
            return _run_pictures(run, project, back, self.store.verification.digests(run.run), self.source)
        except (RunError, UserError) as error:
            self._problems[run.phase] = str(error)
            return RunPictures(run, problem=str(error))

    def _connect(self, phase: Phase, downloads: ThreadPoolExecutor) -> ReadBack:
        """Runs that were copied to offline files are there until they are uploaded."""
        copies = bound_address(self.store)
        directory = copies.directory if copies else None
        if directory is not None and phase is Phase.COPY:
            return build_read_back(directory, downloads)
        setting = UPLOADS if self.bound.offline else COPIES
        neptune_binding(setting, self.bound.workspace or OFFLINE_WORKSPACE).check(self.store)
        return build_read_back(None, downloads)


def _run_pictures(
    run: RunAccount,
    project: str,
    back: ReadBack,
    digests: Mapping[str, DigestRow],
    source: SourceReader | None,
) -> RunPictures:
    run_id = neptune_run_id(run.run_id).name
    found = back.runs(project, [run_id]).get(run_id)
    if found is None:
        return RunPictures(run, problem=f"the run is not in {project}")
    sent = {path: digest for path, row in digests.items() if isinstance(digest := decode(row)[1], SeriesDigest)}
    floats = [path for path, value in found.values.items() if isinstance(value, ReadSeries) and value.kind == FLOATS]
    paths = sorted(floats, key=lambda path: (path.startswith("system/"), path))
    shown = paths[:CURVES_PER_RUN]
    lines = {path: _Lines(path, _buckets_for(found, path, sent.get(path)), sent.get(path)) for path in shown}
    for page in back.pages(project, [SeriesRef(found, path) for path in shown]) if shown else ():
        lines[page.series.path].take(page)
    problem = _read_source(run, lines, source) if source and shown else ""
    return RunPictures(run, [one.drawn() for one in lines.values()], len(paths) - len(shown), source_problem=problem)


def _read_source(run: RunAccount, lines: Mapping[str, _Lines], source: SourceReader) -> str:
    """Put the points of the source beside the others; returns why that could not be done."""
    beside = {path: Buckets(one.buckets.first, one.buckets.last) for path, one in lines.items()}
    try:
        digests = source.read(run.run, beside)
    except (RunError, UserError) as error:
        return str(error)
    for path, one in lines.items():
        one.beside, one.source = beside[path], digests.get(path, SeriesDigest())
    return ""


@dataclass(slots=True)
class _Lines:
    """What is known of one metric: read back, `sent` (None: not known), and at the `source` (None: not read)."""

    path: str
    buckets: Buckets
    sent: SeriesDigest | None
    got: SeriesDigest = field(default_factory=SeriesDigest)
    beside: Buckets | None = None
    source: SeriesDigest | None = None

    def take(self, page: SeriesPage) -> None:
        values = np.asarray(page.values, np.float64)
        self.buckets.add(page.steps, values)
        self.got.add(series_digest(page.steps, page.times_ms, values))

    def drawn(self) -> Curve:
        points, beside = self.buckets.points(), self.beside.points() if self.beside else []
        levels = [level for level in (self.sent.low, self.sent.high) if level is not None] if self.sent else []
        frame = replace(frame_of([*points, *beside], *levels), left=self.buckets.first, right=self.buckets.last)
        found = _told(self.got)
        title = f"{self.path}: {found}, values {frame.low:.6g} to {frame.high:.6g}"
        return Curve(
            path=self.path,
            picture=curve(title, points, frame, levels, beside),
            low=frame.low,
            high=frame.high,
            first=self.buckets.first / 1e6,
            last=self.buckets.last / 1e6,
            found=found,
            sent=_told(self.sent) if self.sent else "",
            as_sent=None if self.sent is None or self.sent.refused else _is_same(self.got, self.sent),
            not_drawn=self.got.nan + self.got.infinite,
            source=_told(self.source) if self.source else "",
            as_source=self.source is not None and _is_same(self.got, self.source),
        )


def _told(digest: SeriesDigest) -> str:
    return points_told(digest.count, digest.first, digest.last)


def _is_same(one: SeriesDigest, other: SeriesDigest) -> bool:
    return (one.count, one.hash1, one.hash2) == (other.count, other.hash1, other.hash2)


def _buckets_for(run: ReadRun, path: str, sent: SeriesDigest | None) -> Buckets:
    """From the first to the last step, in millionths, as they should be, or else as the run tells."""
    if sent is not None:
        return Buckets(sent.first, sent.last)
    series = run.values[path]
    assert isinstance(series, ReadSeries)
    return Buckets(0, series.last_step or 0)
