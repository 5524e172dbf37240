"""Transactions on one database, and the translation of vendors' errors into ours.

`write()` takes SQLite's write lock at the beginning: a transaction that reads first and writes later could no longer
get it if somebody else wrote in between. `read()` sees one snapshot and never waits for writers.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from migrations_db.errors import (
    StateDamaged,
    StateDiskFull,
    StateError,
    StateLocked,
    StateMissing,
    StateReadOnly,
    StateSilent,
    StateUnreachable,
    StateUnsupported,
)

if TYPE_CHECKING:
    from sqlalchemy.dialects import sqlite

SQLITE_ROOM_BYTES = 1 << 20  # ours: with less free disk space than this, an I/O error of SQLite is about space
LOOK_AGAIN_S = 0.01  # ours: the longest wait between two tries for the lock; about ten transactions fit in
LOCK_TIMEOUT_S = 30  # ours: how long to wait for somebody else's transaction; ours take milliseconds


class Database:
    """An engine with our transactions. `address` is its name in messages."""

    def __init__(self, engine: Engine, address: str) -> None:
        self.address = address
        self.dialect = engine.dialect.name
        self.is_sqlite = self.dialect == "sqlite"
        self.engine = self._reader = self._writer = engine
        if self.is_sqlite:
            self._writer = engine.execution_options(writes=True)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")
        self._file: tuple[int, int] | None = None

    def watch_file(self) -> None:
        """From now on, check that the file at `address` stays the same: SQLite would keep writing a removed file."""
        self._file = _identity(self.address)

    def _check_file(self) -> None:
        if self._file is not None and _identity(self.address) != self._file:
            raise StateMissing(
                f"The state database {self.address} was removed or replaced while it was in use. Put it back (with its "
                "-wal file, if there is one), then run the same command again."
            )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction on one snapshot."""
        self._check_file()
        with translated(self.address), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def browse(self) -> Iterator[Connection]:
        """Like `read`, but without a time limit, for a person who pages through the rows."""
        with self.read() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction. Any exception rolls it back."""
        self._check_file()
        with translated(self.address), self._writer.begin() as connection:
            yield connection

    def insert(self, table: Any) -> sqlite.Insert:
        """An INSERT that supports ON CONFLICT."""
        return upsert(self.dialect, table)

    def close(self) -> None:
        self.engine.dispose()


def upsert(dialect: str, table: Any) -> sqlite.Insert:
    """An INSERT that supports ON CONFLICT, which is the same in both dialects. Only the one in use is imported."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)  # type: ignore[return-value]


def _identity(path: str) -> tuple[int, int] | None:
    """The identity of the file at a path. None: there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _begin_sqlite(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    if connection.get_execution_options().get("writes"):
        _take_write_lock(driver)
    else:
        driver.execute("BEGIN")


def _take_write_lock(connection: sqlite3.Connection) -> None:
    """BEGIN IMMEDIATE, with frequent tries. SQLite's own waiting sleeps up to 100 ms, while others get the lock."""
    [timeout_ms] = connection.execute("PRAGMA busy_timeout").fetchone()
    give_up = time.monotonic() + timeout_ms / 1000
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
            time.sleep(random.uniform(0, LOOK_AGAIN_S))
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout_ms}")


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Translate a driver's error into ours if the cause is known. Any other error is a bug and is not translated."""
    try:
        yield
    except DBAPIError as error:
        ours = translate(error.orig, address)
        if ours is None:
            raise
        raise ours from error
    except NoConnection as error:  # the connections of other threads wait for locks
        raise _locked(address) from error
    except sqlite3.Error as error:
        ours = translate(error, address)
        if ours is None:
            raise
        raise ours from error


def translate(error: BaseException | None, address: str) -> StateError | None:
    """Our error for the driver's `error`. None: it is not an error about which the user can do something."""
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error, address)
    return _translate_postgresql(error, address)


def _translate_sqlite(error: sqlite3.Error, address: str) -> StateError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits only add details
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _locked(address)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(address, str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return read_only(address, str(error))
        case sqlite3.SQLITE_FULL:
            return disk_full(address)
        case sqlite3.SQLITE_IOERR if shutil.disk_usage(Path(address).absolute().parent).free < SQLITE_ROOM_BYTES:
            return disk_full(address)  # SQLite does not report this separately for its shared memory file
        case sqlite3.SQLITE_CANTOPEN:
            return StateUnreachable(
                f"{address} cannot be opened: check that the directory exists and that you may write to it, "
                "or use another place with --db."
            )
        case sqlite3.SQLITE_IOERR:
            return StateUnreachable(
                f"{address} cannot be read or written: {error}. Check the disk (space, `dmesg`), then run the same "
                "command again; or use another place with --db."
            )
        case _ if "no such table" in str(error) or "no such column" in str(error):
            return damaged(address, str(error))
    return None


def _translate_postgresql(error: BaseException | None, address: str) -> StateError | None:
    state = getattr(error, "sqlstate", None) or ""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    match state:
        case "55P03" | "40P01" | "40001":
            return _locked(address)
        case "53100":
            return disk_full(address)
        case "25006" | "42501":
            return read_only(address, said)
        case "42P01" | "42703":
            return damaged(address, said)
    if not state and "connection option" in said:
        return StateUnsupported(f"--db: {said}. Only options of libpq may follow the `?`, such as sslmode=require.")
    silent = state.startswith(("08", "53300", "57P", "25P03")) or (
        not state and type(error).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError")
    )
    if silent or state.startswith(("28", "53", "57", "3D")):
        return (StateSilent if silent else StateUnreachable)(
            f"{address} does not answer: {said}. Check that the server runs and accepts connections from here, and "
            "the user, password and database name in --db; then run the same command again."
        )
    return None


def damaged(address: str, said: str) -> StateDamaged:
    """The error for damage that callers find themselves."""
    return StateDamaged(
        f"{address} is not a state database of this program, or is damaged: {said}. Restore a copy, or begin a new "
        "one: `migrate inventory --db OTHER`."
    )


def _locked(address: str) -> StateLocked:
    return StateLocked(
        f"{address} is locked: another process has locked it for too long. End that process (a database browser, a "
        "backup?) and run the same command again."
    )


def read_only(address: str, said: str) -> StateReadOnly:
    return StateReadOnly(
        f"{address} cannot be written: {said}. Get permission to write it (and its directory), or use another place "
        "with --db."
    )


def disk_full(address: str) -> StateDiskFull:
    return StateDiskFull(f"No space left for {address}. Free some space, then run the same command again.")
