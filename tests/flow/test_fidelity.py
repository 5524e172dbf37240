"""Everything that a migration can stumble over, as W&B serves it in each of its ways: the mapping says what arrives.

`tests.flow.expected` is the mapping; `tests.servers.wandb_data.hostile_runs` says what the runs hold.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.flow.conftest import Scene, SetScene
from tests.flow.expected import Options, content_of
from tests.servers.wandb_data import Mode, Project, hostile_runs, hostile_sweeps


def skips_expected(scene: Scene, options: Options) -> Counter[tuple[str, str]]:
    (project,) = scene.wandb.entities["team"].projects
    counts: Counter[tuple[str, str]] = Counter()
    for run in project.runs:
        counts += content_of(run, project, scene.wandb.url, options).skips
    return counts


def skips_told(status: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(group["part"], group["reason"]): group["count"] for group in status["skips"]}


@pytest.mark.parametrize("mode", ["parquet", "live", "mixed"])
def test_hostile_runs_arrive_as_the_mapping_says_and_every_skip_is_counted(set_scene: SetScene, mode: Mode) -> None:
    scene = set_scene(Project("hostile_runs", hostile_runs(mode), hostile_sweeps()))
    options = Options(artifacts=True)
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--include", "artifacts")
    assert scene.differences(options) == []
    status = scene.migrate.status()
    assert skips_told(status) == skips_expected(scene, options)
    assert sum(status["runs"].values()) == 2 * status["runs"]["done"]
    for part in status["parts"].values():
        assert part["read"] == part["written"] + part["skipped"]


def test_options_change_the_mapping_as_they_say_and_strict_tells_of_skips(set_scene: SetScene) -> None:
    wanted = {"numbers", "many-types", "keys", "private", "config", "files", "streams", "media"}
    runs = [run for run in hostile_runs("mixed") if run.id in wanted]
    scene = set_scene(Project("hostile", runs))
    options = Options(private=True, stringify=True, namespace="wandb-metrics", max_file_bytes=1999)
    arguments = ["--include-private", "--stringify-config", "--metrics-namespace", "wandb-metrics"]
    scene.migrate.succeed("inventory")
    assert scene.migrate.run("run", *arguments, "--max-file-size", "1999", "--strict").exit_code == 3
    assert scene.differences(options) == []
    assert skips_told(scene.migrate.status()) == skips_expected(scene, options)
