"""How claims begin and end: the run and its attempt change together. Called within transactions of the callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, select, update

from migrations_db import statements
from migrations_db.columns import now_plus
from migrations_db.models import Run
from migrations_db.states import Outcome, RunStatus, after_failure
from migrations_db.types import Claim, Failure


class Held(NamedTuple):
    """A claimed run, locked for this transaction."""

    run: int
    attempt: int
    failures: int
    silent_attempts: int


def held(connection: Connection, *conditions: ColumnElement[bool]) -> list[Held]:
    """Lock claimed runs in the order of their numbers, so that no two transactions wait for each other."""
    query = (
        select(Run.id, Run.attempt, Run.failures, Run.silent_attempts)
        .where(Run.status == RunStatus.RUNNING, *conditions)
        .order_by(Run.id)
        .with_for_update()
    )
    return [Held(*row) for row in connection.execute(query)]


def begin_attempt(connection: Connection, claim: Claim) -> None:
    """Record the attempt of a new claim. An earlier attempt that is still open was lost (its lease had ended)."""
    _end_attempts(connection, [claim.run], Outcome.LOST, None)
    row = {"run": claim.run, "number": claim.attempt, "phase": claim.phase, "worker": claim.worker_id}
    connection.execute(statements.begin_attempt(), row)


def succeed(connection: Connection, run: int) -> None:
    """End a claim whose run is complete."""
    connection.execute(statements.end_claim_done(), {"_run": run})
    _end_attempts(connection, [run], Outcome.DONE, None)


def give_back(
    connection: Connection,
    runs: Sequence[int],
    outcome: Outcome,
    *,
    delay_s: float = 0.0,
    failure: Failure | None = None,
) -> None:
    """End claims without counting failures. Claims that made no progress and gave no reason make the run suspect."""
    values: dict[str, Any] = {
        "status": RunStatus.PENDING,
        "not_before": now_plus(delay_s) if delay_s > 0 else None,
    }
    if outcome not in (Outcome.LOST, Outcome.CRASHED):
        values["silent_attempts"] = 0
    _end_claims(connection, runs, values, outcome, failure)


def count_failure(
    connection: Connection,
    run: Held,
    outcome: Outcome,
    failure: Failure,
    *,
    max_failures: int,
    delay_s: float = 0.0,
) -> RunStatus:
    """End a claim with a failure. Returns the new status. RETRY becomes FAILED after the last allowed failure."""
    failures = run.failures + 1
    status = after_failure(failures, max_failures)
    ended = status is RunStatus.FAILED
    silent = outcome in (Outcome.CRASHED, Outcome.STALLED)
    values = {
        "status": status,
        "failures": failures,
        "silent_attempts": max(run.silent_attempts, 1) if silent else 0,
        "not_before": None if ended or delay_s <= 0 else now_plus(delay_s),
        "error_class": failure.error_class,
        "error_message": failure.message,
        "finished_at": now_plus() if ended else None,
    }
    if ended and outcome is Outcome.RETRY:
        outcome = Outcome.FAILED
    _end_claims(connection, [run.run], values, outcome, failure)
    return status


def _end_claims(
    connection: Connection,
    runs: Sequence[int],
    values: dict[str, Any],
    outcome: Outcome,
    failure: Failure | None,
) -> None:
    no_claim = {"claimed_by": None, "lease_until": None, "part": None}
    connection.execute(update(Run).where(Run.id.in_(runs)).values(no_claim | values))
    _end_attempts(connection, runs, outcome, failure)


def _end_attempts(connection: Connection, runs: Sequence[int], outcome: Outcome, failure: Failure | None) -> None:
    ended = {
        "_outcome": outcome,
        "_error_class": failure and failure.error_class,
        "_message": failure and failure.message,
    }
    if runs:
        connection.execute(statements.end_attempt(), [{"_run": run, **ended} for run in runs])
