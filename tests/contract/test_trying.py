"""Whether a state database can be kept in a place, before there is one."""
# ruff: noqa: F811 - fixtures are imported, and named by tests

from __future__ import annotations

from pathlib import Path

import pytest

from migrations_db import StateError, StateMissing, StateReadOnly, open_store, try_place
from tests.contract.store_fixtures import blank_url, empty_database, empty_file, url  # noqa: F401
from tests.disks import fill, small_disk


def test_a_database_that_is_there_is_left_as_it_is(url: str) -> None:
    tried = try_place(url)
    assert tried.is_there
    assert tried.address in url
    assert open_store(url, create=False).inventory.projects() == []


def test_nothing_is_made_where_there_is_none(blank_url: str, tmp_path: Path) -> None:
    assert not try_place(blank_url).is_there
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StateMissing):
        open_store(blank_url, create=False)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/sys/migration.db", "cannot be written"),
        ("/nowhere/migration.db", "no directory /nowhere"),
        (".", "directory"),
    ],
)
def test_a_place_that_cannot_have_one_is_told(place: str, words: str) -> None:
    with pytest.raises(StateError, match=words):
        try_place(place)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk, 4096)
        with pytest.raises(StateError, match="No space left"):
            try_place(disk / "migration.db")


@pytest.mark.postgres
@pytest.mark.parametrize("fault", ["read-only", "no right"])
def test_a_server_where_nothing_may_be_made_is_told(blank_url: str, fault: str) -> None:
    if "postgresql" not in blank_url:
        pytest.skip("of PostgreSQL")
    if fault == "read-only":
        blank_url += "?options=-c%20default_transaction_read_only%3Don"
    else:
        blank_url += "?options=-c%20role%3Dpg_monitor%20-c%20search_path%3Dpg_catalog"
    with pytest.raises(StateReadOnly):
        try_place(blank_url)
