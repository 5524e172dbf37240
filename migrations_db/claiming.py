"""The statement that hands out runs, and the one that says how long to wait.

The statement is the same for both databases: the inner SELECT finds a run and locks it, skipping runs that others are
about to take; the outer UPDATE takes it. SQLite has one writer at a time, so the lock clause is left out.

Without the other columns that it sets, the common case reads (`test_the_claim_reads_as_its_docstring_says`):

    UPDATE run SET status = 'running', claimed_by = :worker, lease_until = now + :lease_s, attempt = attempt + 1, ...
    WHERE id = coalesce(
        (SELECT id FROM run
         WHERE status = 'running' AND phase = 'copy' AND lease_until < now AND silent_attempts <= 1
         ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED),
        (SELECT id FROM run
         WHERE phase = 'copy' AND status = 'pending' AND silent_attempts = 0
           AND (not_before IS NULL OR not_before <= now)
           AND NOT (fork_run_id IS NOT NULL AND EXISTS (a run of this project that it is forked from is not done))
         ORDER BY silent_attempts, size_hint DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED))
    RETURNING id

The order is that of the index `run_pending` (or `run_pending_project`), so the first entry that meets the conditions is
the answer, however many runs there are. The status is part of the SQL text, not a parameter: otherwise partial indexes
would not be used.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    ScalarSelect,
    Select,
    Text,
    Update,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from migrations_db.columns import now_plus, safe, seconds_until
from migrations_db.models import Part, Project, Run
from migrations_db.states import Phase, RunStatus
from migrations_db.types import Selection


@lru_cache
def claim_statement(phase: Phase, only: Selection, *, suspects: bool = True) -> Update:
    """UPDATE ... RETURNING id: claims one run or none. Takes the parameters `_worker`, `_lease_s` and, for a copy,
    `_mapping`.

    Cached, because building it takes longer than running it. Runs with an expired lease come first. But a run that is
    suspected of killing its workers comes last or, without `suspects`, not at all.
    """
    choices = [_expired(phase, only, suspects=False), _pending(phase, only, suspects=suspects)]
    if suspects:
        choices.append(_expired(phase, only, suspects=True))
    chosen = func.coalesce(*choices)
    values: dict[str, Any] = {
        "status": RunStatus.RUNNING,
        "claimed_by": bindparam("_worker", type_=Run.claimed_by.type),
        "lease_until": now_plus(bindparam("_lease_s", type_=Double())),
        "attempt": Run.attempt + 1,
        "silent_attempts": Run.silent_attempts + 1,
        "not_before": None,
        "part": None,
        "active_at": now_plus(),
        "started_at": func.coalesce(Run.started_at, now_plus()),
        "finished_at": None,
    }
    values |= {"verdict": None, "verified_at": None}  # they are out of date
    if phase is Phase.COPY:
        values["copied_fingerprint"] = Run.fingerprint
        values["mapping"] = func.coalesce(Run.mapping, bindparam("_mapping", None, type_=Run.mapping.type))
    return update(Run).where(Run.id == chosen).values(values).returning(Run.id)


@lru_cache
def wait_statement(phase: Phase, only: Selection) -> Select[Any]:
    """Selects the seconds until the first run may be claimed; null if there is none."""
    run = aliased(Run)
    scope = in_selection(run, only)
    pending = select(seconds_until(func.coalesce(run.not_before, now_plus())).label("seconds")).where(
        _is(run, RunStatus.PENDING), run.phase == phase, ~_waits_for_parent(run), *scope
    )
    running = select(seconds_until(run.lease_until)).where(_is(run, RunStatus.RUNNING), run.phase == phase, *scope)
    first = select(func.min(union_all(pending, running).subquery().c.seconds)).scalar_subquery()
    # All pending runs are examined only if none is ready.
    return select(case((_pending(phase, only, lock=False).is_not(None), literal(0.0, Double())), else_=first))


def _is(run: type[Run], status: RunStatus) -> ColumnElement[bool]:
    return run.status == literal(status, Run.status.type, literal_execute=True)


def _expired(phase: Phase, only: Selection, *, suspects: bool) -> ScalarSelect[int]:
    """The run whose lease ended first. Suspects are runs whose last two attempts ended in silence."""
    run = aliased(Run)
    return (
        select(run.id)
        .where(_is(run, RunStatus.RUNNING), run.phase == phase, run.lease_until < now_plus())
        .where(run.silent_attempts > 1 if suspects else run.silent_attempts <= 1, *in_selection(run, only))
        .order_by(run.lease_until)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )


def _pending(phase: Phase, only: Selection, *, suspects: bool = True, lock: bool = True) -> ScalarSelect[int]:
    """The first run, in the order of claims, that may be claimed now."""
    run = aliased(Run)
    pending = _is(run, RunStatus.PENDING)
    if only.runs is not None:
        # With a bound status, SQLite does not walk the index of all pending runs: these few are found by number.
        bound = run.status == RunStatus.PENDING
        return _first(run, phase, bound, one_of(run.id, only.runs), suspects=suspects, lock=lock)
    if only.projects is None:
        return _first(run, phase, pending, suspects=suspects, lock=lock)
    if len(only.projects) == 1:
        return _first(run, phase, pending, run.project_id == only.projects[0], suspects=suspects, lock=lock)
    # Take the first of each project, by the index per project, and of these the first.
    of_project = _first(run, phase, pending, run.project_id == Project.id, suspects=suspects, lock=lock)
    heads = select(of_project.correlate(Project)).where(one_of(Project.id, only.projects))
    head = aliased(Run)
    return select(head.id).where(head.id.in_(heads)).order_by(*_order(head)).limit(1).scalar_subquery()


def _first(
    run: type[Run], phase: Phase, *conditions: ColumnElement[bool], suspects: bool, lock: bool
) -> ScalarSelect[int]:
    trusted = () if suspects else (run.silent_attempts == 0,)
    query = (
        select(run.id)
        .where(run.phase == phase, *conditions, *trusted)
        .where(or_(run.not_before.is_(None), run.not_before <= now_plus()), ~_waits_for_parent(run))
        .order_by(*_order(run))
        .limit(1)
    )
    return (query.with_for_update(skip_locked=True, of=run) if lock else query).scalar_subquery()


def _order(run: type[Run]) -> list[ColumnElement[Any]]:
    return [run.silent_attempts.asc(), run.size_hint.desc(), run.id.asc()]


def _waits_for_parent(run: type[Run]) -> ColumnElement[bool]:
    """Whether the run is a fork whose parent is still to be copied (or uploaded)."""
    parent = aliased(Run)
    return run.fork_run_id.is_not(None) & exists().where(
        parent.project_id == run.project_id,
        parent.run_id == run.fork_run_id,
        parent.id != run.id,
        parent.phase == run.phase,
        parent.status.in_([RunStatus.PENDING, RunStatus.RUNNING]),
    )


# ---------------------------------------------------------------- selections
#
# Conditions for many values at once.
#
# Drivers limit the number of parameters (SQLite: 32,766), and a selection may contain more runs than that. So a list is
# sent as a single parameter: JSON text that the database unpacks.


class json_values(FunctionElement[Any]):
    """The elements of a JSON list as rows with a column `value`."""

    name = "json_values"
    inherit_cache = True


@compiles(json_values, "sqlite")
def _sqlite_json_values(element: json_values, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(json_values, "postgresql")
def _postgresql_json_values(element: json_values, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **kw)} AS JSON))"


def one_of(column: InstrumentedAttribute[Any], values: Collection[int] | Collection[str]) -> ColumnElement[bool]:
    """Whether the column has one of the values, however many there are."""
    plain = [safe(value) if isinstance(value, str) else value for value in values]
    rows = json_values(literal(json.dumps(plain), Text())).table_valued("value")
    return column.in_(select(cast(rows.c.value, column.type)))


def in_selection(run: type[Run], only: Selection) -> list[ColumnElement[bool]]:
    """The conditions of a selection."""
    if only.runs is not None:
        return [one_of(run.id, only.runs)]
    if only.projects is not None:
        return [one_of(run.project_id, only.projects)]
    return []


def lacks(parts: Collection[str]) -> list[ColumnElement[bool]]:
    """The conditions for a run that is done without one of these parts and still exists in the source."""
    copied = select(func.count()).where(
        Part.run == Run.id, Part.name.in_(parts), Part.done_fingerprint == Run.fingerprint
    )
    return [Run.status == RunStatus.DONE, Run.reason.is_(None), copied.scalar_subquery() < len(set(parts))]
