"""Scratch space of one invocation, removed at its end or, if it was killed, at the next start, with its processes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from migrator.errors import ExitCode, UserError
from migrator.job.processes import host_id, is_alive, runs_since, started_s

PREFIX = "wandb-to-neptune"
ABANDONED_S = 86_400.0  # a running command writes every few minutes


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A private directory below `parent`. Directories of processes of this host that are gone are removed first.

    This process and those it starts also have their temporary files there, because the SDKs leave some behind.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_stale(parent)
        directory = parent.absolute() / f"{_prefix()}{os.getpid()}-{int(started_s(os.getpid()))}"
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"scratch space cannot be made in {parent}: {error.strerror}. Name another place with --work-dir",
            ExitCode.UNEXPECTED,
        ) from error
    try:
        with _temporary_files_in(directory):
            yield directory
    finally:
        _end_processes(directory, children=False)
        shutil.rmtree(directory, ignore_errors=True)
        remove_stale(parent)  # again: the wandb-core of a killed worker lives and writes a little longer


def remove_stale(parent: Path) -> None:
    """Remove what killed invocations left behind, except those of other hosts, which may share `parent`."""
    for path in stale(parent):
        _end_processes(path)
        shutil.rmtree(path, ignore_errors=True)


def stale(parent: Path) -> Iterator[Path]:
    """What killed invocations of this boot of this host left behind."""
    for path in parent.glob(f"{_prefix()}*-*"):
        try:
            pid, started = (int(number) for number in path.name.removeprefix(_prefix()).split("-"))
        except ValueError:
            continue  # not ours
        if not is_alive(pid, started) and not _is_in_use(path):
            yield path


def abandoned(parent: Path) -> Iterator[Path]:
    """What other hosts, or this one before it was booted, left behind: ours, and not written for ABANDONED_S."""
    for path in parent.glob(f"{PREFIX}-*-*-*"):
        if not path.name.startswith(_prefix()) and _is_ours(path) and time.time() - _written_s(path) > ABANDONED_S:
            yield path


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        return path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
    return False


def _written_s(directory: Path) -> float:
    """When something in the directory was last written."""
    latest = 0.0
    for folder, _, names in os.walk(directory):
        for name in (".", *names):
            with suppress(OSError):
                latest = max(latest, Path(folder, name).lstat().st_mtime)
    return latest


def _is_in_use(directory: Path) -> bool:
    """Whether a worker still uses the directory: it may outlive a killed command by some seconds."""
    for worker in directory.glob("worker-*-*"):
        try:
            if runs_since(int(worker.name.rpartition("-")[2]), worker.stat().st_mtime):
                return True
        except (OSError, ValueError):
            pass  # it has just been removed, or is not ours
    return False


def _end_processes(directory: Path, *, children: bool = True) -> None:
    """Kill the SDKs' processes that killed workers left behind; their temporary files are in `directory`.

    `children`: include our own child processes. Python's resource tracker ends by itself after it has cleaned up.
    """
    for process in psutil.process_iter():
        try:
            is_left = process.environ().get("TMPDIR") == str(directory.absolute())
            if is_left and (children or process.ppid() != os.getpid()):
                process.kill()
        except psutil.Error:
            pass  # it has just ended, or is not ours


def _prefix() -> str:
    """Prefix of our directories. Short, because wandb-core puts a socket below, whose path has at most 107 bytes."""
    return f"{PREFIX}-{host_id()}-"


@contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    try:
        yield
    finally:
        variable, tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
