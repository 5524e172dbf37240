"""Workers that die, hang or freeze: nobody else's run suffers, and no process is left (the scene looks for them)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from migrations_db import LeaseLost, Phase, open_store
from migrations_db.types import ProjectRow, RunRow, WorkerInfo
from migrator.job.job import Job
from migrator.job.processes import host_id
from migrator.job.scratch import PREFIX, remove_stale
from migrator.job.worker import Worker
from migrator.parts.base import MappingOptions
from tests.flow.conftest import Scene, SetScene, Started, wait_until
from tests.processes import forked
from tests.servers.http import Fault
from tests.servers.wandb_data import Project, Run, sample_runs

HANGS = 60.0  # seconds: longer than a test waits


def workers(scene: Scene) -> list[psutil.Process]:
    """The worker processes that run."""
    return forked([one for one, _ in commands(scene)])


def wandb_cores(scene: Scene) -> list[psutil.Process]:
    return [one for one, command in commands(scene) if "wandb-core" in command]


def commands(scene: Scene) -> list[tuple[psutil.Process, str]]:
    found = []
    for process in scene.migrate.processes():
        try:
            found.append((process, " ".join(process.cmdline())))
        except psutil.NoSuchProcess:
            pass  # it has just ended
    return found


def has_moved_on(scene: Scene, done: int) -> bool:
    """Whether more runs are done than then, and a worker is there."""
    return scene.runs_done() > done and workers(scene) != []


@contextmanager
def killing(scene: Scene, running: Started, pattern: str) -> Iterator[list[int]]:
    """While it lasts, all workers die whenever W&B is asked for something that has the pattern; tells which died."""
    killed: list[int] = []

    def kill() -> None:
        asked = 0
        while running.is_running:
            if (count := scene.wandb.log.count(pattern)) > asked:
                asked = count
                for worker in workers(scene):
                    worker.kill()
                    killed.append(worker.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    yield killed
    thread.join()


@pytest.mark.heavy
def test_a_job_that_moves_on_outlives_any_number_of_workers(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(30, steps=3, files=1), processing_delay_s=(0.1, 0.2))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    for _ in range(5):  # more than a job may lose in a row
        wait_until(partial(has_moved_on, scene, scene.runs_done()), "another run to be done", running)
        workers(scene)[0].kill()
    assert running.wait().exit_code == 0
    assert scene.differences() == []


def test_workers_that_die_before_they_do_anything_end_the_job(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    while running.is_running:
        for worker in workers(scene):
            worker.kill()
        time.sleep(0.02)
    ended = running.wait()
    assert ended.exit_code == 1
    assert "workers keep dying" in ended.stderr


@pytest.mark.heavy
def test_a_run_that_kills_its_workers_fails_alone(set_scene: SetScene) -> None:
    runs = sample_runs(3, steps=2, files=1)
    poison = sample_runs(4, steps=9, files=1)[-1]  # the longest: it is claimed first, the others with it
    poison.files = {"poison.txt": b"the worker dies of it"}
    scene = set_scene([*runs, poison], processing_delay_s=(1.0, 1.0))
    scene.wandb.faults.set([Fault("poison.txt", "slow", times=None, delay_s=3.0)])
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    with killing(scene, running, "poison.txt") as killed:
        ended = running.wait()
    assert ended.exit_code == 3, ended.stderr
    assert len(killed) == 6  # once with all the others in hand, then alone as often as failures are allowed
    assert scene.ask("SELECT run_id, failures, error_class FROM run WHERE status <> 'done'") == [
        (poison.id, 5, "crashed")
    ]
    assert {failures for (failures,) in scene.ask("SELECT failures FROM run WHERE status = 'done'")} == {0}
    assert {line.split(":")[0] for line in scene.differences()} == {f"demo/{poison.id}"}


@pytest.mark.heavy
def test_what_a_stalled_worker_started_dies_with_it(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(3), processing_delay_s=(0.5, 0.5))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run", "--stall-timeout", "5")
    wait_until(lambda: wandb_cores(scene), "wandb-core to be started", running)
    (frozen,) = wandb_cores(scene)
    frozen.suspend()  # nothing is answered any more, and it cannot end by itself
    ended = running.wait()
    assert ended.exit_code == 0, ended.stderr
    assert "made no progress" in ended.stderr
    assert not frozen.is_running()
    assert scene.differences() == []


@pytest.mark.heavy
def test_slow_is_not_dead(set_scene: SetScene) -> None:
    large = Run("large", files={"model.bin": bytes(20 << 20)})
    scene = set_scene(Project("slow", [*sample_runs(1), large]), processing_delay_s=(12.0, 12.0))
    scene.wandb.faults.set([Fault("GET /files/.*model.bin", "trickle", times=None, delay_s=30.0)])
    scene.migrate.succeed("inventory")
    ended = scene.migrate.succeed("run", "--stall-timeout", "6")
    assert "no progress" not in ended.stderr
    assert scene.ask("SELECT DISTINCT outcome FROM attempt") == [("done",)]
    assert scene.differences() == []


@pytest.mark.heavy
def test_a_worker_told_to_stop_by_somebody_else_is_replaced(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(20, steps=3, files=1), processing_delay_s=(0.2, 0.3))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(scene.runs_done, "a run to be done", running)
    workers(scene)[0].terminate()
    assert running.wait().exit_code == 0
    assert scene.differences() == []


def test_a_job_goes_on_although_the_process_that_workers_are_forked_from_is_killed(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(20, steps=3, files=1), processing_delay_s=(0.2, 0.3))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(scene.runs_done, "a run to be done", running)
    [server] = {worker.parent() for worker in workers(scene)}
    assert server is not None
    server.kill()
    assert running.wait().exit_code == 0
    assert scene.differences() == []
    assert scene.migrate.processes() == []


def test_ctrl_c_does_not_reach_a_worker_that_has_yet_to_start(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(lambda: workers(scene), "a worker to be started", running)
    workers(scene)[0].send_signal(signal.SIGINT)
    ended = running.wait()
    assert (ended.exit_code, "Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.heavy) for number in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_command_leaves_no_process_although_its_worker_waits_for_an_answer(
    set_scene: SetScene, number: signal.Signals
) -> None:
    scene = set_scene(sample_runs(3))
    scene.migrate.succeed("inventory")
    scene.wandb.faults.set([Fault("GET /files/", "slow", times=None, delay_s=HANGS)])
    running = scene.migrate.start("run")
    wait_until(lambda: scene.wandb.log.count("GET /files/"), "an answer to be waited for", running)
    running.send(number)
    running.wait()
    wait_until(lambda: not scene.migrate.processes(), "all processes to end")
    scene.wandb.faults.set([])
    scene.migrate.succeed("run")
    assert scene.differences() == []


@pytest.mark.parametrize("number", [pytest.param(signal.SIGHUP, marks=pytest.mark.heavy), signal.SIGINT])
def test_what_a_terminal_sends_to_all_processes_stops_a_job_cleanly(
    set_scene: SetScene, number: signal.Signals
) -> None:
    scene = set_scene(sample_runs(3), processing_delay_s=(3.0, 3.0))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(lambda: scene.neptune.log.count("submit") >= 3, "all runs to be sent", running)
    os.killpg(running.pid, number)
    ended = running.wait()
    assert (ended.exit_code, "died" in ended.stderr) == (130 if number == signal.SIGINT else 143, False)
    assert scene.ask("SELECT DISTINCT outcome FROM attempt") == [("released",)]
    scene.migrate.succeed("run")
    assert scene.differences() == []


def test_a_refused_key_ends_the_job_although_a_run_waits_for_an_answer(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(40))  # more than can be done before the key is refused
    scene.migrate.succeed("inventory")
    scene.wandb.faults.set([Fault("GET /files/", "slow", times=1, delay_s=HANGS)])
    running = scene.migrate.start("run")
    wait_until(lambda: scene.wandb.log.count("GET /files/"), "a file to be asked for", running)
    hangs_from = time.monotonic()
    scene.wandb.faults.add(Fault("", "status", times=None, status=401))
    assert running.wait().exit_code == 4
    assert time.monotonic() - hangs_from < HANGS  # it did not wait for that answer
    assert set(scene.ask("SELECT outcome FROM attempt")) <= {("done",), ("throttled",), ("released",)}


@pytest.mark.heavy
def test_a_command_that_sleeps_beyond_its_leases_goes_on_with_its_own_runs(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2), processing_delay_s=(4.0, 4.0))
    scene.migrate.environment["MIGRATE_LEASE_S"] = "6"
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(lambda: scene.neptune.log.count("submit") >= 2, "both runs to be sent", running)
    for process in scene.migrate.processes():
        process.suspend()
    expired = "SELECT 1 FROM run WHERE julianday(lease_until) < julianday('now')"
    wait_until(lambda: len(scene.ask(expired)) == 2, "both leases to end")
    for process in scene.migrate.processes():
        process.resume()
    assert running.wait().exit_code == 0
    assert scene.differences() == []


def test_a_lane_that_wakes_after_its_lease_asks_before_it_goes_on(tmp_path: Path) -> None:
    database = str(tmp_path / "state.db")
    with closing(open_store(database)) as store:
        [project] = store.inventory.save_projects([ProjectRow("e", "p", "wandb", "https://wandb.test/e/p")])
        store.inventory.save_runs(project, [RunRow("run", "run", "finished", "v1")], 1)
        job = Job(
            database=database,
            phase=Phase.COPY,
            mode="offline",
            workspace="w",
            parts=[],
            options=MappingOptions(),
            offline_dir=tmp_path,
            work_dir=tmp_path,
            tool_version="1.0",
            log_file=tmp_path / "log",
            invocation_id=store.begin_invocation("run", "here", 1, "1.0"),
            lease_s=0.0,  # so all of it has passed when the claim is made
        )
        with Worker(job, 0, threading.Event()) as worker:
            task = worker.leases.claim()
            assert task is not None
            task.check()  # late, but nobody has taken the run
            store.workers.register(WorkerInfo("other", "elsewhere", 1, 0.0))
            assert store.claim("other", Phase.COPY, 60.0) is not None
            with pytest.raises(LeaseLost):
                task.check()


@pytest.mark.heavy
def test_a_worker_that_cannot_connect_tries_again_and_at_last_says_to_come_back(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    scene.migrate.succeed("inventory")
    scene.neptune.faults.set([Fault("exchange", "drop", times=None)])
    ended = scene.migrate.run("run")
    assert ended.exit_code == 5
    assert "connect to Neptune" in ended.stderr
    assert "run the same command again later" in ended.stderr
    scene.neptune.faults.set([Fault("exchange", "drop", times=2)])
    scene.migrate.succeed("run")
    assert scene.differences() == []


def test_scratch_space_of_a_killed_command_stays_while_a_worker_of_it_still_uses_it(tmp_path: Path) -> None:
    of_dead = tmp_path / f"{PREFIX}-{host_id()}-1-1000000000"  # no process of that number began at that time
    of_worker = of_dead / f"worker-0-{os.getpid()}"
    of_worker.mkdir(parents=True)
    sleep = [sys.executable, "-c", f"import time; time.sleep({HANGS})"]
    with subprocess.Popen(sleep, env={"TMPDIR": str(of_dead)}) as left, subprocess.Popen(sleep, env={}) as other:
        remove_stale(tmp_path)
        assert of_worker.exists()
        assert left.poll() is None
        os.utime(of_worker, (0, 0))  # it was last used before the process began that has its number now
        remove_stale(tmp_path)
        assert not of_dead.exists()
        assert left.wait() == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
