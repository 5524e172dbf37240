"""`migrate status --all`: what `migrate status RUN --json` tells, of every run, one line each."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import fields
from typing import Any

from migrations_db.report_types import RunDetail
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.status.documents import run_json

#: the keys of `run_json`, in its order
COLUMNS = ["schema_version", "ref", "destination", *(field.name for field in fields(RunDetail)), "skips", "notes"]


def write_every_run(store: Store, only: Selection, workspace: str | None, *, as_csv: bool) -> None:
    """Write a JSON document, or a row of CSV, for each run as it comes from the state database.

    Cells of CSV that are no single value contain JSON.
    """
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    if as_csv:
        writer.writeheader()
    for detail, ledger in store.reports.every_run(only):
        document = run_json(detail, ledger, workspace)
        if as_csv:
            writer.writerow({name: _cell(value) for name, value in document.items()})
        else:
            print(json.dumps(document))


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple | bool) else value
