"""Directories as people have them, through the real command: what is found, what is left out, what goes where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flow.conftest import SetScene
from tests.flow.expected import arrived
from tests.servers.offline_runs import BEGAN_S, StartLog

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234567\n"


def log(root: Path, run_id: str, after_s: float = 0, project: str = "vision", step: int = 0) -> StartLog:
    return StartLog(root, run_id, BEGAN_S + after_s, project=project, entity="team").row(step, a=1)


@pytest.mark.heavy
def test_what_is_left_out_is_told_everywhere_until_it_is_mended(set_scene: SetScene, tmp_path: Path) -> None:
    scene = set_scene()
    migrate, one, other = scene.migrate, tmp_path / "one", tmp_path / "other"
    log(one, "good0001").exit()
    pointer = log(one, "point001", 10).exit()
    content = pointer.path.read_bytes()
    pointer.path.write_text(POINTER)
    bare = log(one, "bare0001", 20).file("config.yaml", "lr:\n  value: 0.5\n").file("output.log", "line\n").exit()
    bare.file("wandb-summary.json", '{"best": 2}').path.unlink()
    log(other, "other001", 30).exit()
    expected = {"lfs_pointer": (1, [str(pointer.path)]), "no_history": (1, [str(bare.directory)])}

    def left_out(document: dict[str, list[dict[str, object]]]) -> dict[str, tuple[object, object]]:
        return {str(one["cause"]): (one["count"], one["examples"]) for one in document["problems"]}

    refused = migrate.run("inventory", "--local", pointer.directory)
    assert (refused.exit_code, "lfs_pointer" in refused.stderr, "`git lfs pull`" in refused.stderr) == (2, True, True)
    assert left_out(migrate.succeed("inventory", "--local", one, "--json").json) == expected
    listed = migrate.succeed("inventory", "--local", other)  # it did not look at the first one, and says nothing of it
    assert "Left out" not in listed.stdout
    status = migrate.status()
    assert left_out(status) == expected
    assert (status["runs"]["pending"], status["reasons"]) == (3, [])
    ended = migrate.run("run", "--strict")
    assert ended.exit_code == 3
    assert "left out 2 things" in ended.stderr
    found = arrived(scene.neptune.store.run("team/vision", "bare0001"))
    assert (found.values["config/lr"][1], found.values["summary/best"][1]) == (0.5, 2)
    assert found.files["files/output.log"] == b"line\n"
    notes = {(note["kind"], note["path"]) for note in migrate.status("bare0001")["notes"]}
    assert ("sampled", "history") in notes

    pointer.path.write_bytes(content)
    bare.close()
    told = migrate.succeed("inventory", "--local", one, "--json").json
    assert told["problems"] == []
    assert [(project["new"], project["changed"]) for project in told["projects"]] == [(1, 1)]
    assert migrate.succeed("run", "--strict").exit_code == 0
    for run_id in ("point001", "bare0001", "other001"):
        assert len(scene.neptune.store.run("team/vision", run_id).points("a")) == 1
    assert "Left out" not in migrate.succeed("status").stdout


def test_projects_are_joined_when_the_user_says_so_of_both_and_no_runs_meet(
    set_scene: SetScene, tmp_path: Path
) -> None:
    scene = set_scene()
    log(tmp_path, "run00001", project="old-a").exit()
    log(tmp_path, "run00002", 10, project="old-b").exit()
    joined = ("--project-map", "old-a=both", "--project-map", "team/old-b=both")
    listed = scene.migrate.succeed("inventory", "--local", tmp_path, *joined, "--json").json
    assert [project["destination"] for project in listed["projects"]] == ["both", "both"]
    scene.migrate.succeed("run")
    assert {(run.project, run.run_id) for run in scene.neptune.store.runs()} == {
        ("team/both", "run00001"),
        ("team/both", "run00002"),
    }
    log(tmp_path, "run00001", 20, project="old-b").exit()
    meeting = scene.migrate.run("inventory", "--local", tmp_path)
    assert meeting.exit_code == 2
    assert "both have a run 'run00001'" in meeting.stderr
    assert json.loads(scene.migrate.succeed("status", "--json").stdout)["runs"]["total"] == 2
