"""Runs of the real wandb SDK in offline mode, with known content; and logs of records made by hand.

`make_runs` logs runs in processes of their own, with private directories and no network, and says what they hold.
`write_log` writes a log with whatever records a test needs, in the format of wandb 0.31.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROJECT = "vision"
HTML, OTHER_HTML, VIDEO, AUDIO = b"<p>hi</p>", b"<p>ho</p>", b"\0\1video", b"RIFFaudio"
TABLE = {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}
HISTOGRAM = {"_type": "histogram", "values": [1, 0, 3], "bins": [0.5, 1, 1.5, 2]}
SAVED = {"notes.txt": b"saved by run.save\n", "nested/weights.ckpt": bytes(range(256)) * 40}
MODEL_FILES = {"notes.txt": SAVED["notes.txt"], "dir/new.txt": b"made for the artifact"}
REFERENCE = "http://example.invalid/x.bin"
KILLED_ROWS = 500


@dataclass(frozen=True)
class OfflineRun:
    """What a run was given. `rows` are (step, values) without `_timestamp` and `_runtime`.

    `media` maps a key of the row at step 20 to the type and the content of the file that it names.
    """

    run_id: str
    project: str = PROJECT
    entity: str = "team"  # as one of them says; the others of its project belong to it, too
    state: str = "finished"
    config: Row = field(default_factory=dict)
    summary: Row = field(default_factory=dict)
    rows: Sequence[tuple[int, Row]] = ()
    media: dict[str, tuple[str, bytes | Row]] = field(default_factory=dict)
    console: Sequence[tuple[str, str]] = ()
    saved: dict[str, bytes] = field(default_factory=dict)
    attributes: Row = field(default_factory=dict)
    directories: int = 1


def scalars(i: int) -> Row:
    """One row of everything but media."""
    return {
        "loss": 1 / (i + 1),
        "count": i,
        "whole": 1.0,
        "big": 2**60 + i,
        "tiny": 1e-300,
        "negative": -i - 0.5,
        "flag": i % 2 == 0,
        "text": f"täxt {i}",
        "val/acc": 0.5,
        "a.b": i,
        "with blank": i,
        "nest": {"y": {"z": i}, "name": f"n{i}"},
        "none": None,
        "nan": math.nan,
        "inf": math.inf,
        "ninf": -math.inf,
        "list": [1, 2.5, "x", None],
        "no items": [],
    }


CONFIG: Row = {
    "lr": 0.1,
    "nested": {"a": 1, "b.c": [1, 2, {"x": None}]},
    "nan": math.nan,
    "big": 2**60,
    "text": "täxt",
    "flag": True,
    "nothing": None,
    "wrapped": {"value": 42, "desc": "d"},
}

EVERYTHING = OfflineRun(
    "everything",
    config=CONFIG | {"nan": None, "nested": CONFIG["nested"] | {"z": 1}, "late": [5, {"k": "v"}]},
    summary={key: value for key, value in scalars(2).items() if value is not None}
    | {"hist": HISTOGRAM, "best": 0.9, "deep": {"x": {"y": 2}, "z": 3}, "dm": {"min": 1, "max": 3}, "_step": 21},
    rows=[
        *((i, scalars(i) | {"hist": HISTOGRAM}) for i in range(3)),
        (20, {"dm": 3}),
        (21, {"dm": 1}),
    ],
    media={
        "html": ("html-file", HTML),
        "video": ("video-file", VIDEO),
        "audio": ("audio-file", AUDIO),
        "table": ("table-file", TABLE),
    },
    console=[
        ("stdout", "hello stdout"),
        ("stderr", "hello stderr"),
        ("stdout", "progress 4"),
        ("stderr", "ünïcode ☃"),
        ("stdout", ""),
        ("stdout", "no line end"),
    ],
    saved=SAVED,
    attributes={
        "name": "Full run",
        "notes": "second notes",
        "tags": ("a", "b", "late"),
        "group": "g",
        "job_type": "train",
        "commit": COMMIT,
    },
)
RESUMED = OfflineRun(
    "resumed",
    config={"start": 2, "first": 1},
    rows=[(i, {"a": i, "start": 1}) for i in range(3)] + [(i, {"a": i, "start": 2}) for i in range(3, 6)],
    summary={"a": 5, "start": 2},
    attributes={"name": "named at first", "tags": ("first",)},
    directories=2,
)
TWICE = OfflineRun("twice", rows=[(i, {"a": 1 + i // 2}) for i in range(4)], summary={"a": 2}, directories=2)
FAILED = OfflineRun("failed", state="failed", rows=[(0, {"a": 1})], summary={"a": 1})
FORKED = OfflineRun("forked", rows=[(2, {"a": 1})], summary={"a": 1})
GAPS = OfflineRun(
    "gaps", entity="team", rows=[(s, {"a": s}) for s in (0, 5, 10**9, 10**9 + 1)], summary={"a": 10**9 + 1}
)
EMPTY = OfflineRun("empty", project="uncategorized", entity="local")
ARTIFACTS = OfflineRun("artifacts")
KILLED = OfflineRun("killed", state="running", rows=[(i, {"a": i}) for i in range(KILLED_ROWS)])

RUNS = {run.run_id: run for run in (EVERYTHING, RESUMED, TWICE, FAILED, FORKED, GAPS, EMPTY, ARTIFACTS, KILLED)}


def make_runs(directory: Path) -> dict[str, OfflineRun]:
    """Log all runs below `directory`/wandb and return what they hold, by id."""
    private = directory / "private"
    work = private / "work"
    work.mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(private),
        "TMPDIR": str(private),
        "WANDB_DIR": str(directory),
        "WANDB_CACHE_DIR": str(private / "cache"),
        "WANDB_CONFIG_DIR": str(private / "config"),
        "WANDB_DATA_DIR": str(private / "data"),
        "WANDB_ARTIFACT_DIR": str(private / "artifacts"),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "wrap",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_GIT_COMMIT": COMMIT,
        "WANDB_GIT_REMOTE_URL": "https://example.invalid/repo.git",
    }
    for part, expected in (("all", 0), ("killed", -signal.SIGKILL)):
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).resolve()), part],  # -P: not with the http.py beside this
            cwd=work,
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode != expected:
            raise RuntimeError(f"the wandb SDK failed with {done.returncode}:\n{done.stderr.decode()}")
    return dict(RUNS)


LOG_HEADER = b":W&B\xe1\xbe\x00"


def serialized_log(payloads: Iterable[bytes]) -> bytes:
    """The bytes of a log of these serialized records."""
    log = bytearray(LOG_HEADER)
    for payload in payloads:
        log += chunks(payload, len(log))
    return bytes(log)


def chunks(payload: bytes, position: int) -> bytes:
    """A serialized record as it is in a log from `position` on."""
    result = bytearray()
    begun, rest = False, memoryview(payload)  # whose slices are no copies
    while True:
        room = 32768 - (position + len(result)) % 32768
        if room < 7:
            result += bytes(room)
            room = 32768
        piece, rest = bytes(rest[: room - 7]), rest[room - 7 :]
        kind = (3 if rest else 4) if begun else (2 if rest else 1)
        result += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
        begun = True
        if not rest:
            return bytes(result)


def write_log(path: Path, records: Iterable[Any]) -> None:
    """A log of `Record` messages, in a run directory that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialized_log(record.SerializeToString() for record in records))


# ---------------------------------------------------------------- logs of starts, made by hand

BEGAN_S = 1_650_000_000  # when the starts that tests make began
DAY_S = 86_400


class StartLog:
    """The log of one start, as the SDK writes it; times are seconds behind its beginning."""

    def __init__(
        self,
        root: Path,
        run_id: str,
        began_s: float = BEGAN_S,
        *,
        directory: str | None = None,
        offline: bool = False,
        shared: bool = False,
        config: Row | None = None,
        branch: tuple[str, float] | None = None,
        **fields: Any,
    ) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        stamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime(began_s))
        self.directory = root / (directory or f"wandb/{'offline-' * offline}run-{stamp}-{run_id}")
        self.path = self.directory / f"run-{run_id}.wandb"
        self.began_s = began_s
        self._record = Record
        self._records: list[bytes] = []
        self._ended = False
        run = {
            "run_id": run_id,
            "entity": "team",
            "project": "p",
            "telemetry": {"feature": {"offline": offline, "shared_mode": shared}},
        }
        if branch:
            run["branch_point"] = {"run": branch[0], "value": branch[1], "metric": "_step"}
        if config:
            run["config"] = {"update": _items(config)}
        self.add(run=run | {"start_time": _moment(began_s)} | fields)

    def add(self, **record: Any) -> StartLog:
        from google.protobuf.json_format import ParseDict

        self._records.append(ParseDict(record, self._record(num=len(self._records) + 1)).SerializeToString())
        return self

    def row(self, step: int | None, after_s: float | None = None, **values: Any) -> StartLog:
        """A row of the history; without a step as in shared mode."""
        at_s = self.began_s + ((step or 0) if after_s is None else after_s)
        stepped = {} if step is None else {"_step": step}
        items = _items(values | stepped | {"_timestamp": at_s})
        return self.add(history={"item": items} | ({} if step is None else {"step": {"num": step}}))

    def summary(self, **values: Any) -> StartLog:
        return self.add(summary={"update": _items(values)})

    def sample(self, after_s: float, **values: float) -> StartLog:
        return self.add(stats={"timestamp": _moment(self.began_s + after_s), "item": _items(values)})

    def line(self, after_s: float, text: str) -> StartLog:
        moment = _moment(self.began_s + after_s)
        return self.add(output_raw={"timestamp": moment, "line": f"{text}\n", "output_type": "STDOUT"})

    def file(self, name: str, content: str) -> StartLog:
        path = self.directory / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return self

    def exit(self, code: int = 0) -> StartLog:
        return self.add(exit={"exit_code": code}).close()

    def content(self) -> bytes:
        return serialized_log(self._records)

    def close(self, cut_bytes: int = 0, written_s: float | None = None) -> StartLog:
        """Write what there is; without `exit` the process was killed, and the last bytes may be missing."""
        content = self.content()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(content[: len(content) - cut_bytes])
        at_s = self.began_s + DAY_S if written_s is None else written_s
        os.utime(self.path, (at_s, at_s))
        return self


def _items(values: Row) -> list[Row]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in values.items()]


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()


# ---------------------------------------------------------------- in the process that logs


def _log_all() -> None:
    import wandb

    _everything(wandb)
    for start in (1, 2):
        config = {"start": start} | ({"first": 1} if start == 1 else {})
        named = {"name": "named at first", "tags": ["first"]} if start == 1 else {}
        with wandb.init(project=PROJECT, id="resumed", resume="allow", config=config, **named) as run:
            for i in range(3):
                run.log({"a": i + 3 * (start - 1), "start": start})
    for start in (1, 2):
        with wandb.init(project=PROJECT, id="twice") as run:
            for _ in range(2):
                run.log({"a": start})
    run = wandb.init(project=PROJECT, id="failed")
    run.log({"a": 1})
    run.finish(exit_code=3)
    with wandb.init(project=PROJECT, id="forked", fork_from="everything?_step=1") as run:
        run.log({"a": 1})
    with wandb.init(entity="team", project=PROJECT, id="gaps") as run:
        for step, values in GAPS.rows:
            run.log(values, step=step)
    wandb.init(id="empty").finish()
    _artifacts(wandb)


def _everything(wandb: Any) -> None:
    run = wandb.init(
        project=PROJECT,
        id="everything",
        name="Full run",
        notes="first notes",
        tags=["a", "b"],
        group="g",
        job_type="train",
        config=CONFIG,
    )
    run.config.update({"late": [5, {"k": "v"}]})
    run.config.update({"nested": {"z": 1}}, allow_val_change=True)
    _print()
    for i in range(3):
        run.log(scalars(i) | {"hist": wandb.Histogram(np_histogram=(HISTOGRAM["values"], HISTOGRAM["bins"]))})
    Path("clip.mp4").write_bytes(VIDEO)
    Path("clip.wav").write_bytes(AUDIO)
    run.log(
        {
            "html": wandb.Html(HTML.decode(), inject=False),
            "video": wandb.Video("clip.mp4", caption="a video", format="mp4"),
            "audio": wandb.Audio("clip.wav", caption="a sound"),
            "table": wandb.Table(**TABLE),
            "pages": [wandb.Html(HTML.decode(), inject=False), wandb.Html(OTHER_HTML.decode(), inject=False)],
        },
        step=20,
    )
    run.define_metric("dm", summary="min,max")
    run.log({"dm": 3})
    run.log({"dm": 1})
    run.summary["best"] = 0.9
    run.summary["deep"] = {"x": {"y": 1}, "z": 3}
    run.summary["deep"]["x"]["y"] = 2
    run.summary["gone"] = 1
    del run.summary["gone"]
    for name, content in SAVED.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
        run.save(name, base_path=".")
    run.tags = (*run.tags, "late")
    run.notes = "second notes"
    run.finish()


def _print() -> None:
    print("hello stdout")
    print("hello stderr", file=sys.stderr)
    for i in range(5):
        print(f"\rprogress {i}", end="", flush=True)
    print()
    print("ünïcode ☃", file=sys.stderr)
    print()
    print("no line end", end="", flush=True)


def _artifacts(wandb: Any) -> None:
    with wandb.init(project=PROJECT, id="artifacts") as run:
        for version in range(2):
            model = wandb.Artifact("model", "model", metadata={"version": version}, description="a model")
            for name, content in MODEL_FILES.items():
                with model.new_file(name, mode="wb") as file:
                    file.write(content + bytes(version))
            model.add_reference(REFERENCE, name="ref.bin", checksum=False)
            run.log_artifact(model, aliases=["best"] if version == 0 else [])
        run.log({"table": wandb.Table(**TABLE)})


def _log_killed() -> None:
    import wandb

    run = wandb.init(project=PROJECT, id="killed")
    for i in range(KILLED_ROWS):
        run.log({"a": i})
    log = Path(run.dir).parent / "run-killed.wandb"
    while log.stat().st_size < 2 * 32768:  # written in blocks: wait for whole ones
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    {"all": _log_all, "killed": _log_killed}[sys.argv[1]]()
