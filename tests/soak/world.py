"""What there is to migrate, what must have become of it, and what has: both servers are processes of their own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import md5
from itertools import product
from typing import Any
from urllib.parse import urlencode

from tests.flow.conftest import WANDB_KEY, WORKSPACE
from tests.flow.expected import Bins, Content, content_of, differences, project_names
from tests.servers.http import Fault, control, spawned
from tests.servers.neptune_server import api_token
from tests.servers.wandb_data import EPOCH_S, Row, iso, world
from tests.servers.wandb_server import WandbServer

SMALL, BIG = "small", "big"


@dataclass
class Found:
    """How Neptune's runs compare with what must be there; `runs`, `points` and `skips` are what is expected."""

    differences: list[str] = field(default_factory=list)
    skips: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (part, reason)
    runs: int = 0
    points: int = 0
    duplicates: int = 0  # points that were sent twice


class World:
    """`model` is what W&B's process serves, a second time: it never answers a request, but knows what must arrive."""

    def __init__(self, seed: int, runs: int, stack: ExitStack) -> None:
        mode = ("parquet", "live", "mixed")[seed % 3]
        spec = f"sample:{runs},project={SMALL},steps=40,seed={seed},mode={mode},"
        spec += f"big:6,project={BIG},steps=20000,metrics=5,seed={seed},hostile:{mode}"
        self.model = WandbServer(world(spec))
        wandb = ("--data", spec, "--api-key", WANDB_KEY, "--latency-s", "0.01")
        neptune = ("--latency", "0.01", "--processing-delay", "0.05:0.8")
        self.urls = {
            "wandb": stack.enter_context(spawned("tests.servers.wandb_server", *wandb)),
            "neptune": stack.enter_context(spawned("tests.servers.neptune_server", *neptune)),
        }
        self.api_token = api_token(self.urls["neptune"])
        self._growths = 0
        self._rng = random.Random(seed)

    def tell(self, side: str, name: str, data: Any = None) -> Any:
        """A control of one server."""
        return control(self.urls[side], name, data)

    def set_faults(self, side: str, faults: Sequence[Fault]) -> list[int]:
        """Replace the faults of one server; tells how often each of the old ones was taken."""
        taken: list[int] = self.tell(side, "faults", [asdict(fault) for fault in faults])
        return taken

    def grow(self) -> None:
        """New rows in some runs, and new runs."""
        self._growths += 1
        (entity,) = self.model.entities.values()
        small = entity.project(SMALL)
        assert small is not None
        for run in self._rng.sample(small.runs, 15):
            path, last = f"team/{SMALL}/{run.id}", run.steps[-1]
            rows = [_row(last + n, self._rng.random()) for n in range(1, 30)]
            self._change("append_rows", {"run": path, "rows": rows})
            heartbeat_at = iso(EPOCH_S + 7200 * self._growths)
            self._change("set_run", {"run": path, "fields": {"heartbeat_at": heartbeat_at}})
        for n in range(10):
            history = [_row(step, self._rng.random()) for step in range(50)]
            fields = {"id": f"new-{self._growths}-{n}", "history": history, "mode": "live", "config": {"n": n}}
            self._change("add_run", {"project": f"team/{SMALL}", "fields": fields})

    def copied_run(self) -> str:
        """The id of a small run."""
        (entity,) = self.model.entities.values()
        project = entity.project(SMALL)
        assert project is not None
        return project.runs[0].id

    def _change(self, name: str, data: Row) -> None:
        self.tell("wandb", name, data)
        self.model.control(name, data)

    # ------------------------------------------------------------ what must be there, and what is

    def compare(self) -> Found:
        found = Found()
        there = {(one["project"], one["run"]) for one in self.tell("neptune", "runs")}
        (entity,) = self.model.entities.values()
        names = project_names(project.name for project in entity.projects)
        for project in entity.projects:
            for run in project.runs:
                place = f"{WORKSPACE}/{names[project.name]}", run.id
                wanted = content_of(run, project, self.urls["wandb"])
                found.runs += 1
                found.points += sum(len(points) for _, points in wanted.series.values())
                found.skips += wanted.skips
                lines = self._compare(wanted, *place) if place in there else ["is not there"]
                found.differences += [f"{project.name}/{run.id}: {line}" for line in lines]
                there.discard(place)
        found.differences += [f"{project}/{run_id}: is not expected" for project, run_id in there]
        stats = self.tell("neptune", "stats")
        found.duplicates = stats["duplicates_offered"]
        if stats["points_stored"] != found.points:
            found.differences.append(f"{stats['points_stored']} points are stored instead of {found.points}")
        for side, name in [*product(self.urls, ("errors", "unknown")), ("wandb", "mutations")]:
            found.differences += [f"{name} of the {side} server: {line}" for line in self.tell(side, name)]
        return found

    def _compare(self, wanted: Content, project: str, run_id: str) -> list[str]:
        """Point by point; files by their digests."""
        dumped = self.tell("neptune", f"dump?{urlencode({'project': project, 'run': run_id})}")
        wanted.files = {path: _digest(data) for path, data in wanted.files.items()}
        for path, (type_, points) in wanted.series.items():
            if type_ == "fileRefSeries":
                wanted.series[path] = type_, [(step, time_us, _digest(data)) for step, time_us, data in points]
        return differences(wanted, _content(dumped))


def _row(step: int, value: float) -> Row:
    return {"_step": step, "_timestamp": EPOCH_S + 100_000 + step, "_runtime": float(step), "train/loss": value}


def _digest(data: bytes | None) -> bytes | None:
    return None if data is None else f"{md5(data).hexdigest()} {len(data)}".encode()


def _content(dumped: Row) -> Content:
    """A run at the server, with digests for the contents of files."""
    digests = {path: f"{one['md5']} {one['size']}".encode() for path, one in dumped["files"].items() if one}

    def plain(type_: str, value: Any) -> Any:
        match type_:
            case "fileRef" | "fileRefSeries":
                return digests.get(value["path"])
            case "histogramSeries":
                return Bins(tuple(value["edges"]), value["kind"], tuple(value["values"]))
        return frozenset(value) if type_ == "stringSet" else value

    content = Content()
    for path, one in dumped["attributes"].items():
        if one["type"] == "fileRef":
            content.files[path] = plain("fileRef", one["value"])
        elif path != "sys/id":
            content.values[path] = one["type"], plain(one["type"], one["value"])
    for path, one in dumped["series"].items():
        values = (plain(one["type"], value) for value in one["values"])
        content.series[path] = one["type"], list(zip(one["steps"], one["timestamps"], values, strict=True))
    return content
