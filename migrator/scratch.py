"""Scratch space of one invocation: removed at its end, and at the next start if it was killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from migrator.errors import ExitCode, UserError
from migrator.processes import is_alive

PREFIX = "wandb-to-neptune"


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A private directory below `parent`. Directories of processes of this host that are gone are removed first."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_stale(parent)
        directory = parent / f"{PREFIX}-{os.getpid()}-{int(psutil.Process().create_time())}"
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"scratch space cannot be made in {parent}: {error.strerror}. Name another place with --work-dir",
            ExitCode.UNEXPECTED,
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_stale(parent: Path) -> None:
    """Remove what killed invocations left."""
    for path in parent.glob(f"{PREFIX}-*-*"):
        try:
            pid, started = (int(number) for number in path.name.removeprefix(f"{PREFIX}-").split("-"))
        except ValueError:
            continue  # not ours
        if not is_alive(pid, started):
            shutil.rmtree(path, ignore_errors=True)
