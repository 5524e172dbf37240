"""The state database: which runs there are, who copies them, how far they have come.

In reading order:

    states.py        run and part states, allowed moves (pure)
    types.py         what goes in and comes out (pure);  report_types.py  what reports give
    errors.py        what can go wrong
    store.py         claims and fenced writes          `Store`
    inventory.py     what an inventory writes          `store.inventory`
    workers.py       heartbeats and recovery           `store.workers`
    reports.py       read-only questions               `store.reports`
    jobs.py          the command that runs now, for reports
    listing.py       which runs there are              `store.listing`
    verification.py  digests and verdicts              `store.verification`
    models.py        tables;  columns.py  their types, and the database's clock in both dialects
    statements.py    what every run needs, built once
    claiming.py      the statement that hands out runs, conditions for many values at once
    attempts.py      how claims begin and end;  cursors.py  cursors that grow by items
    selecting.py     which runs a person means;  forgetting.py, forks.py  inside others' transactions
    rows.py          from rows to types
    database.py      transactions; vendors' errors become ours
    engine.py        open a path or URL, check the version, refuse network file systems
    upgrades/      Alembic versions; run by themselves on open

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
]
