"""Decides which files of a local run directory may be read: it may come from anywhere and contain anything.

Only regular files are read. A link is followed if the run's own log names the file (as `run.save()` does), but never
into the kernel's file systems. A file that contains one of this tool's keys is not sent anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import BinaryIO

from migrator.records import LocalFile
from migrator.sources.base import Withheld
from migrator.sources.wandb_local.log import opened

READ_BYTES = 1024 * 1024
KERNEL_PLACES = (Path("/proc"), Path("/sys"), Path("/dev"))


def staging_directories() -> list[Path]:
    """The directories where the SDK stages artifact files (wandb 0.31 `artifacts/staging.py`)."""
    from wandb.env import get_data_dir

    return [Path(get_data_dir(), "artifacts", "staging")]


def is_inside(path: Path, directories: Sequence[Path]) -> bool:
    """Whether a file is below one of the directories after all links are resolved."""
    try:
        place = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    return any(place.is_relative_to(directory.resolve()) for directory in directories)


def local_file(
    path: Path, name: str, *, link_allowed: bool, keys: Set[bytes], home: Path | None = None
) -> LocalFile | None:
    """A regular file with its current size and md5. None: there is no such file (any more).

    `Withheld` if it is a link that may not be followed, or contains one of `keys`. `home`: the run's directory. If a
    link leads out of it, `linked_from` of the result is set.
    """
    if path.is_symlink() and not link_allowed:
        raise Withheld("link")
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError):  # gone, or a loop of links
        return None
    if any(place.is_relative_to(kernel) for kernel in KERNEL_PLACES):
        raise Withheld("link")
    if not place.is_file():
        return None
    digest, size_bytes = hashlib.md5(usedforsecurity=False), 0

    def saw(piece: bytes) -> None:
        nonlocal size_bytes
        digest.update(piece)
        size_bytes += len(piece)

    with opened(place) as file:
        _read_without_keys(file, saw, keys)
    linked_from = str(place) if home is not None and not place.is_relative_to(home.resolve()) else None
    return LocalFile(place, name, size_bytes, digest.hexdigest(), linked_from)


def _read_without_keys(file: BinaryIO, saw: Callable[[bytes], None], keys: Set[bytes]) -> None:
    overlap = max(map(len, keys), default=1) - 1
    before = b""
    while piece := file.read(READ_BYTES):
        saw(piece)
        window = before + piece
        if any(key in window for key in keys):
            raise Withheld("contains_key")
        before = window[-overlap:] if overlap else b""


def console_files(directories: Sequence[Path], keys: Set[bytes]) -> list[Path]:
    """The readable `output.log` files of the directories. For the others, `files` reports why they are not read."""
    found = []
    for directory in directories:
        path = directory / "files" / "output.log"
        if path.parent.is_symlink():
            continue
        try:
            file = local_file(path, path.name, link_allowed=False, keys=keys)
        except Withheld:
            continue
        if file:
            found.append(path)
    return found
