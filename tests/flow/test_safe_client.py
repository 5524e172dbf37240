"""`migrate run --safe-client`: the whole job through the public API of Neptune's client."""

from __future__ import annotations

from itertools import cycle

import pytest

from tests.flow.conftest import SetScene, wait_until
from tests.servers.wandb_data import Mode, sample_runs

MODES: tuple[Mode, ...] = ("parquet", "live", "mixed")


@pytest.mark.heavy
def test_runs_arrive_as_they_were_although_the_job_is_killed_in_the_middle(set_scene: SetScene) -> None:
    runs = sample_runs(4, steps=30)
    for run, mode in zip(runs, cycle(MODES), strict=False):
        run.mode = mode
    scene = set_scene(runs, processing_delay_s=(0.0, 0.1))
    scene.migrate.succeed("inventory")
    killed = scene.migrate.start("run", MIGRATE_SAFE_CLIENT="true")
    wait_until(lambda: scene.neptune.log.count("submit") > 8, "some to be sent", killed)
    killed.kill_group()
    left = scene.migrate.status()["runs"]
    assert left["pending"] + left["running"] > 0
    assert scene.migrate.succeed("run", "--safe-client", "--json").json["runs"]["done"] == 4
    assert scene.differences() == []
    parts = scene.migrate.status()["parts"].values()
    assert all(part["read"] == part["written"] > 0 == part["skipped"] for part in parts)


def test_offline_files_need_no_safe_client(set_scene: SetScene) -> None:
    ended = set_scene([]).migrate.run("run", "--safe-client", "--mode", "offline")
    assert ended.exit_code == 2
    assert "--safe-client is for --mode online" in ended.stderr
