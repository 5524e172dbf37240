"""What goes wrong on a person's side: the exit code, and a message that names the thing, the cause and what to do.

Wrong options are in tests/unit/test_wrong_inputs.py, which starts no processes for them. `Migrate.run` looks for
tracebacks and keys in whatever a command says, the scene for keys in every file at the end.
"""

from __future__ import annotations

import json
import os
import sqlite3
from base64 import b64encode
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from migrator.destinations.neptune.answers import FORK_KEPT
from tests.contract.local_source import EXIT, Directories, record, row, start
from tests.disks import fill, remount, small_disk
from tests.flow.conftest import NEPTUNE_KEY, WANDB_KEY, Ended, Migrate, SetScene, wait_until
from tests.servers.http import Fault
from tests.servers.neptune_server import api_token
from tests.servers.wandb_data import Project, sample_runs

NOBODY = "http://127.0.0.1:9"  # a port where nothing listens
PASSWORD = "5ec2e7-password"


@pytest.fixture
def migrate(tmp_path: Path) -> Migrate:
    """The command without servers."""
    return Migrate(tmp_path, [WANDB_KEY, PASSWORD], WANDB_API_KEY=WANDB_KEY, WANDB_BASE_URL=NOBODY)


def assert_complains(ended: Ended, exit_code: int, *words: str) -> None:
    """It ended with the code, and said all of the words on stderr (whose lines may be wrapped)."""
    said = " ".join(ended.stderr.split())
    assert ended.exit_code == exit_code, f"{ended.exit_code}: {said}"
    assert [word for word in words if word not in said] == [], said


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("db", ["postgresql://me:s3cr3t@part@host/db", "host=here password=s3cr3t@part"])
def test_a_database_that_cannot_be_read_is_not_shown_with_its_password(migrate: Migrate, db: str) -> None:
    migrate.secrets.append("part")
    assert_complains(migrate.run("status", "--db", db), 7, "--db", "%40")


def test_a_name_with_escape_sequences_does_nothing_to_the_terminal(migrate: Migrate) -> None:
    ended = migrate.run("inventory", "--local", "gone\x1b[2J")
    assert_complains(ended, 2, "gone\\x1b[2J")
    assert "\x1b" not in ended.stderr


@pytest.mark.parametrize("address", [f"http://me:{PASSWORD}@127.0.0.1:9", f"http://{PASSWORD}@127.0.0.1:9/api"])
def test_an_address_of_wandb_with_a_password_is_refused_without_showing_it(
    migrate: Migrate, tmp_path: Path, address: str
) -> None:
    assert_complains(migrate.run("inventory", WANDB_BASE_URL=address), 2, "WANDB_BASE_URL", "password", "WANDB_API_KEY")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()] == []


# ---------------------------------------------------------------- the state database


@pytest.mark.parametrize("command", ["run --mode offline", "sync --neptune-workspace team", "status"])
def test_without_a_database_a_command_says_how_to_begin(migrate: Migrate, command: str) -> None:
    assert_complains(migrate.run(*command.split(), NEPTUNE_API_TOKEN="x"), 7, "migration.db", "migrate inventory")
    assert "migration.db" not in migrate.files()


@pytest.mark.parametrize(
    ("db", "words"),
    [
        (".", ["directory"]),
        ("no/such/place.db", ["no/such", "--db"]),
        ("mysql://me:5ec2e7-password@host/x", ["mysql", "postgresql"]),
        pytest.param(
            "postgresql+psycopg://me:5ec2e7-password@127.0.0.1:9/x",
            ["127.0.0.1", "does not answer", "--db"],
            marks=pytest.mark.postgres,  # the driver is not in a plain install
        ),
    ],
)
def test_a_place_that_can_hold_no_database_is_told_without_its_password(
    migrate: Migrate, db: str, words: list[str]
) -> None:
    assert_complains(migrate.run("status", "--db", db), 7, *words)


def test_a_database_that_is_damaged_newer_locked_or_foreign_is_told_and_left_alone(migrate: Migrate) -> None:
    place = Directories(migrate.directory)
    place.add(start(), row(0, x=1.5), record(**EXIT))
    migrate.succeed("inventory", "--local", ".")
    database = migrate.directory / "migration.db"

    locked = sqlite3.connect(database, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    url = f"sqlite:///{database}?timeout=0.2"
    assert_complains(migrate.run("inventory", "--local", ".", "--db", url), 7, "migration.db", "locked", "same command")
    locked.close()

    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert_complains(migrate.run("status"), 7, "migration.db", "newer version", "upgrade")

    whole = database.read_bytes()
    for damage in (b"not a database at all" * 100, whole[:2048] + b"\xff" * (len(whole) - 2048)):
        database.write_bytes(damage)
        assert_complains(migrate.run("status"), 7, "migration.db", "damaged", "--db")
        assert database.read_bytes() == damage

    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert_complains(migrate.run("inventory", "--local", "."), 7, "migration.db", "theirs", "--db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_database_that_may_not_be_read_or_written_is_told(migrate: Migrate) -> None:
    Directories(migrate.directory).add(start(), row(0, x=1.5), record(**EXIT))
    migrate.succeed("inventory", "--local", ".")
    database = migrate.directory / "migration.db"
    for mode in (0o000, 0o400):
        database.chmod(mode)
        assert_complains(migrate.run("inventory", "--local", "."), 7, "migration.db", "--db")


# ---------------------------------------------------------------- disks

#: nothing is lost, and no run is at fault: when there is room, the same command goes on
NO_ROOM = ["no space left", "Free some space", "same command"]


def local_runs(migrate: Migrate, count: int, rows: int) -> None:
    place = Directories(migrate.directory)
    for number in range(count):
        records = [row(step, x=step / 2, text=f"{step} " * 20) for step in range(rows)]
        place.add(start(run_id=f"r{number}"), *records, record(**EXIT), run_id=f"r{number}")


def assert_finishes(migrate: Migrate, count: int, *run: str | Path) -> None:
    done = {"pending": 0, "running": 0, "done": count, "failed": 0, "skipped": 0, "total": count}
    assert migrate.succeed("run", *run, "--json").json["runs"] == done


def test_a_full_disk_for_offline_files_stops_the_job_before_run_after_run_fails(migrate: Migrate) -> None:
    local_runs(migrate, count=6, rows=1000)
    migrate.succeed("inventory", "--local", ".")
    with small_disk(migrate.directory / "disk", "600k") as disk:
        run = ["--mode", "offline", "--offline-dir", str(disk)]
        assert_complains(migrate.run("run", *run), 1, *NO_ROOM, str(disk))
        status = migrate.status()
        assert (status["runs"]["failed"], status["failures"]) == (0, [])
        assert status["runs"]["pending"] > 0
        remount(disk, "size=32m")
        assert_finishes(migrate, 6, *run)


@pytest.mark.heavy
def test_a_full_disk_for_scratch_files_stops_the_job_before_run_after_run_fails(set_scene: SetScene) -> None:
    runs = sample_runs(3, steps=2, files=1)
    for one in runs:
        one.files = {"large.bin": b"x" * 3_000_000}
    scene = set_scene(runs)
    scene.migrate.succeed("inventory")
    with small_disk(scene.migrate.directory / "disk", "2m") as disk:
        assert_complains(scene.migrate.run("run", "--work-dir", disk), 1, *NO_ROOM, "large.bin", "--work-dir")
        assert scene.migrate.status()["failures"] == []
        assert list(disk.iterdir()) == []
        remount(disk, "size=32m")
        scene.migrate.succeed("run", "--work-dir", disk)
    assert scene.differences() == []


def test_a_state_database_whose_disk_fills_up_or_may_only_be_read_ends_with_7(migrate: Migrate) -> None:
    local_runs(migrate, count=12, rows=20)
    with small_disk(migrate.directory / "disk", "4m") as disk:
        db = str(disk / "migration.db")
        migrate.succeed("inventory", "--local", ".", "--db", db)
        run = ["--mode", "offline", "--db", db]
        for left_bytes in (100_000, 0):  # full in the middle of the job, and before it begins
            filler = fill(disk, left_bytes)
            assert_complains(migrate.run("run", *run), 7, "No space left", "migration.db", "same command")
            filler.unlink()
        logs = (migrate.directory / "migration-logs").iterdir()
        assert any("attempt 1 begins" in path.read_text() for path in logs)  # the first of the two came so far
        remount(disk, "ro")
        assert_complains(migrate.run("run", *run), 7, "migration.db", "--db")
        remount(disk, "rw")
        assert migrate.status("--db", db)["failures"] == []
        assert_finishes(migrate, 12, *run)


def test_a_directory_that_may_only_be_read_is_told(migrate: Migrate) -> None:
    with small_disk(migrate.directory, "8m") as here:
        local_runs(migrate, count=1, rows=2)
        remount(here, "ro")
        for db in ("migration.db", str(migrate.temporary / "migration.db")):
            ended = migrate.run("inventory", "--local", ".", "--db", db)
            assert_complains(ended, 1, "migration-logs", "cannot be written", "Read-only", "another directory")


@pytest.mark.heavy
def test_a_state_database_that_somebody_locks_for_long_ends_the_job_with_7_and_loses_nothing(
    set_scene: SetScene,
) -> None:
    scene = set_scene(sample_runs(12, steps=2, files=1), processing_delay_s=(0.3, 0.6))
    migrate, db = scene.migrate, scene.migrate.directory / "migration.db"
    migrate.succeed("inventory")
    running = migrate.start("run", "--db", f"sqlite:///{db}?timeout=1")
    wait_until(lambda: scene.neptune.log.count("submit") > 5, "some runs to be under way", running)
    with closing(sqlite3.connect(db, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_complains(running.wait(), 7, "migration.db", "locked", "same command")
    migrate.succeed("run")
    assert migrate.status()["failures"] == []
    assert scene.differences() == []


# ---------------------------------------------------------------- local runs


def test_a_torn_log_is_copied_as_far_as_it_is_whole_and_the_loss_is_told(migrate: Migrate) -> None:
    place = Directories(migrate.directory)
    torn = place.add(start(run_id="torn"), *(row(step, x=step / 2) for step in range(50)), run_id="torn")
    log = torn / "run-torn.wandb"
    log.write_bytes(log.read_bytes()[:-10])
    os.utime(log, (1_700_000_000, 1_700_000_000))  # long ended: a log that still grows is often torn for a moment
    place.add(run_id="void")
    told = migrate.succeed("inventory", "--local", ".").stdout
    for words in ("run-torn.wandb: 56 bytes cannot be read", "Left out of the inventory", "run-void.wandb"):
        assert words in told, told
    migrate.succeed("run", "--mode", "offline")
    status = migrate.status("torn")
    assert status["parts"]["history"]["written"] == 49


@pytest.mark.heavy
def test_a_fork_without_its_parent_is_copied_alone_and_goes_on_when_the_parent_comes(set_scene: SetScene) -> None:
    scene = set_scene(Project("none"))
    migrate, place = scene.migrate, Directories(scene.migrate.directory)

    def copy() -> list[str]:
        migrate.succeed("inventory", "--local", ".")
        migrate.succeed("run")
        return [note["reason"] for note in migrate.status("child")["notes"] if note["kind"] != "estimated"]

    fork: dict[str, Any] = {"branch_point": {"run": "parent", "metric": "_step", "value": 1}}
    place.add(start(run_id="child", **fork), row(2, x=2.0), run_id="child")
    assert copy() == ["RUN_FORK_PARENT_NOT_FOUND"]
    scene.neptune.store.run("team/p-wandb", "child").fork = None  # it has become a root
    place.add(start(run_id="parent"), row(0, x=0.0), record(**EXIT), run_id="parent")
    place.add(start(60, run_id="child", **fork), row(3, x=3.0), record(**EXIT), run_id="child")
    assert copy() == [FORK_KEPT]
    assert list(scene.neptune.store.run("team/p-wandb", "child").series["x"].values) == [2.0, 3.0]


# ---------------------------------------------------------------- keys, names and servers


def test_without_the_right_wandb_key_an_inventory_ends_with_4(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(1))
    scene.migrate.secrets.append("wrong" * 8)
    wrong: dict[str, str | None] = {"no W&B API key": None, "refused": "wrong" * 8, "40+ characters": "short"}
    for said, key in wrong.items():
        ended = scene.migrate.run("inventory", WANDB_API_KEY=key)
        assert_complains(ended, 4, "WANDB_API_KEY")
        assert said.lower() in ended.stderr.lower()
    assert "migration.db" not in scene.migrate.files()


def test_an_unknown_entity_or_project_is_told_and_an_empty_one_is_no_error(set_scene: SetScene) -> None:
    scene = set_scene(Project("empty"))
    migrate = scene.migrate
    assert_complains(migrate.run("inventory", "--wandb-entity", "tema"), 2, "tema", "--wandb-entity")
    assert_complains(migrate.run("inventory", "--projects", "emtpy"), 2, "emtpy", "migrate inventory")
    assert "0 runs in 1 project." in migrate.succeed("inventory").stderr
    assert "nothing to do" in migrate.succeed("run").stderr


def test_a_wrong_neptune_token_workspace_or_permission_stops_a_job_before_it_begins(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(3, steps=2, files=1), workspaces=("team", "other"))
    migrate = scene.migrate
    migrate.succeed("inventory")
    hosted_token = dict.fromkeys(("api_address", "api_url"), "https://app.neptune.ai") | {"api_key": NEPTUNE_KEY}
    hosted = b64encode(json.dumps(hosted_token).encode()).decode()
    rejected = api_token(scene.neptune.url, f"not {NEPTUNE_KEY}")
    migrate.secrets += [hosted, rejected]
    for token, words in {
        None: ["NEPTUNE_API_TOKEN is not set", "--mode offline"],
        "frobs": ["NEPTUNE_API_TOKEN", "copy it again"],
        hosted: ["app.neptune.ai", "self-hosted"],
        rejected: ["NEPTUNE_API_TOKEN", "create a new one"],
    }.items():
        assert_complains(migrate.run("run", "--mode", "online", NEPTUNE_API_TOKEN=token), 4, *words)
    assert_complains(migrate.run("run", "--neptune-workspace", "tema"), 2, "tema", "--neptune-workspace")
    scene.neptune.read_only = True
    assert_complains(migrate.run("run"), 4, "team/demo", "administrator")
    scene.neptune.read_only = False
    status = migrate.status()
    assert (status["runs"]["pending"], status["failures"]) == (3, [])
    migrate.succeed("run")
    assert scene.differences() == []
    # from now on the state database belongs to this destination
    assert_complains(migrate.run("run", "--neptune-workspace", "other"), 2, "workspace team", "other", "--db")
    assert_complains(migrate.run("run", "--mode", "offline"), 2, "offline", "--db")
    assert_complains(migrate.run("sync"), 2, "nothing to upload", "workspace team")


@pytest.mark.heavy
def test_a_token_of_another_server_than_that_of_the_runs_is_refused_before_it_is_asked(set_scene: SetScene) -> None:
    scene, other = set_scene(sample_runs(2, steps=4, files=2)), set_scene(sample_runs(1))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--limit", "1")
    token = {"NEPTUNE_API_TOKEN": other.neptune.api_token}
    for command in ("run", "verify"):
        ended = scene.migrate.run(command, **token)
        assert (ended.exit_code, scene.neptune.url in ended.stderr, "--db OTHER" in ended.stderr) == (2, True, True)
    assert other.neptune.log.count(".") == 0
    scene.migrate.succeed("run")
    assert scene.differences() == []


def test_services_that_are_down_end_a_command_with_5_and_lose_nothing(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    assert_complains(scene.migrate.run("inventory", WANDB_BASE_URL=NOBODY), 5, "127.0.0.1:9")
    scene.migrate.succeed("inventory")
    for server, everything in ((scene.wandb, "."), (scene.neptune, "submit|list_projects")):
        server.faults.add(Fault(everything, "status", None, status=503))
        ended = scene.migrate.run("run", "--give-up-after", "1")
        assert_complains(ended, 5, "let nothing through", "same command", "503")
        server.faults.set([])
        assert scene.migrate.status()["runs"]["pending"] == 2


def test_a_key_that_a_server_repeats_whole_cut_or_encoded_is_kept_nowhere(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    scene.migrate.succeed("inventory")
    basic, token = b64encode(f"api:{WANDB_KEY}".encode()).decode(), scene.neptune.api_token
    for server, label, times, keys in (
        (scene.wandb, "Run$", 1, [WANDB_KEY, WANDB_KEY[2:20], basic[8:40]]),  # one run fails at W&B, the other
        (scene.neptune, "submit", None, [token, token[5:20], quote(token, safe="")[-20:], NEPTUNE_KEY[1:14]]),
    ):
        scene.migrate.secrets += keys
        said = " ".join(f"{key}?" for key in keys)
        server.faults.add(Fault(label, "status", times, status=400, body=json.dumps({"errors": [{"message": said}]})))
    assert scene.migrate.run("run", "--verbose").exit_code == 3
    assert scene.migrate.status()["runs"]["failed"] == 2
    for arguments in (["--failed"], ["run00000"], ["run00001"]):
        assert "HTTP 400" in scene.migrate.succeed("status", *arguments).stdout


def test_no_process_shows_a_key_in_its_command_line(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(4, steps=2, files=1), processing_delay_s=(0.2, 0.3))
    scene.migrate.succeed("inventory")
    running = scene.migrate.start("run")
    seen: set[tuple[str, str]] = set()
    while running.is_running:
        for process in scene.migrate.processes():
            with suppress(psutil.Error):  # it has ended meanwhile
                seen.add((process.name(), " ".join(process.cmdline())))
    assert running.wait().exit_code == 0
    assert "wandb-core" in {name for name, _ in seen}
    assert [
        line for _, line in seen for secret in [WANDB_KEY, NEPTUNE_KEY, scene.neptune.api_token] if secret in line
    ] == []


def test_names_of_files_lead_nowhere_but_into_neptune(set_scene: SetScene, tmp_path: Path) -> None:
    [run] = sample_runs(1, steps=2)
    names = ["../../../up.txt", "/etc/absolute.txt", "a/../../b.txt", "..", "CON", "nul\\up.txt", "~/home.txt", "-rf"]
    run.files = {name: f"content of {name}".encode() for name in names}
    run.id = "..-run"
    scene = set_scene([run])
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    kept = [name for name, data in scene.migrate.files().items() if data in run.files.values()]
    assert len(kept) == len(names)
    assert all(name.startswith("neptune-offline/demo/") for name in kept)
    scene.migrate.succeed("sync")
    assert scene.differences() == []
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() in run.files.values()]
    assert (found, Path("/etc/absolute.txt").exists()) == ([], False)
