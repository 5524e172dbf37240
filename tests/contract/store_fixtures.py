"""A fresh state database for each test, on SQLite and on PostgreSQL; and what other processes do to it.

PostgreSQL is used when MIGRATE_TEST_POSTGRES holds the URL of a server on which databases may be made.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pytest
from sqlalchemy import create_engine, make_url, text

from migrations_db import Phase, Store, open_store
from migrations_db.types import WorkerInfo

SERVER = os.environ.get("MIGRATE_TEST_POSTGRES")
BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with tables and no rows, to be copied: Alembic runs once, not for each test."""
    path = tmp_path_factory.mktemp("empty") / "state.db"
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def empty_database() -> Iterator[str]:
    """The same on the PostgreSQL server: the name of a template."""
    with fresh_database() as url:
        open_store(url).close()
        yield make_url(url).database or ""


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with tables and no rows."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "state.db")
        yield f"sqlite:///{tmp_path}/state.db"
    else:
        need_server()
        with fresh_database(request.getfixturevalue("empty_database")) as url:
            yield url


@pytest.fixture(params=BOTH)
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/blank.db"
    else:
        need_server()
        with fresh_database() as url:
            yield url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def need_server() -> None:
    if not SERVER:
        pytest.skip("MIGRATE_TEST_POSTGRES is not set")


class fresh_database:
    """A new database on the server, dropped at the end."""

    def __init__(self, template: str = "template1") -> None:
        self.name, self.template = f"migrate_{uuid.uuid4().hex}", template

    def __enter__(self) -> str:
        assert SERVER is not None
        self._admin(f"CREATE DATABASE {self.name} TEMPLATE {self.template}")
        return make_url(SERVER).set(database=self.name).render_as_string(hide_password=False)

    def __exit__(self, *exc: object) -> None:
        self._admin(f"DROP DATABASE {self.name} WITH (FORCE)")

    @staticmethod
    def _admin(statement: str) -> None:
        assert SERVER is not None
        engine = create_engine(SERVER, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


def register(store: Store, worker_id: str = "w1", host: str = "here", pid: int = 1) -> str:
    store.workers.register(WorkerInfo(worker_id, host, pid, 1000.0))
    return worker_id


T = TypeVar("T")


def eventually(ask: Callable[[], T | None], timeout_s: float = 10.0) -> T:
    """The first answer that is not None, false or empty."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if answer := ask():
            return answer
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def claim_all(url: str, name: str, threads: int) -> list[str]:
    """What one process with several workers claims, until there is nothing left."""
    store = open_store(url)
    claimed: list[str] = []

    def work(worker_id: str) -> None:
        register(store, worker_id)
        while claim := store.claim(worker_id, Phase.COPY, 60):
            claimed.append(claim.run_id)
            store.complete(claim, [])

    workers = [Thread(target=work, args=(f"{name}-{n}",)) for n in range(threads)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    store.close()
    return claimed


def open_and_begin(url: str) -> int:
    """What a command does first."""
    store = open_store(url)
    invocation = store.begin_invocation("run", "here", os.getpid(), "1.0")
    store.close()
    return invocation
