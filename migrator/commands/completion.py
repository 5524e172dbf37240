"""What a shell offers while an option is typed: names from the state database. On errors it offers nothing."""

from __future__ import annotations

from collections.abc import Callable

import typer

from migrations_db import StateError, open_store
from migrations_db.store import Store
from migrator.settings import DEFAULT_DB

OFFERED = 200  # names at most: shells ask before they show more


def projects(context: typer.Context, begun: str) -> list[str]:
    """Projects that complete the comma-separated list `begun`."""
    earlier, comma, last = begun.rpartition(",")
    return _offered(
        context,
        lambda store: [
            f"{earlier}{comma}{project.name}"
            for project in store.inventory.projects()
            if project.name.startswith(last) and project.name not in earlier.split(",")
        ],
    )


def run_ids(context: typer.Context, begun: str) -> list[str]:
    return _offered(context, lambda store: store.listing.values("run_ids", OFFERED, begun))


def _offered(context: typer.Context, names: Callable[[Store], list[str]]) -> list[str]:
    try:
        with open_store(context.find_root().params.get("db") or DEFAULT_DB, create=False) as store:
            return names(store)[:OFFERED]
    except (StateError, OSError):
        return []
