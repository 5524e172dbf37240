"""What the loopback W&B server serves: the data model, and builders of sample data.

The shapes follow what wandb 0.31.0's public client reads. History rows are given as they were logged: dicts
with `_step` (ascending), `_timestamp` (s since 1970), `_runtime` (s) and metric keys; floats may be NaN. They
leave the server in the two forms of the service: live rows as JSON text, where NaN and infinities are the
strings "NaN", "Infinity", "-Infinity" and absent keys are left out; and Parquet exports, one column per key,
absent values null, a new file wherever the values of a key stop fitting its column.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
import random
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
Rows: TypeAlias = Sequence[Row] | pa.Table  # a table for long runs: 100,000 rows without a million dicts
T = TypeVar("T")
Mode = Literal["parquet", "live", "mixed"]

EPOCH_S = 1_700_000_000.0  # when sample runs begin: 2023-11-14T22:13:20Z


def iso(epoch_s: float) -> str:
    """The time as the service writes it, e.g. 2023-11-14T22:13:20Z."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def json_text(value: Any) -> str:
    """JSON as the service stores it: non-finite floats become strings."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value))


def finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by the strings "NaN", "Infinity" and "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list) else value


def md5_base64(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@dataclass(eq=False)
class Artifact:
    """One version of an artifact.

    `references` maps paths in it to outside URLs; `build` makes `files` when they are first asked for.
    """

    name: str
    type: str = "dataset"
    version: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ("latest",)
    tags: tuple[str, ...] = ()
    description: str | None = None
    metadata: Row = field(default_factory=dict)
    created_at: str = iso(EPOCH_S)
    algorithm: str = "MD5"  # of the sums in its manifest, or "XXH128"; any other name stands for one of the future
    build: Callable[[], dict[str, bytes]] | None = None

    def contents(self) -> dict[str, bytes]:
        if self.build and not self.files:
            self.files = self.build()
        return self.files

    @functools.cached_property
    def digest(self) -> str:
        parts = [f"{path}:{md5_base64(data)}" for path, data in sorted(self.contents().items())]
        return hashlib.md5("\n".join([*parts, *sorted(self.references)]).encode()).hexdigest()


@dataclass(eq=False)
class Sweep:
    """`config` is what the user gave `wandb.sweep`; JSON is valid YAML, so it is served as such."""

    id: str
    display_name: str | None = None
    config: Row | str = field(default_factory=lambda: {"method": "random", "parameters": {}})  # text: YAML
    state: str = "FINISHED"
    description: str | None = None
    created_at: str = iso(EPOCH_S)


@dataclass(eq=False)
class Run:
    """A run and how it is served. Call `changed()` after changing a field: texts and Parquet are cached."""

    id: str
    display_name: str | None = "run"
    state: str = "finished"
    config: Row = field(default_factory=dict)
    defined: Sequence[Row] = ()  # `define_metric`, as the SDK encodes it: `m` of the config's `_wandb`
    wrap_config: bool = True  # False: `config` is sent as it is, wrapped values or bare ones
    summary: Row | None = None  # None: the last value of each key, with _step, _timestamp, _runtime, _wandb
    history: Rows = ()
    mode: Mode = "parquet"
    exported: int | None = None  # with mode mixed: so many rows are in Parquet (None: half), the others live
    visible: int | None = None  # only the first so many rows exist yet (None: all)
    parquet_files: int = 1  # at least so many export files, if there are rows enough
    announce_live: bool = True  # False: liveData is null though rows are missing from the exports
    border_repeats: bool = False  # live pages of a mixed run repeat exported rows
    events: Rows = ()  # system metrics: _timestamp, _runtime, system.*
    console: Sequence[tuple[str | None, str | None, str]] = ()  # (time UTC without zone, level, line)
    files: dict[str, bytes] = field(default_factory=dict)
    logged: Sequence[Artifact] = ()
    used: Sequence[Artifact] = ()
    sweep: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    description: str | None = None
    group: str | None = None
    job_type: str | None = None
    commit: str | None = None
    created_at: str = iso(EPOCH_S)
    heartbeat_at: str | None = iso(EPOCH_S + 3600)
    user: Row | None = field(default_factory=lambda: {"name": "Ann", "username": "ann"})
    cache: Row = field(default_factory=dict, repr=False)
    lock: Any = field(default_factory=threading.RLock, repr=False)

    def changed(self) -> None:
        with self.lock:
            self.cache.clear()

    def cached(self, name: str, make: Callable[[], T]) -> T:
        """The result of `make`, computed once until `changed()`."""
        with self.lock:
            if name not in self.cache:
                self.cache[name] = make()
            return cast(T, self.cache[name])

    @property
    def line_count(self) -> int:
        return len(self.history) if self.visible is None else min(self.visible, len(self.history))

    @property
    def exported_count(self) -> int:
        """How many rows are in the Parquet exports."""
        if self.mode == "mixed":
            return min(self.line_count, len(self.history) // 2 if self.exported is None else self.exported)
        return self.line_count if self.mode == "parquet" else 0

    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        """The visible rows in order, as logged (by row number, not by step)."""
        stop = self.line_count if stop is None else min(stop, self.line_count)
        rows = as_rows(self.history[start:stop])
        return [{key: value for key, value in row.items() if value is not None} for row in rows]

    @property
    def steps(self) -> list[int]:
        return self.cached("steps", lambda: _steps(self.history)[: self.line_count])

    def live_steps(self) -> list[int]:
        return self.steps[self.exported_count :]

    def page(self, min_step: int, max_step: int) -> list[str]:
        """Live rows with min_step <= _step < max_step, each as JSON text."""
        first = 0 if self.border_repeats else self.exported_count
        start, stop = bisect_left(self.steps, min_step), bisect_left(self.steps, max_step)
        return [json_text(row) for row in self.rows(max(first, start), stop)]

    def parquet(self) -> list[bytes]:
        """The export files, in step order."""
        exported = self.history[: self.exported_count]
        return self.cached("parquet", lambda: parquet_files(exported, self.parquet_files))

    def history_keys(self) -> Row | None:
        if not self.line_count:
            return None
        keys: Row = {}
        table = isinstance(self.history, pa.Table)  # of one type a column: its last row stands for all
        for row in self.rows(self.line_count - 1 if table else 0):
            for key, value in row.items():
                counts = keys.setdefault(key, {})
                kind = _type_name(value)
                counts[kind] = self.line_count if table else counts.get(kind, 0) + 1
        for key, counts in keys.items():
            types = [{"type": kind, "count": n} for kind, n in counts.items()]
            keys[key] = {"typeCounts": types, "monotonic": False, "previousValue": -1.7976931348623157e308}
        return {"keys": keys, "sets": [], "lastStep": self.steps[-1]}

    def config_text(self) -> str:
        wrapped = {key: {"desc": None, "value": value} for key, value in self.config.items()}
        given = self.config.get("_wandb")
        own: Row = {"cli_version": "0.31.0", "python_version": "3.11"} | (given if isinstance(given, dict) else {})
        own |= {"m": [*self.defined]} if self.defined else {}
        wrapped["_wandb"] = {"desc": None, "value": own}
        return json_text(wrapped if self.wrap_config else self.config)

    def summary_value(self) -> Row:
        if self.summary is not None:
            return self.summary
        last: Row = {}
        for row in self.rows(self.line_count - 1 if isinstance(self.history, pa.Table) else 0):
            last |= row
        return last | {"_wandb": {"runtime": int(last.get("_runtime", 0))}}

    def system_artifacts(self) -> list[Artifact]:
        """The exports of history and system metrics, which the service lists once they are complete."""
        if self.mode != "parquet" or self.visible is not None:
            return []

        def exports(kind: str, build: Callable[[], list[bytes]]) -> Artifact:
            def files() -> dict[str, bytes]:
                return {f"{number:04}.parquet": data for number, data in enumerate(build())}

            return Artifact(f"run-{self.id}-{kind}", f"wandb-{kind}", build=files)

        found = [exports("history", self.parquet)] if self.line_count else []
        rows = [{key: row[key] for key in row if key != "_wandb"} for row in as_rows(self.events)]
        return found + ([exports("events", lambda: parquet_files(rows))] if rows else [])

    def outputs(self) -> list[Artifact]:
        """Every artifact the run logged, the system ones first."""
        return self.cached("outputs", self.system_artifacts) + list(self.logged)


@dataclass(eq=False)
class Project:
    name: str
    runs: list[Run] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    created_at: str = iso(EPOCH_S)
    entity: str = ""  # set by the `Entity`

    def __post_init__(self) -> None:
        self.by_id = {run.id: run for run in self.runs}
        assert len(self.by_id) == len(self.runs), "run ids are unique within a project"

    def add(self, run: Run) -> None:
        self.by_id[run.id] = run
        self.runs.append(run)

    def delete(self, run_id: str) -> None:
        self.runs.remove(self.by_id.pop(run_id))


@dataclass(eq=False)
class Entity:
    name: str
    projects: list[Project] = field(default_factory=list)

    def __post_init__(self) -> None:
        for project in self.projects:
            project.entity = self.name

    def project(self, name: str) -> Project | None:
        return next((project for project in self.projects if project.name == name), None)


# --- rows and Parquet -----------------------------------------------------------------------------


def as_rows(rows: Rows) -> list[Row]:
    return rows.to_pylist() if isinstance(rows, pa.Table) else list(rows)


def _steps(rows: Rows) -> list[int]:
    steps = rows["_step"].to_pylist() if isinstance(rows, pa.Table) else [row["_step"] for row in rows]
    assert steps == sorted(steps), "history rows ascend by _step"
    return steps


def _type_name(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case dict():
            return str(value.get("_type", "map"))
    return "list"


def parquet_files(rows: Rows, at_least: int = 1) -> list[bytes]:
    """`rows` as Parquet files, each with one type per column; no rows give no file."""
    size = max(1, math.ceil(len(rows) / at_least))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    files = []
    for chunk in chunks:
        for table in [chunk] if isinstance(chunk, pa.Table) else _tables(chunk):
            sink = io.BytesIO()
            pq.write_table(table, sink, row_group_size=10_000)
            files.append(sink.getvalue())
    return files


def _tables(rows: Sequence[Row]) -> list[pa.Table]:
    """Consecutive rows as few tables as bisection finds in which every key has one column type."""
    alone = len(rows) == 1
    names = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    try:
        columns = {name: _column([row.get(name) for row in rows], alone) for name in names}
    except (pa.ArrowException, OverflowError, TypeError):
        return _tables(rows[: len(rows) // 2]) + _tables(rows[len(rows) // 2 :])
    return [pa.table(columns)]


def _column(values: list[Any], alone: bool) -> pa.Array:
    present = [value for value in values if value is not None]
    if len({isinstance(value, bool) for value in present}) > 1:
        raise TypeError("booleans among other values")
    if present and all(type(value) is int for value in present) and max(present) >= 2**63:
        if alone and max(present) >= 2**64:
            return pa.array([float(values[0])])  # what the client makes of such a number in a live row
        return pa.array(values, pa.uint64())
    try:
        column = pa.array(values)
        return column.cast(_storable(column.type))
    except (pa.ArrowException, OverflowError, TypeError):
        if alone:  # e.g. [1, "a"]: no column type fits
            return pa.array([json_text(values[0])])
        raise


def _storable(kind: pa.DataType) -> pa.DataType:
    """`kind` without what Parquet or the client cannot take: nulls become text, large strings strings."""
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            raise TypeError("Parquet has no empty struct")
        return pa.struct([(part.name, _storable(part.type)) for part in kind])
    if pa.types.is_list(kind):
        return pa.list_(_storable(kind.value_type))
    return pa.string() if pa.types.is_null(kind) or pa.types.is_large_string(kind) else kind


# --- builders of ordinary runs --------------------------------------------------------------------


def sample_runs(
    runs: int = 50,
    *,
    steps: int = 50,
    metrics: int = 5,
    files: int = 6,
    events: int = 20,
    console: int = 10,
    mode: Mode = "parquet",
    visible: int | None = None,
    seed: int = 0,
) -> list[Run]:
    """Ordinary training runs, the same for the same arguments; with `visible` they are still running."""
    names = ["train/loss", "train/accuracy", "val/loss", "lr", "grad_norm"][:metrics]
    names += [f"metric_{index:04}" for index in range(len(names), metrics)]
    made = []
    for number in range(runs):
        rng = random.Random(f"{seed}/{number}")
        start = EPOCH_S + 60 * number
        run = _sample_run(number, start, rng)
        run.mode = mode
        if visible is not None:
            run.visible, run.state = visible, "running"
        run.history = [
            {"_step": step, "_timestamp": start + step + 0.25, "_runtime": step + 0.25}
            | {name: rng.random() / (1 + step) for name in names}
            for step in range(steps)
        ]
        run.events = [
            {"_timestamp": start + 15 * index, "_runtime": 15.0 * index, "_wandb": True}
            | {"system.cpu": rng.uniform(0, 100), "system.gpu.0.temp": rng.uniform(30, 80)}
            for index in range(events)
        ]
        run.console = [
            (iso(start + line)[:-1], "error" if line % 5 == 4 else None, f"epoch {line} of run {number}")
            for line in range(console)
        ]
        more = {f"extra/{index:04}.txt": f"{number}/{index}".encode() for index in range(len(run.files), files)}
        run.files = dict(list((run.files | more).items())[:files])
        made.append(run)
    return made


def _sample_run(number: int, start: float, rng: random.Random) -> Run:
    optimizer: Row = {"name": rng.choice(["adam", "sgd"]), "betas": [0.9, 0.999], "warmup": {"steps": 10}}
    return Run(
        id=f"run{number:05}",
        display_name=f"sample-{number}",
        state=rng.choice(["finished", "finished", "finished", "failed"]),
        config={
            "lr": 10 ** rng.uniform(-4, -1),
            "layers": rng.randint(1, 9),
            "bias": True,
            "optimizer": optimizer,
        },
        files={
            "config.yaml": b"lr:\n  value: 0.1\n",
            "requirements.txt": b"numpy==2.0\n",
            "output.log": f"log of run {number}\n".encode(),
            "wandb-metadata.json": b'{"os": "Linux", "python": "3.11"}',
            "wandb-summary.json": b"{}",
            "code/train.py": f"print({number})\n".encode(),
        },
        tags=["baseline"] + (["even"] if number % 2 == 0 else []),
        notes=f"sample run {number}",
        group=f"group-{number % 3}",
        job_type="train",
        commit=f"{number:040x}",
        created_at=iso(start),
        heartbeat_at=iso(start + 3600),
    )


def sample_world(runs: int = 50, *, projects: int = 1, entity: str = "team", **sizes: Any) -> Entity:
    """`runs` ordinary runs dealt to projects `sample`, `sample-1`, ...; `sizes` as for `sample_runs`."""
    made = sample_runs(runs, **sizes)
    names = ["sample" if index == 0 else f"sample-{index}" for index in range(projects)]
    return Entity(entity, [Project(name, made[index::projects]) for index, name in enumerate(names)])


def big_runs(
    runs: int = 2,
    *,
    steps: int = 100_000,
    metrics: int = 10,
    mode: Mode = "parquet",
    seed: int = 0,
    gaps: int = 0,
    texts: int = 0,
    histograms: int = 0,
) -> list[Run]:
    """Long runs, held as columns; their Parquet files have at most 50,000 rows each.

    `gaps`: every so many-th value of a metric is missing. `texts` and `histograms` (64 bins): so many columns more.
    """

    def table(number: int) -> pa.Table:
        rng = np.random.default_rng([seed, number])
        runtime = np.arange(steps) * 0.5
        columns: Row = {"_step": np.arange(steps), "_timestamp": EPOCH_S + runtime, "_runtime": runtime}
        for index in range(metrics):
            values = rng.standard_normal(steps)
            hidden = (np.arange(steps) + index) % gaps == 0 if gaps else None
            columns[f"metric_{index:04}"] = values if hidden is None else pa.array(values, mask=hidden)
        columns |= {f"text_{index}": [f"step {step} of {number}" for step in range(steps)] for index in range(texts)}
        bars = [
            {"_type": "histogram", "bins": [*map(float, range(65))], "values": [*range(n, n + 64)]} for n in range(9)
        ]
        columns |= {f"bars_{index}": [bars[step % 9] for step in range(steps)] for index in range(histograms)}
        return pa.table(columns)

    files = math.ceil(steps / 50_000)
    return [
        Run(f"big{number:03}", f"big-{number}", history=table(number), mode=mode, parquet_files=files)
        for number in range(runs)
    ]


def light_runs(runs: int = 20_000) -> list[Run]:
    """Runs with names and dates only, for listing."""
    return [Run(f"light{n:06}", f"light-{n}", created_at=iso(EPOCH_S + n)) for n in range(runs)]


# --- hostile runs ---------------------------------------------------------------------------------


def hostile_runs(mode: Mode = "parquet") -> list[Run]:
    """Runs that hold everything a migration can stumble over, one theme a run, named by their ids."""
    runs = [
        *_hostile_histories(),
        _media_run(),
        _files_run(),
        _artifact_run(),
        *_hostile_streams(),
        *_hostile_names(),
        *_hostile_configs(),
    ]
    for number, run in enumerate(runs):
        run.mode = mode
        run.created_at = iso(EPOCH_S + 60 * number)
    return runs


def hostile_sweeps() -> list[Sweep]:
    """The sweeps that runs of `hostile_runs` belong to, and one without runs."""
    goal = {"name": "loss", "goal": "minimize"}
    parameters = {"lr": {"min": 0.001, "max": 0.1}, "optimizer": {"values": ["adam", "sgd"]}}
    config: Row = {"method": "bayes", "metric": goal, "parameters": parameters}
    return [Sweep("sweep1", "Größe ❤", config), Sweep("sweep2", None, state="RUNNING")]


def logged(rows: Sequence[Row], first_step: int = 0) -> list[Row]:
    """`rows` as a run logs them, one a second, if they have no `_step`, `_timestamp`, `_runtime` of their own."""
    return [
        {"_step": first_step + n, "_timestamp": EPOCH_S + n + 0.5, "_runtime": n + 0.5} | row
        for n, row in enumerate(rows)
    ]


def _hostile_histories() -> list[Run]:
    nan, inf = float("nan"), float("inf")
    histogram: Row = {"_type": "histogram", "values": [1, 5, 2], "bins": [0.0, 0.5, 1.0, 1.5]}
    bins = {"min": -1.0, "size": 0.5, "count": 2}
    packed: Row = {"_type": "histogram", "values": [3, 4], "packedBins": bins}
    wide: Row = {"_type": "histogram", "values": list(range(600)), "bins": [n / 2 for n in range(601)]}
    no_time = logged([{"x": float(n)} for n in range(6)])
    for n in (0, 3):
        del no_time[n]["_timestamp"], no_time[n]["_runtime"]
    back = [{"_timestamp": EPOCH_S - 100.0, "x": 4.0}, {"_timestamp": EPOCH_S - 50.25, "x": 5.0}]
    long_key = "k" * 2990 + "/" + "é" * 10
    keys = ["", long_key, long_key + "x", "❤/🎉", "a.b", "a//b", "a/_/b", "/lead", "trail/", "//", " space "]
    keys += [
        "ünï/码",
        "A.B",
        "loss",
        "loss/train",
        "Loss",
        "x" * 1024,
        "config/lr",
        "sys/x",
        "sys",
        "files/a",
    ]
    keys += ["summary/a", "wandb/raw/config.json", "system/cpu", "runtime/stdout", "metrics/sys/x"]
    keys += ["migration/complete"]
    repeated = logged([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0}])
    repeated[1]["_step"] = 0
    numbers: list[Row] = [
        {"float": 1.5, "int": 1, "whole": 1.0, "bool": True, "string": "first", "tiny": 5e-324},
        {"float": nan, "int": 2**53 + 1, "whole": 2.0, "bool": False, "string": "", "tiny": 1.7e308},
        {"float": inf, "int": -(2**63), "bool": True, "string": "NaN"},
        {"float": -inf, "int": 2**63 - 1, "string": "Infinity", "text": "é" * 100},
        {"float": -0.0, "unsigned": 2**64 - 1, "huge": 10**40, "string": "multi\nline"},
        {"nothing": None, "float": 0.1},
    ]
    many = [1, 2.5, "text", True, histogram, {"inner": 1}, [1, 2], 2**60, nan, "NaN", [], [1, "a"]]
    many += [{"inner": "x"}]
    nested: list[Row] = [
        {"nest": {"a": 1, "b": {"c": 2.5}}, "list": [1, 2.5], "names": ["a", "b"], "lists": [[1], [2, 3]]},
        {"nest": {"b": {"c": nan, "d": "text"}}, "list": [], "empty": {}, "a.b": 1, "a": {"b": 2}},
        {"nest": {"a/b": 1, "": 2, "_type": "unknown-kind"}},
    ]
    both: Row = {"h": histogram, "p": packed}
    return [
        Run("numbers", "numbers", history=logged(numbers)),
        Run("many-types", "many types", history=logged([{"value": value, "steady": 1.0} for value in many])),
        Run("nested", "nested", history=logged(nested)),
        Run("histograms", "histograms", history=logged([both, {"h": wide}, both | {"loss": 1.0}])),
        Run("wide", "wide", history=logged([{f"m/{n}": n / step for n in range(1500)} for step in (1, 4)])),
        Run("gaps", "gaps", history=logged([{"_step": n, "x": 1.5} for n in (0, 10, 1_000_000_000)])),
        Run("out-of-range", "far", history=logged([{"_step": n, "x": 1.5} for n in (5, 10**12 - 1, 10**12)])),
        Run("late", "late", history=logged([{"x": n / 2} for n in range(20)], first_step=500_000)),
        Run("no-rows", "no rows"),
        Run("empty-rows", "rows without metrics", history=logged([{}, {}])),
        Run("no-time", "no time", history=no_time),
        Run("backwards", "backwards", history=logged([{"x": 0.5}, {"x": 1.5}, *back, {"x": 6.5}])),
        Run("repeated", "repeated step", history=repeated),
        Run("epoch", "epoch", history=logged([{"epoch": n // 4, "loss": 1 / (n + 1)} for n in range(12)])),
        Run("keys", "keys", history=logged([{key: n + i for n, key in enumerate(keys)} for i in range(2)])),
        Run("private", "private keys", history=logged([{"_custom": 1.0, "_wandb": {"x": 1}, "open": 2.0}])),
        Run("sampled", "two thousand", history=logged([{"x": n / 7} for n in range(2000)]), parquet_files=3),
    ]


def _media_run() -> Run:
    files: dict[str, bytes] = {}

    def media(kind: str, key: str, step: int, suffix: str, missing: bool = False, **more: Any) -> Row:
        data = f"{kind} of {key} at {step}".encode() + bytes(range(256))
        sha = hashlib.sha256(data).hexdigest()
        folder = {"image-file": "images", "table-file": "table"}.get(kind, kind.removesuffix("-file"))
        path = f"media/{folder}/{key}_{step}_{sha[:20]}.{suffix}"
        if not missing:
            files[path] = data
        return {"_type": kind, "path": path, "sha256": sha, "size": len(data)} | more

    def picture(key: str, step: int, **more: Any) -> Row:
        return media("image-file", key, step, "png", width=8, height=8, format="png", **more)

    def separated(key: str, step: int, count: int, **more: Any) -> Row:
        names = [picture(f"{key}_{index}", step)["path"] for index in range(count)]
        size: Row = {"width": 8, "height": 8, "format": "png", "count": count}
        return {"_type": "images/separated", "filenames": names} | size | more

    def row(step: int) -> Row:
        sounds = [media("audio-file", f"sounds_{n}", step, "wav", caption=f"sound {n}") for n in range(2)]
        videos = [media("video-file", f"videos_{n}", step, "mp4") for n in range(2)]
        pages = [media("html-file", f"pages_{n}", step, "html") for n in range(2)]
        points = [media("object3D-file", f"scans_{n}", step, "pts.json") for n in range(2)]
        names = [point["path"].removeprefix("media/object3D/") for point in points]
        return {
            "image": picture("image", step, caption="a cat"),
            "audio": media("audio-file", "audio", step, "wav", caption="a bell"),
            "video": media("video-file", "video", step, "mp4"),
            "page": media("html-file", "page", step, "html"),
            "table": media("table-file", "table", step, "table.json", ncols=2, nrows=3, log_mode="IMMUTABLE"),
            "chart": media("plotly-file", "chart", step, "plotly.json"),
            "scan": media("object3D-file", "scan", step, "pts.json"),
            "molecule": media("molecule-file", "molecule", step, "pdb"),
            "images": separated("images", step, 3),
            "captioned": separated("captioned", step, 2, captions=["one", "zwei ❤"]),
            "sounds": {"_type": "audio", "count": 2, "audio": sounds, "captions": ["sound 0", "sound 1"]},
            "videos": {"_type": "videos", "count": 2, "videos": videos, "captions": False},
            "pages": {"_type": "html", "count": 2, "html": pages},
            "scans": {"_type": "object3D", "count": 2, "objects": points, "filenames": names},
            "deep": {"inner": picture("deep.inner", step)},
            "gone": media("image-file", "gone", step, "png", missing=True, width=8, height=8, format="png"),
            "mixed": float(step) if step % 2 else picture("mixed", step),
            "loss": 0.5 / (step + 1),
        }

    return Run("media", "media", history=logged([row(step) for step in range(3)]), files=files)


def _files_run() -> Run:
    files = {f"many/{n:03}.txt": f"file {n}".encode() for n in range(300)}
    files |= {"clash": b"a file", "clash/inner.txt": b"in a folder of that name"}
    files |= {"empty.bin": b"", "code/empty.py": b""}
    files |= {"code/train.py": b"print(1)\n", "code/deep/er.py": b"x = 1\n", "requirements.txt": b"numpy\n"}
    files |= {"model.ckpt": bytes(2000), "checkpoints/last.pt": b"weights", "my checkpoint-3/x": b"w"}
    files |= {"with space.txt": b"s", "ünï/码❤.txt": b"u", "100%.txt": b"p", "q?a=1&b#c.txt": b"q"}
    files |= {"a//b": b"2", "dot/../x": b"the client refuses this name", "media/images/unused.png": b"png"}
    files |= {"Case.txt": b"upper", "case.txt": b"lower", "n" * 200 + ".txt": b"long name"}
    files |= {"output.log": b"hello\n", "config.yaml": b"a: 1\n"}
    files |= {"big.bin": random.Random(7).randbytes(2_000_000)}
    return Run("files", "files", history=logged([{"x": 1.5}]), files=files)


def _artifact_run() -> Run:
    files = {"train/a.bin": b"a" * 1000, "train/b c.txt": "bé".encode(), "empty": b"", "ünï.txt": b"u"}
    links = {"outside/big.bin": "s3://bucket/big.bin?versionId=3", "outside/dir": "file:///nowhere/dir"}
    old = Artifact("data", "dataset", 0, {"one.txt": b"1"}, aliases=())
    new = Artifact("data", "dataset", 1, files, links, ("latest", "best é"), ("t1",), "the data", {"rows": [3]})
    table = Artifact("run-artifacts-table", "run_table", 0, {"table.table.json": b'{"columns": []}'})
    model = Artifact("weights", "model", 0, {"w.pt": b"w" * 5000}, aliases=("latest", "prod"))
    outputs, inputs = [old, new, table], [model, old]
    return Run("artifacts", "artifacts", history=logged([{"x": 1.5}]), logged=outputs, used=inputs)


def _hostile_streams() -> list[Run]:
    at = EPOCH_S
    events: list[Row] = [
        {"_timestamp": at, "_runtime": 0.0, "_wandb": True, "system.cpu": 1.5, "system.gpu.0.temp": 40},
        {"_timestamp": at + 15, "_runtime": 15.0, "system.cpu": float("nan"), "system.disk.\\.usedGB": 71},
        {"_runtime": 30.0, "system.cpu": 3, "system.note": "text"},
        {"_timestamp": at - 30, "_runtime": 45.0, "system.cpu": 2**53 + 1, "system.network/sent": 1.0},
        {"_timestamp": at + 60, "_runtime": 60.0, "system.cpu": float("inf")},
    ]
    many = [{"_timestamp": at + n, "_runtime": float(n), "system.cpu": n / 8} for n in range(1200)]
    lines: list[tuple[str | None, str | None, str]] = [
        (iso(at)[:-1], None, "plain"),
        (None, None, "no time"),
        (iso(at + 5)[:-1] + ".123456", "error", "Traceback ❤"),
        (iso(at + 1)[:-1], None, "clock went back"),
        (iso(at + 9), None, ""),
        (iso(at + 9), None, "\x1b[31mred\x1b[0m\rprogress 100%"),
        (iso(at + 10), "error", "é" * 600_000),
    ]
    long = [(iso(at + n)[:-1], "error" if n % 7 == 0 else None, f"line {n}") for n in range(2500)]
    return [
        Run("streams", "streams", history=logged([{"x": 1.5}]), events=events, console=lines),
        Run("long-streams", "long streams", history=logged([{"x": 1.5}]), events=many, console=long),
    ]


def _hostile_names() -> list[Run]:
    names: dict[str, str | None] = {
        "name-empty": "",
        "name-none": None,
        "name-long": "n" * 2000 + "❤" * 333 + "n",
        "name-equal-1": "twin",
        "name-equal-2": "twin",
        "id with spaces": "spaces",
        "100%25 ~id": "percent",
        "ünï-码❤": "unicode",
        "Case": "upper",
        "case": "lower",
        "i" * 128: "long id",
        "_under": "new\nline\ttab",
    }
    runs = [Run(run_id, name, history=logged([{"x": 1.5}])) for run_id, name in names.items()]
    states = ["crashed", "failed", "killed", "preempted", "preempting", "pending"]
    for run, state in zip(runs, states, strict=False):
        run.state = state
    bare = Run("bare", "bare", commit=None, heartbeat_at=None, summary={}, config={}, wrap_config=False)
    tags = ["a", "b,c", "❤ tag", "x" * 300]
    full = Run("described", "described", tags=tags, notes="# notes\n❤" * 50, group="G/1", job_type="eval")
    full.description = "a description"
    for n in (1, 2, 3):
        runs.append(Run(f"swept-{n}", f"swept {n}", config={"lr": n / 10}, history=logged([{"loss": 1.0 / n}])))
        runs[-1].sweep = "sweep1"
    return [*runs, bare, full]


def _hostile_configs() -> list[Run]:
    plain: Row = {"a": {"b": {"c": 1, "": 2}}, "a/b": 3, "x//y": 1, "x/_/y": 2, "list": [1, [2]]}
    plain |= {"none": None, "empty": {}, "nan": float("nan"), "inf": "Infinity", "true": True, "whole": 1.0}
    plain |= {"big": 10**40, "edge": 2**63, "low": -(2**63), "value": {"value": 42, "desc": "d"}, "❤": "é"}
    plain |= {"": "empty key", "k" * 3000: 1, "d.o.t": 1, "text": ""}
    summary: Row = {
        "best": {"loss": 0.5, "step": 3},
        "text": "t",
        "none": None,
        "nan": float("nan"),
        "list": [1],
    }
    summary |= {
        "image": {"_type": "image-file", "path": "media/images/none.png"},
        "deep": {"h": {"_type": "x"}},
    }
    summary |= {"inf": "-Infinity", "sys/x": 1, "big": 10**40, "_step": 0, "_wandb": {"runtime": 1}}
    long: Row = {"long": "s" * 3_000_000, "unicode": "é" * 600_000, "short": 1}
    half: Row = {"lr": {"value": 0.1, "desc": None}, "bare": 5, "_wandb": {"value": {}}, "dict": {"a": 1}}
    wide: Row = {f"group{n}": {f"k{m}": m for m in range(500)} for n in range(10)}
    return [
        Run("config", "config", config=plain, summary=summary),
        Run("config-long", "3 MB", config=long, summary={"text": "s" * 3_000_000}),
        Run("config-bare", "bare values", config=half, wrap_config=False),
        Run("config-wide", "5000 values", config=wide),
    ]


#: What `world` can build, and the argument that may be given without its name.
KINDS: dict[str, tuple[Callable[..., list[Run]], str]] = {
    "sample": (sample_runs, "runs"),
    "big": (big_runs, "runs"),
    "list": (light_runs, "runs"),
    "hostile": (hostile_runs, "mode"),
}


def world(spec: str, entity: str = "team") -> Entity:
    """An entity with one project for each item of `spec`, e.g. `sample:20,steps=10,big:1,hostile:live`.

    An item is `KIND[:ARGUMENT,ARGUMENT,...]` with the kinds of `KINDS`. An ARGUMENT is `name=value` as for
    the builder, or just the value of the one named in `KINDS`. `project=NAME` names the project; otherwise it
    is called like the kind (`hostile-MODE` for hostile runs), and a name that is taken gets `-1`, `-2`, ...
    """
    items: list[tuple[str, Row]] = []
    for piece in spec.split(","):
        kind, colon, argument = piece.partition(":")
        if kind in KINDS:
            items.append((kind, {}))
        elif colon or not items:
            raise ValueError(f"unknown kind of runs: {piece}")
        else:
            argument = piece
        name, equals, value = argument.partition("=")
        if argument:
            name, value = (name, value) if equals else (KINDS[items[-1][0]][1], argument)
            items[-1][1][name] = int(value) if value.isdigit() else value
    projects: dict[str, Project] = {}
    for kind, arguments in items:
        default = f"hostile-{arguments.get('mode', 'parquet')}" if kind == "hostile" else kind
        wanted = str(arguments.pop("project", default))
        name = next(free for free in (wanted, *(f"{wanted}-{n}" for n in range(1, 999))) if free not in projects)
        sweeps = hostile_sweeps() if kind == "hostile" else []
        projects[name] = Project(name, KINDS[kind][0](**arguments), sweeps)
    return Entity(entity, list(projects.values()))
