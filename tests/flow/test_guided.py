"""What commands do on a terminal: `migrate` alone, with the answers that people type; `status --watch`."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.command import migrate_command
from tests.flow.conftest import DEADLINE_S, Scene, SetScene, wait_until
from tests.servers.http import Fault
from tests.servers.wandb_data import sample_runs


def typed(scene: Scene, *answers: str, arguments: Sequence[str] = ()) -> tuple[int, str]:
    """(exit code, all that the terminal showed)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*migrate_command(), *arguments],
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


@pytest.mark.slow
def test_a_job_is_watched_to_its_end(set_scene: SetScene) -> None:
    *runs, last = sample_runs(6, steps=4)
    last.files = {"large.bin": b"x"}
    scene = set_scene([*runs, last])
    scene.wandb.faults.set([Fault("large.bin", "slow", times=None, delay_s=6.0)])
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    wait_until(scene.runs_done, "a run to be done", running)
    exit_code, shown = typed(scene, arguments=["status", "--watch", "--short"])
    assert (exit_code, "6 done" in shown) == (0, True), shown
    speeds = re.findall(r" ago: (\S+) values/s", shown)
    assert speeds != []
    assert "0" not in speeds
    assert running.wait().exit_code == 0
