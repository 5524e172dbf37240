"""What a checkpoint writes besides the run itself: parts, ledger lines and digests. Called within its transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, delete, select

from migrations_db.columns import safe
from migrations_db.cursors import forget_items, save_cursor
from migrations_db.database import Database
from migrations_db.models import Digest, Ledger, Part
from migrations_db.types import Claim, DigestRow, PartUpdate


def part_row(connection: Connection, claim: Claim, new: PartUpdate) -> dict[str, Any]:
    """The parameters of `statements.save_part`."""
    return {
        "run": claim.run,
        "name": new.name,
        "read": new.read,
        "written": new.written,
        "skipped": new.skipped,
        "size_bytes": new.size_bytes,
        "done_fingerprint": claim.fingerprint if new.done else None,
        "cursor": None if new.cursor is None else save_cursor(connection, claim.run, new.name, new.cursor),
    }


def start_anew(connection: Connection, run: int, new: PartUpdate) -> PartUpdate:
    """Delete the part's ledger, counts and items. Returns an update that leaves only the counts of `new`."""
    forget_items(connection, run, new.name)
    connection.execute(delete(Ledger).where(Ledger.run == run, Ledger.part == new.name))
    columns = (Part.read, Part.written, Part.skipped, Part.size_bytes)
    old = connection.execute(select(*columns).where(Part.run == run, Part.name == new.name)).one_or_none()
    if old is None:
        return new
    return replace(
        new,
        read=new.read - old.read,
        written=new.written - old.written,
        skipped=new.skipped - old.skipped,
        size_bytes=new.size_bytes - old.size_bytes,
    )


def save_ledger(database: Database, connection: Connection, run: int, new: PartUpdate) -> None:
    """Add the update's lines to the run's ledger. Equal lines are added up."""
    if not new.ledger:
        return
    lines: dict[bytes, dict[str, Any]] = {}
    for entry in new.ledger:
        key = safe("\n".join((new.name, entry.kind, entry.reason, entry.path)))
        digest = blake2b(key.encode(), digest_size=16).digest()
        line = lines.setdefault(
            digest,
            {"run": run, "digest": digest, "part": new.name, "count": 0}
            | {"kind": entry.kind, "path": entry.path, "reason": entry.reason},
        )
        line["count"] += entry.count
    row = database.insert(Ledger)
    row = row.on_conflict_do_update(
        index_elements=[Ledger.run, Ledger.digest], set_={"count": Ledger.count + row.excluded.count}
    )
    connection.execute(row, list(lines.values()))


def save_digests(database: Database, connection: Connection, run: int, digests: Mapping[str, DigestRow]) -> None:
    """Replace the run's digests at these paths."""
    row = database.insert(Digest)
    row = row.on_conflict_do_update(
        index_elements=[Digest.run, Digest.path], set_={"kind": row.excluded.kind, "data": row.excluded.data}
    )
    rows = [{"run": run, "path": path, "kind": one.kind, "data": one.data} for path, one in digests.items()]
    connection.execute(row, rows)
