"""The statements that every run needs, built once, because building a statement takes longer than running it.

Parameters begin with `_` if a column has the same name. `fence_of` returns the parameters of the fence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Insert,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    outerjoin,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute

from migrations_db.columns import now_plus, seconds_until
from migrations_db.database import upsert
from migrations_db.models import Attempt, Part, Run, Service
from migrations_db.rows import AnySelect
from migrations_db.states import RunStatus
from migrations_db.types import Claim

COUNTS = ("read", "written", "skipped", "size_bytes")


def fence_of(claim: Claim) -> dict[str, Any]:
    """The parameters with which a fenced statement finds the claim's run, as long as the claim is valid."""
    return {"_run": claim.run, "_attempt": claim.attempt, "_worker": claim.worker_id}


def _fence() -> list[ColumnElement[bool]]:
    return [
        Run.id == bindparam("_run", type_=Run.id.type),
        Run.attempt == bindparam("_attempt", type_=Run.attempt.type),
        Run.claimed_by == _parameter("_worker", Run.claimed_by),
        Run.status == RunStatus.RUNNING,
    ]


def _parameter(name: str, column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    return bindparam(name, type_=column.type)


# ---------------------------------------------------------------- the run


@lru_cache
def lock_run() -> AnySelect:
    """Fenced: the columns of `attempts.Held`. Locks the row."""
    return select(Run.id, Run.attempt, Run.failures, Run.silent_attempts).where(*_fence()).with_for_update()


@lru_cache
def show_life() -> Update:
    """Fenced: records progress of the claim."""
    return update(Run).where(*_fence()).values(active_at=now_plus())


@lru_cache
def add_progress() -> Update:
    """Fenced: a checkpoint. Takes `_part` and `_position` (None keeps them), `_moved` and the counts to add."""
    moved = bindparam("_moved", type_=Boolean())
    read, written, size_bytes = (bindparam(name, type_=BigInteger()) for name in ("_read", "_written", "_size_bytes"))
    values: dict[str, Any] = {
        "active_at": now_plus(),
        "part": func.coalesce(_parameter("_part", Run.part), Run.part),
        "position": func.coalesce(_parameter("_position", Run.position), Run.position),
        "failures": case((moved, 0), else_=Run.failures),
        "silent_attempts": case((moved, 0), else_=Run.silent_attempts),
        "points_read": Run.points_read + read,
        "points_written": Run.points_written + written,
        "size_bytes": Run.size_bytes + size_bytes,
    }
    return update(Run).where(*_fence()).values(values)


# ---------------------------------------------------------------- its parts


@lru_cache
def held_parts() -> AnySelect:
    """Fenced: the rows of the run's parts. One row without a name: no parts yet. No row: the claim is lost."""
    parts = select(Part.__table__).select_from(outerjoin(Run, Part, Part.run == Run.id))
    return parts.where(*_fence()).order_by(Part.name)


@lru_cache
def count_parts() -> AnySelect:
    """What `complete` needs to know about each part of the run `_run`."""
    columns = (Part.name, Part.done_fingerprint, Part.read, Part.written, Part.skipped)
    return select(*columns).where(Part.run == bindparam("_run", type_=Part.run.type))


@lru_cache
def save_part(dialect: str) -> Any:
    """A part's share of a checkpoint. Takes its row, with counts to add. `cursor` None keeps the saved one."""
    row = upsert(dialect, Part).values(updated_at=now_plus())
    new = row.excluded
    changed = {
        **{name: getattr(Part, name) + getattr(new, name) for name in COUNTS},
        "done_fingerprint": new.done_fingerprint,
        "cursor": func.coalesce(new.cursor, Part.cursor),
        "updated_at": new.updated_at,
    }
    return row.on_conflict_do_update(index_elements=[Part.run, Part.name], set_=changed)


@lru_cache
def save_intent(dialect: str) -> Any:
    """Takes `run`, `name` and `intent`. An intent never decreases."""
    row = upsert(dialect, Part).values(**dict.fromkeys(COUNTS, 0), updated_at=now_plus())
    new = row.excluded.intent
    return row.on_conflict_do_update(
        index_elements=[Part.run, Part.name],
        set_={"intent": new},
        where=func.coalesce(Part.intent, new) <= new,
    )


# ---------------------------------------------------------------- attempts and pauses


@lru_cache
def begin_attempt() -> Insert:
    """Takes the columns of an attempt."""
    return insert(Attempt).values(started_at=now_plus())


@lru_cache
def end_attempt() -> Update:
    """Takes `_run` and how its open attempt ended."""
    ended = {name: _parameter(f"_{name}", getattr(Attempt, name)) for name in ("outcome", "error_class", "message")}
    is_open = and_(Attempt.run == bindparam("_run", type_=Attempt.run.type), Attempt.outcome.is_(None))
    return update(Attempt).where(is_open).values(ended_at=now_plus(), **ended)


@lru_cache
def end_claim_done() -> Update:
    """Takes `_run`, which is complete."""
    nothing = dict.fromkeys(("claimed_by", "lease_until", "part", "error_class", "error_message", "reason"))
    values = {"status": RunStatus.DONE, "failures": 0, "silent_attempts": 0, "finished_at": now_plus()}
    return update(Run).where(Run.id == bindparam("_run", type_=Run.id.type)).values({**nothing, **values})


@lru_cache
def pauses() -> AnySelect:
    """The name, seconds left and reason of all services that were ever paused: only a few."""
    return select(Service.name, seconds_until(Service.not_before).label("left"), Service.reason)
