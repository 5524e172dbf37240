"""Forgets copies, so that their runs are copied from the start. Called within transactions of the callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from migrations_db.claiming import one_of
from migrations_db.models import CursorItem, Digest, Ledger, Part, Run
from migrations_db.states import Phase, RunStatus
from migrations_db.verification import forget_digests

#: the columns of a run if the destination has nothing of it
NOTHING_COPIED: dict[str, Any] = {
    "phase": Phase.COPY,
    "position": None,
    "points_read": 0,
    "points_written": 0,
    "size_bytes": 0,
    "mapping": None,
}
#: and if no command has tried to copy it; attempts stay, because their numbers are for fencing
_NEVER_CLAIMED: dict[str, Any] = {
    "copied_fingerprint": None,
    "failures": 0,
    "silent_attempts": 0,
    "not_before": None,
    "error_class": None,
    "error_message": None,
    "started_at": None,
    "finished_at": None,
    "verdict": None,
    "verified_at": None,
}


def drop_parts(connection: Connection, runs: ColumnElement[bool], part: str | None = None) -> None:
    """Delete cursors, counts and ledger lines of a part of these runs. None: of all parts, and also the digests."""
    numbers = select(Run.id).where(runs)
    cursors, lines = delete(Part).where(Part.run.in_(numbers)), delete(Ledger).where(Ledger.run.in_(numbers))
    if part is not None:
        cursors, lines = cursors.where(Part.name == part), lines.where(Ledger.part == part)
    items = delete(CursorItem).where(CursorItem.run.in_(numbers))
    if part is not None:
        items = items.where(CursorItem.part == part)
    else:
        forget_digests(connection, [Digest.run.in_(numbers)])
    for statement in (cursors, lines, items):
        connection.execute(statement)


def forget(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> int:
    """Reset runs that meet the conditions to "never copied", if their copy has begun and nobody has claimed them.

    Returns how many.
    """
    begun = [*conditions, Run.copied_fingerprint.is_not(None), Run.status != RunStatus.RUNNING]
    query = select(Run.id).where(*begun).order_by(Run.id).with_for_update()
    runs = list(connection.execute(query).scalars())
    chosen = one_of(Run.id, runs)
    drop_parts(connection, chosen)
    connection.execute(update(Run).where(chosen).values(NOTHING_COPIED | _NEVER_CLAIMED))
    waiting = update(Run).where(chosen, Run.status != RunStatus.SKIPPED)
    connection.execute(waiting.values(status=RunStatus.PENDING))
    return len(runs)
