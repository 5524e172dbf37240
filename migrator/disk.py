"""Places on a disk: what there is of a path, and how much lies there."""

from __future__ import annotations

import os
from pathlib import Path


def existing(path: Path) -> Path:
    """The path or, if it does not exist, the nearest of its parents that does."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def size_bytes(path: Path) -> int:
    """Of a file, or of all files below a directory. Links are not followed. What disappears meanwhile has no size."""
    if not path.is_dir():
        return _file_bytes(path)
    return sum(_file_bytes(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _file_bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # a copy that goes on moves its files
        return 0
