"""The state database, on SQLite and PostgreSQL: opening, upgrades, and what can go wrong."""

from __future__ import annotations

import ast
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

import migrations_db
from migrations_db import (
    RunStatus,
    StateDamaged,
    StateDiskFull,
    StateError,
    StateLocked,
    StateMissing,
    StateReadOnly,
    StateTooNew,
    StateUnreachable,
    StateUnsupported,
    Store,
    open_store,
)
from migrations_db.database import translate
from migrations_db.engine import SCHEMA_REVISION, Mount, network_type
from migrations_db.models import Base
from tests.contract.store_fixtures import SERVER, open_and_begin, register
from tests.contract.store_rows import DATA, add, detail, finish, take

# ---------------------------------------------------------------- opening


def test_what_was_written_is_there_after_opening_again(url: str) -> None:
    with closing(open_store(url)) as store:
        add(store, "a")
    with closing(open_store(url, create=False)) as store:
        assert detail(store, "a").status is RunStatus.PENDING


def test_processes_that_open_a_fresh_database_at_once_do_not_collide(blank_url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        numbers = [f.result() for f in [pool.submit(open_and_begin, blank_url) for _ in range(8)]]
    assert sorted(numbers) == list(range(1, 9))


def test_a_database_that_must_exist_and_does_not_is_missing(blank_url: str) -> None:
    with pytest.raises(StateMissing, match="migrate inventory"):
        open_store(blank_url, create=False)
    if blank_url.startswith("sqlite"):
        assert not Path(blank_url.removeprefix("sqlite:///")).exists()


def test_a_database_of_a_newer_version_is_refused_untouched(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'abcd'"))
    with pytest.raises(StateTooNew, match=r"abcd.*--upgrade"):
        open_store(url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "abcd"
    engine.dispose()


def test_somebody_elses_database_is_refused_untouched(blank_url: str) -> None:
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bookmarks (id INTEGER)"))
    with pytest.raises(StateDamaged, match="bookmarks"):
        open_store(blank_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE bookmarks"))
        if blank_url.startswith("sqlite"):
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "delete"
    engine.dispose()


def test_tables_and_upgrades_agree(url: str, tmp_path: Path) -> None:
    engine, built = create_engine(url), create_engine(f"sqlite:///{tmp_path}/built.db")
    options = {"include_object": lambda thing, name, kind, *_: kind != "index"} if url.startswith("sqlite") else {}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        if url.startswith("sqlite"):  # Alembic does not see the DESC of an index there
            for index in (index for table in Base.metadata.tables.values() for index in table.indexes):
                if where := index.info.get("where"):
                    index.dialect_options["sqlite"]["where"] = text(where)
            Base.metadata.create_all(built)
            with built.connect() as other:
                assert indexes(connection) == indexes(other)
    engine.dispose()
    built.dispose()


def indexes(connection: Connection) -> set[str]:
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    return set(connection.execute(text(query)).scalars())


def test_the_newest_upgrade_is_the_revision_that_opens_fast() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations_db.__file__).parent / "upgrades"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_an_up_to_date_database_opens_without_alembic(empty_file: Path) -> None:
    opening = f"migrations_db.open_store({str(empty_file)!r}).close()"
    program = f"import sys, migrations_db; {opening}; print('alembic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_first_released_database_opens_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "v1.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / "state-v1.sql").read_text())
    with closing(open_store(path)) as store:
        register(store)
        assert {s.value: n for s, n in store.reports.overview().runs.items() if n} == {"pending": 1, "done": 1}
        done = detail(store, "finished-run")
        assert done.parts["history"].cursor == {"step": 3}
        assert [line.reason for line in store.reports.ledger(done.run)] == ["nan"]
        finish(store, take(store), "config")


def test_a_database_may_be_open_twice_at_once(url: str) -> None:
    with closing(open_store(url)) as first, closing(open_store(url)) as second:
        assert first.claim_setting("a", "1") == second.claim_setting("a", "2") == "1"


# ---------------------------------------------------------------- what can go wrong


def test_only_its_owner_can_read_a_new_database(tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "migration.db")):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StateDamaged, match=r"notes\.txt.*--db OTHER"):
        open_store(path)
    assert path.read_text().startswith("Dear diary")


def test_a_damaged_database_says_so(empty_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    content = bytearray(empty_file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StateDamaged):
        open_store(path).reports.overview()


def test_a_lost_table_is_damage(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE setting"))
    engine.dispose()
    with closing(open_store(url)) as store, pytest.raises(StateDamaged, match="setting"):
        store.setting("a")


def test_a_database_that_somebody_else_locks_says_so(url: str) -> None:
    sqlite = url.startswith("sqlite")
    impatient = f"{url}?timeout=0.05" if sqlite else f"{url}?options=-c%20lock_timeout%3D50"
    engine = create_engine(url)
    with closing(open_store(impatient)) as store, engine.connect() as connection:
        connection.execute(text("DELETE FROM setting" if sqlite else "LOCK TABLE setting"))
        with pytest.raises(StateLocked, match="another process"):
            store.claim_setting("a", "1")
        if sqlite:
            assert store.setting("a") is None  # readers go on
        connection.rollback()
        assert store.claim_setting("a", "1") == "1"
    engine.dispose()


@pytest.mark.postgres
def test_a_server_that_may_only_be_read_says_so(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("PostgreSQL only: tests may run as root, who may write any file")
    with (
        closing(open_store(f"{url}?options=-c%20default_transaction_read_only%3Don")) as store,
        pytest.raises(StateReadOnly, match="--db"),
    ):
        store.claim_setting("a", "1")


def sqlite_error(tmp_path: Path, cause: str) -> sqlite3.Error:
    """An error as the driver raises it."""
    path = tmp_path / "x.db"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (x)")
            match cause:
                case "full":
                    connection.execute("PRAGMA max_page_count=2")
                    connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
                case "read only":
                    connection.execute("PRAGMA query_only=ON")
                    connection.execute("INSERT INTO t VALUES (1)")
                case "absent":
                    sqlite3.connect(tmp_path / "no" / "x.db")
    except sqlite3.Error as error:
        return error
    raise AssertionError(f"{cause}: no error")


@pytest.mark.parametrize(
    ("cause", "ours"), [("full", StateDiskFull), ("read only", StateReadOnly), ("absent", StateUnreachable)]
)
def test_what_sqlite_says_becomes_a_message_with_the_next_step(
    tmp_path: Path, cause: str, ours: type[StateError]
) -> None:
    error = translate(sqlite_error(tmp_path, cause), "here.db")
    assert type(error) is ours
    assert "here.db" in str(error)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite://", "must be a file"),
        (":memory:", "must be a file"),
        ("mysql://me@host/db", "cannot be mysql"),
        (".", "is a directory"),
    ],
)
def test_places_that_cannot_hold_the_state_are_refused(place: str, message: str) -> None:
    with pytest.raises(StateUnsupported, match=message):
        open_store(place)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateMissing, match="no directory"):
        open_store(tmp_path / "no" / "state.db")


def test_a_network_file_system_is_recognised_by_its_nearest_mount() -> None:
    mounts = [Mount("/", "ext4"), Mount("/home", "nfs4"), Mount("/home/me/local", "xfs"), Mount("/mnt", "fuse.sshfs")]
    assert network_type(Path("/home/me/state.db"), mounts) == "nfs4"
    assert network_type(Path("/home/me/local/state.db"), mounts) is None
    assert network_type(Path("/homes/state.db"), mounts) is None
    assert network_type(Path("/mnt/x"), mounts) == "fuse.sshfs"
    assert network_type(Path("/mnt/x"), [*mounts, Mount("/mnt", "tmpfs")]) is None
    assert network_type(Path("/x"), []) is None


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrations_db.engine.mounted", lambda: [Mount("/", "nfs")])
    with pytest.raises(StateUnsupported, match=r"network file system \(nfs\).*postgresql"):
        open_store(tmp_path / "state.db")


@pytest.mark.parametrize(
    "url_",
    [
        "postgresql+psycopg://me:hunter22@127.0.0.1:1/db",
        "postgresql://me:hunter22@127.0.0.1:1/db",
        "postgres://me@127.0.0.1:1/db?password=hunter22",
        "postgresql://me:hunter22/x@127.0.0.1:1/db",
        "postgresql+nosuch://me:hunter22@host/db",
        "mysql://me:hunter22@host/db",
    ],
)
def test_passwords_never_show(url_: str) -> None:
    with pytest.raises(StateError) as caught:
        open_store(url_)
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StateUnreachable, match=r"me:\*\*\*@127\.0\.0\.1:1/db"):
        open_store("postgresql://me:hunter22@127.0.0.1:1/db")


@pytest.mark.postgres
def test_a_server_that_goes_away_is_an_error_and_its_return_is_noticed(store: Store, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("PostgreSQL only")
    store.claim_setting("a", "1")
    add(store, *[f"r{n}" for n in range(3000)])
    listing = store.reports.runs(RunStatus.PENDING)
    next(listing)
    admin = create_engine(SERVER or "", isolation_level="AUTOCOMMIT")
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with admin.connect() as connection:
        connection.execute(kill, {"name": url.rpartition("/")[2]})
    admin.dispose()
    with pytest.raises(StateUnreachable, match="does not answer"):
        list(listing)
    assert store.setting("a") == "1"


def test_the_package_imports_nothing_of_the_program() -> None:
    for path in Path(migrations_db.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "migrator" for name in names), path
