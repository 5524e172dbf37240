"""What `migrate status` and `migrate retry-failed` do."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from migrations_db.states import RunStatus
from migrator.commands import status as report
from migrator.commands.run import opened
from migrator.commands.status.conclusions import counted
from migrator.errors import ErrorClass
from migrator.settings import Globals


def status_command(run: str, *, failed: bool, skips: bool, common: Globals) -> None:
    """The state of the whole job, or of one run."""
    console = Console()
    with opened(common.db) as store:
        bound = report.bound_to(store)
        if run:
            detail = report.find_run(store, run)
            ledger = store.reports.ledger(detail.run)
            if common.json:
                print(json.dumps(report.run_json(detail, ledger, bound.workspace)))
            else:
                report.print_run(console, detail, ledger, bound)
        elif failed:
            runs = store.reports.runs(RunStatus.FAILED)
            if common.json:
                print(json.dumps(report.failed_json(runs)))
            else:
                report.print_failed(console, runs)
        elif common.json:
            print(json.dumps(report.overview_json(store.reports.overview(), bound.workspace)))
        elif skips:
            report.print_skips(console, store.reports.overview())
        else:
            report.print_overview(console, store.reports.overview(), bound)


def retry_failed_command(
    classes: Sequence[ErrorClass], projects: Sequence[str], run_ids: Sequence[str], common: Globals
) -> None:
    """Put failed runs back to pending and say how many."""
    with opened(common.db) as store:
        count = store.retry_failed(store.select(projects, run_ids), [str(word) for word in classes])
    if common.json:
        print(json.dumps({"schema_version": 1, "retried": count}))
    else:
        print(f"{counted(count, 'failed run')} put back to pending" + (". Next: `migrate run`" if count else ""))
