"""`migrate status --workers`: which processes are at work, where, and what each does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console

from migrations_db.report_types import WorkerRow
from migrator.commands.status.conclusions import ALIVE_S
from migrator.commands.status.documents import SCHEMA_VERSION
from migrator.commands.text import add_row, counted, new_table, print_table, say
from migrator.figures import age_text
from migrator.settings import Globals

LATE_S = 20.0  # ours: heartbeats come every 5 s


def show_workers(rows: Sequence[WorkerRow], common: Globals) -> None:
    """Print the workers that have not stopped. `rows` are sorted by worker."""
    workers = [[*claims] for _, claims in groupby(rows, lambda row: row.id)]
    if common.json:
        documents = [_as_json(claims) for claims in workers]
        print(json.dumps({"schema_version": SCHEMA_VERSION, "hosts": _hosts(workers), "workers": documents}))
    else:
        _print(Console(), workers)


def host_name(worker_id: str) -> str:
    """The machine that a worker runs on, from its id, "host:pid:token"."""
    return worker_id.rsplit(":", 2)[0]


def worker_name(worker_id: str) -> str:
    """A worker for people: "host, process pid"."""
    host, *rest = worker_id.rsplit(":", 2)
    return f"{host}, process {rest[0]}" if rest else host


def _hosts(workers: Sequence[Sequence[WorkerRow]]) -> list[dict[str, Any]]:
    """Containers may have one name, so `id` tells hosts apart."""
    hosts: dict[str, dict[str, Any]] = {}
    for first, *_ in workers:
        host = hosts.setdefault(first.host, {"host": host_name(first.id), "id": first.host, "workers": 0})
        host["workers"] += 1
    return [*hosts.values()]


def _as_json(claims: Sequence[WorkerRow]) -> dict[str, Any]:
    first = claims[0]
    runs = [
        {
            "run": row.ref,
            "part": row.part,
            "since": row.since and row.since.isoformat(),
            "elapsed_s": round(row.elapsed_s, 1),
            "idle_s": None if row.idle_s is None else round(row.idle_s, 1),
        }
        for row in claims
        if row.ref
    ]
    return {
        "id": first.id,
        "host": host_name(first.id),
        "pid": first.pid,
        "command": first.command,
        "heartbeat_age_s": round(first.heartbeat_age_s, 1),
        "late": first.heartbeat_age_s > LATE_S,
        "runs": runs,
        "reading": first.reading,
    }


def _print(console: Console, workers: Sequence[Sequence[WorkerRow]]) -> None:
    if not workers:
        say(console, "Nothing is running.")
        return
    say(console, f"{counted(len(workers), 'worker')} on {counted(len(_hosts(workers)), 'host')}", "bold")
    table = new_table(console, "host", ">pid", "command", "run, and its part", ">since")
    late = []
    for claims in workers:
        for number, row in enumerate(claims):
            own = (host_name(row.id), str(row.pid), row.command or "") if number == 0 else ("", "", "")
            add_row(table, *own, _doing(row), age_text(row.elapsed_s))
        late += [claims[0]] if claims[0].heartbeat_age_s > LATE_S else []
    print_table(console, table)
    for row in late:
        free = " `migrate run` takes its runs over." if row.run and row.heartbeat_age_s > ALIVE_S else ""
        told = f"{worker_name(row.id)}: not heard of for {age_text(row.heartbeat_age_s)}.{free}"
        say(console, told, "yellow")


def _doing(row: WorkerRow) -> str:
    if row.ref is None:
        return f"reads {counted(row.reading, 'run')} back" if row.command == "verify" else "waits for work"
    slow = f", no progress for {age_text(row.idle_s)}" if row.idle_s and row.idle_s >= ALIVE_S else ""
    return f"{row.ref}  {row.part or 'start'}{slow}"
