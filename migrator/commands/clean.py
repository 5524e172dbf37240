"""`migrate clean`: shows what commands have left on this machine, and removes it with `--yes`."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from migrations_db import StateMissing, open_store
from migrations_db.store import Store
from migrator.commands.text import add_row, counted, new_table, print_table
from migrator.destinations.base import UPLOADED
from migrator.disk import size_bytes
from migrator.errors import ExitCode, UserError
from migrator.job.address import bound_address
from migrator.job.job import offline_file, offline_files
from migrator.job.processes import host_id, is_alive, runs_since
from migrator.job.scratch import abandoned, stale
from migrator.settings import LOG_DIR, OFFLINE_DIR, Globals

LOGS, SCRATCH, OFFLINE, ALL = "logs", "scratch", "offline", "all"
KINDS = (LOGS, SCRATCH, OFFLINE)
CLOCK_S = 60.0  # by how much the clocks of this machine and of the state database may differ


@dataclass(frozen=True, slots=True)
class CleanSettings:
    """`what` is one of KINDS, or ALL. `offline_dir` None: the one of the state database, else the default."""

    what: str
    work_dir: Path
    offline_dir: Path | None = None
    not_uploaded: bool = False
    yes: bool = False


@dataclass(frozen=True, slots=True)
class Remains:
    """Files and directories of one kind in one place. `kept`: why they stay; empty: they are removed."""

    what: str
    place: Path
    paths: Sequence[Path]
    kept: str = ""
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_bytes", sum(map(size_bytes, self.paths)))


def clean_command(settings: CleanSettings, common: Globals) -> ExitCode:
    """Print what there is and, if the user says so, remove it. `UserError` while a command is running."""
    if settings.what not in (*KINDS, ALL):
        raise UserError(f"--what is {', '.join(KINDS)} or {ALL}, not '{settings.what}'")
    try:
        with open_store(common.db, create=False) as store:
            _check_idle(store)
            found = list(_found(settings, store))
    except StateMissing:
        found = list(_found(settings, None))
    found = [remains for remains in found if remains.paths]
    if settings.yes:
        for remains in found:
            if not remains.kept:
                _remove(remains)
    _print(found, settings, common)
    return ExitCode.OK


# ---------------------------------------------------------------- is anybody at work?


def _check_idle(store: Store) -> None:
    """`UserError` if a command works with this state database, on any machine."""
    store.workers.recover(host_id(), is_alive)
    if workers := store.workers.alive():
        raise UserError(f"a command is running ({counted(len(workers), 'worker')} on {workers[0].host}): stop it first")
    for started in store.accounts.unended():
        is_here = started.host == socket.gethostname() and started.pid != os.getpid()
        if is_here and runs_since(started.pid, started.started_at.timestamp() + CLOCK_S):
            raise UserError(f"`migrate {started.command}` is running (process {started.pid}): stop it first")


# ---------------------------------------------------------------- what there is


def _found(settings: CleanSettings, store: Store | None) -> Iterator[Remains]:
    if settings.what in (LOGS, ALL):
        logs = LOG_DIR.absolute()
        yield Remains(LOGS, logs, [path for path in sorted(logs.glob("*.jsonl")) if path.is_file()])
    if settings.what in (SCRATCH, ALL):
        yield Remains(SCRATCH, settings.work_dir, [*stale(settings.work_dir), *abandoned(settings.work_dir)])
    if settings.what in (OFFLINE, ALL):
        yield from _offline(settings, store)


def _offline(settings: CleanSettings, store: Store | None) -> Iterator[Remains]:
    address = bound_address(store) if store else None
    directory = settings.offline_dir or (address.directory if address else None) or OFFLINE_DIR
    directory = directory.absolute()
    uploaded = set()
    if store and address and address.directory:
        uploaded = {offline_file(directory, *names) for names in store.listing.at_position(UPLOADED)}
    found = [*offline_files(directory)]
    waiting = [path for path in found if path not in uploaded]
    yield Remains(OFFLINE, directory, sorted(path for path in uploaded if path.is_dir() and not path.is_symlink()))
    kept = "" if settings.not_uploaded else "not uploaded: `migrate sync` does it; --not-uploaded removes them, too"
    yield Remains(OFFLINE, directory, waiting, kept)


# ---------------------------------------------------------------- removing and printing


def _remove(remains: Remains) -> None:
    try:
        for path in remains.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be removed: {error.strerror}", ExitCode.UNEXPECTED) from error
    if remains.what != SCRATCH:
        for folder in sorted({path.parent for path in remains.paths} | {remains.place}, reverse=True):
            with suppress(OSError):  # there is something else in it
                folder.rmdir()


def _print(found: Sequence[Remains], settings: CleanSettings, common: Globals) -> None:
    removed = [remains for remains in found if not remains.kept]
    size = decimal(sum(remains.size_bytes for remains in removed))
    if common.json:
        rows = [
            {
                "what": remains.what,
                "place": str(remains.place),
                "count": len(remains.paths),
                "bytes": remains.size_bytes,
                "kept": remains.kept or None,
                "removed": settings.yes and not remains.kept,
            }
            for remains in found
        ]
        print(json.dumps({"schema_version": 1, "found": rows}))
        return
    console = Console(soft_wrap=True)
    if found:
        table = new_table(console, "what", ">number", ">size", "where")
        for remains in found:
            where = f"{remains.place}  ({remains.kept})" if remains.kept else str(remains.place)
            add_row(table, remains.what, f"{len(remains.paths):,}", decimal(remains.size_bytes), where)
        print_table(console, table)
    if not removed:
        print("There is nothing to remove.")
    elif settings.yes:
        print(f"Removed: {size}.")
    else:
        print(f"Nothing was removed. `migrate clean --what {settings.what} --yes` removes {size}.")
