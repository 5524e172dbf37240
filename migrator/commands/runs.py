"""`migrate runs`: shows the runs in the state database as a table, JSON or CSV, to look at before copying."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from itertools import islice
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from migrations_db import open_store
from migrations_db.accounts import RunAccount
from migrations_db.listing import SORTS, ListedRun
from migrations_db.selecting import Wanted
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrator.commands.choosing import chosen, did_you_mean, nothing_has
from migrator.commands.text import add_row, counted, new_table, print_table, say, status_word
from migrator.errors import UserError
from migrator.settings import Globals

SHOWN = 200  # rows of a table, unless --limit is given: people do not read more


@dataclass(frozen=True, slots=True)
class RunsQuery:
    """Which runs to show, and how. `sort`: one of `SORTS`; empty: as they were listed."""

    wanted: Wanted
    statuses: Sequence[str] = ()
    states: Sequence[str] = ()
    tags: Sequence[str] = ()
    sort: str = ""
    reverse: bool = False
    limit: int | None = None
    csv: bool = False


def runs_command(query: RunsQuery, common: Globals) -> None:
    """Print the runs that match the query."""
    statuses = [_status(word) for word in query.statuses]
    if query.sort and query.sort not in SORTS:
        raise UserError(f"--sort {query.sort}{did_you_mean([query.sort], SORTS)}: sort by {', '.join(SORTS)}")
    with open_store(common.db, create=False) as store:
        found = _found(store, query, statuses)
        if common.json:
            runs = [_as_json(run) for run in islice(found, query.limit)]
            print(json.dumps({"schema_version": 1, "runs": runs}))
        elif query.csv:
            _write_csv(islice(found, query.limit))
        else:
            _print_runs(found, query.limit or SHOWN)


def _status(word: str) -> RunStatus:
    words = {status.value: status for status in RunStatus} | {status_word(status): status for status in RunStatus}
    if word not in words:
        raise UserError(
            f"--status {word}{did_you_mean([word], words)}: there are {', '.join(map(status_word, RunStatus))}"
        )
    return words[word]


def _found(store: Store, query: RunsQuery, statuses: Sequence[RunStatus]) -> Iterator[ListedRun]:
    only = chosen(store, query.wanted)
    there = store.listing.values("states", SHOWN)
    if unknown := [state for state in query.states if state not in there]:
        raise UserError(nothing_has("--state", unknown, there, "`migrate runs` lists all runs"))
    runs = store.listing.runs(only, statuses, query.states, query.sort, descending=query.reverse)
    tags = set(query.tags)
    return (run for run in runs if not tags or tags & set(run.tags))


def _print_runs(found: Iterator[ListedRun], limit: int) -> None:
    console = Console()
    table = new_table(console, "run", "name", "at W&B", "created", ">rows", "status")
    count = longest = 0
    for run in islice(found, limit):
        count, longest = count + 1, max(longest, cell_len(run.ref))
        created = f"{run.created_at:%Y-%m-%d}" if run.created_at else ""
        rows = "" if run.history_rows is None else f"{run.history_rows:,}"
        add_row(table, run.ref, run.name, run.state, created, rows, status_text(run))
    if not count:
        say(console, "No run matches: `migrate runs` lists all, `migrate inventory` adds new ones.")
        return
    table.columns[0].min_width = min(longest, console.width // 2)  # people copy them: names are wrapped instead
    print_table(console, table)
    more = sum(1 for _ in found)
    if more:
        print(f"{count:,} of {counted(count + more, 'run')}; --limit N, --csv or --json show more", file=sys.stderr)
    else:
        print(counted(count, "run"), file=sys.stderr)


def status_text(run: ListedRun | RunAccount) -> str:
    """The status of a run, in the words of `migrate status`."""
    why = f": {run.error_class}" if run.status is RunStatus.FAILED and run.error_class else ""
    return f"{status_word(run.status)}{why}" + (" (upload)" if run.phase == "upload" else "")


def _as_json(run: ListedRun) -> dict[str, Any]:
    entry = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(run).items()}
    entry["bytes"] = entry.pop("size_bytes")
    return {"run": entry.pop("ref"), **entry}


def _write_csv(runs: Iterator[ListedRun]) -> None:
    names = [
        ("run" if field.name == "ref" else field.name).replace("size_bytes", "bytes") for field in fields(ListedRun)
    ]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        entry = _as_json(run)
        writer.writerow(entry | {"tags": " ".join(entry["tags"])})
