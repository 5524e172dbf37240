"""The state database: which runs there are, who copies them, and how far they are.

In reading order:

    states.py        run and part states, allowed moves (pure)
    types.py         arguments and results of the store (pure);  report_types.py  results of reports
    errors.py        what can go wrong
    store.py         claims and fenced writes          `Store`
    inventory.py     what an inventory writes          `store.inventory`
    workers.py       heartbeats and recovery           `store.workers`
    reports.py       read-only queries                 `store.reports`
    details.py       runs in full, for reports;  working.py  workers and their claims
    jobs.py          the current or last command, for reports;  measured.py  sizes and speeds so far
    listing.py       lists of runs                     `store.listing`
    accounts.py      runs with their sums              `store.accounts`
    relistings.py    what sources had later            `store.relistings`
    verification.py  digests and verdicts              `store.verification`
    models.py        tables;  columns.py  their types, and the database's clock in both dialects
    statements.py    statements that every run needs, built once
    claiming.py      the statement that hands out runs; conditions for many values at once
    attempts.py      how claims begin and end;  cursors.py  cursors that grow by items
    selecting.py     finds the runs that a user asks for
    forgetting.py, forks.py  steps of larger transactions
    rows.py          from rows to types
    database.py      transactions; translates vendors' errors
    trying.py        whether a place can hold a state database, before there is one
    engine.py        opens a path or URL, checks the version, refuses network file systems
    upgrades/        Alembic versions, applied automatically on opening

It imports nothing of `migrator`.
"""

from migrations_db.engine import open_store
from migrations_db.errors import (
    CountsDisagree,
    LeaseLost,
    StateDamaged,
    StateDiskFull,
    StateError,
    StateLocked,
    StateMissing,
    StateReadOnly,
    StateSilent,
    StateTooNew,
    StateUnreachable,
    StateUnsupported,
)
from migrations_db.states import (
    Outcome,
    PartStatus,
    Phase,
    RunStatus,
    Unseen,
)
from migrations_db.store import Store
from migrations_db.trying import try_place

__all__ = [
    "CountsDisagree",
    "LeaseLost",
    "Outcome",
    "PartStatus",
    "Phase",
    "RunStatus",
    "StateDamaged",
    "StateDiskFull",
    "StateError",
    "StateLocked",
    "StateMissing",
    "StateReadOnly",
    "StateSilent",
    "StateTooNew",
    "StateUnreachable",
    "StateUnsupported",
    "Store",
    "Unseen",
    "open_store",
    "try_place",
]
