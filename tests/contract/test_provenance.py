"""A run that Neptune has already: a copy of the same source is gone on with, anybody else's is left as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from migrator.destinations.base import Destination, RunTarget
from migrator.destinations.neptune.answers import CREATED
from migrator.errors import ErrorClass, Rejected
from migrator.records import Assign, AssignFile, Fork, Points, Record
from tests.contract.neptune_places import (
    START,
    START_US,
    OfflinePlace,
    OnlinePlace,
    connected,
    local_file,
    offline_place,
    online_place,
    safe_place,
    seen_on_server,
    target,
)

__all__ = ["connected", "offline_place", "online_place", "safe_place"]  # fixtures

OURS, THEIRS = (f"https://wandb.test/{entity}/demo/runs/r1" for entity in ("me", "them"))


def write(destination: Destination, target: RunTarget, *records: Record) -> str | None:
    """As the pipeline does it; returns the position."""
    with destination.open_run(target, None) as run:
        run.identify()
        provenance: list[Record] = [Assign({"migration/source_url": target.source_url})] if target.source_url else []
        run.write([*provenance, *records])
        barrier = run.flush()
        barrier.wait()
        return barrier.position


def our_point() -> Points:
    return Points(7, START_US, {"loss": 7.0})


def a_copy_of_theirs(place: OnlinePlace, tmp_path: Path) -> None:
    file = AssignFile("files/a", local_file(tmp_path / "a", b"theirs"))
    write(place.destination, target(source_url=THEIRS), Points(1, START_US, {"loss": 1.0}), file)


def a_run_that_somebody_made(place: OnlinePlace, tmp_path: Path) -> None:
    write(place.destination, target(created_at=START + timedelta(seconds=1)), Points(1, START_US, {"loss": 1.0}))


def by_the_api(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    write(request.getfixturevalue("online_place").destination, target(source_url=OURS), our_point())


def by_the_safe_client(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    write(request.getfixturevalue("safe_place").destination, target(source_url=OURS), our_point())


def by_upload(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place: OfflinePlace = request.getfixturevalue("offline_place")
    file = AssignFile("files/a", local_file(tmp_path / "a", b"ours"))
    write(place.offline, target(source_url=OURS), our_point(), file)
    place.read()


WAYS = [by_the_api, by_the_safe_client, by_upload]
Way = Callable[[pytest.FixtureRequest, Path], None]


@pytest.mark.parametrize("there", [a_copy_of_theirs, a_run_that_somebody_made])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_not_a_copy_of_the_same_source_is_left_as_it_is(
    request: pytest.FixtureRequest, tmp_path: Path, way: Way, there: Callable[[OnlinePlace, Path], None]
) -> None:
    online: OnlinePlace = request.getfixturevalue("online_place")
    there(online, tmp_path)
    before = seen_on_server(online.server)
    for _ in range(1 if way is by_upload else 2):  # the second attempt knows no more than the first
        with pytest.raises(Rejected, match=r"has a run r1 already.*--project-map") as caught:
            way(request, tmp_path)
        assert caught.value.error_class is ErrorClass.REJECTED_BY_NEPTUNE
        assert (THEIRS in str(caught.value)) is (there is a_copy_of_theirs)
    assert seen_on_server(online.server) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_that_another_state_database_began_is_gone_on_with(
    request: pytest.FixtureRequest, tmp_path: Path, way: Way
) -> None:
    online: OnlinePlace = request.getfixturevalue("online_place")
    assert write(online.destination, target(source_url=OURS), Points(1, START_US, {"loss": 1.0})) == CREATED
    way(request, tmp_path)
    assert [step for step, _, _ in seen_on_server(online.server).series["loss"]] == [1, 7]


@pytest.mark.parametrize("fork", [None, Fork("parent", 1.0)])
def test_an_attempt_that_ended_behind_the_creation_is_gone_on_with(online_place: OnlinePlace, fork: Any) -> None:
    with online_place.destination.open_run(target(source_url=OURS), None) as run:
        run.flush().wait()
    write(online_place.destination, replace(target(source_url=OURS), fork=fork), our_point())
    assert [step for step, _, _ in seen_on_server(online_place.server).series["loss"]] == [7]


def test_a_new_run_is_not_asked_about(online_place: OnlinePlace) -> None:
    write(online_place.destination, target(source_url=OURS), our_point())
    assert online_place.server.log.count("search_runs") == 0
