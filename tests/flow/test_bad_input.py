"""What goes wrong on a person's side: the exit code, and a message that names the thing, the cause and what to do.

`Migrate.run` looks for tracebacks and keys in whatever a command says, the scene for keys in every file at the end.
"""

from __future__ import annotations

import json
import os
import sqlite3
from base64 import b64encode
from pathlib import Path

import pytest

from tests.contract.local_source import EXIT, Directories, record, row, start
from tests.flow.conftest import NEPTUNE_KEY, WANDB_KEY, Ended, Migrate, SetScene
from tests.servers.http import Fault
from tests.servers.neptune_server import api_token
from tests.servers.wandb_data import Project, sample_runs

NOBODY = "http://127.0.0.1:9"  # a port where nothing listens
PASSWORD = "5ec2e7-password"
ALL_PARTS = ["attributes", "config", "summary", "history", "system", "console", "files"]


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("frobnicate", ["frobnicate"]),
        ("run --frobnicate", ["--frobnicate"]),
        ("run --workers 0", ["--workers", "greater than or equal to 1"]),
        ("run --mode sideways", ["--mode", "online or offline", "sideways"]),
        ("run --mode offline --include frobs", ["frobs", "history", "artifacts"]),
        ("run --mode offline " + " ".join(f"--exclude {part}" for part in ALL_PARTS), ["nothing is left", "--exclude"]),
        ("run --mode offline --max-file-size huge", ["--max-file-size", "huge", "500MB"]),
        ("run --mode offline --visibility secret", ["--visibility", "secret", "private"]),
        ("run --mode offline --neptune-workspace a/b", ["--neptune-workspace", "a/b"]),
        ("run --mode online", ["--neptune-workspace", "NEPTUNE_PROJECT"]),
        ("inventory --created-after yesterday", ["--created-after", "yesterday", "2024-05-01"]),
        ("inventory --project-map old", ["--project-map", "old", "="]),
        ("inventory --project-map old=a/b", ["--project-map", "a/b"]),
        ("inventory --local nowhere", ["nowhere", "does not exist", "--local"]),
        ("inventory --local .", ["No W&B runs", "run-*.wandb", "--local"]),
        ("retry-failed --class frobs", ["--class", "frobs", "not_found"]),
    ],
)
def test_a_wrong_option_is_told_by_name_with_what_would_be_right(
    migrate: Migrate, arguments: str, words: list[str]
) -> None:
    assert_complains(migrate.run(*arguments.split()), 2, *words)
    assert "migration.db" not in migrate.files()


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
        ("postgresql+psycopg://me:5ec2e7-password@127.0.0.1:9/x", ["127.0.0.1", "does not answer", "--db"]),
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


# ---------------------------------------------------------------- local runs


def test_a_torn_log_is_copied_as_far_as_it_is_whole_and_the_loss_is_told(migrate: Migrate) -> None:
    place = Directories(migrate.directory)
    torn = place.add(start(run_id="torn"), *(row(step, x=step / 2) for step in range(50)), run_id="torn")
    log = torn / "run-torn.wandb"
    log.write_bytes(log.read_bytes()[:-10])
    os.utime(log, (1_700_000_000, 1_700_000_000))  # long ended: a log that still grows is often torn for a moment
    place.add(run_id="void")
    ended = migrate.succeed("inventory", "--local", ".")
    assert_complains(ended, 0, "run-torn.wandb", "cannot be read", "run-void.wandb", "left out")
    migrate.succeed("run", "--mode", "offline")
    status = migrate.status("torn")
    assert status["parts"]["history"]["written"] == 49


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
    assert "0 runs in 1 projects" in migrate.succeed("inventory").stderr
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


def test_services_that_are_down_end_a_command_with_5_and_lose_nothing(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    assert_complains(scene.migrate.run("inventory", WANDB_BASE_URL=NOBODY), 5, "127.0.0.1:9")
    scene.migrate.succeed("inventory")
    for server in (scene.wandb, scene.neptune):
        server.faults.add(Fault("Run$|submit", "status", None, status=503))
        ended = scene.migrate.run("run", "--give-up-after", "1")
        assert_complains(ended, 5, "let nothing through", "same command", "503")
        server.faults.set([])
        assert scene.migrate.status()["runs"]["pending"] == 2


def test_a_key_that_a_server_repeats_in_its_errors_is_kept_nowhere(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=2))
    scene.migrate.succeed("inventory")
    for server, label, times, key in (
        (scene.wandb, "Run$", 1, WANDB_KEY),  # one run fails at W&B, the other at Neptune
        (scene.neptune, "submit", None, scene.neptune.api_token),
    ):
        body = json.dumps({"message": f"{key}?", "errors": [{"message": f"{key}?"}]})
        server.faults.add(Fault(label, "status", times, status=400, body=body))
    assert scene.migrate.run("run", "--verbose").exit_code == 3
    assert scene.migrate.status()["runs"]["failed"] == 2
    for arguments in (["--failed"], ["run00000"], ["run00001"]):
        assert "HTTP 400" in scene.migrate.succeed("status", *arguments).stdout
