"""Fork points of runs at W&B: they are in the config, which the listing asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from migrator.listed import SourceProject
from migrator.records import Fork
from migrator.sources.base import RunFilter
from migrator.sources.wandb.listing import WandbApiSource
from migrator.sources.wandb_facts import Branch, branch_of_config
from tests.servers.wandb_data import EPOCH_S, Entity, Project, Run, iso, light_runs
from tests.servers.wandb_server import API_KEY, WandbServer

ANY = RunFilter()


def forked(run_id: str, parent: str, second: int, **more: Any) -> Run:
    point = {"branch_point": {"run_id": parent, "step": 7}}
    return Run(run_id, config={"lr": 1, "_wandb": point}, created_at=iso(EPOCH_S + second), **more)


RUNS = [
    Run("parent"),
    forked("child", "parent", 1, tags=["t"]),
    forked("rewound", "rewound", 2),
    forked("orphan", "gone", 3),
    Run("odd", config={"_wandb": {"branch_point": [1]}}, created_at=iso(EPOCH_S + 4)),
]
LONG = [Run(f"r{n}", config={"text": "x" * 100_000}, created_at=iso(EPOCH_S + 999 + n)) for n in range(70)]
PROJECTS = {"forks": RUNS, "longer": [*light_runs(450), *LONG]}


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with WandbServer(Entity("team", [Project(name, runs) for name, runs in PROJECTS.items()])) as server:
        yield server


@pytest.fixture(scope="module")
def source(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbApiSource]:
    with ExitStack() as stack:
        made = WandbApiSource(server.url, API_KEY, tmp_path_factory.mktemp("wandb"))
        stack.callback(made.close)
        yield made


def test_a_fork_point_is_in_the_config_and_a_rewind_or_a_lost_parent_is_no_fork(
    source: WandbApiSource, tmp_path: Path
) -> None:
    project = SourceProject("team", "forks", "")
    found = {listing.run_id: listing.fork for listing in source.runs(project, ANY)}
    assert found == {"parent": None, "child": Fork("parent", 7), "rewound": None, "orphan": None, "odd": None}
    assert [listing.fork for listing in source.runs(project, RunFilter(tags=["t"]))] == [None]


def test_pages_of_long_configs_are_shorter(source: WandbApiSource, server: WandbServer) -> None:
    before = server.log.count("Runs")
    assert len(list(source.runs(SourceProject("team", "longer", ""), ANY))) == 520
    assert server.log.count("Runs") - before == 2


@pytest.mark.parametrize(
    ("config", "branch"),
    [
        ({"_wandb": {"branch_point": {"run_id": "p", "step": 3}}}, Branch(Fork("p", 3))),
        ({"_wandb": {"value": {"branch_point": {"run_id": "p", "step": 2.5}}}}, Branch(Fork("p", 2.5))),
        ({"_wandb": {"value": {"branch_point": {"run_id": "r", "step": 3}}}}, Branch(rewound_to=3)),
        ({"_wandb": {"branch_point": {"run_id": "p", "step": None}}}, Branch()),
        ({"_wandb": {"branch_point": {"step": 3}}}, Branch()),
        ({"_wandb": [1]}, Branch()),
        ({"branch_point": {"run_id": "p", "step": 3}}, Branch()),
        (None, Branch()),
    ],
)
def test_a_branch_point_is_a_fork_of_another_run_or_a_rewind_of_its_own(config: Any, branch: Branch) -> None:
    assert branch_of_config("r", config) == branch
