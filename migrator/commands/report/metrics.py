"""Pictures of metrics as they are read back from the destination, a run after the other.

Beside each curve stands what the digest says that was sent: so many points, from which step to which, between which
values. The source is not read again; a report says so.
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
from migrator.commands.report.svg import curve, frame_of
from migrator.commands.run import neptune_binding
from migrator.commands.status.conclusions import Bound
from migrator.copying.digests import FLOATS, SeriesDigest, decode, series_digest
from migrator.copying.verify_words import points_told
from migrator.destinations.base import ReadBack, ReadRun, ReadSeries, SeriesRef
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


@dataclass(frozen=True, slots=True)
class RunPictures:
    """The curves of one run, and how many more metrics it has; `problem`: why there are none."""

    run: RunAccount
    curves: Sequence[Curve] = ()
    more: int = 0
    problem: str = ""


@dataclass(slots=True)
class Reader:
    """Reads runs of one state database back. What cannot be read is told, and asked for no more."""

    store: Store
    bound: Bound
    projects: Mapping[int, Project]
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
            return _run_pictures(run, project, back, self.store.verification.digests(run.run))
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


def _run_pictures(run: RunAccount, project: str, back: ReadBack, digests: Mapping[str, DigestRow]) -> RunPictures:
    run_id = neptune_run_id(run.run_id).name
    found = back.runs(project, [run_id]).get(run_id)
    if found is None:
        return RunPictures(run, problem=f"the run is not in {project}")
    sent = {path: digest for path, row in digests.items() if isinstance(digest := decode(row)[1], SeriesDigest)}
    floats = [path for path, value in found.values.items() if isinstance(value, ReadSeries) and value.kind == FLOATS]
    paths = sorted(floats, key=lambda path: (path.startswith("system/"), path))
    shown = paths[:CURVES_PER_RUN]
    curves = list(_curves(found, shown, project, back, sent)) if shown else []
    return RunPictures(run, curves, len(paths) - len(shown))


def _curves(
    run: ReadRun, paths: Sequence[str], project: str, back: ReadBack, sent: Mapping[str, SeriesDigest]
) -> Iterator[Curve]:
    buckets = {path: _buckets_for(run, path, sent.get(path)) for path in paths}
    digests = {path: SeriesDigest() for path in paths}
    for page in back.pages(project, [SeriesRef(run, path) for path in paths]):
        values = np.asarray(page.values, np.float64)
        buckets[page.series.path].add(page.steps, values)
        digests[page.series.path].add(series_digest(page.steps, page.times_ms, values))
    for path in paths:
        yield _curve(path, buckets[path], digests[path], sent.get(path))


def _buckets_for(run: ReadRun, path: str, sent: SeriesDigest | None) -> Buckets:
    """From the first to the last step, in millionths, as they should be, or else as the run tells."""
    if sent is not None:
        return Buckets(sent.first, sent.last)
    series = run.values[path]
    assert isinstance(series, ReadSeries)
    return Buckets(0, series.last_step or 0)


def _curve(path: str, buckets: Buckets, got: SeriesDigest, sent: SeriesDigest | None) -> Curve:
    points = buckets.points()
    levels = [level for level in (sent.low, sent.high) if level is not None] if sent else []
    frame = replace(frame_of(points, *levels), left=buckets.first, right=buckets.last)
    found = points_told(got.count, got.first, got.last)
    return Curve(
        path=path,
        picture=curve(f"{path}: {found}, values {frame.low:.4g} to {frame.high:.4g}", points, frame, levels),
        low=frame.low,
        high=frame.high,
        first=buckets.first / 1e6,
        last=buckets.last / 1e6,
        found=found,
        sent=points_told(sent.count, sent.first, sent.last) if sent else "",
        as_sent=_is_as_sent(got, sent),
        not_drawn=got.nan + got.infinite,
    )


def _is_as_sent(got: SeriesDigest, sent: SeriesDigest | None) -> bool | None:
    """None: unknown, also where the destination refused points and did not tell which."""
    if sent is None or sent.refused:
        return None
    return (got.count, got.hash1, got.hash2) == (sent.count, sent.hash1, sent.hash2)
