"""`migrate doctor`: whether a job can run here, before it is begun. Nothing is copied.

checks    one line of it, and how errors become lines
machine   versions, limits, disks, the environment
places    the two services, local directories, the state database
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from migrations_db import StateError, try_place
from migrations_db.states import Phase
from migrator.commands.doctor import machine, places
from migrator.commands.doctor.checks import Check, Health, Look, attempted, attempted_at_once, ok, worst
from migrator.commands.remembered import Asked, Settled, remembered
from migrator.commands.text import add_row, counted, new_table, print_table, say
from migrator.errors import ExitCode, UserError
from migrator.job.log import log_path, start_log
from migrator.job.scratch import scratch_directory
from migrator.parts.base import MappingOptions
from migrator.settings import OFFLINE_DIR, Globals, Mode, token_is_set, work_directory

STYLES = {Health.OK: "green", Health.WARN: "yellow", Health.BAD: "red"}


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What a person asks for. `local`: directories in place of the W&B API. Empty and None: as `migrate run` has it."""

    work_dir: Path
    entity: str = ""
    local: Sequence[Path] = ()
    mode: Mode | None = None
    workspace: str = ""
    offline_dir: Path | None = None
    write: bool = False
    visibility: str = "priv"


def doctor_command(settings: DoctorSettings, common: Globals) -> ExitCode:
    """Look at everything, say what was found."""
    checks = examine(settings, common.db)
    exit_code = worst(checks)
    if common.json:
        print(json.dumps(_as_json(checks, exit_code)))
    else:
        _print(checks)
    return exit_code


def examine(settings: DoctorSettings, db: str) -> list[Check]:
    """All checks, in the order in which they are shown."""
    checks = [
        *attempted("versions", machine.versions),
        *attempted("open files", machine.open_files),
        *attempted("certificates", partial(machine.environment, os.environ)),
        *attempted("log", _begin_log),
        *attempted("scratch files", partial(machine.disk, "scratch files", settings.work_dir, "scratch files")),
    ]
    where, problem = _settled(settings, db)
    checks += problem
    if where.mode == "offline":
        look = partial(machine.disk, "offline files", where.offline_dir, "offline files")
        checks += attempted("offline files", look)
    services = places.Services()
    with ExitStack() as stack:
        looks: dict[str, Look] = {"state database": partial(_database, db, None if problem else where)}
        if settings.local:
            looks["local runs"] = partial(places.local_directories, settings.local)
        elif scratch := _scratch(stack, settings.work_dir):
            looks["W&B"] = partial(services.wandb, settings.entity or None, scratch / "wandb")
        if where.mode == "online":
            looks["Neptune"] = partial(services.neptune, where.workspace, settings.visibility, write=settings.write)
        checks += attempted_at_once(looks)
    return checks + list(services.clock())


def _begin_log() -> Iterator[Check]:
    path = log_path("doctor")
    start_log(path, verbose=False)
    yield ok("log", f"can be written in {path.parent}")


def _settled(settings: DoctorSettings, db: str) -> tuple[Settled, list[Check]]:
    """Where the runs would go, and what keeps `migrate run` from knowing it; then it is a guess without workspace."""
    asked = Asked(settings.mode, settings.workspace, settings.offline_dir)
    found: list[Settled] = []

    def look() -> Iterator[Check]:
        try:
            found.append(remembered(Phase.COPY, asked, Globals(db, quiet=True)))
        except StateError:  # the check of the database tells it
            found.append(guess)
        yield from ()

    mode = settings.mode or ("online" if token_is_set() else "offline")
    guess = Settled(mode, settings.workspace, settings.offline_dir or OFFLINE_DIR, MappingOptions())
    problem = attempted("destination", look)
    return (found or [guess])[0], problem


def _scratch(stack: ExitStack, work_dir: Path) -> Path | None:
    """Where W&B's helper process has its files; None: there is no place, which the check of scratch files tells."""
    for parent in (work_dir, work_directory(None)):
        try:
            return stack.enter_context(scratch_directory(parent))
        except UserError:
            pass
    return None


def _database(db: str, where: Settled | None) -> Iterator[Check]:
    tried = try_place(db)
    state = "is there and can be written" if tried.is_there else "can be made; `migrate inventory` makes it"
    yield ok("state database", f"{tried.address} {state}")
    if where is not None:
        look = partial(places.destination, db, where, is_there=tried.is_there)
        yield from attempted("destination", look)


# ---------------------------------------------------------------- what it prints


def _as_json(checks: Sequence[Check], exit_code: ExitCode) -> dict[str, object]:
    return {
        "schema_version": 1,
        "exit_code": int(exit_code),
        "checks": [
            {"name": one.name, "result": one.health.value, "message": one.message, "next": one.next_step}
            for one in checks
        ],
    }


def _print(checks: Sequence[Check]) -> None:
    console = Console()
    table = new_table(console, "", "", "")
    table.show_header = False
    for check in checks:
        add_row(table, check.health.value, check.name, check.message, style=STYLES[check.health])
        if check.next_step:
            add_row(table, "", "", f"{check.next_step}.", indent=2)
    print_table(console, table)
    counts = {health: sum(check.health is health for check in checks) for health in Health}
    if counts[Health.BAD]:
        say(
            console,
            f"{counts[Health.BAD]} bad, {counted(counts[Health.WARN], 'warning')}. Correct what is bad, then "
            "`migrate doctor` again.",
        )
    else:
        say(
            console,
            f"Nothing stands in the way ({counted(counts[Health.WARN], 'warning')}). Next: `migrate inventory`.",
        )
