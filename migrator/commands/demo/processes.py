"""Processes that do not outlive the demo, however it ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

END_WAIT_S = 12.0  # for a command that was asked to end; a clean stop takes 10 s at most


@contextmanager
def running(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], output: BinaryIO | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in `directory` that ends with the block. `output` None: it prints to our output."""
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process: wait a little (Ctrl-C has reached the whole group already), then terminate, then kill it."""
    try:
        if not _ends(process, 1.0):
            process.terminate()
            _ends(process, END_WAIT_S)
    finally:
        if process.poll() is None:
            for member in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                try:
                    member.kill()
                except psutil.NoSuchProcess:
                    pass  # it was faster
            process.wait()


def _ends(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True
