"""The first pass over the logs of one run: everything but rows, samples and lines, which stay on disk.

A run has one directory for each time it was started. They are read in order of start; W&B's rules for what a later
start changes are in `merged`, `step_shift` and `JsonTree`.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrator.errors import RunError
from migrator.records import Fork
from migrator.sources.wandb_local.artifacts import ArtifactIndex
from migrator.sources.wandb_local.log import Tail, WandbLog, opened
from migrator.sources.wandb_local.values import (
    JsonTree,
    epoch_s,
    item_json,
    item_path,
    parse_json,
    put,
    row_step,
    row_time_s,
)
from migrator.values import SeriesKey, SeriesKind, leaves

NUMBER_STARTS = frozenset("-0123456789NItf")  # of JSON text: numbers, NaN, Infinity, true, false
SYNC_STATE_MAX_BYTES = 1024 * 1024
MARK_ROWS = 10_000  # reading goes on at most this many rows before the wanted one


@dataclass(frozen=True, slots=True)
class RunHead:
    """The run record of a log. Empty texts mean that the run was started without one."""

    run_id: str
    entity: str
    project: str
    name: str
    notes: str
    tags: tuple[str, ...]
    group: str
    job_type: str
    sweep_id: str
    host: str
    commit: str
    started_at: datetime | None
    fork: Fork | None
    rewound_to: float | None
    offline: bool
    resume: bool

    @classmethod
    def of(cls, run: Any) -> RunHead:
        branch = run.branch_point
        branched = branch.run and branch.metric in ("", "_step")
        forked = branched and branch.run != run.run_id
        started = run.start_time
        return cls(
            run_id=run.run_id,
            entity=run.entity or "local",
            project=run.project or "uncategorized",
            name=run.display_name,
            notes=run.notes,
            tags=tuple(run.tags),
            group=run.run_group,
            job_type=run.job_type,
            sweep_id=run.sweep_id,
            host=run.host,
            commit=run.git.commit,
            started_at=(
                datetime.fromtimestamp(started.seconds, UTC).replace(microsecond=started.nanos // 1000)
                if run.HasField("start_time")
                else None
            ),
            fork=Fork(branch.run, branch.value) if forked else None,
            rewound_to=branch.value if branched and not forked else None,
            offline=run.telemetry.feature.offline,
            resume=run.resume,
        )


def latest(run: Any, before: Any) -> Any:
    """The run record that holds once `run` came behind `before` (None: it is the first).

    Entity and project stay those of the first: the SDK repeats the record at odd moments, then with the server's.
    """
    if before is not None:
        run.entity, run.project = before.entity, before.project
    return run


def merged(heads: Sequence[RunHead]) -> RunHead:
    """The heads of a run's directories as one: the first start, and what later starts set anew."""
    result = heads[0]
    for head in heads[1:]:
        result = replace(
            result,
            name=head.name or result.name,
            notes=head.notes or result.notes,
            tags=head.tags or result.tags,
            group=head.group or result.group,
            job_type=head.job_type or result.job_type,
            sweep_id=head.sweep_id or result.sweep_id,
            host=head.host or result.host,
            commit=head.commit or result.commit,
        )
    return result


@dataclass(slots=True)
class LogScan:
    """What one log holds. `shift` is added to its steps; `marks` are (step, offset before the row).

    Rows above `until` are left out everywhere: a later start has rewound the run to that step.
    """

    log: Path
    until: float = math.inf
    head: RunHead | None = None
    rows: int = 0
    first_step: int = 0
    last_step: int = -1
    ascending: bool = True
    shift: int = 0
    end: int = 0
    stats: int = 0
    pieces: int = 0
    exit_code: int | None = None
    tail: Tail = field(default_factory=Tail)
    marks: list[tuple[int, int]] = field(default_factory=list)

    def offset_for(self, after_step: float | None) -> tuple[int, int]:
        """Where to read from for the rows above `after_step`: an offset, and a step for `row_step`."""
        if after_step is None or not self.marks or not self.ascending:
            return 0, -1
        at = bisect_right(self.marks, after_step - self.shift, key=lambda mark: mark[0]) - 1
        return (self.marks[at][1], self.marks[at][0] - 1) if at >= 0 else (0, -1)


@dataclass(slots=True)
class RunScan:
    """What all logs of a run hold."""

    logs: list[LogScan] = field(default_factory=list)
    config: JsonTree = field(default_factory=JsonTree)
    summary: JsonTree = field(default_factory=JsonTree)
    series: dict[SeriesKey, None] = field(default_factory=dict)
    media: set[tuple[str, str]] = field(default_factory=set)
    saved: set[str] = field(default_factory=set)  # names in `files` records: what run.save() was given
    artifacts: ArtifactIndex = field(default_factory=ArtifactIndex)
    used: dict[str, None] = field(default_factory=dict)
    user: str = ""
    last_time_s: float | None = None

    @property
    def rows(self) -> int:
        return sum(log.rows for log in self.logs)

    def last_step(self) -> int | None:
        """The highest step of the run; None without rows."""
        return max((log.last_step + log.shift for log in self.logs if log.rows), default=None)


def scan_run(logs: Sequence[Path]) -> RunScan:
    """Read the logs of a run, in order of start."""
    scan = RunScan()
    for path, until in zip(logs, _rewinds(logs), strict=True):
        _Scanner(scan, path, until).read()
    return scan


def _rewinds(logs: Sequence[Path]) -> list[float]:
    """For each log the step to which later starts have rewound the run; infinite: none has."""
    heads = [_first_head(log) for log in logs[1:]]
    steps = [math.inf if head is None or head.rewound_to is None else head.rewound_to for head in heads]
    return [min(steps[i:], default=math.inf) for i in range(len(logs))]


def _first_head(log: Path) -> RunHead | None:
    records = (record.run for record, _ in WandbLog(log).records() if record.HasField("run"))
    run = next(records, None)
    return RunHead.of(run) if run is not None else None


def starting_step(log: Path) -> int | None:
    """The shift that W&B decided at the first upload of a log; None for one that was not uploaded."""
    try:
        with opened(log.with_name(log.name + ".syncstate")) as file:
            state = json.loads(file.read(SYNC_STATE_MAX_BYTES))
    except (RunError, ValueError):
        return None
    step = state.get("starting_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) else None


def step_shift(log: LogScan, last_step: int | None) -> int:
    """What to add to the steps of a log; `last_step` is the highest of the earlier ones.

    Runs that were resumed online hold shifted steps. Offline, the log starts again at 0, and W&B adds the shift when
    it uploads: the last step of the run on the service, plus 1. For a log that was never uploaded this is the last
    step here, unless its steps are above it anyway, given by the user.
    """
    if log.head is None or not (log.head.resume and log.head.offline):
        return 0
    uploaded = starting_step(log.log)
    if uploaded is not None:
        return uploaded
    return last_step + 1 if last_step is not None and log.rows and log.first_step <= last_step else 0


class _Scanner:
    """Reads one log into a `RunScan`."""

    def __init__(self, scan: RunScan, path: Path, until: float) -> None:
        self._run = scan
        self._log = LogScan(path, until)
        #: paths whose numbers need no parsing: a key, or several as a tuple
        self._known_numbers: set[str | tuple[str, ...]] = {"_step", "_timestamp"}
        self._last_run: Any = None
        self._last_row: Any = None

    def read(self) -> None:
        log, reader = self._log, WandbLog(self._log.log)
        before = 0
        for record, end in reader.records():
            match record.WhichOneof("record_type"):
                case "history":
                    self._row(record.history, before)
                case "summary":
                    self._run.summary.update(record.summary)
                case "config":
                    self._run.config.merge(record.config)
                case "stats":
                    log.stats += record.stats.stats_type == 0
                    self._saw(record.stats)
                case "output_raw" | "output" as kind:
                    piece = getattr(record, kind)
                    log.pieces += bool(piece.line)
                    self._saw(piece)
                case "artifact":
                    self._run.artifacts.add(record.artifact, log.log, before)
                case _:
                    self._seldom(record)
            before = end
        log.end, log.tail = before, reader.tail
        if self._last_run is not None:
            log.head = RunHead.of(self._last_run)
        if self._last_row is not None:
            self._saw_s(row_time_s(self._last_row))
        log.shift = step_shift(log, self._run.last_step())
        self._run.logs.append(log)

    def _seldom(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "run":
                self._last_run = latest(record.run, self._last_run)
                self._run.config.merge(record.run.config)
                self._run.summary.update(record.run.summary)
            case "environment":
                self._run.user = record.environment.username or self._run.user
            case "files":
                self._run.saved.update(item.path for item in record.files.files)
            case "use_artifact":
                self._run.used[record.use_artifact.name or record.use_artifact.id] = None
            case "exit":
                self._log.exit_code = record.exit.exit_code

    def _row(self, history: Any, before: int) -> None:
        log = self._log
        step = row_step(history, log.last_step)
        if step > log.until:
            return
        if log.rows % MARK_ROWS == 0:
            log.marks.append((step, before))
        if log.rows == 0:
            log.first_step = step
        elif step < log.last_step:
            log.ascending = False
        log.rows += 1
        log.last_step = max(step, log.last_step)
        self._last_row = history
        self._survey(history, step)

    def _survey(self, history: Any, step: int) -> None:
        """Note the series of a row. Most values are numbers of known paths: these are not parsed."""
        known, others = self._known_numbers, []
        for item in history.item:
            path = item.nested_key
            depth = len(path)
            key = path[0] if depth == 1 else tuple(path) if depth else item.key
            text = item.value_json
            if not (key in known and text and text[0] in NUMBER_STARTS):
                others.append(item)
        if others:
            self._survey_others(others, step)

    def _survey_others(self, items: Sequence[Any], step: int) -> None:
        series = self._run.series
        values: dict[str, Any] = {}
        for item in items:
            put(values, item_path(item), _surveyed(item_json(item)))
        for key, value in sorted(values.items()):
            for leaf in leaves(key, value, step):
                series[leaf.series] = None
                if leaf.series.kind is SeriesKind.FILE and isinstance(leaf.payload, dict):
                    self._run.media.add((key, str(leaf.payload["path"])))
        for item in items:
            path = tuple(item_path(item))
            if SeriesKey(".".join(path), "", SeriesKind.NUMBER) in series:
                self._known_numbers.add(path if len(path) > 1 else path[0])

    def _saw(self, record: Any) -> None:
        if record.HasField("timestamp"):
            self._saw_s(epoch_s(record.timestamp))

    def _saw_s(self, time_s: float | None) -> None:
        self._run.last_time_s = max(self._run.last_time_s or 0.0, time_s or 0.0) or None


def _surveyed(text: str) -> Any:
    """A value, precise enough to tell its series: a list of numbers (the bins of a histogram...) may be empty."""
    return [] if text[:1] == "[" and text[1:2] in NUMBER_STARTS else parse_json(text)
