"""Disks that are too small, for tests that fill them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """An empty file system of this size ("1m") at `directory`."""
    directory.mkdir(exist_ok=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def remount(directory: Path, option: str) -> None:
    """`size=8m`, `ro` or `rw`; `ro` only while nobody has a file open for writing."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(directory)], check=True)


def fill(directory: Path, left_bytes: int) -> Path:
    """A file that leaves only so much space on the disk."""
    filler = directory / "filler"
    found = os.statvfs(directory)
    filler.write_bytes(bytes(found.f_bavail * found.f_frsize - left_bytes))
    return filler
