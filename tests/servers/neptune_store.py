"""Neptune's rules for submitted operations, in memory, without HTTP: runs, attributes, series, blobs.

A request is submitted as bytes, gets an id, and is applied later, in the order of submission; until its own
processing delay has passed, its status is "not yet". With `apply="eager"` requests are applied when their
status is asked for, which gives real codes; with `apply="lazy"`, for benchmarks, the status is always OK and
they are applied when the test reads.

Steps are integer micro-steps (1.5 is 1_500_000), times integer microseconds since 1970, both exactly as sent.
A refused operation leaves what is stored as it was: the first write wins.

Source of the rules: the comments in Neptune's public protobuf files (neptune_pb/ingest/v1), the exceptions of
neptune-scale 0.30, Neptune's documentation and end-to-end tests. "Assumed" marks what none of them says.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from google.protobuf.message import DecodeError
from neptune_api.proto.neptune_pb.ingest.v1 import common_pb2 as pb
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

MICRO = 1_000_000  # micro-steps in a step, microseconds in a second
RUN_ID_MAX_BYTES = EXPERIMENT_NAME_MAX_BYTES = 730
PATH_MAX_BYTES = 1024
STRING_MAX_BYTES = STRING_SET_MAX_BYTES = 1024 * 1024
FILE_REF_MAX_BYTES = 4096  # path and MIME type together
HISTOGRAM_MAX_EDGES = 513
STEP_LIMIT = 10**12  # whole steps, exclusive
DATETIME_RANGE_US = (-2_208_988_800 * MICRO, 10_413_792_000 * MICRO)  # from 1900 to the end of 2299
#: the writable attributes under sys/ (assumed: these and no others), which have a type from the start
WRITABLE_SYS = {"sys/tags": "stringSet", "sys/group_tags": "stringSet", "sys/description": "string"}

#: kind of Value -> type of the attribute that `append` and `assign` make of it
APPENDED = {"float64": "floatSeries", "string": "stringSeries", "file_ref": "fileRefSeries"}
APPENDED |= {"histogram": "histogramSeries"}
ASSIGNED = {"float64": "float", "int64": "int", "bool": "bool", "string": "string", "timestamp": "datetime"}
ASSIGNED |= {"string_set": "stringSet", "file_ref": "fileRef"}

OK = 0
Fate = Literal["apply", "accept_but_lose", "never_processed"]
Columns = tuple[Sequence[int], Sequence[int], Sequence[Any]]  # steps, times, values of the same points


class FileRef(NamedTuple):
    path: str  # of the blob in the project's storage, not of the attribute
    size_bytes: int
    mime_type: str


class Histogram(NamedTuple):
    edges: tuple[float, ...]
    kind: str  # "counts", "densities", or "" when the client set neither
    values: tuple[float, ...]


class _Rule(NamedTuple):
    """How operations on some paths of some runs are answered, or a share of them."""

    path: re.Pattern[str]
    run: re.Pattern[str]
    code: int
    share: float


class Fork(NamedTuple):
    """A fork point as the client asked for it; `step` None: the parent's last step."""

    parent_project: str
    parent_run_id: str
    step: int | None


class Failure(NamedTuple):
    path: str  # of the attribute; "" for what concerns the run or the project (assumed)
    code: int
    text: str


@dataclass
class Outcome:
    """What became of one request: how many operations went well, and a `Failure` for each that did not."""

    ok: int = 0
    failures: list[Failure] = field(default_factory=list)

    def fail(self, path: str, code: int, text: str = "", times: int = 1) -> None:
        self.failures += [Failure(path, code, text)] * times

    def counts(self) -> Counter[int]:
        counts = Counter(failure.code for failure in self.failures)
        if self.ok:
            counts[OK] = self.ok
        return counts


class Series:
    """The committed points of one series by rising step; `previews` maps a step to (time, value, ratio)."""

    __slots__ = ("previews", "steps", "timestamps", "type", "values")

    def __init__(self, type_: str) -> None:
        self.type = type_
        self.steps, self.timestamps = array("q"), array("q")
        self.values: Any = array("d") if type_ == "floatSeries" else []
        self.previews: dict[int, tuple[int, Any, float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def __contains__(self, step: int) -> bool:
        at = bisect_left(self.steps, step)
        return at < len(self.steps) and self.steps[at] == step

    def offer(self, step: int, timestamp_us: int, value: Any) -> int:
        """Store a point, or say with a code why not. Files take any order of steps, all else must rise."""
        steps, at = self.steps, len(self.steps)
        if at and self.type == "fileRefSeries":
            at = bisect_left(steps, step)
            if at < len(steps) and steps[at] == step:  # assumed: as for other series
                return _SAME if self.values[at] == value else _OLD
        elif at and step <= steps[-1]:
            last = self.values[-1]
            same = value == last or (value != value and last != last)  # assumed: NaN equals NaN
            return _SAME if same and step == steps[-1] else _OLD
        elif at and timestamp_us // 1000 < self.timestamps[-1] // 1000:  # assumed: in whole milliseconds
            return _PAST
        if self.previews:
            self.previews = {s: preview for s, preview in self.previews.items() if s > step}
        steps.insert(at, step)
        self.timestamps.insert(at, timestamp_us)
        self.values.insert(at, value)
        return OK


_SAME = IngestCode.SERIES_POINT_DUPLICATE
_OLD = IngestCode.SERIES_STEP_NON_INCREASING
_PAST = IngestCode.SERIES_TIMESTAMP_DECREASING


@dataclass
class Run:
    """A stored run. `attributes`: path -> (type, value), without the series; datetimes in microseconds."""

    project: str
    run_id: str
    key: str  # Neptune's own id, "KEY-1"
    family: str
    fork: Fork | None
    blobs: dict[tuple[str, str], bytes] = field(repr=False)  # of the whole store
    parent: Run | None = None  # None also when the parent of `fork` did not exist
    fork_step: int = 0
    attributes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)

    def value(self, path: str) -> Any:
        return self.attributes[path][1]

    def type_of(self, path: str) -> str | None:
        if path in self.series:
            return self.series[path].type
        return self.attributes[path][0] if path in self.attributes else WRITABLE_SYS.get(path)

    @property
    def files(self) -> dict[str, bytes | None]:
        """Attribute path -> content of the file it points to, None where nothing was uploaded."""
        refs = {path: ref for path, (type_, ref) in self.attributes.items() if type_ == "fileRef"}
        return {path: self.blobs.get((self.project, ref.path)) for path, ref in refs.items()}

    def file_series(self, path: str) -> dict[int, bytes | None]:
        """Micro-step -> content of that file of a file series."""
        series = self.series[path]
        contents = (self.blobs.get((self.project, ref.path)) for ref in series.values)
        return dict(zip(series.steps, contents, strict=True))

    def points(self, path: str, *, lineage: bool = False) -> list[tuple[int, int, Any]]:
        """(step, time, value) by rising step; see `columns`."""
        return list(zip(*self.columns(path, lineage=lineage), strict=True))

    def columns(self, path: str, *, lineage: bool = False) -> Columns:
        """The points of a series by rising step; with `lineage` the parent's up to the fork step come first."""
        own = self.series.get(path)
        columns: Columns = (own.steps, own.timestamps, own.values) if own else ((), (), ())
        if not (lineage and self.parent):
            return columns
        end = min(self.fork_step, columns[0][0] - 1) if own else self.fork_step
        parents = self.parent.columns(path, lineage=True)
        kept = bisect_right(parents[0], end)
        steps, times, values = ([*theirs[:kept], *mine] for theirs, mine in zip(parents, columns, strict=True))
        return steps, times, values


@dataclass
class Project:
    name: str  # "workspace/project"
    key: str
    visibility: str = "priv"
    description: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)  # name -> run id of its head
    created: int = 0  # runs so far, the deleted ones too


class ProjectExists(Exception):
    """The name or the key is taken; the argument is Neptune's error type."""


class UnknownWorkspace(Exception):
    pass


@dataclass
class _Submitted:
    body: bytes
    ready_at: float
    fate: Fate
    outcome: Outcome | None = None


class NeptuneStore:
    """All that the server keeps. Thread-safe: submitting never waits for the applying of earlier requests."""

    def __init__(
        self,
        *,
        apply: str = "eager",
        processing_delay_s: tuple[float, float] = (0.0, 0.0),
        workspaces: Iterable[str] = ("team",),
        auto_projects: bool = False,
        clock: Callable[[], float] = time.monotonic,
        seed: int = 0,
    ) -> None:
        if apply not in ("eager", "lazy"):
            raise ValueError(f"apply must be eager or lazy, not {apply!r}")
        self.apply = apply
        self.processing_delay_s = processing_delay_s  # each request waits a random time of this range
        self.workspaces = set(workspaces)
        self.auto_projects = auto_projects  # a project comes into being with the first run in it
        self.ignores_case = False  # True: "Team" and "team" are one project
        self.accepts_nan_inf = True  # False: a server of old, which refuses them in series
        self.projects: dict[str, Project] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}  # (project, path)
        self.submitted = self.points_offered = self.points_stored = 0
        self.duplicates_offered = 0  # points offered for a step that the series already had
        self.refused: Counter[str] = Counter()  # operations by the name of the code
        self._rules: list[_Rule] = []
        self._clock, self._random = clock, random.Random(seed)
        self._requests: dict[str, _Submitted] = {}
        self._queue: deque[_Submitted] = deque()
        self._intake, self._applying = threading.Lock(), threading.RLock()

    # what the server calls

    def create_project(
        self, workspace: str, name: str, *, key: str = "", visibility: str = "priv", description: str = ""
    ) -> Project:
        """Raises UnknownWorkspace, ProjectExists."""
        if workspace not in self.workspaces:
            raise UnknownWorkspace(workspace)
        with self._applying:
            names = {there.casefold() if self.ignores_case else there for there in self.projects}
            if (f"{workspace}/{name}".casefold() if self.ignores_case else f"{workspace}/{name}") in names:
                raise ProjectExists("PROJECT_NAME_COLLISION")
            taken = {project.key for project in self.projects.values()}
            if key in taken:
                raise ProjectExists("PROJECT_KEY_COLLISION")
            stem = re.sub("[^A-Z0-9]", "", name.upper())[:6] or "P"
            key = key or next(k for n in range(len(taken) + 1) if (k := f"{stem}{n or ''}") not in taken)
            project = Project(f"{workspace}/{name}", key, visibility, description)
            self.projects[project.name] = project
            return project

    def submit(self, body: bytes, fate: Fate = "apply") -> str:
        """Take a serialized RunOperation, unread; gives the id of the request."""
        with self._intake:
            self.submitted += 1
            request_id = f"request-{self.submitted:08d}"
            ready_at = self._clock() + self._random.uniform(*self.processing_delay_s)
            self._requests[request_id] = submitted = _Submitted(body, ready_at, fate)
            if fate == "apply":
                self._queue.append(submitted)
        return request_id

    def status(self, request_id: str) -> Outcome | None:
        """None: not processed yet. An id never given out is an INTERNAL failure (assumed)."""
        request = self._requests.get(request_id)
        if request is None:
            return Outcome(failures=[Failure("", IngestCode.INTERNAL, f"no such request: {request_id}")])
        if request.fate == "never_processed" or self._clock() < request.ready_at:
            return None
        if request.fate == "accept_but_lose" or self.apply == "lazy":
            return request.outcome or Outcome(ok=1)
        self.settle(request)
        return request.outcome

    def settle(self, last: _Submitted | None = None) -> None:
        """Apply what was submitted up to `last` (None: everything), whether or not its delay has passed."""
        with self._applying:
            while self._queue and (last is None or last.outcome is None):
                request = self._queue.popleft()
                try:
                    request.outcome = self._apply(RunOperation.FromString(request.body))
                except DecodeError as error:
                    request.outcome = Outcome(failures=[Failure("", IngestCode.INTERNAL, str(error))])
                request.body = b""
                self.refused.update(code_name(failure.code) for failure in request.outcome.failures)

    # what tests call

    def run(self, project: str, run_id: str) -> Run:
        """The run with everything submitted so far applied; KeyError if there is none."""
        self.settle()
        return self.projects[project].runs[run_id]

    def runs(self) -> list[Run]:
        self.settle()
        return [run for project in self.projects.values() for run in project.runs.values()]

    def refuse(self, path_regex: str, code: str = "OK", *, run_regex: str = "", share: float = 1.0) -> None:
        """Answer operations on paths in which the regular expression is found with `code`, and store nothing.

        "OK" accepts and loses; a number is a code of a server newer than neptune-api. The creation of a run has the
        path "". The first rule that matches counts; with `share`, of the operations that it matches a random share is
        answered so.
        """
        number = int(code) if code.isdecimal() else IngestCode.Value(code)
        self._rules.append(_Rule(re.compile(path_regex), re.compile(run_regex), number, share))

    def forget_rules(self) -> None:
        self._rules = []

    def stats(self) -> dict[str, Any]:
        self.settle()
        names = ("submitted", "points_offered", "points_stored", "duplicates_offered")
        return {name: getattr(self, name) for name in names} | {"refused": dict(self.refused)}

    # the rules

    def _apply(self, operation: RunOperation) -> Outcome:
        outcome, kind = Outcome(), operation.WhichOneof("operation")
        snapshots = [operation.update] if kind == "update" else operation.update_batch.snapshots
        size = sum(len(s.assign) + len(s.modify_sets) + len(s.append) for s in snapshots) or 1
        workspace, slash, name = operation.project.partition("/")
        if not (workspace and slash and name) or "/" in name:
            outcome.fail("", IngestCode.PROJECT_INVALID_NAME, operation.project, size)
            return outcome
        project = self.projects.get(operation.project)
        if project is None and (self.auto_projects or operation.create_missing_project):
            project = self.create_project(workspace, name) if workspace in self.workspaces else None
        if project is None:
            outcome.fail("", IngestCode.PROJECT_NOT_FOUND, operation.project, size)
        elif kind == "create":
            self._create(project, operation.run_id, operation.create, outcome)
        elif (run := project.runs.get(operation.run_id)) is None:
            outcome.fail("", IngestCode.RUN_NOT_FOUND, operation.run_id, size)
        else:
            for snapshot in snapshots:
                self._update(run, snapshot, outcome)
        return outcome

    def _create(self, project: Project, run_id: str, spec: pb.Run, outcome: Outcome) -> None:
        code = self._creation_code(project, run_id, spec)
        if code is None:
            run = self._new_run(project, run_id, spec)
            code = IngestCode.RUN_FORK_PARENT_NOT_FOUND if run.fork and not run.parent else OK
        self._count(outcome, "", code, run_id[:200])

    def _creation_code(self, project: Project, run_id: str, spec: pb.Run) -> int | None:
        """None: create the run."""
        if (ruled := self._ruled("", run_id)) is not None:
            return ruled
        if (
            not 1 <= len(run_id.encode()) <= RUN_ID_MAX_BYTES
            or "/" in run_id
            or (spec.run_id and spec.run_id != run_id)
            or len(spec.experiment_id.encode()) > EXPERIMENT_NAME_MAX_BYTES
        ):
            return IngestCode.RUN_INVALID_CREATION_PARAMETERS
        if known := project.runs.get(run_id):
            same = (known.family, known.fork) == (spec.family, _fork(project, spec))
            return IngestCode.RUN_DUPLICATE if same else IngestCode.RUN_CONFLICTING
        return None

    def _new_run(self, project: Project, run_id: str, spec: pb.Run) -> Run:
        """A run whose fork parent does not exist becomes a root (assumed: with a warning, not an error)."""
        project.created += 1
        key, fork = f"{project.key}-{project.created}", _fork(project, spec)
        run = project.runs[run_id] = Run(project.name, run_id, key, spec.family, fork, self.blobs)
        created_us = _microseconds(spec.creation_time) if spec.HasField("creation_time") else _now_us()
        run.attributes = {"sys/id": ("string", key), "sys/custom_run_id": ("string", run_id)}
        run.attributes["sys/creation_time"] = ("datetime", created_us)
        if spec.experiment_id:
            run.attributes["sys/name"] = ("string", spec.experiment_id)
            project.experiments[spec.experiment_id] = run_id
        home = self.projects.get(fork.parent_project) if fork else None
        parent = home.runs.get(fork.parent_run_id) if home and fork else None
        if parent and fork:
            run.parent, run.fork_step = parent, fork.step or 0
            if fork.step is None:
                run.fork_step = max((series.steps[-1] for series in parent.series.values() if series), default=0)
            if spec.inherit_configs:
                run.attributes |= {p: a for p, a in parent.attributes.items() if not p.startswith("sys/")}
        return run

    def _update(self, run: Run, snapshot: pb.UpdateRunSnapshot, outcome: Outcome) -> None:
        for path, value in snapshot.assign.items():
            self._count(outcome, path, self._assign(run, path, value))
        for path, change in snapshot.modify_sets.items():
            self._count(outcome, path, self._modify_set(run, path, change))
        if not snapshot.append:
            return
        timestamp_us = _microseconds(snapshot.timestamp) if snapshot.HasField("timestamp") else _now_us()
        self.points_offered += len(snapshot.append)
        whole, micro, code = snapshot.step.whole, snapshot.step.micro, OK
        step = whole * MICRO + micro
        if not snapshot.HasField("step"):  # the next whole step; assumed: after these series, from 0
            ends = [s.steps[-1] for p in snapshot.append if (s := run.series.get(p))]
            step = (max(ends) // MICRO + 1) * MICRO if ends else 0
        elif whole >= STEP_LIMIT:
            code = IngestCode.SERIES_STEP_TOO_LARGE
        elif micro >= MICRO:
            code = IngestCode.SERIES_STEP_INVALID
        preview = snapshot.preview if snapshot.preview.is_preview else None
        for path, value in snapshot.append.items():
            result = code or self._append(run, path, value, step, timestamp_us, preview)
            if result == OK:
                outcome.ok += 1
            else:
                self._count(outcome, path, result, f"step {step / MICRO:.6f}")

    def _append(
        self, run: Run, path: str, value: pb.Value, step: int, timestamp_us: int, preview: pb.Preview | None
    ) -> int:
        type_ = APPENDED.get(value.WhichOneof("value"))
        series = run.series.get(path)
        if series is None or series.type != type_ or self._rules:
            code = self._allowed(run, path, type_)
            if code is not None:
                return code
        if type_ == "floatSeries":
            data: Any = value.float64
            if not (self.accepts_nan_inf or math.isfinite(data)):
                return IngestCode.FLOAT_VALUE_NAN_INF_UNSUPPORTED
        else:
            data = _plain(value)
            if code := _value_code(data):
                return code
        if series is None:
            series = Series(type_ or "")
        elif series and step <= series.steps[-1] and step in series:
            self.duplicates_offered += 1
        if preview:
            if series and step <= series.steps[-1]:
                return IngestCode.SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP
            series.previews[step] = (timestamp_us, data, preview.completion_ratio)
        elif not series and run.parent and step < run.fork_step:
            return IngestCode.SERIES_STEP_NOT_AFTER_FORK_POINT
        elif code := series.offer(step, timestamp_us, data):
            return code
        else:
            self.points_stored += 1
        run.series[path] = series
        return OK

    def _assign(self, run: Run, path: str, value: pb.Value) -> int:
        type_ = ASSIGNED.get(value.WhichOneof("value"))
        if (code := self._allowed(run, path, type_)) is not None:
            return code
        return self._put(run, path, type_ or "", _plain(value))

    def _modify_set(self, run: Run, path: str, change: pb.ModifySet) -> int:
        if (code := self._allowed(run, path, "stringSet")) is not None:
            return code
        members = set(run.value(path)) if path in run.attributes else set()
        for member, action in change.string.values.items():
            if action == pb.ADD:
                members.add(member)
            elif action == pb.REMOVE:
                members.discard(member)
        return self._put(run, path, "stringSet", frozenset(members))

    @staticmethod
    def _put(run: Run, path: str, type_: str, data: Any) -> int:
        if not (code := _value_code(data)):
            run.attributes[path] = (type_, data)
        return code

    def _allowed(self, run: Run, path: str, type_: str | None) -> int | None:
        """None: go on. Else the code of the answer; OK here means to accept and store nothing."""
        if (ruled := self._ruled(path, run.run_id)) is not None:
            return ruled
        if not path:
            return IngestCode.FIELD_PATH_EMPTY
        if len(path.encode()) > PATH_MAX_BYTES:
            return IngestCode.FIELD_PATH_EXCEEDS_SIZE_LIMIT
        if "\0" in path:  # assumed
            return IngestCode.FIELD_PATH_INVALID
        if path.startswith("sys/") and path not in WRITABLE_SYS:
            return IngestCode.FIELD_PATH_NON_WRITABLE
        if type_ is None:
            return IngestCode.FIELD_TYPE_UNSUPPORTED
        if run.type_of(path) not in (None, type_):
            return IngestCode.FIELD_TYPE_CONFLICTING
        return None

    def _ruled(self, path: str, run_id: str) -> int | None:
        rule = next((one for one in self._rules if one.path.search(path) and one.run.search(run_id)), None)
        return rule.code if rule and (rule.share >= 1 or self._random.random() < rule.share) else None

    @staticmethod
    def _count(outcome: Outcome, path: str, code: int, text: str = "") -> None:
        if code == OK:
            outcome.ok += 1
        else:
            outcome.fail(path, code, text)


def code_name(code: int) -> str:
    return IngestCode.Name(code) if code in IngestCode.values() else str(code)


def _now_us() -> int:
    return time.time_ns() // 1000


def _microseconds(timestamp: Any) -> int:
    """Rounded: the client's nanoseconds are truncated floats, often just below the microsecond meant."""
    return int(timestamp.seconds) * MICRO + (timestamp.nanos + 500) // 1000


def _fork(project: Project, spec: pb.Run) -> Fork | None:
    if not spec.HasField("fork_point"):
        return None
    point = spec.fork_point
    step = point.step.whole * MICRO + point.step.micro if point.HasField("step") else None
    return Fork(point.parent_project or project.name, point.parent_run_id, step)


def _plain(value: pb.Value) -> Any:
    """The value as Python's own, or as frozenset, FileRef, Histogram, `_Time`."""
    match value.WhichOneof("value"):
        case "timestamp":
            return _Time(_microseconds(value.timestamp))
        case "string_set":
            return frozenset(value.string_set.values)
        case "file_ref":
            return FileRef(value.file_ref.path, value.file_ref.size_bytes, value.file_ref.mime_type)
        case "histogram":
            kind = value.histogram.WhichOneof("values") or ""
            values = tuple(getattr(value.histogram, kind).values) if kind else ()
            return Histogram(tuple(value.histogram.bin_edges), kind, values)
        case kind:
            return getattr(value, kind or "")


class _Time(int):
    """Microseconds since 1970: an int that `_value_code` can tell from an integer config."""


def _value_code(value: Any) -> int:
    """OK, or the code for a value that is too large or malformed."""
    match value:
        case str() if len(value.encode()) > STRING_MAX_BYTES:
            return IngestCode.STRING_VALUE_EXCEEDS_SIZE_LIMIT
        case frozenset() if sum(len(member.encode()) for member in value) > STRING_SET_MAX_BYTES:
            return IngestCode.STRING_SET_EXCEEDS_SIZE_LIMIT
        case _Time() if not DATETIME_RANGE_US[0] <= value < DATETIME_RANGE_US[1]:
            return IngestCode.DATETIME_VALUE_OUT_OF_RANGE
        case FileRef(path, _, mime) if len(path.encode()) + len(mime.encode()) > FILE_REF_MAX_BYTES:
            return IngestCode.FILE_REF_EXCEEDS_SIZE_LIMIT
        case Histogram(edges, _, values):
            if any(math.isnan(edge) for edge in edges):
                return IngestCode.HISTOGRAM_BIN_EDGES_CONTAINS_NAN
            if len(edges) > HISTOGRAM_MAX_EDGES:
                return IngestCode.HISTOGRAM_TOO_MANY_BINS
            if any(low >= high for low, high in pairwise(edges)):
                return IngestCode.HISTOGRAM_BIN_EDGES_NOT_INCREASING
            if len(values) != len(edges) - 1:
                return IngestCode.HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS
    return OK
