"""How the command ends when its output, its database's address or the system's limits are odd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migrations_db import open_store

MIGRATE = f"{sys.executable} -m migrator"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with an empty state database."""
    directory = tmp_path_factory.mktemp("work")
    open_store(directory / "migration.db").close()
    return directory


@pytest.mark.parametrize(
    ("command", "exit_code", "words"),
    [
        ("MIGRATE status | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("MIGRATE --json status | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("MIGRATE status > /dev/full", 1, "Error: the output cannot be written: No space left on device"),
        ("MIGRATE status --db 'sqlite:///migration.db?nosuch=1'", 7, "Error: --db: SQLite does not accept `?nosuch=1`"),
        ("MIGRATE status --db 'postgresql://127.0.0.1:9/x?nosuch=1'", 7, "Error: --db: invalid connection option"),
        ("MIGRATE status --db .", 7, "Error: . is a directory"),
    ],
)
def test_it_ends_in_one_line_at_most(command: str, exit_code: int, words: str, directory: Path) -> None:
    shell = ["bash", "-c", command.replace("MIGRATE", MIGRATE)]
    ended = subprocess.run(shell, cwd=directory, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.count("\n")) == (exit_code, bool(words)), ended.stderr
    assert ended.stderr.startswith(words)
