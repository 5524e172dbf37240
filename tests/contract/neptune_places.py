"""The places that runs go to, built alike and read alike: what the destination tests share."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, Protocol

import pytest

from migrations_db import Phase, RunStatus, Store, open_store
from migrations_db.report_types import RunDetail
from migrations_db.types import Claim, ProjectRow, RunRow, WorkerInfo
from migrator.copying.copy import RunTools
from migrator.copying.pipeline import RunControl
from migrator.copying.upload import upload_run
from migrator.destinations.base import Destination, RunTarget
from migrator.destinations.memory import MemoryDestination
from migrator.destinations.neptune.connection import Connection
from migrator.destinations.neptune.offline import OfflineDestination
from migrator.destinations.neptune.online import NeptuneDestination
from migrator.destinations.neptune.safe import SafeDestination
from migrator.records import Fork, Histogram, LocalFile
from tests.servers import neptune_store
from tests.servers.neptune_server import NeptuneServer

WORKSPACE, NAME = "team", "demo"
PROJECT = f"{WORKSPACE}/{NAME}"
START = datetime(2024, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
START_US = 1_714_564_800_123_457
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def target(run_id: str = "r1", **changes: Any) -> RunTarget:
    return replace(RunTarget(PROJECT, run_id, "brave-wave", START), **changes)


def local_file(path: Path, content: bytes, name: str | None = None) -> LocalFile:
    path.write_bytes(content)
    return LocalFile(path, name or path.name, len(content), md5(content).hexdigest())


@dataclass
class Seen:
    """A run as it is at the destination. Points are (step, time_us, value); files are bytes, or None if missing."""

    name: str
    created_at: datetime
    fork: Fork | None
    values: dict[str, Any] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    group_tags: set[str] = field(default_factory=set)
    files: dict[str, bytes | None] = field(default_factory=dict)
    series: dict[str, list[tuple[float, int, Any]]] = field(default_factory=dict)


def seen_on_server(server: NeptuneServer, run_id: str = "r1", project: str = PROJECT) -> Seen:
    run = server.store.run(project, run_id)
    values = dict(run.attributes)
    fork = run.fork and Fork(run.fork.parent_run_id, (run.fork.step or 0) / neptune_store.MICRO)
    seen = Seen(values.pop("sys/name")[1], _time(values.pop("sys/creation_time")[1]), fork)
    assert values.pop("sys/custom_run_id") == ("string", run_id)
    del values["sys/id"]
    seen.tags = set(values.pop("sys/tags", (None, ()))[1])
    seen.group_tags = set(values.pop("sys/group_tags", (None, ()))[1])
    seen.files = {path: run.files[path] for path, (kind, _) in values.items() if kind == "fileRef"}
    for path, (kind, value) in values.items():
        if kind != "fileRef":
            seen.values[path] = _time(value) if kind == "datetime" else value
    for path, series in run.series.items():
        contents = run.file_series(path) if series.type == "fileRefSeries" else {}
        seen.series[path] = [
            (step / neptune_store.MICRO, time_us, contents[step] if contents else _plain(value))
            for step, time_us, value in run.points(path)
        ]
    return seen


def _time(time_us: int) -> datetime:
    seconds, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def _plain(value: Any) -> Any:
    if isinstance(value, neptune_store.Histogram):
        return Histogram(value.edges, tuple(int(n) if value.kind == "counts" else n for n in value.values))
    return value


class Place(Protocol):
    """A destination under test. `read` gives what has arrived of everything that was flushed."""

    destination: Destination
    #: whether refusals come back from `wait` (offline files hear of them when they are uploaded)
    tells: bool
    #: whether refusals are told by path and counted, and the strangest steps and times arrive as they are
    exact: bool

    def read(self, run_id: str = "r1") -> Seen: ...

    def refuse(self, path: str) -> None:
        """From now on points and values of this path are refused with FIELD_PATH_INVALID."""
        ...

    def close(self) -> None: ...


class MemoryPlace:
    tells = exact = True

    def __init__(self) -> None:
        self.memory = self.destination = MemoryDestination()

    def read(self, run_id: str = "r1") -> Seen:
        run = self.memory.runs[PROJECT, run_id]
        made = run.target
        return Seen(
            made.name, made.created_at, made.fork, run.values, run.tags, run.group_tags, {**run.files}, run.series
        )

    def refuse(self, path: str) -> None:
        self.memory.refuse.add(path)

    def close(self) -> None:
        self.memory.close()


class OnlinePlace:
    """Neptune online. `options` go to the server."""

    tells = exact = True

    def __init__(
        self,
        processing_timeout_s: float = 60.0,
        threads: int = 8,
        kind: type[NeptuneServer] = NeptuneServer,
        **options: Any,
    ) -> None:
        self.server = kind(**options).start()
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.connection = Connection(self.server.api_token)
        self.neptune = self.destination = NeptuneDestination(
            self.connection, self.pool, "priv", lambda: NOW, processing_timeout_s
        )

    def read(self, run_id: str = "r1") -> Seen:
        return seen_on_server(self.server, run_id)

    def refuse(self, path: str) -> None:
        self.server.store.refuse(f"^{path}$", "FIELD_PATH_INVALID")

    def empty(self) -> None:
        """As new, but connected: nothing is under way, planned or stored."""
        idle = threading.Barrier(self.threads)
        wait([self.pool.submit(idle.wait) for _ in range(self.threads)])
        self.server.faults.set([])
        self.server.log.clear()
        store = self.server.store
        store.settle()
        store.forget_rules()
        store.refused.clear()
        store.projects.clear()
        store.blobs.clear()
        store.processing_delay_s = (0.0, 0.0)
        store.points_offered = 0

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.neptune.close()
        self.server.stop()
        assert self.server.errors == []
        assert self.server.unknown == []


class SafePlace:
    """The server of an online place, written through the public API of Neptune's client."""

    tells, exact = True, False

    def __init__(self, online: OnlinePlace, processing_timeout_s: float = 60.0) -> None:
        self.online = online
        self.destination: Destination = SafeDestination(online.server.api_token, "priv", processing_timeout_s)

    def read(self, run_id: str = "r1") -> Seen:
        return self.online.read(run_id)

    def refuse(self, path: str) -> None:
        self.online.refuse(path)

    def close(self) -> None:
        self.destination.close()


class OfflinePlace:
    """Offline files, which `read` uploads to a server by `migrate sync`'s own code."""

    tells, exact = False, True

    def __init__(self, directory: Path, online: OnlinePlace) -> None:
        self.offline = self.destination = OfflineDestination(directory / "offline", lambda: NOW)
        self.online = online
        self.runs = StoredRuns(directory)

    def read(self, run_id: str = "r1") -> Seen:
        self.upload(self.runs.claim(run_id))
        return self.online.read(run_id)

    def upload(self, claim: Claim, store: Any = None, control: RunControl | None = None) -> None:
        """As `migrate sync` does it; `store` and `control` stand in for those of a worker."""
        tools = RunTools(Path(), self.online.pool, control or Quiet())
        upload_run(claim, self.online.destination, store or self.runs.store, WORKSPACE, self.offline.directory, tools)

    def refuse(self, path: str) -> None:
        self.online.refuse(path)

    def close(self) -> None:
        self.runs.store.close()


class StoredRuns:
    """A state database whose runs have been copied offline and wait for their upload."""

    def __init__(self, directory: Path) -> None:
        self.store: Store = open_store(directory / "state.db")
        self.store.workers.register(WorkerInfo("worker", "here", 1, 1.0))
        row = ProjectRow("me", NAME, "wandb", "https://wandb.test/me/demo", destination_name=NAME)
        [self._project] = self.store.inventory.save_projects([row])
        self._inventory = self.store.begin_invocation("inventory", "here", 1, "1.0")

    def claim(self, run_id: str, fingerprint: str = "f1", position: str | None = None) -> Claim:
        """The run, new or changed, copied up to `position` and claimed for its upload."""
        rows = [RunRow(run_id, run_id, "finished", fingerprint)]
        self.store.inventory.save_runs(self._project, rows, self._inventory)
        copied = self.store.claim("worker", Phase.COPY, 60.0)
        assert copied
        assert copied.run_id == run_id
        self.store.checkpoint(copied, [], position)
        self.store.complete(copied, [])
        self.store.start_upload()
        claim = self.claim_again()
        assert claim
        return claim

    def claim_again(self) -> Claim | None:
        return self.store.claim("worker", Phase.UPLOAD, 60.0)

    def done(self) -> RunDetail:
        """The one run that is done."""
        [run] = self.store.reports.runs(RunStatus.DONE)
        detail = self.store.reports.run_detail(run.run)
        assert detail
        return detail


class Quiet:
    """Control that nobody looks at."""

    def check(self) -> None: ...

    def confirm(self) -> None: ...

    def at(self, part: str) -> None: ...


@pytest.fixture(scope="module")
def connected() -> Iterator[OnlinePlace]:
    with opened(OnlinePlace()) as place:
        yield place


@pytest.fixture
def online_place(connected: OnlinePlace) -> OnlinePlace:
    """Neptune online with the project; one server and connection for all tests of a module."""
    connected.empty()
    connected.server.store.create_project(WORKSPACE, NAME)
    return connected


@pytest.fixture
def offline_place(online_place: OnlinePlace, tmp_path: Path) -> Iterator[OfflinePlace]:
    """Offline files, and a server that has the project."""
    with opened(OfflinePlace(tmp_path, online_place)) as place:
        yield place


@pytest.fixture
def safe_place(online_place: OnlinePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SafePlace]:
    """The safe client, and a server that has the project. It leaves nothing behind: no process, thread or log."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = {*threading.enumerate()}
    with opened(SafePlace(online_place)) as place:
        yield place
    assert multiprocessing.active_children() == []
    left = {thread.name for thread in {*threading.enumerate()} - threads}
    assert {name for name in left if "process_request" not in name} == set()  # those are the server's
    assert [*tmp_path.glob("neptune-*")] == []


@pytest.fixture
def memory_place() -> MemoryPlace:
    place = MemoryPlace()
    place.destination.ensure_project(PROJECT, "")
    return place


@contextmanager
def opened(place: Any) -> Iterator[Any]:
    try:
        yield place
    finally:
        place.close()


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in so many threads at once; their errors come out here."""
    start = threading.Barrier(count)

    def started(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(started, number) for number in range(count)]:
            done.result()


def eventually(happens: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until it does."""
    give_up = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.005)
