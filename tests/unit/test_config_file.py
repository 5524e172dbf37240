"""Options from migrate.toml: where it lies, what may be in it, what goes before it, and what `migrate config` shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrations_db import open_store
from migrator.__main__ import exit_code_of
from migrator.job.address import COPIES

KEY = "5ec2e7" + "k" * 34

Here = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Work in an empty directory with these files, and without variables of the tests' own environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEPTUNE_PROJECT", raising=False)
    for key in ("NEPTUNE_API_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(key, "")  # of other tests, this process forgets it

    def write(text: str = "", name: str = "migrate.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return write


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[Any, str]]:
    """(value, where it comes from) of each option in `migrate config --json`, by "command --option"."""
    assert exit_code_of(["config", "--json", *arguments]) == 0, capsys.readouterr().err
    options = json.loads(capsys.readouterr().out)["options"]
    return {f"{one['command'] or ''} {one['option']}".strip(): (one["value"], one["from"]) for one in options}


FILE = """
quiet = true

[inventory]
projects = ["vision", "nlp-*"]
created-after = 2024-05-01
filter = {"config.lr" = {"$gt" = 0.1}}
project-map = {my_project = "mine", other = "theirs"}
run-id = "@runs.txt"
local = ["~/wandb", "data"]

[run]
workers = 3
stall-timeout = 60
include = "artifacts"
exclude = ["files", "console"]
offline_dir = "offline"
max-file-size = 500
include-private = false
strict = true

[plan]
include = []

[retry-failed]
class = ["stalled"]
"""


def test_every_kind_of_value_may_be_in_the_file(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    path = here(FILE).parent
    found = shown(capsys)
    expected = {
        "--quiet": True,
        "inventory --projects": "vision,nlp-*",
        "inventory --created-after": "2024-05-01",
        "inventory --filter": '{"config.lr": {"$gt": 0.1}}',
        "inventory --project-map": ["my_project=mine", "other=theirs"],
        "inventory --run-id": [f"@{path}/runs.txt"],
        "inventory --local": [str(Path.home() / "wandb"), f"{path}/data"],
        "run --workers": 3,
        "run --stall-timeout": 60.0,
        "run --include": ["artifacts"],
        "run --exclude": ["files", "console"],
        "run --offline-dir": f"{path}/offline",
        "run --max-file-size": "500",
        "run --include-private": False,
        "run --strict": True,
        "plan --exclude": ["files", "console"],  # what it does not say itself is that of `run`
        "plan --offline-dir": f"{path}/offline",
        "plan --max-file-size": "500",
        "retry-failed --class": ["stalled"],
    }
    assert {name: found[name] for name in expected} == {name: (value, "file") for name, value in expected.items()}
    assert found["plan --include"][0] in (None, [])
    assert {name for name, (_, origin) in found.items() if origin == "file"} - {"plan --include"} == set(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrokers = 3", "migrate.toml: wrokers: there is no such option"),
        ("vebose = true", "vebose: there is no such option (did you mean verbose?)"),
        ("workers = 3", "there is no such option here: it goes into the table [run] or [sync] or [status] or [verify]"),
        ("[rnu]\nworkers = 3", "[rnu]: there is no such command (did you mean run"),
        ("run = 3", "run is a command: its options go into a table [run]"),
        ("[run]\nwrokers = 3", "[run] wrokers: there is no such option (did you mean workers"),
        ("[run]\ndb = 'x.db'", "[run] db: there is no such option of this command: db goes to the top of the file"),
        ("[run]\nworkers = 0", "[run] workers: "),
        ("[run]\nworkers = 'many'", "[run] workers: "),
        ("[run]\nworkers = [1, 2]", "[run] workers: it takes one value, not a list"),
        ("[run]\nworkers = true", "[run] workers: it takes N, not true or false"),
        ("[run]\nstrict = 'often'", "[run] strict: it is true or false"),
        ("[run]\nexclude = [['files']]", "[run] exclude: it takes PART, not a list"),
        ("[run]\noffline-dir = 'a'\noffline_dir = 'b'", "[run] offline_dir: it is there twice"),
        ("[retry-failed]\nclass = 'frobs'", "[retry-failed] class: "),
        ("[run]\nneptune-api-token = 'abc'", "[run] neptune-api-token: there is no such option"),
        ("[config]\ncommand = 'run'", "[config] command: there is no such option"),
        ("[run", "migrate.toml is not TOML: "),
        ("a = 1\na = 2", "migrate.toml is not TOML: "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place_and_close_names(
    text: str, words: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here(text)
    assert exit_code_of(["status"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (said.startswith("Error: migrate.toml"), words in said) == (True, True), said
    assert exit_code_of(["run", "--help"]) == 0


@pytest.mark.parametrize(
    ("command", "text", "words"),
    [
        ("run", "mode = 'sideways'", "--mode is online or offline, not 'sideways' (--mode: from migrate.toml)"),
        ("run", "include = ['histroy']\nmode = 'offline'", "did you mean history?"),
        ("run", "max-file-size = 'huge'\nmode = 'offline'", "not 'huge' (--max-file-size: from migrate.toml)"),
        ("inventory", "created-after = 'tomorrow'", "(--created-after: from migrate.toml)"),
        ("inventory", "filter = '[]'", "must be a JSON object, not a list"),
        ("runs", "sort = 'nmae'", "did you mean name"),
    ],
)
def test_a_value_that_a_command_refuses_is_traced_to_the_file(
    command: str, text: str, words: str, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here(f"[{command}]\n{text}")
    open_store("migration.db").close()
    assert exit_code_of([command]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (words in said, "from migrate.toml)" in said) == (True, True), said


def test_the_command_line_and_the_environment_come_first_and_the_database_last(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here("verbose = true\n[run]\nworkers = 3\nlimit = 5\n[sync]\nneptune-workspace = 'ours'")
    monkeypatch.setenv("MIGRATE_WORKERS", "2")
    monkeypatch.setenv("MIGRATE_VERBOSE", "false")
    monkeypatch.setenv("NEPTUNE_PROJECT", "team/any")
    with open_store("migration.db") as store:
        store.claim_setting(COPIES, "offline:/data/files")
    found = shown(capsys, "--db", "migration.db")
    assert found["--db"] == ("migration.db", "command line")
    assert found["--verbose"] == (False, "environment")
    assert found["run --workers"] == (2, "environment")
    assert found["run --limit"] == (5, "file")
    assert found["run --neptune-workspace"] == ("team", "environment")
    assert found["sync --neptune-workspace"] == ("ours", "file")
    assert found["run --mode"] == ("offline", "database")
    assert found["run --offline-dir"] == found["sync --offline-dir"] == ("/data/files", "database")
    assert found["run --stall-timeout"] == (600.0, "default")
    assert found["run --include-private"] == (False, "default")
    assert isinstance(found["sync --workers"][0], int)
    found = shown(capsys, "--db", "other.db")
    assert found["run --mode"] == ("offline", "default")
    assert found["plan --offline-dir"] == ("neptune-offline", "default")


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("migrate.toml", []),
        ("job/migrate.toml", ["--db", "job/migration.db"]),
        ("job/migrate.toml", ["--db", "sqlite:///job/migration.db?timeout=1"]),
        ("migrate.toml", ["--db=postgresql://127.0.0.1:9/migrate"]),
        ("other.toml", ["--config", "other.toml"]),
        ("other.toml", ["--config=other.toml", "--db", "job/migration.db"]),
    ],
)
def test_the_file_lies_beside_the_database_or_is_named(place: str, arguments: list[str], here: Here) -> None:
    here("wrong = 1", place)
    here("", "job/x")
    assert exit_code_of(["status", *arguments]) == 2
    assert exit_code_of([*arguments, "status"]) == 2


def test_the_database_may_be_named_in_the_file(
    here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here("db = 'job.db'", "job/migrate.toml").parent
    open_store(path / "job.db").close()
    assert exit_code_of(["runs", "--config", "job/migrate.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []
    assert exit_code_of(["runs", "--config", "nosuch.toml"]) == 2
    assert "--config nosuch.toml: it cannot be read: No such file" in capsys.readouterr().err
    monkeypatch.setenv("MIGRATE_CONFIG", "job/migrate.toml")
    assert shown(capsys, "run")["--db"] == (str(path / "job.db"), "file")


def test_no_secret_is_shown(here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    here(
        f"db = 'postgresql://me:{KEY}@127.0.0.1:9/x'\n[run]\nnotify = 'curl https://hooks.invalid/T0/B0/{KEY[:9]}'\n"
        f"mode = '{KEY}'\nneptune-workspace = 'x{KEY}'"
    )
    for arguments in (["config", "retry-failed"], ["config", "retry-failed", "--json"], ["run"], ["config", "run"]):
        exit_code_of(arguments)
        said = "".join(capsys.readouterr())
        assert said
        assert re.search(KEY[:9], said) is None, said


def test_a_command_says_what_it_takes_from_the_file(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here("[runs]\nsort = 'name'\nlimit = 3\n[run]\nnotify = 'true'")
    open_store("migration.db").close()
    for arguments, told in {
        ("runs", "--limit", "2"): "Options from migrate.toml: --sort\n",
        ("runs",): "Options from migrate.toml: --sort --limit\n",
        ("runs", "--quiet"): "",
        ("status",): "",
    }.items():
        assert exit_code_of(arguments) == 0
        assert capsys.readouterr().err == told


def test_the_settings_are_a_table_with_defaults_in_words(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here("[run]\nworkers = 3")
    assert exit_code_of(["config", "run"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "File of options: migrate.toml" in said
    for line in ("--workers 3 file: migrate.toml", "--max-file-size no limit default", "--strict no default"):
        assert line in said
    assert "migrate sync" not in said
    assert exit_code_of(["config", "rnu"]) == 2
    assert "did you mean run" in capsys.readouterr().err


def test_the_file_in_the_readme_is_right(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    [example] = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    here(example)
    found = shown(capsys)
    assert found["run --workers"] == (4, "file")
    assert found["inventory --filter"] == ('{"config.lr": {"$gt": 0.1}}', "file")
