"""`kill -9` of everything at any moment, again and again; and processes that sleep longer than their leases last."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.flow.conftest import Scene, SetScene, Started, wait_until
from tests.servers.http import Fault
from tests.servers.wandb_data import big_runs, sample_runs

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),  # a command starts every few seconds, on a busy machine every ten
]

LONG_RUN, STEPS, METRICS = "big000", 100_000, 5
LONG_POINTS = STEPS * METRICS
SMALL_RUNS, SMALL_POINTS = 16, 200
LANES = 8  # runs in hand at a time
UNSAVED_POINTS = 100_000  # of a long run, at most, that are sent but not behind a checkpoint
GROUPS_IN_FLIGHT = 3  # of a long run, behind its creation: nothing more is sent before one is processed
LEASE_S = 10  # heartbeats come every 5 s


@pytest.fixture
def scene(set_scene: SetScene) -> Iterator[Scene]:
    """A long run and small ones, after the inventory. In the end, no temporary file is left.

    The place for those has a short name: wandb-core's socket lies below, unless its path gets too long for one.
    """
    runs = big_runs(1, steps=STEPS, metrics=METRICS) + sample_runs(SMALL_RUNS, steps=30)
    scene = set_scene(runs, processing_delay_s=(0.0, 0.1))
    with tempfile.TemporaryDirectory(prefix="k") as temporary:
        scene.migrate.environment["TMPDIR"] = temporary
        scene.migrate.succeed("inventory")
        yield scene
        assert list(Path(temporary).iterdir()) == []


def saved(scene: Scene, part: str) -> int:
    """How much of a part of the long run is behind a checkpoint."""
    query = "SELECT written FROM part JOIN run ON run.id = part.run WHERE run.run_id = ? AND part.name = ?"
    return int(sum(written for (written,) in scene.ask(query, LONG_RUN, part)))


def sent(scene: Scene) -> int:
    """Points of the long run that Neptune has, or will have once it has processed them."""
    runs = [run for run in scene.neptune.store.runs() if run.run_id == LONG_RUN]
    return sum(len(series) for run in runs for series in run.series.values())


def kill_on_the_way(
    scene: Scene, command: str, progress: Callable[[], int], goals: Sequence[int], part: str
) -> list[int]:
    """Start the command and kill everything when `progress` has come to the next of `goals`, again and again.

    Returns how many points of the long run were sent, but not behind a checkpoint, each time.
    """
    unsaved = []
    for goal in goals:
        kill_everything(scene, started_until(scene, command, progress, goal))
        unsaved.append(sent(scene) - saved(scene, part))
    return unsaved


def started_until(scene: Scene, command: str, progress: Callable[[], int], goal: int) -> Started:
    started = scene.migrate.start(*command.split())
    wait_until(lambda: progress() >= goal, f"progress to {goal}", started)
    return started


def kill_everything(scene: Scene, started: Started) -> None:
    """As a power cut does. wandb-core is in no process group of ours."""
    started.kill_group()
    for process in scene.migrate.processes():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass  # it ends by itself when its worker is gone


def spread(seed: int, kills: int, total: int) -> list[int]:
    """Random, but one in each of so many equal stretches on the way to `total`."""
    return [random.Random(seed + n).randrange(n * total // kills, (n + 1) * total // kills) for n in range(kills)]


def check_sent_twice(scene: Scene, unsaved: Sequence[int]) -> None:
    """What was not behind a checkpoint when everything was killed, and nothing else."""
    assert max(unsaved) <= UNSAVED_POINTS
    assert scene.neptune.store.duplicates_offered <= sum(unsaved) + len(unsaved) * LANES * SMALL_POINTS


@pytest.mark.parametrize("seed", [1])
def test_killed_again_and_again_a_job_goes_on_from_its_checkpoints(scene: Scene, seed: int) -> None:
    requests, points = spread(seed, 2, 60), spread(seed, 3, LONG_POINTS)
    unsaved = kill_on_the_way(scene, "run", scene.submissions, requests, "history")
    unsaved += kill_on_the_way(scene, "run", lambda: scene.neptune.store.points_stored, points, "history")
    scene.migrate.succeed("run")
    assert scene.differences() == []
    check_sent_twice(scene, unsaved)


@pytest.mark.parametrize("seed", [2])
def test_killed_again_and_again_offline_files_and_their_upload_go_on_too(scene: Scene, seed: int) -> None:
    points = spread(seed, 2, LONG_POINTS)
    kill_on_the_way(scene, "run --mode offline", lambda: saved(scene, "history"), points, "history")
    scene.migrate.succeed("run", "--mode", "offline")
    points = spread(seed, 2, LONG_POINTS)
    unsaved = kill_on_the_way(scene, "sync", lambda: scene.neptune.store.points_stored, points, "upload")
    scene.migrate.succeed("sync")
    assert scene.differences() == []
    check_sent_twice(scene, unsaved)


# ---------------------------------------------------------------- asleep


def kept(scene: Scene) -> dict[str, list[tuple[object, ...]]]:
    """What the state database has of the runs."""
    tables = ("run", "part", "ledger", "attempt", "setting")
    return {table: scene.ask(f"SELECT * FROM {table}") for table in tables}


@contextmanager
def asleep(scene: Scene, processes: Sequence[psutil.Process]) -> Iterator[None]:
    """SIGSTOP, but not while one holds SQLite's write lock: then nobody could go on."""
    while True:
        for process in processes:
            process.suspend()
        try:
            with closing(sqlite3.connect(scene.migrate.directory / "migration.db", timeout=0)) as database:
                database.execute("BEGIN IMMEDIATE")
            yield
            return
        except sqlite3.OperationalError:
            pass
        finally:
            for process in processes:
                process.resume()


@pytest.mark.parametrize("whole_command", [False, True], ids=["a worker", "a command"])
def test_who_sleeps_longer_than_its_leases_writes_nothing_more(scene: Scene, whole_command: bool) -> None:
    scene.migrate.environment["MIGRATE_LEASE_S"] = str(LEASE_S)
    scene.neptune.store.processing_delay_s = (LEASE_S, LEASE_S)
    sleeper = started_until(
        scene, f"run --run-id {LONG_RUN}", lambda: scene.neptune.log.count("submit"), 1 + GROUPS_IN_FLIGHT
    )
    family = [process for process in scene.migrate.processes() if whole_command or process.pid != sleeper.pid]
    with asleep(scene, family):
        scene.neptune.store.processing_delay_s = (0.0, 0.0)
        scene.migrate.succeed("run")
        assert scene.differences() == []
        before = scene.submissions(), kept(scene)
    assert sleeper.wait().exit_code == 0
    assert (scene.submissions(), kept(scene)) == before


TEXT_BYTES = 1_000_000  # of a row: some four rows make a request, and two requests a group


@pytest.mark.parametrize(
    ("request_", "before"),
    [("submit", 2), ("PUT blob", 16)],
    ids=["between two requests of a group", "between two groups of files"],
)
def test_who_sleeps_between_noting_what_it_will_send_and_sending_it_sends_no_more(
    set_scene: SetScene, request_: str, before: int
) -> None:
    [run] = sample_runs(1, steps=16, files=40)
    run.history = [{**row, "text": "x" * TEXT_BYTES} for row in run.history]
    scene = set_scene([run])
    scene.migrate.environment["MIGRATE_LEASE_S"] = str(LEASE_S)
    scene.migrate.succeed("inventory")
    scene.neptune.faults.add(Fault(request_, "slow", None, skip=before - 1, delay_s=LEASE_S / 2))
    sleeper = started_until(scene, "run", lambda: scene.neptune.log.count(request_), before)
    with asleep(scene, [process for process in scene.migrate.processes() if process.pid != sleeper.pid]):
        scene.neptune.faults.set([])
        scene.migrate.succeed("run")
        assert scene.differences() == []
        after = scene.submissions(), kept(scene)
    assert sleeper.wait().exit_code == 0
    assert (scene.submissions(), kept(scene)) == after
