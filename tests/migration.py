"""A migration in memory: a source and a destination that are Python objects, and a real state database between them."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from migrations_db import Phase, Store, open_store
from migrations_db.report_types import RunDetail
from migrations_db.types import Claim, Counts, Selection, WorkerInfo
from migrator.commands.inventory import take_inventory
from migrator.commands.scope import Scope, find_projects
from migrator.copying.copy import CopyPlan, RunTools, copy_run
from migrator.copying.pipeline import RunControl
from migrator.destinations.memory import MemoryDestination, StoredRun
from migrator.parts import OPTIONAL_PARTS, PARTS
from migrator.parts.base import MappingOptions
from migrator.sources.memory import MemoryData, MemorySource
from tests.drive import PLAIN, Inline, Ticks

SELECTED = tuple(name for name in PARTS if name not in OPTIONAL_PARTS)


#: their values hold the name of the project, which no two migrations share
PROJECT_NAMED = {"migration/source_url", "wandb/url", "wandb/project", "wandb/path"}


class Undisturbed:
    """Control that nobody interrupts."""

    def check(self) -> None:
        """Go on."""

    def confirm(self) -> None:
        """The run is ours."""

    def at(self, part: str) -> None:
        """Nobody looks."""


@dataclass(frozen=True)
class Arrived:
    """What a run has become, in a form that can be compared: by repr, so that NaN equals NaN."""

    values: dict[str, str]
    tags: tuple[frozenset[str], frozenset[str]]
    series: dict[str, list[str]]
    files: dict[str, bytes]
    parts: dict[str, tuple[int, int, int, int]]
    totals: tuple[int, int, int]
    ledger: set[tuple[str, str, str, str, int]]
    digests: dict[str, tuple[str, str]]


@dataclass
class Migration:
    """The runs of one project on their way from `team` to `workspace`.

    All migrations share a state database, which is slow to open for SQLAlchemy; each has a project of its own in it.
    """

    data: list[MemoryData]
    destination: MemoryDestination = field(default_factory=MemoryDestination)
    options: MappingOptions = PLAIN
    parts: Sequence[str] = SELECTED
    page_rows: int = 100
    columns: bool = False

    def __post_init__(self) -> None:
        self.store = _store()
        self.project = f"project-{next(_numbers())}"
        self.directory = Path(tempfile.mkdtemp(prefix=self.project, dir=_directory()))
        self.source = MemorySource({self.project: self.data}, page_rows=self.page_rows, columns=self.columns)
        self.only = Selection(projects=())

    def __enter__(self) -> Migration:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.directory)

    # ------------------------------------------------------------ what commands do

    def refresh(self) -> Counts:
        """`migrate inventory`."""
        scope, counts = Scope("team"), Counts()
        number = self.store.begin_invocation("inventory", "host", 1, "1.0")
        found = find_projects(self.source, scope)
        for result in take_inventory(self.source, found, self.store, scope, number, lambda *_: None):
            counts += result.counts
            self.only = Selection(projects=(result.project.id,))
        return counts

    def claim(self, worker: str = "worker") -> Claim | None:
        """A claim by a worker, which is alone on a host of its own. The Neptune project is there."""
        self.store.workers.register(WorkerInfo(self._id(worker), f"host of {self._id(worker)}", 1, 0.0))
        claim = self.store.claim(self._id(worker), Phase.COPY, 3600.0, self.only)
        if claim is not None:
            self.destination.ensure_project(f"workspace/{claim.destination_name}", "")
        return claim

    def must_claim(self, worker: str = "worker") -> Claim:
        claim = self.claim(worker)
        assert claim is not None
        return claim

    def expire(self, worker: str) -> None:
        """The leases of a worker end now: it was silent for too long."""
        self.store.workers.heartbeat(self._id(worker), lease_s=-1.0)

    def bury(self, worker: str) -> None:
        """The process of a worker is found dead."""
        self.store.workers.recover(f"host of {self._id(worker)}", lambda pid, started: False)

    def _id(self, worker: str) -> str:
        return f"{self.project}:{worker}"

    def copy(self, claim: Claim, control: RunControl | None = None, slow: Iterable[bool] = (False,)) -> None:
        """What a worker does with a claim; errors come out as they are."""
        plan = CopyPlan("workspace", self.parts, self.options, "1.0", clock=Ticks(slow))
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.directory))
        tools = RunTools(scratch, Inline(), control or Undisturbed())
        copy_run(claim, self.source, self.destination, self.store, plan, tools)

    def run(self, slow: Iterable[bool] = (False,)) -> None:
        """`migrate inventory` and `migrate run` until nothing is left, with nobody in the way."""
        while True:
            changed = self.refresh().changed
            while claim := self.claim("last"):
                self.copy(claim, slow=slow)
                changed += 1
            if not changed:
                return

    def scratch_files(self) -> list[str]:
        return [path.name for path in self.directory.glob("scratch-*/*")]

    # ------------------------------------------------------------ what has become of it

    def detail(self, run_id: str = "r") -> RunDetail:
        """The run in the state database."""
        (found,) = self.store.reports.find_runs(f"team/{self.project}/{run_id}")
        detail = self.store.reports.run_detail(found.run)
        assert detail is not None
        return detail

    def stored(self, run_id: str = "r") -> StoredRun:
        """The run at the destination."""
        return self.destination.runs[f"workspace/{self.project}", run_id]

    def arrived(self, run_id: str = "r") -> Arrived:
        """Both."""
        detail, stored = self.detail(run_id), self.stored(run_id)
        return Arrived(
            values={path: repr(_sorted(value)).replace(self.project, "") for path, value in stored.values.items()},
            tags=(frozenset(stored.tags), frozenset(stored.group_tags)),
            series={path: [*map(repr, points)] for path, points in stored.series.items() if points},
            files=dict(stored.files),
            parts={
                name: (part.read, part.written, part.skipped, part.size_bytes) for name, part in detail.parts.items()
            },
            totals=(detail.points_read, detail.points_written, detail.size_bytes),
            ledger=self.ledger(run_id),
            digests=self.digests(run_id),
        )

    def digests(self, run_id: str = "r") -> dict[str, tuple[str, str]]:
        """(kind, data) by path, but for what holds the project's name."""
        saved = self.store.verification.digests(self.detail(run_id).run)
        return {path: (row.kind, row.data) for path, row in saved.items() if path not in PROJECT_NAMED}

    def ledger(self, run_id: str = "r") -> set[tuple[str, str, str, str, int]]:
        """(part, kind, path, reason, count)."""
        return {astuple(row) for row in self.store.reports.ledger(self.detail(run_id).run)}


def undisturbed(data: MemoryData, options: MappingOptions = PLAIN, parts: Sequence[str] = SELECTED) -> Arrived:
    """What becomes of a run when nothing goes wrong."""
    with Migration([data], options=options, parts=parts) as migration:
        migration.run()
        return migration.arrived(data.run_id)


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


@cache
def _store() -> Store:
    return open_store(f"{_directory()}/state.db")


@cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="migrations-", ignore_cleanup_errors=True)


def _directory() -> str:
    return _temporary_directory().name


@cache
def _numbers() -> itertools.count[int]:
    return itertools.count()
