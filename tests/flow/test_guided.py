"""`migrate` alone on a terminal, with the answers that people type."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

from tests.command import migrate_command
from tests.flow.conftest import DEADLINE_S, Scene, SetScene
from tests.servers.wandb_data import sample_runs


def typed(scene: Scene, *answers: str) -> tuple[int, str]:
    """(exit code, all that the terminal showed)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        migrate_command(),
        cwd=scene.migrate.directory,
        env=scene.migrate.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    shown = bytearray()
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:
        pass  # Linux says so when nobody holds the other end any more
    os.close(ours)
    return process.wait(DEADLINE_S), shown.decode()


def test_a_few_answers_move_everything(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4))
    exit_code, shown = typed(scene, "tema", "", "", "", "no/workspace", "", "none", "1", "y")
    assert exit_code == 0, shown
    for words in ("tema", "'no/workspace' is not a workspace name", "Workers: a number", "2 of 2 runs are done"):
        assert words in shown
    assert scene.differences() == []


def test_who_says_no_at_the_plan_has_copied_nothing(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4))
    exit_code, shown = typed(scene, "team", "demo", "", "", "n")
    assert (exit_code, "Nothing was copied" in shown) == (0, True), shown
    assert scene.submissions() == 0
    assert Path(scene.migrate.directory, "migration.db").exists()
