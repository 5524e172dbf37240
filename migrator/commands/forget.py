"""`migrate forget`: resets runs to "never copied". Nothing at the destination changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import typer

from migrations_db import open_store
from migrations_db.inventory import GONE_REASON
from migrations_db.selecting import Wanted
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.choosing import chosen
from migrator.commands.status.conclusions import find_run
from migrator.commands.text import counted
from migrator.errors import ExitCode, UserError
from migrator.job.address import bound_address
from migrator.job.processes import host_id, is_alive
from migrator.settings import Globals
from migrator.visible import tell


def forget_command(runs: Sequence[str], projects: Sequence[str], *, yes: bool, common: Globals) -> ExitCode:
    """Say what would be forgotten, ask (unless `yes`), and do it."""
    if not runs and not projects:
        raise UserError("which runs? Name them (`migrate forget RUN ...`), or give --projects ('*': all)")
    with open_store(common.db, create=False) as store:
        only = _selection(store, runs, projects)
        store.workers.recover(host_id(), is_alive)  # a killed command no longer holds claims
        begun = list(store.reports.begun(only))
        if held := [run.ref for run in begun if run.status is RunStatus.RUNNING]:
            raise UserError(f"{held[0]} is being copied now: stop `migrate run` (or `migrate sync`) first")
        if begun and not yes:
            gone = sum(run.reason == GONE_REASON for run in begun)
            _ask(_consequences(store, len(begun), gone))
        forgotten = store.forget(only)
    if common.json:
        print(json.dumps({"schema_version": 1, "forgotten": forgotten}))
    elif forgotten:
        print(f"{counted(forgotten, 'run')} put back to never copied. Next: `migrate run`")
    else:
        print("Nothing of these runs has been copied yet: there is nothing to forget.")
    return ExitCode.OK


def _selection(store: Store, runs: Sequence[str], projects: Sequence[str]) -> Selection:
    """The named runs, or all runs of the projects. With both: the named runs, which must be in these projects."""
    only = chosen(store, Wanted(projects=projects))
    if not runs:
        return only
    found = [find_run(store, text) for text in runs]
    for detail in found:
        if only.projects is not None and detail.project.id not in only.projects:
            raise UserError(f"run {detail.run_id} is in {detail.project.source}, which --projects leaves out")
    return Selection(runs=tuple(detail.run for detail in found))


def _consequences(store: Store, count: int, gone: int) -> list[str]:
    address = bound_address(store)
    told = [f"{counted(count, 'run')} would be put back to never copied: `migrate run` copies them from their start."]
    if address and address.directory:
        told.append(f"Offline files of theirs stay in {address.directory} until the new copies are complete.")
    told.append("What Neptune has of them stays there, and its points are kept: delete the runs there to replace them.")
    if gone:
        told.append(f"Gone from W&B, so that they cannot be copied again: {counted(gone, 'run')}.")
    return told


def _ask(consequences: Sequence[str]) -> None:
    for line in consequences:
        tell(line)
    if not sys.stdin.isatty():
        raise UserError("nothing was forgotten: add --yes to do it without being asked")
    if not typer.confirm("Forget them?", err=True):
        raise UserError("nothing was forgotten")
