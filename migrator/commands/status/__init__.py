"""`migrate status` and `migrate retry-failed`: the contents of the state database, and conclusions from them.

conclusions   where runs go, the next step, which run the user means
documents     as JSON
overview      as text: the whole job
run           as text: one run
workers       the workers, as text and JSON
every_run     all runs in full, as JSON lines or CSV
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from migrations_db import open_store
from migrations_db.report_types import Overview, RunDetail
from migrations_db.selecting import Wanted
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.choosing import chosen
from migrator.commands.status.conclusions import Bound, bound_to, conclusion, find_run
from migrator.commands.status.documents import failed_json, overview_json, run_json
from migrator.commands.status.every_run import write_every_run
from migrator.commands.status.overview import print_failed, print_overview, print_short, print_skips
from migrator.commands.status.run import print_run
from migrator.commands.status.workers import show_workers
from migrator.commands.text import counted
from migrator.errors import ErrorClass, ExitCode, UserError
from migrator.job.pace import Pace
from migrator.parts import STANDARD_PARTS
from migrator.settings import Globals

WATCH_S = 2.0  # between two refreshes of `--watch` on a terminal
WATCH_LINE_S = 30.0  # elsewhere
PAUSE_SHARE = 10  # and at least this many times as long as a look takes


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """What to show: one `run` in full; or, for the runs `wanted`, the whole job, its `failed` runs, its `skips`, or
    `all` runs in full; or the `workers`.
    """

    run: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    failed: bool = False
    skips: bool = False
    short: bool = False
    watch: bool = False
    workers: bool = False
    all: bool = False
    json_lines: bool = False
    csv: bool = False
    exit_code: bool = False


def status_command(query: StatusQuery, common: Globals) -> ExitCode:
    """Show it. With `exit_code`, the result says if all is done (0), runs failed (3) or there is more to do (6)."""
    _check(query, common)
    with open_store(common.db, create=False) as store:
        bound = bound_to(store)
        if query.run:
            _show_run(store, find_run(store, query.run), bound, common)
            return ExitCode.OK
        if query.workers:
            show_workers(store.reports.workers(), common)
            return ExitCode.OK
        only = chosen(store, query.wanted)
        if query.all:
            write_every_run(store, only, bound.workspace, as_csv=query.csv)
            return ExitCode.OK
        if query.watch:
            overview = _watch(store, only, query, bound)
        else:
            overview = store.reports.overview(only, STANDARD_PARTS, ledger=common.json or not query.short)
            _show(store, overview, only, query, bound, common)
    return conclusion(overview) if query.exit_code else ExitCode.OK


def _check(query: StatusQuery, common: Globals) -> None:
    """`UserError` for options that do not go together."""
    views = {"--failed": query.failed, "--skips": query.skips, "--workers": query.workers, "--all": query.all}
    shown = [f"RUN ({query.run})"] if query.run else []
    shown += [name for name, is_asked in views.items() if is_asked]
    if len(shown) > 1:
        raise UserError(f"{' and '.join(shown)} do not go together: ask for one of them")
    if query.watch and (shown or common.json):
        raise UserError("--watch shows the whole job, alone or with --short")
    if (query.json_lines or query.csv) and not query.all:
        raise UserError(f"{'--csv' if query.csv else '--json-lines'} goes with --all; `migrate runs --csv` is shorter")
    if query.all and query.json_lines is query.csv:
        raise UserError("--all takes either --json-lines or --csv; `migrate runs` shows a table")


def _show_run(store: Store, detail: RunDetail, bound: Bound, common: Globals) -> None:
    ledger = store.reports.ledger(detail.run)
    if common.json:
        print(json.dumps(run_json(detail, ledger, bound.workspace)))
    else:
        print_run(Console(), detail, ledger, bound)


def _show(store: Store, overview: Overview, only: Selection, query: StatusQuery, bound: Bound, common: Globals) -> None:
    console = Console()
    if query.failed:
        runs = store.reports.runs(RunStatus.FAILED, only)
        if common.json:
            print(json.dumps(failed_json(runs)))
        else:
            print_failed(console, runs)
    elif common.json:
        print(json.dumps(overview_json(overview, bound.workspace)))
    elif query.skips:
        print_skips(console, overview)
    elif query.short:
        print_short(console, overview, bound)
    else:
        print_overview(console, overview, bound)


def _watch(store: Store, only: Selection, query: StatusQuery, bound: Bound) -> Overview:
    """Refresh the output until nothing is left to do, or Ctrl-C."""
    console = Console()
    pace = Pace()
    short = query.short or not console.is_terminal
    while True:
        looked_at = time.monotonic()
        overview = store.reports.overview(only, STANDARD_PARTS, ledger=not short)
        looked_s = time.monotonic() - looked_at
        last_minute = pace.note(overview.progress, time.monotonic()) if overview.progress else None
        speed = last_minute if last_minute and last_minute.left_s is not None else None  # at first, the average will do
        if console.is_terminal:
            console.clear()
        if short:
            print_short(console, overview, bound, speed)
        else:
            print_overview(console, overview, bound, speed)
        if conclusion(overview) is not ExitCode.UNFINISHED:
            return overview
        try:
            time.sleep(max(WATCH_S if console.is_terminal else WATCH_LINE_S, PAUSE_SHARE * looked_s))
        except KeyboardInterrupt:  # the normal way to end it
            return overview


def retry_failed_command(classes: Sequence[ErrorClass], wanted: Wanted, common: Globals) -> None:
    """Make failed runs pending again and print how many."""
    with open_store(common.db, create=False) as store:
        only = chosen(store, wanted)
        failures = [str(word) for word in classes if word is not ErrorClass.DIFFERS]
        count = store.verification.retry_differing(only) if ErrorClass.DIFFERS in classes else 0
        if failures or not classes:
            count += store.retry_failed(only, failures)
    if common.json:
        print(json.dumps({"schema_version": 1, "retried": count}))
    else:
        what = "run" if ErrorClass.DIFFERS in classes else "failed run"
        print(f"{counted(count, what)} put back to pending" + (". Next: `migrate run`" if count else ""))
