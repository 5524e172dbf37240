"""Opens a state database: checks the place, connects, and brings the tables up to date.

An up-to-date database opens without Alembic, which is slow to import.
"""

from __future__ import annotations

import sqlite3
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, MetaData, Table, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SAWarning
from sqlalchemy.schema import Column
from sqlalchemy.types import String

from migrations_db.database import LOCK_TIMEOUT_S, Database, damaged, translated
from migrations_db.errors import StateMissing, StateTooNew, StateUnsupported
from migrations_db.store import Store

#: the newest file in upgrades/versions
SCHEMA_REVISION = "0006"

#: PostgreSQL: the advisory lock held during an upgrade; an arbitrary number
UPGRADE_LOCK = 0x6D69_6772_6174_6521
SQLITE_MIN = (3, 35)  # RETURNING
SQLITE_CACHE_KIB = 16_384  # ours: the indexes of some 100,000 runs
POSTGRESQL_CONNECTIONS = 2  # ours, per process: threads take turns; by default, a server allows 100 in total
#: our options for connections to PostgreSQL, with libpq's names: a server that is reachable answers quickly, and a dead
#: connection (a firewall, a host that is gone) is noticed after half a minute instead of never
CONNECTING = {
    "connect_timeout": 10,
    "application_name": "migrate",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # ms
}
#: PostgreSQL: a host that sleeps or disappears during a transaction loses its locks before others give up waiting
TIMEOUTS_S = {"lock_timeout": LOCK_TIMEOUT_S, "idle_in_transaction_session_timeout": LOCK_TIMEOUT_S - 10}

_revision = Table("alembic_version", MetaData(), Column("version_num", String))


def open_store(url_or_path: str | Path, *, create: bool = True) -> Store:
    """Open the state database at a path (SQLite) or a SQLAlchemy URL. Creates or upgrades its tables as needed.

    `create` False: `StateMissing` if there is none. Raises any `StateError` except `LeaseLost` and `CountsDisagree`.
    """
    return Store(open_database(url_or_path, create=create))


def open_database(url_or_path: str | Path, *, create: bool) -> Database:
    """As `open_store`."""
    url = parse_url(url_or_path)
    match url.get_backend_name():
        case "sqlite":
            database = _open_sqlite(url, create=create)
        case "postgresql":
            database = open_postgresql(url)
        case other:
            raise StateUnsupported(
                f"--db cannot be {other}: use a file name (SQLite) or postgresql+psycopg://user:password@host/name."
            )
    try:
        _bring_up_to_date(database, create=create)
        if database.is_sqlite:  # last, so that a file of another program is not changed
            _use_wal(database)
            database.watch_file()
    except BaseException:
        database.close()
        raise
    return database


def parse_url(url_or_path: str | Path) -> URL:
    text = str(url_or_path)
    if ("://" not in text and "password=" in text) or text.partition("://")[2].count("@") > 1:
        raise _no_url()  # shown as a file name, or cut at the wrong `@`, it would reveal the password
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text.replace("postgres://", "postgresql://", 1) if text.startswith("postgres:") else text)
    except (ArgumentError, ValueError):
        raise _no_url() from None  # the text may contain a password, and so may the error
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _no_url() -> StateUnsupported:
    return StateUnsupported(
        "--db is not a valid URL. Expected postgresql+psycopg://user:password@host:port/name, with special "
        "characters of the password percent-encoded (`/` is %2F, `@` is %40)."
    )


def _address(url: URL) -> str:
    """The URL for messages, without secrets."""
    hidden = url.difference_update_query(["password", "sslpassword"])
    return hidden.render_as_string(hide_password=True)


def _open_sqlite(url: URL, *, create: bool) -> Database:
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise StateUnsupported(
            f"This Python has SQLite {sqlite3.sqlite_version}; at least {'.'.join(map(str, SQLITE_MIN))} is needed. "
            "Use a newer Python, or --db postgresql+psycopg://..."
        )
    if not url.database or url.database == ":memory:":
        raise StateUnsupported("--db must be a file: several processes share it. Try --db migration.db.")
    path = Path(url.database)
    if not create and not path.exists():
        raise StateMissing(f"There is no state database {path}: begin with `migrate inventory`, or give --db.")
    check_place(path)
    if create and "uri" not in url.query:
        with suppress(OSError):  # SQLite will fail too, with a message
            path.touch(mode=0o600)  # it contains private data; SQLite uses the same mode for the files next to it
    connect_args: dict[str, Any] = {"check_same_thread": False}
    if "timeout" not in url.query:
        connect_args["timeout"] = LOCK_TIMEOUT_S
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAWarning)  # about options that SQLite does not know
        try:
            engine = create_engine(url, connect_args=connect_args, max_overflow=-1, hide_parameters=True)
        except (SAWarning, ValueError, TypeError) as error:
            options = "&".join(f"{name}={value}" for name, value in url.query.items())
            raise StateUnsupported(f"--db: SQLite does not accept `?{options}`. Use a plain path: {path}") from error
    if "uri" not in url.query:
        event.listen(engine, "do_connect", _open_existing)
    event.listen(engine, "connect", _set_up_sqlite)
    return Database(engine, str(path))


def check_place(path: Path) -> None:
    """Raise `StateError` if SQLite cannot keep a state database there."""
    if path.is_dir():
        raise StateUnsupported(f"{path} is a directory: use a file in it, such as --db {path}/migration.db.")
    if not path.parent.is_dir():
        raise StateMissing(f"There is no directory {path.parent} for the state database: create it, or change --db.")
    if found := network_type(path):
        raise StateUnsupported(
            f"{path} is on a network file system ({found}), where SQLite's locks do not hold. Use a path on a local "
            "disk with --db, or PostgreSQL for several machines: --db postgresql+psycopg://..."
        )


def _open_existing(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    """Open without creating, so that SQLite makes no new file if ours was removed."""
    arguments[0] = f"{Path(arguments[0]).absolute().as_uri()}?mode=rw"
    options["uri"] = True


def _set_up_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # we issue BEGIN ourselves: see Database
    connection.execute("PRAGMA synchronous=FULL")  # a power cut must not lose an intent whose points are sent
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{SQLITE_CACHE_KIB}")


def _use_wal(database: Database) -> None:
    """Allow readers and a writer at the same time. The mode is stored in the file."""
    with translated(database.address):
        connection = database.engine.raw_connection()
        try:
            cursor = connection.cursor()
            mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
            if mode != "wal":
                mode = _switch_to_wal(cursor)
        finally:
            connection.close()
    if mode != "wal":
        raise StateUnsupported(
            f"SQLite cannot use its write-ahead log at {database.address}: use another place with --db."
        )


def _switch_to_wal(cursor: Any) -> str:
    # SQLite does not wait for others here, whatever its timeout.
    give_up = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return str(cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def open_postgresql(url: URL) -> Database:
    address = _address(url)
    connect_args: dict[str, Any] = {name: value for name, value in CONNECTING.items() if name not in url.query}
    if url.get_driver_name() == "psycopg":
        connect_args["prepare_threshold"] = None  # a pooler may use another server connection for each transaction
    try:
        engine = create_engine(
            url,
            connect_args=connect_args,
            pool_size=POSTGRESQL_CONNECTIONS,
            max_overflow=0,
            pool_timeout=LOCK_TIMEOUT_S,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except (ImportError, NoSuchModuleError) as error:
        raise StateUnsupported(
            f"{address} needs a driver: {error}. Run `pip install 'wandb-to-neptune[postgres]'` and use "
            "postgresql+psycopg://..."
        ) from error
    timeouts = {name: s for name, s in TIMEOUTS_S.items() if name not in str(url.query.get("options", ""))}

    def set_timeouts(connection: Any, _: Any) -> None:
        connection.autocommit = True  # otherwise a rollback of the first transaction would undo it
        for name, seconds in timeouts.items():
            connection.execute(f"SET {name} = '{seconds}s'")
        connection.autocommit = False

    event.listen(engine, "connect", set_timeouts)
    return Database(engine, address)


def _bring_up_to_date(database: Database, *, create: bool) -> None:
    with database.read() as connection:
        revision = _stored_revision(connection)
    if revision == SCHEMA_REVISION:
        return
    if revision is None and not create:
        raise StateMissing(f"There is no state in {database.address}: begin with `migrate inventory`, or give --db.")
    with database.write() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})")
        _upgrade(connection, database.address)


def _stored_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_revision.name):
        return None
    return connection.execute(select(_revision.c.version_num)).scalar()


def _upgrade(connection: Connection, address: str) -> None:
    """Run the missing upgrades. Several processes may do this, one after another."""
    revision = _stored_revision(connection)
    if revision == SCHEMA_REVISION:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if revision is None and (others := inspect(connection).get_table_names()):
        raise damaged(address, f"it contains other tables ({', '.join(sorted(others)[:5])})")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "upgrades").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StateTooNew(
            f"{address} was written by a newer version of this program (its revision {revision}, ours "
            f"{SCHEMA_REVISION}): `pip install --upgrade wandb-to-neptune`, or use another database with --db."
        )
    command.upgrade(config, "head")


# ---------------------------------------------------------------- file systems
#
# Is a path on a network file system? SQLite's locks do not work there, and the database would be damaged.

# Types with mount(8)'s names. fuse.* are network file systems that use FUSE.
_NETWORK_TYPES = """
    nfs nfs4 cifs smb smb2 smb3 smbfs afpfs webdav davfs ncpfs afs coda lustre gpfs mmfs ceph beegfs glusterfs panfs
    pvfs2 orangefs wekafs ocfs2 gfs2 quobyte fuse.sshfs fuse.glusterfs fuse.ceph fuse.ceph-fuse fuse.davfs
    fuse.davfs2 fuse.rclone fuse.s3fs fuse.gcsfuse fuse.goofys fuse.mount-s3 fuse.blobfuse fuse.blobfuse2 fuse.juicefs
    fuse.cvmfs2 fuse.smbnetfs fuse.quobyte fuse.moosefs fuse.hdfs
"""
NETWORK_TYPES = frozenset(_NETWORK_TYPES.split())


class Mount(NamedTuple):
    """The mount point of a file system, and its type."""

    point: str
    type: str


def network_type(path: Path, mounts: Iterable[Mount] | None = None) -> str | None:
    """The type of the network file system of `path` (which need not exist). None: it is a local file system."""
    resolved = path.resolve()
    found = Mount("", "")
    for mount in mounts if mounts is not None else mounted():
        # If mount points are equal, the later one hides the earlier.
        if len(mount.point) >= len(found.point) and resolved.is_relative_to(mount.point):
            found = mount
    return found.type if found.type in NETWORK_TYPES else None


def mounted() -> list[Mount]:
    """The current mounts, in order of mounting."""
    proc = Path("/proc/self/mounts")
    if proc.exists():
        # Whitespace within a field is escaped in octal.
        lines = proc.read_bytes().splitlines()
        return [Mount(_unescaped(fields[1]), fields[2].decode()) for fields in map(bytes.split, lines)]
    import psutil  # only here: it takes 20 ms, which Linux does not need

    return [Mount(m.mountpoint, m.fstype) for m in psutil.disk_partitions(all=True)]


def _unescaped(field: bytes) -> str:
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, char)
    return field.decode("utf-8", "surrogateescape")
