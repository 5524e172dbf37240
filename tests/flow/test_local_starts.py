"""Local directories as people have them, through the real command: straight to Neptune, and by offline files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from migrator.sources.wandb_local.run import INHERITED
from migrator.sources.wandb_local.starts import ASSUMED, COPY
from migrator.sources.wandb_local.summaries import OF_ROWS
from tests.flow.conftest import Scene, SetScene
from tests.flow.expected import MICRO, arrived, differences
from tests.servers import neptune_store
from tests.servers.offline_runs import BEGAN_S, StartLog

PROJECT = "team/p-wandb"


def log_runs(root: Path) -> None:
    copied = StartLog(root, "copied")
    for i in range(3):
        copied.row(i, a=i).sample(i, cpu=i).line(i, f"line {i}")
    copied.summary(a=2).exit()
    shutil.copytree(copied.directory, root / "backup" / copied.directory.name)

    for part in range(2):
        joined = StartLog(root, "joined", BEGAN_S + 100 * part, offline=True)
        joined.row(0, a=10 * part).row(1, a=10 * part + 1).summary(a=1).exit()

    for trial in range(2):
        again = StartLog(root, "again", BEGAN_S + 1000 * trial, display_name=f"trial {trial}", config={"lr": trial})
        again.row(0, a=100 * trial).row(1, a=100 * trial + 1).line(0, f"trial {trial}").summary(a=trial).exit()

    for rank in range(2):
        shared = StartLog(
            root, "shared", BEGAN_S + rank / 2, shared=True, directory=f"wandb/run-2022041{rank}_0-shared"
        )
        for i in range(3):
            shared.row(None, i, a=10 * rank + i).line(i, f"rank {rank}, {i}")
        shared.exit(1 - rank)

    base = StartLog(root, "base")
    fork = StartLog(root, "fork", BEGAN_S + 100, branch=("base", 20))
    for i in range(30):
        base.row(i, a=i)
        fork.row(21 + i, a=121 + i).line(i, f"fork {i}").sample(i, cpu=i)
    base.summary(a=29).exit()
    fork.summary(a=150).exit()

    StartLog(root, "moved").row(0, a=0).row(1, a=1).row(2, a=2).summary(a=2).exit()
    StartLog(root, "stays", BEGAN_S + 100, branch=("moved", 1)).row(2, a=102).summary(a=102).exit()
    StartLog(root, "moved", BEGAN_S + 200, branch=("moved", 0)).row(1, a=401).summary(a=401).exit()

    torn = StartLog(root, "torn").row(0, a=0).row(1, a=1, text="x" * 99)
    torn.close(cut_bytes=9, written_s=BEGAN_S + 10**7)


def points(scene: Scene, run_id: str, path: str = "a", *, lineage: bool = False) -> list[tuple[int, Any]]:
    run = scene.neptune.store.run(PROJECT, run_id)
    return [(step // MICRO, value) for step, _, value in run.points(path, lineage=lineage)]


def seconds(scene: Scene, run_id: str, path: str = "a") -> list[float]:
    return [time_us / MICRO - BEGAN_S for _, time_us, _ in scene.neptune.store.run(PROJECT, run_id).points(path)]


@pytest.mark.heavy
def test_starts_become_the_right_runs_online_and_by_way_of_offline_files(set_scene: SetScene, tmp_path: Path) -> None:
    log_runs(tmp_path)
    online, offline = set_scene(), set_scene()
    for scene in (online, offline):
        scene.migrate.succeed("inventory", "--local", tmp_path)
    online.migrate.succeed("run")
    offline.migrate.succeed("run", NEPTUNE_API_TOKEN=None, NEPTUNE_PROJECT=None)
    offline.migrate.succeed("sync", "--neptune-workspace", "team", NEPTUNE_PROJECT=None)

    for scene in (online, offline):
        assert points(scene, "copied") == [(0, 0), (1, 1), (2, 2)]
        assert len(points(scene, "copied", "system/cpu")) == len(points(scene, "copied", "runtime/stdout")) == 3
        assert points(scene, "joined") == [(0, 0), (1, 1), (2, 10), (3, 11)]
        again = arrived(scene.neptune.store.run(PROJECT, "again"))
        assert points(scene, "again") == [(0, 100), (1, 101)]
        assert points(scene, "again", "runtime/stdout") == [(0, "trial 1")]
        assert (again.values["config/lr"][1], again.values["wandb/name"][1]) == (1, "trial 1")
        assert points(scene, "shared") == [*enumerate([0, 10, 1, 11, 2, 12])]
        assert seconds(scene, "shared") == seconds(scene, "shared", "runtime/stdout") == [0, 0.5, 1, 1.5, 2, 2.5]
        assert arrived(scene.neptune.store.run(PROJECT, "shared")).values["wandb/state"][1] == "failed"
        assert [step for step, _ in points(scene, "fork", lineage=True)] == [*range(51)]
        assert points(scene, "fork", "runtime/stdout") == [(21 + i, f"fork {i}") for i in range(30)]
        assert points(scene, "fork", "system/cpu") == [(21 + i, i) for i in range(30)]
        assert points(scene, "stays", lineage=True) == [(0, 0), (1, 1), (2, 102)]
        assert points(scene, "moved") == [(0, 0), (1, 401)]
        assert arrived(scene.neptune.store.run(PROJECT, "torn")).values["wandb/state"][1] == "crashed"
        skips = {(skip["reason"], skip["count"]) for skip in scene.migrate.status()["skips"]}
        assert skips == {("overwritten", 1 + 2 + 1), ("unreadable", 1)}
    for run in online.neptune.store.runs():
        other: neptune_store.Run = offline.neptune.store.run(PROJECT, run.run_id)
        assert differences(arrived(run), arrived(other)) == []
    for run_id, reason in {"copied": COPY, "joined": ASSUMED, "stays": INHERITED, "torn": OF_ROWS}.items():
        assert reason in {note["reason"] for note in online.migrate.status(run_id)["notes"]}
