"""`migrate clean` removes what commands left behind, only when it is told to, and nothing that is still needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.conftest import Scene, SetScene, wait_until
from tests.servers.wandb_data import sample_runs


def found(scene: Scene, *arguments: str) -> dict[tuple[str, bool], tuple[int, bool]]:
    """(what, whether it is kept) -> (how many, whether they were removed)."""
    rows = scene.migrate.succeed("clean", *arguments, "--json").json["found"]
    return {(row["what"], row["kept"] is not None): (row["count"], row["removed"]) for row in rows}


@pytest.mark.heavy
def test_what_is_not_uploaded_stays_unless_it_is_named(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4, files=2))
    migrate = scene.migrate
    migrate.succeed("inventory")
    migrate.succeed("run", "--mode", "offline", "--offline-dir", "kept here")
    migrate.succeed("sync", "--run-id", "run00001")
    log = migrate.directory / "kept here" / "demo" / "run00000" / "run_operations.sqlite3"
    left_over = log.parent.with_name("run00001") / "image.png"  # as if its removal had been interrupted
    left_over.parent.mkdir()
    left_over.write_bytes(b"1")
    elsewhere = migrate.directory / "kept here" / "mine.txt"
    elsewhere.write_text("mine")

    before = migrate.files()
    told = migrate.succeed("clean").stdout
    assert "not uploaded: `migrate sync` does it" in told
    assert "Nothing was removed. `migrate clean --what all --yes` removes" in told
    assert migrate.files() == before

    assert found(scene, "--yes") == {
        ("logs", False): (3, True),
        ("offline", False): (1, True),
        ("offline", True): (1, False),
    }
    assert not (migrate.directory / "migration-logs").exists()
    assert (log.exists(), left_over.parent.exists(), elsewhere.exists()) == (True, False, True)
    assert found(scene, "--what", "logs", "--yes") == {}

    assert migrate.run("clean", "--what", "everything").exit_code == 2
    assert found(scene, "--what", "offline", "--not-uploaded", "--yes") == {("offline", False): (1, True)}
    assert {path.name for path in (migrate.directory / "kept here").iterdir()} == {"mine.txt"}
    assert migrate.status("run00001")["status"] == "done"


def test_nothing_is_removed_while_a_command_runs_and_scratch_files_of_a_killed_one_are(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4, files=2), processing_delay_s=(60.0, 60.0))
    migrate = scene.migrate
    migrate.succeed("inventory")
    started = migrate.start("run")
    wait_until(lambda: scene.neptune.log.count("submit") > 0, "a first request", started)
    refused = migrate.run("clean", "--yes")
    assert (refused.exit_code, "is running" in refused.stderr) == (2, True)
    started.kill_group()
    for process in migrate.processes():
        process.kill()
    wait_until(lambda: not migrate.processes(), "all processes to end")
    assert found(scene, "--what", "scratch") == {("scratch", False): (1, False)}
    assert found(scene, "--what", "scratch", "--yes") == {("scratch", False): (1, True)}
    assert list(migrate.temporary.iterdir()) == []


def test_without_a_state_database_no_offline_file_counts_as_uploaded(set_scene: SetScene, tmp_path: Path) -> None:
    scene = set_scene(sample_runs(1, steps=4, files=2))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    (scene.migrate.directory / "migration.db").rename(tmp_path / "away.db")
    assert found(scene, "--yes") == {("logs", False): (2, True), ("offline", True): (1, False)}
