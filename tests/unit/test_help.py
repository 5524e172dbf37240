"""Help that a person can read at 80 columns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from migrations_db import open_store
from migrations_db.types import ProjectRow, RunRow
from migrator.cli import app
from migrator.help import EXAMPLES

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_groups_examples_and_no_jargon(command: str) -> None:
    words = [*command.split(), "--help"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "80"}).output
    assert max(map(len, shown.splitlines())) <= 80
    assert [jargon for jargon in ("<", "env var", "x>=", "[default", "[[") if jargon in shown] == []
    examples = [line.strip() for line in EXAMPLES[command].strip().splitlines()]
    assert len(examples) == 2
    for example in examples:
        assert example in shown
        for one in example.split(" > ")[0].split(" && "):
            name, *arguments = one.removeprefix("migrate ").split()
            COMMANDS[name].make_context(name, [word.strip("'") for word in arguments])  # such options exist


@pytest.mark.parametrize("command", ["inventory", "run", "sync", "status", "runs"])
def test_options_come_in_groups(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).output
    assert "What to copy:" in shown
    assert shown.index("What to copy:") < shown.index("Other:")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_projects_and_run_ids_of_the_state_database(shell: str, tmp_path: Path) -> None:
    with open_store(tmp_path / "migration.db") as store:
        [project] = store.inventory.save_projects([ProjectRow("team", "vision", "wandb", "http://w", "v")])
        store.inventory.save_runs(project, [RunRow("4kd2h1x9", "", "finished", "f"), RunRow("other", "", "", "f")], 1)
    assert completed(shell, "migrate run --projects nlp,vi", tmp_path) == ["nlp,vision"]
    assert completed(shell, "migrate run --run-id 4k", tmp_path) == ["4kd2h1x9"]
    assert completed(shell, "migrate inv", tmp_path) == ["inventory"]
    assert completed(shell, "migrate --db gone.db run --run-id 4k", tmp_path) == []
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "migrate.toml").write_text("db = '../migration.db'")
    assert completed(shell, "migrate --config job/migrate.toml run --run-id 4k", tmp_path) == ["4kd2h1x9"]
    (tmp_path / "job" / "migrate.toml").write_text("wrong = [")
    assert completed(shell, "migrate --config job/migrate.toml inv", tmp_path) == ["inventory"]
    assert not (tmp_path / "gone.db").exists()


def completed(shell: str, line: str, directory: Path) -> list[str]:
    """What the shell would offer, as typer's scripts ask for it."""
    words = line.split()
    asked = {
        "_MIGRATE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = "import sys; sys.argv[0] = 'migrate'; from migrator.__main__ import main; main()"
    environment = {**os.environ, **asked}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.stderr == ""
    known = ("nlp,vision", "4kd2h1x9", "inventory", "other")
    return [word for word in known if word in answer.stdout]


def test_help_imports_nothing_slow() -> None:
    slow = ["rich", "sqlalchemy", "migrations_db", "tqdm", "psutil", "importlib.metadata", "email.utils"]
    code = (
        "import contextlib, io, sys; from typer.main import get_command; from migrator.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    get_command(app).main(['--help'])\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
