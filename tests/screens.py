"""What people see: commands in real pseudo-terminals of two widths, with colours and without, and in a pipe.

`python -m tests.screens` writes the captures that tests/unit/test_screens.py compares. One process forks them all, so
that a capture costs no start of Python.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import sys
import tempfile
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from migrator.__main__ import exit_code_of
from migrator.commands import runs, status  # noqa: F401 - imported before the forks, which then need not
from tests.report_job import Job, fill

CAPTURES = Path(__file__).parent / "data" / "screens"
COMMANDS = {"status": ["status"], "runs": ["runs"], "run-help": ["run", "--help"]}
TERMINAL = {"TERM": "xterm-256color"}


@dataclass(frozen=True)
class View:
    """Where a command is looked at. `columns` None: a pipe."""

    columns: int | None
    variables: Mapping[str, str]


VIEWS = {
    "80": View(80, TERMINAL),
    "140": View(140, TERMINAL),
    "80-no-color": View(80, {**TERMINAL, "NO_COLOR": "1"}),
    "80-dumb": View(80, {"TERM": "dumb"}),
    "piped": View(None, TERMINAL),
}


def captures() -> dict[str, str]:
    """The screens by the names of their files. Escapes are written as `\\e`."""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        job = Job(Path("migration.db"))
        fill(job)
        job.store.workers.stop("w")
        job.store.close()
        return {
            f"{name}-{view}": capture(arguments, where)
            for name, arguments in COMMANDS.items()
            for view, where in VIEWS.items()
        }


def capture(arguments: list[str], view: View) -> str:
    """What a command shows, without the carriage returns of terminals."""
    if view.columns is not None:
        child, reading = pty.fork()
        if not child:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, view.columns, 0, 0))
            _run(arguments, view)
    else:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            _run(arguments, view)
        os.close(writing)
    shown = b""
    while block := _block(reading):
        shown += block
    os.close(reading)
    os.waitpid(child, 0)
    return shown.decode().replace("\r\n", "\n").replace("\x1b", "\\e")


def _run(arguments: list[str], view: View) -> None:
    """Run a command in this process, a child, which ends with it."""
    try:
        os.environ.clear()
        os.environ.update({"LANG": "C.UTF-8", **view.variables})
        for number, stream in ((1, "stdout"), (2, "stderr")):
            setattr(sys, stream, os.fdopen(number, "w", encoding="utf-8"))
        exit_code_of(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _block(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except OSError:  # how Linux tells that nobody has the terminal any more
        return b""


def main() -> None:
    found = captures()
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found))
        return
    CAPTURES.mkdir(parents=True, exist_ok=True)
    for old in CAPTURES.glob("*.txt"):
        old.unlink()
    for name, shown in found.items():
        (CAPTURES / f"{name}.txt").write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()
