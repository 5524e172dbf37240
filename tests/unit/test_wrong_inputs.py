"""Wrong inputs, one a line, with what is answered: the exit code, the thing by name, and what would be right."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.__main__ import exit_code_of
from tests.report_job import Job, fill

ALL_PARTS = ["attributes", "config", "summary", "history", "system", "console", "files"]
WITHOUT_ANY = " ".join(f"--exclude {part}" for part in ALL_PARTS)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of the tests' own environment, and the log of no command when the test has ended."""
    for name in ("NEPTUNE_PROJECT", "NEPTUNE_API_TOKEN", "MIGRATE_DB", "MIGRATE_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name in ("migrator", "neptune", "neptune_scale", "httpx", "wandb", "stamina"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "migration.db"
    job = Job(path)
    fill(job)
    job.store.close()
    return path


#: command, what is in the answer. All end with exit code 2, and leave no state database behind
NO_DATABASE: list[tuple[str, list[str]]] = [
    ("frobnicate", ["frobnicate"]),
    ("statsu", ["statsu", "status"]),
    ("run --frobnicate", ["--frobnicate"]),
    ("run --wrokers 2", ["--wrokers", "--workers"]),
    ("status --db", ["--db", "argument", "See `migrate --help`"]),
    ("status --limit 3", ["--limit", "See `migrate status --help`"]),
    ("run --workers 0", ["--workers", "1"]),
    ("run --workers many", ["--workers", "integer"]),
    ("run --mode sideways", ["--mode", "online or offline", "sideways"]),
    ("run --mode offline --include frobs", ["--include frobs", "history", "artifacts"]),
    ("run --mode offline --exclude histroy", ["--exclude histroy", "did you mean history?"]),
    (f"run --mode offline {WITHOUT_ANY}", ["nothing is left", "--exclude"]),
    ("run --mode offline --max-file-size huge", ["--max-file-size", "huge", "500MB"]),
    ("run --mode offline --metrics-namespace /summary/x", ["--metrics-namespace", "summary", "another name"]),
    ("run --mode offline --visibility secret", ["--visibility", "secret", "private"]),
    ("run --mode offline --neptune-workspace a/b", ["--neptune-workspace", "a/b"]),
    ("run --mode offline --safe-client", ["--safe-client", "--mode online"]),
    ("run --mode online", ["--neptune-workspace", "NEPTUNE_PROJECT"]),
    ("run --mode offline --run-id @nosuch.txt", ["--run-id @nosuch.txt", "No such file"]),
    ("inventory --created-after tomorrow", ["--created-after", "tomorrow", "2024-05-01", "yesterday", "30d"]),
    ("inventory --project-map old", ["--project-map", "old", "="]),
    ("inventory --project-map old=a/b", ["--project-map", "a/b"]),
    ("inventory --project-map @nosuch.txt", ["--project-map", "nosuch.txt", "No such file"]),
    ("inventory --only --state finished", ["--only", "--yes"]),
    ("inventory --local nowhere", ["nowhere", "does not exist", "--local"]),
    ("inventory --local .", ["No W&B runs", "no .wandb file", "--local"]),
    ("inventory --local . --filter '{}'", ["--filter", "W&B's API", "--state"]),
    ("inventory --filter state=finished", ["--filter", "not JSON", '{"config.lr": {"$gt": 0.1}}']),
    ("inventory --filter @nosuch.json", ["--filter @nosuch.json", "No such file"]),
    ("verify --level deep", ["--level", "deep", "counts or digests"]),
    ("verify --sample 200%", ["--sample", "200%"]),
    ("retry-failed --class frobs", ["--class", "frobs", "not_found"]),
    ("status --config nosuch.toml", ["--config nosuch.toml", "No such file"]),
    ("config rnu", ["rnu", "did you mean run"]),
    ("runs --sort nmae", ["--sort nmae", "did you mean name"]),
    ("retry-failed --class timout", ["--class", "timout", "did you mean timeout?"]),
    ("runs --status dnoe", ["--status dnoe", "did you mean done"]),
    ("status --watch --json", ["--watch"]),
    ("status --failed --skips", ["--failed and --skips", "one of them"]),
    ("status --all", ["--all", "--json-lines", "--csv", "migrate runs"]),
    ("status --csv", ["--csv goes with --all"]),
]


@pytest.mark.parametrize(("command", "words"), NO_DATABASE, ids=[command for command, _ in NO_DATABASE])
def test_a_wrong_input_is_told_by_name_with_what_would_be_right(
    command: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_complains(command, words, capsys)
    assert not (tmp_path / "migration.db").exists()


#: the same where the state database has runs, which stay as they are
WITH_RUNS: list[tuple[str, list[str]]] = [
    ("status nosuch", ["nosuch", "migrate runs"]),
    ("status explaned", ["explaned", "did you mean explained?"]),
    ("status --projects visoin", ["--projects visoin", "did you mean team/vision?"]),
    ("run --mode offline --run-id waist", ["--run-id waist", "did you mean waits?"]),
    ("run --mode offline --projects nosuch", ["--projects nosuch", "team/vision", "migrate inventory"]),
    ("run --mode offline --name 'Fail*'", ["--name Fail*", "failed"]),
    ("runs --state done", ["--state done", "finished"]),
    ("retry-failed --run-id nosuch", ["--run-id nosuch", "migrate runs"]),
    ("forget --yes", ["migrate forget", "--projects"]),
    ("forget nosuch --yes", ["nosuch"]),
    ("verify --projects visoin", ["--projects visoin", "did you mean"]),
    ("report --run-id nosuch", ["--run-id nosuch"]),
]


@pytest.mark.parametrize(("command", "words"), WITH_RUNS, ids=[command for command, _ in WITH_RUNS])
def test_what_does_not_exist_is_told_with_what_there_is(
    command: str,
    words: list[str],
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(filled, tmp_path)
    assert_complains(command, words, capsys)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MIGRATE_WORKERS", "many")
    assert_complains("run", ["--workers", "(MIGRATE_WORKERS is set)"], capsys)


def assert_complains(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It ended with 2, and said all of the words on stderr (whose lines may be wrapped), and no traceback."""
    exit_code = exit_code_of(shlex.split(command))
    said = " ".join(capsys.readouterr().err.split())
    assert exit_code == 2, f"{exit_code}: {said}"
    assert [word for word in words if word not in said] == [], said
    assert said.startswith("Error: ")
    assert said.count("Error") == 1
    assert "Traceback" not in said
