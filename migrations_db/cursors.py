"""Cursors of parts. A list `items` in a cursor only grows. Once it is long, only its new items are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from migrations_db.models import CursorItem

INLINE_ITEMS = 8  # ours: up to this many stay in the cursor itself, which needs no statements of their own


def save_cursor(connection: Connection, run: int, part: str, cursor: Mapping[str, Any]) -> str:
    """Save the new items of a long list. Returns the rest of the cursor as JSON, with `items` null."""
    items = cursor.get("items", ())
    if len(items) <= INLINE_ITEMS:
        return json.dumps(cursor)
    ours = (CursorItem.run == run, CursorItem.part == part)
    last = connection.execute(select(func.max(CursorItem.number)).where(*ours)).scalar()
    saved = 0 if last is None else last + 1
    rows = [
        {"run": run, "part": part, "number": number, "value": json.dumps(item)}
        for number, item in enumerate(items[saved:], saved)
    ]
    if rows:
        connection.execute(insert(CursorItem), rows)
    return json.dumps({**cursor, "items": None})


def read_cursor(connection: Connection, run: int, part: str, saved: str) -> dict[str, Any]:
    """Read a cursor with all its items."""
    cursor: dict[str, Any] = json.loads(saved)
    if cursor.get("items", ()) is not None:
        return cursor
    ours = (CursorItem.run == run, CursorItem.part == part)
    items = connection.execute(select(CursorItem.value).where(*ours).order_by(CursorItem.number)).scalars()
    return cursor | {"items": [*map(json.loads, items)]}


def forget_items(connection: Connection, run: int, part: str | None = None) -> None:
    """Delete the list of a part, or of all parts (None)."""
    ours = [CursorItem.run == run] if part is None else [CursorItem.run == run, CursorItem.part == part]
    connection.execute(delete(CursorItem).where(*ours))
