"""`migrate status` and `migrate retry-failed`: what the state database says, and what follows from it.

conclusions   where runs go, the next step, which run is meant
documents     as JSON
overview      as text: the whole job
run           as text: one run
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from migrations_db import open_store
from migrations_db.selecting import Wanted
from migrations_db.states import RunStatus
from migrator.commands.choosing import chosen
from migrator.commands.status.conclusions import bound_to, find_run
from migrator.commands.status.documents import failed_json, overview_json, run_json
from migrator.commands.status.overview import print_failed, print_overview, print_skips
from migrator.commands.status.run import print_run
from migrator.commands.text import counted
from migrator.errors import ErrorClass
from migrator.parts import STANDARD_PARTS
from migrator.settings import Globals


def status_command(run: str, *, failed: bool, skips: bool, common: Globals) -> None:
    """The state of the whole job, or of one run."""
    console = Console()
    with open_store(common.db, create=False) as store:
        bound = bound_to(store)
        if run:
            detail = find_run(store, run)
            ledger = store.reports.ledger(detail.run)
            if common.json:
                print(json.dumps(run_json(detail, ledger, bound.workspace)))
            else:
                print_run(console, detail, ledger, bound)
        elif failed:
            runs = store.reports.runs(RunStatus.FAILED)
            if common.json:
                print(json.dumps(failed_json(runs)))
            else:
                print_failed(console, runs)
        elif common.json:
            print(json.dumps(overview_json(store.reports.overview(STANDARD_PARTS), bound.workspace)))
        elif skips:
            print_skips(console, store.reports.overview(STANDARD_PARTS))
        else:
            print_overview(console, store.reports.overview(STANDARD_PARTS), bound)


def retry_failed_command(classes: Sequence[ErrorClass], wanted: Wanted, common: Globals) -> None:
    """Put failed runs back to pending and say how many."""
    with open_store(common.db, create=False) as store:
        count = store.retry_failed(chosen(store, wanted), [str(word) for word in classes])
    if common.json:
        print(json.dumps({"schema_version": 1, "retried": count}))
    else:
        print(f"{counted(count, 'failed run')} put back to pending" + (". Next: `migrate run`" if count else ""))
