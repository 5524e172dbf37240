"""Runs in full, in a few queries per page of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, select

from migrations_db.claiming import one_of
from migrations_db.models import Attempt, Finding, Invocation, Ledger, Part, Worker
from migrations_db.report_types import AttemptRow, FindingRow, LedgerRow, RunDetail
from migrations_db.rows import AnyRow, to_parts
from migrations_db.types import Project as ProjectData

PAGE_ROWS = 1_000  # ours: rows of ledgers held in memory


def read_details(connection: Connection, page: Sequence[AnyRow]) -> Iterator[RunDetail]:
    """The runs of some rows of `run_query`, in their order."""
    numbers = [row.id for row in page]
    parts, attempts = _parts(connection, numbers), read_attempts(connection, numbers)
    findings = _findings(connection, [row.id for row in page if row.verdict])
    for row in page:
        own = {
            "run": row.id,
            "project": ProjectData(
                row.project_id,
                row.entity,
                row.project,
                row.source_service,
                row.project_url,
                row.destination_name,
                row.name_note,
            ),
            "tags": row.tags or (),
            "parts": to_parts(connection, parts.get(row.id, ()), row.copied_fingerprint),
            "attempts": attempts.get(row.id, ()),
            "findings": findings.get(row.id, ()),
        }
        same = {name: getattr(row, name) for name in RunDetail.__slots__ if name not in own}
        yield RunDetail(**own, **same)


def read_ledgers(connection: Connection, page: Sequence[AnyRow]) -> Iterator[list[LedgerRow]]:
    """The ledger of each run in `page`, whose numbers ascend. One of them is in memory at a time."""
    columns = (Ledger.part, Ledger.kind, Ledger.path, Ledger.reason, Ledger.count)
    query = select(Ledger.run, *columns).where(one_of(Ledger.run, [row.id for row in page]))
    lines = connection.execute(query.order_by(Ledger.run, *columns), execution_options={"yield_per": PAGE_ROWS})
    by_run = groupby(lines, lambda line: line.run)
    run, same = next(by_run, (None, None))
    for row in page:
        if run != row.id or same is None:
            yield []
            continue
        yield [LedgerRow(*line[1:]) for line in same]
        run, same = next(by_run, (None, None))


def read_attempts(connection: Connection, runs: Collection[int]) -> dict[int, list[AttemptRow]]:
    """The attempts of runs by number, first to last."""
    columns: tuple[Any, ...] = (
        Attempt.run,
        Attempt.number,
        Attempt.phase,
        Attempt.worker,
        Attempt.started_at,
        Attempt.ended_at,
        Attempt.outcome,
        Attempt.error_class,
        Attempt.message,
        Invocation.log,
    )
    query = (
        select(*columns)
        .outerjoin(Worker, Worker.id == Attempt.worker)
        .outerjoin(Invocation, Invocation.id == Worker.invocation_id)
        .where(one_of(Attempt.run, runs))
        .order_by(Attempt.run, Attempt.number)
    )
    found: dict[int, list[AttemptRow]] = {}
    for row in connection.execute(query):
        found.setdefault(row.run, []).append(AttemptRow(*row[1:]))
    return found


def _parts(connection: Connection, runs: Collection[int]) -> dict[int, list[AnyRow]]:
    query = select(Part.__table__).where(one_of(Part.run, runs)).order_by(Part.run, Part.name)
    found: dict[int, list[AnyRow]] = {}
    for row in connection.execute(query):
        found.setdefault(row.run, []).append(row)
    return found


def _findings(connection: Connection, runs: Collection[int]) -> dict[int, list[FindingRow]]:
    columns: tuple[Any, ...] = (Finding.path, Finding.verdict, Finding.want, Finding.got)
    query = select(Finding.run, *columns).where(one_of(Finding.run, runs)).order_by(Finding.run, Finding.path)
    found: dict[int, list[FindingRow]] = {}
    for row in connection.execute(query) if runs else ():
        found.setdefault(row.run, []).append(FindingRow(*row[1:]))
    return found
