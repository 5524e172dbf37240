"""What commands show in terminals is as it was when somebody looked at it: `python -m tests.screens` writes it anew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.screens import CAPTURES, COMMANDS, VIEWS

NAMES = [f"{command}-{view}" for command in COMMANDS for view in VIEWS]


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """All screens, from a process of its own that forks: the tests' process may have threads."""
    command = [sys.executable, "-m", "tests.screens", "--json"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    captures: dict[str, str] = json.loads(ended.stdout)
    return captures


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_is_as_it_was(name: str, shown: dict[str, str]) -> None:
    assert shown[name] == (CAPTURES / f"{name}.txt").read_text(encoding="utf-8")


def test_there_are_no_old_captures() -> None:
    assert {path.stem for path in CAPTURES.iterdir()} == set(NAMES)


def test_colours_are_for_terminals_that_have_them(shown: dict[str, str]) -> None:
    assert "\\e[3" in shown["status-80"]
    assert [name for name in NAMES if name.endswith("no-color") and "\\e[3" in shown[name]] == []
    assert [name for name in NAMES if name.endswith(("piped", "dumb")) and "\\e" in shown[name]] == []


@pytest.mark.parametrize("name", [name for name in NAMES if "-80" in name and "dumb" not in name])
def test_nothing_is_wider_than_the_terminal(name: str, shown: dict[str, str]) -> None:
    plain = re.sub(r"\\e\[[0-9;]*m", "", shown[name])
    assert [line for line in plain.splitlines() if cell_len(line) > 80] == []
