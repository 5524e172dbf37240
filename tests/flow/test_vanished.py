"""Runs that Neptune, or the directory of offline files, has lost while the job was on its way: copied anew."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable

import pytest

from tests.flow.conftest import Scene, SetScene, Started, wait_until
from tests.servers.wandb_data import Run, big_runs, sample_runs

METRICS = 5
POINTS = 45_000 * METRICS  # of the long run


@pytest.fixture
def scene(set_scene: SetScene) -> Scene:
    """One long run, listed."""
    scene = set_scene(big_runs(1, steps=POINTS // METRICS, metrics=METRICS), processing_delay_s=(0.1, 0.1))
    scene.migrate.succeed("inventory")
    return scene


def killed_half_way(scene: Scene, *command: str) -> None:
    started = scene.migrate.start(*command)
    wait_until(lambda: scene.neptune.store.points_stored > POINTS // 2, "half of the points", started)
    started.kill_group()
    for process in scene.migrate.processes():
        process.kill()
    wait_until(lambda: not scene.migrate.processes(), "all processes to end")


def outcomes(scene: Scene) -> set[str]:
    return {outcome for (outcome,) in scene.ask("SELECT outcome FROM attempt")}


def lose_the_run(scene: Scene) -> None:
    scene.neptune.store.projects["team/demo"].runs.clear()


def lose_the_project(scene: Scene) -> None:
    del scene.neptune.store.projects["team/demo"]


def is_whole(scene: Scene) -> bool:
    return scene.differences() == [] and not scene.migrate.status()["skips"]


@pytest.mark.parametrize("lose", [lose_the_run, pytest.param(lose_the_project, marks=pytest.mark.heavy)])
def test_a_run_that_is_gone_from_neptune_is_copied_from_its_start(scene: Scene, lose: Callable[[Scene], None]) -> None:
    killed_half_way(scene, "run")
    lose(scene)
    scene.migrate.succeed("run")
    assert is_whole(scene)


@pytest.mark.heavy
def test_a_stop_while_neptune_is_asked_hides_nothing(scene: Scene) -> None:
    killed_half_way(scene, "run")
    lose_the_run(scene)
    scene.neptune.store.processing_delay_s = (30.0, 30.0)
    asked = scene.neptune.log.count("submit")
    started = scene.migrate.start("run")
    wait_until(lambda: scene.neptune.log.count("submit") > asked, "a first request", started)
    stop(started)
    scene.neptune.store.processing_delay_s = (0.0, 0.0)
    scene.migrate.succeed("run")
    assert is_whole(scene)


def stop(started: Started) -> None:
    started.send(signal.SIGTERM)
    assert started.wait().exit_code == 143


@pytest.mark.heavy
def test_a_passing_answer_of_the_server_is_no_loss(scene: Scene) -> None:
    killed_half_way(scene, "run")
    scene.neptune.store.refuse("^migration/mapping_version$", "INTERNAL")
    started = scene.migrate.start("run")
    wait_until(lambda: "retry" in outcomes(scene), "a failure", started)
    scene.neptune.store.forget_rules()
    assert started.wait().exit_code == 0
    assert is_whole(scene)
    assert scene.neptune.store.duplicates_offered < POINTS


def test_an_upload_that_neptune_has_lost_is_uploaded_anew_from_the_same_file(scene: Scene) -> None:
    scene.migrate.succeed("run", "--mode", "offline")
    killed_half_way(scene, "sync")
    lose_the_run(scene)
    scene.migrate.succeed("sync", WANDB_API_KEY="")  # which W&B would refuse
    assert is_whole(scene)


@pytest.mark.heavy
def test_a_missing_offline_file_is_forgotten_only_by_a_person(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=5))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    before = scene.migrate.status("run00001")
    missing = scene.migrate.directory / "neptune-offline" / "demo" / "run00001"
    away = missing.rename(scene.migrate.directory / "away")
    assert scene.migrate.run("sync").exit_code == 3
    after = scene.migrate.status("run00001")
    assert (after["status"], after["phase"], after["parts"]) == ("failed", "upload", before["parts"])
    told = scene.migrate.succeed("status", "--failed").stdout
    assert str(missing) in told
    assert "migrate forget team/demo/run00001" in told

    assert scene.migrate.run("forget", "run00001").exit_code == 2  # there is nobody to ask
    assert scene.migrate.status("run00001")["parts"] == before["parts"]
    for wrong in (["nosuch"], ["--projects", "nosuch"], []):
        assert scene.migrate.run("forget", *wrong, "--yes").exit_code == 2
    assert scene.migrate.succeed("forget", "run00001", "--yes", "--json").json["forgotten"] == 1
    shutil.rmtree(away)
    scene.migrate.succeed("run", "--mode", "offline")
    scene.migrate.succeed("sync")
    assert is_whole(scene)
    shutil.rmtree(scene.migrate.directory / "neptune-offline")
    assert "2 of 2 runs are done" in scene.migrate.succeed("sync").stderr


def test_offline_files_looked_for_in_the_wrong_place_are_not_lost(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=5))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    there, elsewhere = (scene.migrate.directory / name for name in ("neptune-offline", "elsewhere"))
    elsewhere.mkdir()
    before = scene.migrate.status()
    ended = scene.migrate.run("sync", "--offline-dir", elsewhere)
    assert ended.exit_code == 2
    assert f"`migrate sync --offline-dir {there}`" in ended.stderr
    there.rename(elsewhere / "unmounted")
    assert scene.migrate.run("sync").exit_code == 2
    there.mkdir()  # the mount point
    assert scene.migrate.run("sync").exit_code == 2
    assert scene.migrate.status() == before
    there.rmdir()
    there.symlink_to(elsewhere / "unmounted")
    scene.migrate.succeed("sync", "--offline-dir", elsewhere / "unmounted")
    assert is_whole(scene)


@pytest.mark.heavy
@pytest.mark.parametrize("commands", [["run --safe-client"], ["run --mode offline", "sync"]], ids=["safe", "offline"])
def test_a_run_that_grew_and_is_gone_from_neptune_is_copied_from_its_start(
    set_scene: SetScene, commands: list[str]
) -> None:
    [run] = sample_runs(1, steps=30, files=2)
    scene = set_scene([run])
    for steps in (15, None):
        grown(run, steps)
        scene.migrate.succeed("inventory")
        for command in commands:
            scene.migrate.succeed(*command.split())
        if steps:
            lose_the_run(scene)
    if "sync" in commands:  # has put the run back: to be copied to a new file
        for command in commands:
            scene.migrate.succeed(*command.split())
    assert is_whole(scene)


def grown(run: Run, visible: int | None) -> None:
    run.visible, run.state = visible, "running" if visible else "finished"
    run.heartbeat_at = f"2024-01-01T00:00:{visible or 59}Z"
    run.changed()


def test_a_state_database_that_is_removed_ends_the_job_and_nothing_is_told_of_its_runs(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(12, steps=5), processing_delay_s=(1.0, 2.0))
    scene.migrate.succeed("inventory")
    state = scene.migrate.directory / "migration.db"
    started = scene.migrate.start("run", "--workers", "2")
    wait_until(lambda: scene.neptune.log.count("submit") > 5, "some to be sent", started)
    state.rename(state.with_name("away"))
    ended = started.wait()
    assert ended.exit_code == 7
    assert "Put it back" in ended.stderr
    assert "runs are done" not in ended.stdout + ended.stderr
    assert not state.exists()
    state.with_name("away").rename(state)
    scene.neptune.store.processing_delay_s = (0.0, 0.0)  # runs that were lost in silence are copied one by one
    scene.migrate.succeed("run")
    assert is_whole(scene)
