"""What the mapping promises, written a second time: from a run at W&B to the content of its run in Neptune.

Nothing of the migrator is used here; where both disagree, the mapping in README decides. `content_of` gives what must
arrive, `arrived` what a Neptune server has, `differences` compares them point by point: steps in micro-steps, times in
microseconds, types, values and bytes.

The one thing that depends on how W&B serves a run: no column of a Parquet export can hold an empty dict or a list of
mixed types, and the test server puts their JSON text there (`as_exported`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.servers import neptune_store
from tests.servers.wandb_data import Artifact, Project, Row, Run, Sweep, as_rows, json_text

MICRO = 1_000_000
PATH_MAX_BYTES, NAME_MAX_BYTES, TEXT_MAX_BYTES, MAX_BINS = 1024, 730, 1024 * 1024, 512
RESERVED = {"sys", "config", "summary", "wandb", "system", "runtime", "files", "source_code", "checkpoints"}
RESERVED |= {"artifacts", "migration"}
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
#: kinds of series by precedence at one key, and the level below the key where another kind has the key's own path
LEVELS = {"floatSeries": "number", "stringSeries": "text", "histogramSeries": "histogram", "fileRefSeries": "file"}
INFO = ("type", "aliases", "digest", "size", "created_at", "metadata", "references")  # what is told of an artifact
SEVERAL = ("audio", "videos", "html", "objects")  # where W&B's objects for several media hold the list of them

Point = tuple[int, int, Any]  # (micro-step, microseconds since 1970, value)


@dataclass(frozen=True)
class Options:
    """The options of `migrate run` that change the mapping."""

    private: bool = False
    stringify: bool = False
    namespace: str = ""
    max_file_bytes: float = math.inf
    artifacts: bool = False


class Bins(NamedTuple):
    """A histogram; `kind` is "counts" or "densities"."""

    edges: tuple[float, ...]
    kind: str
    values: tuple[float, ...]


class JsonText(NamedTuple):
    """A text that must be this value in JSON, in whatever layout."""

    value: Any


@dataclass
class Content:
    """One run in Neptune. `values` and `series` hold (type, value) and (type, points) by path.

    `skips` counts by (part, reason) what is not there.
    """

    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    series: dict[str, tuple[str, list[Point]]] = field(default_factory=dict)
    files: dict[str, bytes | None] = field(default_factory=dict)
    skips: Counter[tuple[str, str]] = field(default_factory=Counter)


def content_of(run: Run, project: Project, app_url: str, options: Options | None = None) -> Content:
    """What must arrive of `run`; `app_url` is the address of W&B's pages."""
    options = options or Options()
    content = Content()
    sweep = next((sweep for sweep in project.sweeps if sweep.id == run.sweep), None)
    _add_attributes(content, run, project, app_url, sweep)
    _add_config(content, run, options)
    _add_summary(content, run, options)
    rows = [as_exported(row) if n < run.exported_count else row for n, row in enumerate(run.rows())]
    in_history = add_history(content, rows, run.files, microseconds(run.created_at), options)
    _add_system(content, as_rows(run.events), microseconds(run.created_at))
    _add_console(content, run.console or output_log(run.files), microseconds(run.created_at))
    _add_files(content, {name: data for name, data in run.files.items() if name not in in_history}, options)
    if options.artifacts:
        _add_artifacts(content, run, project)
    return content


def project_names(names: Iterable[str]) -> dict[str, str]:
    """Neptune's project names for the W&B projects of one entity."""
    given: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (_plain(name) != name, name)):
        plain = _plain(name)
        taken = {other.lower() for other in given.values()}
        given[name] = plain if plain.lower() not in taken else f"{plain[:121]}-{_digest(name, 6)}"
    return given


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    if len(plain) < 3:
        return f"{plain}-wandb"
    return plain if len(plain) <= 128 else f"{plain[:121]}-{_digest(name, 6)}"


# ---------------------------------------------------------------- names, texts, times


class Paths:
    """Gives paths to source keys: each its own, the first come the one that it wants."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, key: str, wanted: str) -> str:
        path = "/".join(level or "_" for level in wanted.split("/"))
        if len(path.encode()) > PATH_MAX_BYTES:
            path = _suffixed(path, wanted)
        if path in self._taken:
            path = _suffixed(path, key)
        self._taken.add(path)
        return path


def _suffixed(path: str, hashed: str) -> str:
    return f"{_cut(path, PATH_MAX_BYTES - 9)}~{_digest(hashed, 8)}"


def _digest(text: str, digits: int) -> str:
    return sha256(text.encode()).hexdigest()[:digits]


def _cut(text: str, size_bytes: int) -> str:
    return text.encode()[:size_bytes].decode(errors="ignore")


def _text(text: str) -> tuple[str, str]:
    return "string", _cut(text, TEXT_MAX_BYTES)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def microseconds(iso_time: str) -> int:
    """Of W&B's ISO times, UTC with or without saying so."""
    time = datetime.fromisoformat(iso_time.replace("Z", "+00:00"))
    delta = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICRO + delta.microseconds


class Clock:
    """Times of rows; no series goes back: an earlier time is the latest so far of the series."""

    def __init__(self, created_us: int) -> None:
        self._row_us = created_us

    def of_row(self, time_us: int | None) -> int:
        """A missing time is that of the row before, the run's creation at first."""
        self._row_us = self._row_us if time_us is None else time_us
        return self._row_us


def _not_before(points: Sequence[Point], time_us: int) -> int:
    return max(time_us, points[-1][1]) if points else time_us


def _row_time_us(row: Row) -> int | None:
    return None if row.get("_timestamp") is None else round(row["_timestamp"] * MICRO)


# ---------------------------------------------------------------- attributes, config, summary


def _add_attributes(content: Content, run: Run, project: Project, app_url: str, sweep: Sweep | None) -> None:
    url = f"{app_url}/{quote(project.entity, safe='')}/{quote(project.name, safe='')}/runs/{quote(run.id, safe='')}"
    texts = {
        "sys/custom_run_id": run.id,
        "sys/name": _cut(run.display_name or run.id, NAME_MAX_BYTES),
        "sys/description": run.notes,
        "wandb/id": run.id,
        "wandb/name": run.display_name,
        "wandb/url": url,
        "wandb/path": f"{project.entity}/{project.name}/{run.id}",
        "wandb/entity": project.entity,
        "wandb/project": project.name,
        "wandb/state": run.state,
        "wandb/job_type": run.job_type,
        "wandb/group": run.group,
        "wandb/sweep": run.sweep,
        "wandb/commit": run.commit,
        "wandb/user": run.user and run.user["username"],
        "wandb/description": run.description,
        "migration/source_url": url,
        "migration/tool_version": version("wandb-to-neptune"),
    }
    values = content.values
    values |= {path: _text(text) for path, text in texts.items() if text is not None}
    times = {"sys/creation_time": run.created_at, "wandb/created_at": run.created_at}
    times |= {"wandb/heartbeat_at": run.heartbeat_at} if run.heartbeat_at else {}
    values |= {path: ("datetime", microseconds(time)) for path, time in times.items()}
    values["wandb/history_line_count"] = "int", run.line_count
    if run.line_count:
        values["wandb/last_history_step"] = "int", run.steps[-1]
    values["wandb/read_only"] = "bool", False
    values["migration/mapping_version"] = "int", 1
    values["migration/complete"] = "bool", True
    if run.tags:
        values["sys/tags"] = "stringSet", frozenset(run.tags)
    if run.group:
        values["sys/group_tags"] = "stringSet", frozenset([run.group])
    if sweep:
        values["wandb/sweep/id"] = _text(sweep.id)
        values["wandb/sweep/method"] = _text(sweep.config["method"])
        values["wandb/sweep/config"] = "string", JsonText(sweep.config)
        if sweep.display_name is not None:
            values["wandb/sweep/name"] = _text(sweep.display_name)


def _add_config(content: Content, run: Run, options: Options) -> None:
    text = run.config_text()
    content.files["wandb/raw/config.json"] = text.encode()
    config = {key: _unwrapped(value) for key, value in json.loads(text).items()}
    if not options.private:
        config.pop("_wandb", None)
    paths = Paths()
    for keys, value in tree_leaves(config, objects_are_leaves=False):
        path = paths.claim(_compact(keys), "/".join(["config", *keys]))
        value = NON_FINITE.get(value, value) if isinstance(value, str) else value
        content.values[path] = single(value, stringify=options.stringify)


def _unwrapped(value: Any) -> Any:
    """W&B wraps each value of a config once; bare ones occur."""
    return value["value"] if isinstance(value, dict) and set(value) in ({"value"}, {"value", "desc"}) else value


def _add_summary(content: Content, run: Run, options: Options) -> None:
    text = json_text(run.summary_value())
    content.files["wandb/raw/summary.json"] = text.encode()
    paths = Paths()
    for keys, value in tree_leaves(json.loads(text), objects_are_leaves=True):
        if keys[0].startswith("_") and not options.private:
            continue
        if isinstance(value, dict) and value:
            content.skips["summary", "wandb_object"] += 1
            continue
        path = paths.claim(_compact(keys), "/".join(["summary", *keys]))
        value = NON_FINITE.get(value, value) if isinstance(value, str) else value
        content.values[path] = single(value, stringify=options.stringify)


def tree_leaves(tree: Row, *, objects_are_leaves: bool) -> Iterator[tuple[list[str], Any]]:
    """Keys from the top, and what is no further level: an empty dict, perhaps W&B's own objects (with `_type`)."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and not (objects_are_leaves and "_type" in value):
            for below, leaf in tree_leaves(value, objects_are_leaves=objects_are_leaves):
                yield [key, *below], leaf
        else:
            yield [key], value


def single(value: Any, *, stringify: bool = False) -> tuple[str, Any]:
    """The type and value of a config or summary value."""
    match value:
        case str():
            return _text(value)
        case None | list() | dict():
            return _text(_compact(value))
        case int() if not -(2**63) <= value < 2**63:
            return "string", str(value)
    return ("string", str(value)) if stringify else (type(value).__name__, value)


# ---------------------------------------------------------------- history


class Leaf(NamedTuple):
    """A value of one series; `slot` tells the series of one key apart (items of lists of media, captions)."""

    key: str
    slot: str
    kind: str
    value: Any


def leaves(key: str, value: Any) -> Iterator[Leaf]:
    """What is logged in `value`; files by the names of the run's files."""
    match value:
        case None:
            pass
        case bool() | int() | float():
            yield Leaf(key, "", "floatSeries", float(value))
        case str() if value in NON_FINITE:
            yield Leaf(key, "", "floatSeries", NON_FINITE[value])
        case str():
            yield Leaf(key, "", "stringSeries", _cut(value, TEXT_MAX_BYTES))
        case {"_type": "histogram"}:
            yield Leaf(key, "", "histogramSeries", bins_of(value))
        case {"_type": str(), "path": str()}:
            yield from _media_leaves(key, "", value)
        case {"_type": str()} if items := _several(value):
            for number, item in enumerate(items):
                yield from _media_leaves(key, str(number), item)
        case dict() if "_type" not in value:
            for name, inner in value.items():
                yield from leaves(f"{key}.{name}", inner)
        case list() if value and all(isinstance(item, dict) and "path" in item for item in value):
            for number, item in enumerate(value):
                yield from _media_leaves(key, str(number), item)
        case _:
            yield Leaf(key, "", "stringSeries", _compact(_as_live(value)))


def _several(value: Row) -> list[Row]:
    """The media of an object that holds several, each with its caption."""
    found: list[Row] = next((value[name] for name in SEVERAL if isinstance(value.get(name), list)), [])
    if not found:
        found = [{"path": path} for path in value.get("filenames", ())]
    captions = value.get("captions") or [None] * len(found)
    return [{"caption": caption} | item for item, caption in zip(found, captions, strict=True)]


def _media_leaves(key: str, slot: str, item: Row) -> Iterator[Leaf]:
    yield Leaf(key, slot, "fileRefSeries", item["path"])
    if item.get("caption"):
        yield Leaf(key, f"{slot}/caption".lstrip("/"), "stringSeries", item["caption"])


def bins_of(value: Row) -> Bins:
    """Over 512 bins: as few neighbours as will do become one."""
    counts = value["values"]
    packed = value.get("packedBins")
    edges = [packed["min"] + packed["size"] * n for n in range(len(counts) + 1)] if packed else value["bins"]
    width = math.ceil(len(counts) / MAX_BINS)
    merged = [sum(counts[n : n + width]) for n in range(0, len(counts), width)]
    kind = "counts" if all(isinstance(count, int) for count in merged) else "densities"
    return Bins(tuple(map(float, [*edges[:-1:width], edges[-1]])), kind, tuple(merged))


def _as_live(value: Any) -> Any:
    """As W&B's live rows have it: NaN and infinities are strings, whole floats are integers."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_as_live(item) for item in value]
        case dict():
            return {key: _as_live(item) for key, item in value.items()}
    return value


def as_exported(value: Any) -> Any:
    """`value` where no Parquet column can hold it: the JSON text that the test server puts there."""
    match value:
        case {} if not value:
            return "{}"
        case dict():
            return {key: as_exported(item) for key, item in value.items()}
        case list() if len({str if isinstance(item, str) else object for item in value}) > 1:
            return json_text(value)
    return value


def add_history(
    content: Content, rows: Sequence[Row], files: dict[str, bytes], created_us: int, options: Options
) -> set[str]:
    """Returns the names of the files that the history refers to."""
    logged = [
        (row, [leaf for key in row if _is_wanted(key, options) for leaf in leaves(key, row[key])]) for row in rows
    ]
    paths = series_paths((leaf for _, row_leaves in logged for leaf in row_leaves), options.namespace)
    clock = Clock(created_us)
    in_history = set()
    for row, row_leaves in logged:
        step, time_us = row["_step"], clock.of_row(_row_time_us(row))
        for leaf in row_leaves:
            value = leaf.value
            if not 0 <= step < 10**12:
                content.skips["history", "step_out_of_range"] += 1
                continue
            kind, points = content.series.setdefault(paths[leaf[:3]], (leaf.kind, []))
            if points and points[-1][0] == step * MICRO:
                content.skips["history", "duplicate_step"] += 1
                continue
            if kind == "fileRefSeries":
                in_history.add(value)
                if value not in files:
                    content.skips["history", "missing_file"] += 1
                    continue
                value = files[value]
            points.append((step * MICRO, _not_before(points, time_us), value))
    for path in [path for path, (_, points) in content.series.items() if not points]:
        del content.series[path]
    return in_history


def _is_wanted(key: str, options: Options) -> bool:
    return not key.startswith("_") or (options.private and key not in ("_step", "_timestamp"))


def series_paths(logged: Iterable[Leaf], namespace: str) -> dict[tuple[str, str, str], str]:
    """The path of each series (key, slot, kind): of keys in order of appearance, of kinds by precedence."""
    by_key: dict[str, dict[tuple[str, str], None]] = {}
    for leaf in logged:
        by_key.setdefault(leaf.key, {})[leaf.slot, leaf.kind] = None
    paths, given = Paths(), {}
    for key, found in by_key.items():
        base = f"{namespace}/{key}" if namespace else f"metrics/{key}" if key.split("/")[0] in RESERVED else key
        is_first = True
        for kind, level in LEVELS.items():
            if ("", kind) in found:
                given[key, "", kind] = paths.claim(key, base if is_first else f"{base}/{level}")
                is_first = False
        for slot, kind in found:
            if slot:
                given[key, slot, kind] = paths.claim(f"{key}/{slot}", f"{base}/{slot}")
    return given


# ---------------------------------------------------------------- system, console, files, artifacts


def _add_system(content: Content, events: Sequence[Row], created_us: int) -> None:
    clock = Clock(created_us)
    for number, row in enumerate(events):
        time_us = clock.of_row(_row_time_us(row))
        for key, value in row.items():
            if not key.startswith("system.") or value is None:
                continue
            value = NON_FINITE.get(value, value) if isinstance(value, str) else value
            if isinstance(value, str):
                content.skips["system", "not_a_number"] += 1
                continue
            _, points = content.series.setdefault(f"system/{key.removeprefix('system.')}", ("floatSeries", []))
            points.append((number * MICRO, _not_before(points, time_us), float(value)))


ConsoleLine = tuple[str | None, str | None, str]  # (time, level, text), as in `Run.console`


def output_log(files: dict[str, bytes]) -> list[ConsoleLine]:
    """The console of a run of which W&B has no console log."""
    return [(None, None, line) for line in files.get("output.log", b"").decode().splitlines()]


def _add_console(content: Content, lines: Sequence[ConsoleLine], created_us: int) -> None:
    clock = Clock(created_us)
    for number, (time, level, text) in enumerate(lines):
        path = "runtime/stderr" if level == "error" else "runtime/stdout"
        _, points = content.series.setdefault(path, ("stringSeries", []))
        time_us = clock.of_row(microseconds(time) if time else None)
        points.append((number * MICRO, _not_before(points, time_us), _cut(text, TEXT_MAX_BYTES)))


def _add_files(content: Content, files: dict[str, bytes], options: Options) -> None:
    paths = Paths()
    for name in sorted(files):
        path = paths.claim(name, file_path(name))
        if len(files[name]) > options.max_file_bytes:
            content.skips["files", "too_large"] += 1
        else:
            content.files[path] = files[name]


def file_path(name: str) -> str:
    if name.startswith("code/"):
        return name.replace("code/", "source_code/files/", 1)
    if name == "requirements.txt":
        return "source_code/requirements.txt"
    return f"checkpoints/{name}" if re.search("ckpt|checkpoint", name) else f"files/{name}"


def _add_artifacts(content: Content, run: Run, project: Project) -> None:
    paths = Paths()
    for artifact in run.logged:
        base = f"artifacts/{artifact.name}/v{artifact.version}"
        info = _artifact_info(artifact)
        told = {name: paths.claim(f"info/{name}", f"{base}/info/{name}") for name in INFO}
        content.values |= {told[name]: value for name, value in info.items()}
        for name, data in sorted(artifact.contents().items()):
            content.files[paths.claim(name, f"{base}/{name}")] = data
    if run.used:
        used = {f"{project.entity}/{project.name}/{artifact.name}:v{artifact.version}" for artifact in run.used}
        content.values["artifacts/used"] = "stringSet", frozenset(used)


def _artifact_info(artifact: Artifact) -> dict[str, tuple[str, Any]]:
    info: dict[str, tuple[str, Any]] = {
        "type": ("string", artifact.type),
        "digest": ("string", artifact.digest),
        "size": ("int", sum(map(len, artifact.contents().values()))),
        "created_at": ("datetime", microseconds(artifact.created_at)),
        "metadata": ("string", JsonText(artifact.metadata)),
    }
    if artifact.aliases:
        info["aliases"] = "stringSet", frozenset(artifact.aliases)
    if artifact.references:
        info["references"] = "string", JsonText(artifact.references)
    return info


# ---------------------------------------------------------------- what arrived, and how it compares


def arrived(run: neptune_store.Run) -> Content:
    """The content of a run at the Neptune server; `sys/id` is Neptune's own."""
    content = Content()
    for path, (type_, value) in run.attributes.items():
        if type_ == "fileRef":
            content.files[path] = run.files[path]
        elif path != "sys/id":
            content.values[path] = type_, value
    for path, series in run.series.items():
        points = run.points(path)
        if series.type == "fileRefSeries":
            contents = run.file_series(path)
            points = [(step, time_us, contents[step]) for step, time_us, _ in points]
        elif series.type == "histogramSeries":
            points = [(step, time_us, Bins(*value)) for step, time_us, value in points]
        content.series[path] = series.type, points
    return content


def differences(expected: Content, found: Content) -> list[str]:
    """What differs, in words; nothing: all is as it must be. Skips are not looked at: Neptune does not know them."""
    told = []
    for what in ("values", "files", "series"):
        ours, theirs = getattr(expected, what), getattr(found, what)
        told += [f"{what}: {path} is missing" for path in ours.keys() - theirs.keys()]
        told += [f"{what}: {path} is not expected: {_short(theirs[path])}" for path in theirs.keys() - ours.keys()]
        for path in sorted(ours.keys() & theirs.keys()):
            compared = _compare(ours[path], theirs[path], is_series=what == "series")
            told += [f"{what}: {path}: {text}" for text in compared]
    return told


def _compare(ours: Any, theirs: Any, *, is_series: bool) -> Iterator[str]:
    if not is_series:
        if not same(ours, theirs):
            yield f"{_short(theirs)} instead of {_short(ours)}"
    elif ours[0] != theirs[0]:
        yield f"a {theirs[0]} instead of a {ours[0]}"
    else:
        if len(ours[1]) != len(theirs[1]):
            yield f"{len(theirs[1])} points instead of {len(ours[1])}"
        unequal = [pair for pair in zip(ours[1], theirs[1], strict=False) if not same(*pair)]
        if unequal:
            yield f"{len(unequal)} points differ, the first: {_short(unequal[0][1])} instead of {_short(unequal[0][0])}"


def same(ours: Any, theirs: Any) -> bool:
    """Equal in type and value, floats bit by bit (but every NaN is NaN), texts of JSON by what they say."""
    match ours, theirs:
        case JsonText(value), str():
            return bool(json.loads(theirs) == value)
        case (tuple(), tuple()) | (list(), list()):
            return len(ours) == len(theirs) and all(map(same, ours, theirs))
        case float(), float():
            return ours.hex() == theirs.hex()
        case (bool() | float(), _) | (_, bool() | float()):
            return type(ours) is type(theirs) and ours == theirs
    return bool(ours == theirs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:120]}... ({len(text)} characters)"
