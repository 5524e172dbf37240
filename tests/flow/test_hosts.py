"""Several hosts on one PostgreSQL database: `migrate run` on each, in its own UTS and PID namespace.

PostgreSQL is used when MIGRATE_TEST_POSTGRES holds the URL of a server on which databases may be made.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from migrations_db import Store, open_store
from migrations_db.errors import StateUnreachable
from migrations_db.types import WorkerInfo
from tests.contract.store_fixtures import fresh_database, need_server
from tests.flow.conftest import Migrate, Scene, SetScene, wait_until
from tests.servers.relay import Relay
from tests.servers.wandb_data import sample_runs

pytestmark = pytest.mark.postgres

RUNS = 40
LEASE_S = 10  # heartbeats come every 5 s
NAMESPACES = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
WITH_NAME = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
ASLEEP_SOON = "?options=-c%20idle_in_transaction_session_timeout%3D300"


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of an empty database."""
    need_server()
    command = [*NAMESPACES, sys.executable, "-c", WITH_NAME, "name", "/bin/true"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"namespaces cannot be made here: {getattr(error, 'stderr', error)!r}")
    with fresh_database() as url:
        yield url


class Hosts:
    """Commands of one scene on hosts of their own, with nothing in common but the database and the network."""

    def __init__(self, scene: Scene, url: str, directory: Path) -> None:
        self._scene, self._directory = scene, directory
        self._environment = scene.migrate.environment | {"MIGRATE_DB": url, "MIGRATE_LEASE_S": str(LEASE_S)}
        self._engine = create_engine(url)
        self._made: list[Migrate] = []

    def make(self, name: str) -> Migrate:
        host = Migrate(self._directory / f"host-{len(self._made)}", self._scene.migrate.secrets)
        host.environment = self._environment | {"TMPDIR": str(host.temporary)}
        host.prefix = [*NAMESPACES, sys.executable, "-c", WITH_NAME, name]
        self._made.append(host)
        return host

    def ask(self, query: str) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(text(query)))

    def busy(self) -> int:
        """How many hosts have claims."""
        return len(self.ask("SELECT DISTINCT host FROM worker JOIN run ON run.claimed_by = worker.id"))

    def done(self) -> int:
        return int(self.ask("SELECT count(*) FROM run WHERE status = 'done'")[0][0])

    def close(self) -> None:
        self._engine.dispose()
        wait_until(lambda: not any(host.processes() for host in self._made), "all processes of the hosts to end")
        assert [leak for host in self._made for leak in host.leaks()] == []


@pytest.fixture
def scene(set_scene: SetScene) -> Scene:
    """Runs that take two seconds each, eight at a time on each host: so there is some for all."""
    return set_scene(sample_runs(RUNS, steps=10, files=1), processing_delay_s=(2.0, 2.0))


@pytest.fixture
def hosts(scene: Scene, database: str, tmp_path: Path) -> Iterator[Hosts]:
    """After the inventory."""
    hosts = Hosts(scene, database, tmp_path)
    hosts.make("lister").succeed("inventory")
    yield hosts
    hosts.close()


def test_hosts_share_the_runs_and_copy_each_once(scene: Scene, hosts: Hosts) -> None:
    commands = [hosts.make(name).start("run") for name in ("alpha", "beta", "gamma")]
    wait_until(lambda: hosts.busy() == 3, "all hosts to work")
    scene.neptune.store.processing_delay_s = (0.0, 0.0)
    assert [command.wait().exit_code for command in commands] == [0, 0, 0]
    assert scene.differences() == []
    assert scene.neptune.store.duplicates_offered == 0
    attempts = hosts.ask("SELECT split_part(worker, ':', 1), outcome, count(*) FROM attempt GROUP BY 1, 2")
    assert {host for host, _, _ in attempts} == {"alpha", "beta", "gamma"}
    assert {outcome for _, outcome, _ in attempts} == {"done"}
    assert sum(count for _, _, count in attempts) == RUNS


@pytest.mark.parametrize("names", [("alpha", "beta"), ("same", "same")], ids=["two names", "one name"])
def test_claims_of_a_host_that_died_are_taken_over_when_their_leases_end(
    scene: Scene, hosts: Hosts, names: tuple[str, str]
) -> None:
    dying, other = (hosts.make(name).start("run") for name in names)
    wait_until(lambda: hosts.busy() == 2, "both hosts to work")
    dying.kill_group()
    scene.neptune.store.processing_delay_s = (0.0, 0.0)
    assert other.wait().exit_code == 0
    assert scene.differences() == []
    taken_over = hosts.ask(
        "SELECT extract(epoch FROM attempt.ended_at - worker.heartbeat_at) "
        "FROM attempt JOIN worker ON worker.id = attempt.worker WHERE outcome = 'lost'"
    )
    assert taken_over
    assert min(seconds for (seconds,) in taken_over) >= LEASE_S


@pytest.fixture
def relay(database: str) -> Iterator[Relay]:
    """Between the commands and the database."""
    url = make_url(database)
    with Relay(url.host or "", url.port or 5432) as relay:
        yield relay


def through(relay: Relay, database: str) -> str:
    return make_url(database).set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)


def test_a_database_that_restarts_costs_no_run_and_no_attempt(
    scene: Scene, database: str, relay: Relay, hosts: Hosts
) -> None:
    scene.neptune.store.processing_delay_s = (0.2, 0.2)
    scene.migrate.environment["MIGRATE_DB"] = through(relay, database)
    running = scene.migrate.start("run")
    for enough in (5, 15, 25):
        wait_until(lambda enough=enough: hosts.done() >= enough, "runs to be done", running)
        relay.cut()
        time.sleep(2.0)
        relay.mend()
    ended = running.wait()
    assert ended.exit_code == 0, ended.stderr
    assert "does not answer" in ended.stderr
    assert scene.differences() == []
    assert hosts.ask("SELECT count(*) FROM run WHERE status <> 'done' OR failures > 0") == [(0,)]


@pytest.mark.parametrize(
    "silence_s", [0.0, pytest.param(2.5, marks=pytest.mark.heavy)], ids=["between two looks", "during a look"]
)
def test_a_database_that_falls_silent_does_not_keep_a_command_from_being_stopped(
    scene: Scene, database: str, relay: Relay, hosts: Hosts, silence_s: float
) -> None:
    scene.migrate.environment["MIGRATE_DB"] = through(relay, database)
    running = scene.migrate.start("run")
    wait_until(lambda: hosts.busy() == 1, "runs to be copied", running)
    relay.fall_silent()
    time.sleep(silence_s)
    began_at = time.monotonic()
    running.send(signal.SIGTERM)
    ended = running.wait()
    assert ended.exit_code == 143, ended.stderr
    assert time.monotonic() - began_at < 20
    wait_until(lambda: not scene.migrate.processes(), "its processes to end")
    relay.mend()
    scene.neptune.store.processing_delay_s = (0.0, 0.0)
    scene.migrate.succeed("run")
    assert scene.differences() == []


@pytest.fixture
def stores(database: str) -> Iterator[tuple[Store, Store]]:
    """One whose transactions may not sleep long, and an ordinary one."""
    ordinary, brisk = (open_store(f"{database}{options}") for options in ("", ASLEEP_SOON))
    with closing(brisk), closing(ordinary):
        yield brisk, ordinary


def sleep_in_a_transaction(asleep: Store, awake: Store) -> None:
    with asleep._database.write() as connection:
        connection.execute(text("SELECT * FROM worker FOR UPDATE"))
        assert awake.workers.heartbeat("worker", LEASE_S) == {}
        connection.execute(text("SELECT 1"))


def test_who_falls_asleep_in_a_transaction_does_not_hold_up_the_others(stores: tuple[Store, Store]) -> None:
    asleep, awake = stores
    awake.workers.register(WorkerInfo("worker", "here", 1, 1.0))
    with pytest.raises(StateUnreachable, match="timeout"):
        sleep_in_a_transaction(asleep, awake)
    with awake._database.read() as connection:
        assert connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar() == "20s"


def test_reports_may_be_paged_through_slowly(stores: tuple[Store, Store]) -> None:
    reader, other = stores
    with reader._database.browse() as page, other._database.read() as connection:
        page.execute(text("SELECT 1"))
        connection.execute(text("SELECT pg_sleep(1)"))
        page.execute(text("SELECT 1"))
