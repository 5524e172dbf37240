"""Whether a state database can be kept in a place, asked before there is one. Nothing of it is left behind."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text

from migrations_db.database import Database, disk_full, read_only, translated
from migrations_db.engine import check_place, open_database, open_postgresql, parse_url
from migrations_db.errors import StateMissing, StateUnsupported


class Tried(NamedTuple):
    """A place where a state database can be written. `address` is how messages call it, without password."""

    address: str
    is_there: bool


def try_place(url_or_path: str | Path) -> Tried:
    """Whether the database, or a new one where there is none, can be written. Raises `StateError`.

    An old database is upgraded, as whenever it is opened.
    """
    url = parse_url(url_or_path)
    try:
        with closing(open_database(url_or_path, create=False)) as database:
            _check_writes(database)
            return Tried(database.address, True)
    except StateMissing:
        if url.get_backend_name() == "postgresql":
            with closing(open_postgresql(url)) as database:
                _check_writes(database)
                _check_schema(database)
                return Tried(database.address, False)
        _try_directory(path := Path(url.database or ""))
        return Tried(str(path), False)


def _check_writes(database: Database) -> None:
    with database.write() as connection:  # SQLite takes its lock here
        if database.is_sqlite:
            return
        if connection.execute(text("SELECT current_setting('transaction_read_only')")).scalar() == "on":
            raise read_only(database.address, "the server takes no writes")


def _try_directory(path: Path) -> None:
    """A database of another name beside it, with SQLite's log and locks."""
    check_place(path)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".migrate-", dir=path.parent) as place,
            translated(str(path)),
            closing(sqlite3.connect(Path(place) / "try.db")) as connection,
        ):
            [mode] = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("CREATE TABLE tried (x)")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(str(path)) from error
        raise read_only(str(path), error.strerror or str(error)) from error
    if mode != "wal":
        raise StateUnsupported(f"SQLite cannot use its write-ahead log beside {path}: use another place with --db.")


def _check_schema(database: Database) -> None:
    """Since PostgreSQL 15, not every user may make tables."""
    with database.read() as connection:
        if not connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar():
            raise read_only(database.address, "this user may not make tables there")
