"""A loopback W&B server for each module, and the API source on it or on a server of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import stamina

from migrator.listed import RunRef
from migrator.sources.wandb.listing import WandbApiSource
from migrator.sources.wandb.run import WandbRun
from tests.contract.api_source import Make
from tests.servers.wandb_data import (
    Entity,
    Project,
    Run,
    world,
)
from tests.servers.wandb_server import API_KEY, WandbServer


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Our own retries without their pauses (wandb-core's stay)."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with WandbServer(world("sample:3,hostile:parquet,hostile:live,hostile:mixed")) as server:
        yield server
        assert not server.unknown
        assert not server.errors
        assert not server.mutations, "nothing is ever written to W&B"


@pytest.fixture(scope="module")
def source(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbApiSource]:
    source = WandbApiSource(server.url, API_KEY, tmp_path_factory.mktemp("wandb"))
    yield source
    source.close()


@pytest.fixture
def make(source: WandbApiSource, tmp_path: Path) -> Iterator[Make]:
    """A server of the test's own, and a source for it (that shares the module's wandb-core)."""
    with ExitStack() as stack:

        def start(*runs: Run, project: str = "p", server: type[WandbServer] = WandbServer, **more: Any) -> Any:
            entities = more.pop("entities", None) or [Entity("team", [Project(project, list(runs))])]
            started = stack.enter_context(server(*entities, **more))
            made = WandbApiSource(started.url, API_KEY, tmp_path / "w")
            stack.callback(made.close)
            return started, made

        yield start


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., WandbRun]]:
    with ExitStack() as stack:
        numbers = itertools.count()

        def open_run(source: WandbApiSource, run_id: str, project: str = "p", entity: str = "team") -> WandbRun:
            run = source.open_run(RunRef(entity, project, run_id), tmp_path / f"scratch{next(numbers)}")
            return stack.enter_context(run)

        yield open_run
