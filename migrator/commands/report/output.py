"""The file of a report: written beside its place, then put there at once; nothing but a report is replaced."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from migrator.errors import UserError

#: in the head of every report, by which it is recognized
MARK = '<meta name="generator" content="migrate report">'
MARK_WITHIN_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Written:
    """What was written. `sha256` is of all bytes before the last line, which names it."""

    path: Path
    size_bytes: int
    sha256: str


def check_place(path: Path, *, force: bool) -> None:
    """`UserError` unless a report may be written there."""
    with _told(path):
        if not path.parent.is_dir():
            raise UserError(f"{path.parent} is not a directory: make it, or give --out another place")
        if not os.path.lexists(path):
            return
        if not path.is_file():
            raise UserError(f"{path} is not a file: give --out another name")
        if not force and not _is_report(path):
            raise UserError(f"{path} is not a report of `migrate`: give --out another name, or --force to replace it")


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(MARK_WITHIN_BYTES)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk refuses is the user's to mend; a full one is told where all of them are."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{path} cannot be read or written: {error.strerror}. Give --out another name") from error


def write_report(path: Path, pieces: Iterable[str], last_line: str) -> Written:
    """Write the pieces, then `last_line` with the sum of all bytes before it in place of `{}`.

    Until it is whole, what is at `path` stays. You alone may read the file, as everything that holds names of runs.
    """
    with _told(path):
        descriptor, name = tempfile.mkstemp(prefix=".migrate-report-", suffix=".tmp", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                total = sha256()
                for piece in pieces:
                    data = piece.encode("utf-8", "replace")
                    total.update(data)
                    file.write(data)
                file.write(last_line.format(total.hexdigest()).encode())
                file.flush()
                os.fsync(descriptor)
                size_bytes = file.tell()
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    return Written(path, size_bytes, total.hexdigest())
