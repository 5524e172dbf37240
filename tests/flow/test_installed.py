"""The `migrate` that MIGRATE_TEST_COMMAND names has only what a plain install brings, and does the main jobs with it.

Marked `installed`: CI runs these against the lowest and the newest versions that pyproject.toml allows.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.command import VARIABLE
from tests.flow.conftest import SetScene
from tests.servers.wandb_data import Mode, Run, sample_runs

pytestmark = pytest.mark.installed

#: Prints the distributions of an environment that the plain requirements of wandb-to-neptune do not lead to. It runs in
#: that environment; `packaging` is known to be there, since wandb requires it.
UNREACHED = """
import json, re
from importlib.metadata import distributions
from packaging.requirements import Requirement

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

installed = {canonical(found.metadata["Name"]): found for found in distributions()}
seen, ahead = set(), [("wandb-to-neptune", "")]
while ahead:
    name, extra = ahead.pop()
    if (name, extra) in seen or name not in installed:
        continue
    seen.add((name, extra))
    for requirement in map(Requirement, installed[name].requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            ahead += [(canonical(requirement.name), each) for each in ("", *requirement.extras)]
print(json.dumps(sorted(set(installed) - {name for name, _ in seen})))
"""
INSTALLERS = {"pip", "setuptools", "wheel"}


def test_the_driven_environment_has_only_what_a_plain_install_brings(tmp_path: Path) -> None:
    driven = os.environ.get(VARIABLE)
    if not driven:
        pytest.skip(f"{VARIABLE} names no other environment")
    python = str(Path(driven).with_name("python"))
    told = subprocess.run([python, "-I", "-c", UNREACHED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(json.loads(told.stdout)) - INSTALLERS == set()


def runs_of_all_modes() -> list[Run]:
    """W&B serves the histories as Parquet files, as rows, and as both."""
    runs = sample_runs(3, steps=20, files=1)
    modes: tuple[Mode, ...] = ("parquet", "live", "mixed")
    for run, mode in zip(runs, modes, strict=True):
        run.mode = mode
    return runs


def test_runs_of_the_api_arrive(set_scene: SetScene) -> None:
    scene = set_scene(runs_of_all_modes())
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run")
    assert scene.differences() == []


def test_runs_of_the_api_arrive_by_way_of_offline_files(set_scene: SetScene) -> None:
    scene = set_scene(runs_of_all_modes())
    scene.migrate.succeed("inventory", NEPTUNE_API_TOKEN=None, NEPTUNE_PROJECT=None)
    scene.migrate.succeed("run", "--mode", "offline", NEPTUNE_API_TOKEN=None, NEPTUNE_PROJECT=None)
    scene.migrate.succeed("sync", "--neptune-workspace", "team", NEPTUNE_PROJECT=None)
    assert scene.differences() == []
