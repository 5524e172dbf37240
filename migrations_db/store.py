"""Claims and fenced writes: the core of the state database.

    claim -> parts -> (intend, write, flush, checkpoint)* -> complete | release | throttle | fail

Each public method is one transaction. Methods marked *Fenced* raise `LeaseLost` and change nothing if the claim is no
longer valid. Times are those of the database's clock. Every method may raise `StateError`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Self

from sqlalchemy import Connection, CursorResult, insert, select, update

from migrations_db import attempts, forgetting, forks, saving, selecting, statements
from migrations_db.accounts import Accounts
from migrations_db.claiming import claim_statement, in_selection, lacks, wait_statement
from migrations_db.columns import now_plus
from migrations_db.database import Database
from migrations_db.errors import CountsDisagree, LeaseLost
from migrations_db.inventory import Inventory
from migrations_db.listing import Listing
from migrations_db.models import Digest, Invocation, Run, Service, Setting
from migrations_db.relistings import Relistings
from migrations_db.reports import Reports
from migrations_db.rows import AnyRow, claimed_run, is_done, read_digests, to_claim, to_parts
from migrations_db.selecting import Found, Wanted
from migrations_db.states import Outcome, Phase, RunStatus
from migrations_db.types import (
    EVERYTHING,
    Claim,
    DigestRow,
    Failure,
    PartProgress,
    PartUpdate,
    Pause,
    Retry,
    Selection,
)
from migrations_db.verification import Verification, forget_digests
from migrations_db.workers import Workers


class Store:
    """The state database, from `open_store`. May be used by many threads; each process opens its own."""

    #: its place, without password, for messages
    address: str

    def __init__(self, database: Database) -> None:
        self.address = database.address
        self.inventory = Inventory(database)
        self.workers = Workers(database)
        self.reports = Reports(database)
        self.listing = Listing(database)
        self.accounts = Accounts(database)
        self.verification = Verification(database)
        self.relistings = Relistings(database)
        self._database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections."""
        self._database.close()

    # ------------------------------------------------------------ invocations and settings

    def begin_invocation(self, command: str, host: str, pid: int, version: str, log: str | None = None) -> int:
        """Record that a command starts. Returns the number of the invocation, which is also the id of an inventory.

        `log`: the path of its log file.
        """
        row = {"command": command, "host": host, "pid": pid, "version": version, "log": log, "started_at": now_plus()}
        with self._database.write() as connection:
            return connection.execute(insert(Invocation).values(row).returning(Invocation.id)).scalar_one()

    def end_invocation(self, invocation_id: int, exit_code: int) -> None:
        """Record how a command ended."""
        ended = {"ended_at": now_plus(), "exit_code": exit_code}
        with self._database.write() as connection:
            connection.execute(update(Invocation).where(Invocation.id == invocation_id).values(ended))

    def setting(self, key: str) -> str | None:
        """A stored setting. None: never set."""
        with self._database.read() as connection:
            return connection.execute(select(Setting.value).where(Setting.key == key)).scalar()

    def claim_setting(self, key: str, value: str) -> str:
        """Store `value` unless the key is already set. Returns the stored value, whoever stored it."""
        with self._database.write() as connection:
            connection.execute(self._database.insert(Setting).values(key=key, value=value).on_conflict_do_nothing())
            return connection.execute(select(Setting.value).where(Setting.key == key)).scalar_one()

    def select(self, project_globs: Collection[str] = (), run_ids: Collection[str] = ()) -> Selection:
        """The runs that currently match the patterns, as in `find`. Empty does not limit."""
        return self.find(Wanted(projects=tuple(project_globs), run_ids=tuple(run_ids))).selection

    def find(self, wanted: Wanted) -> Found:
        """The runs that a user asks for, as of now, and the values that match nothing.

        Fork ancestors of single runs are included, because a fork waits for its parent.
        """
        with self._database.read() as connection:
            return selecting.find(connection, wanted)

    # ------------------------------------------------------------ claims

    def claim(
        self,
        worker_id: str,
        phase: Phase,
        lease_s: float,
        only: Selection = EVERYTHING,
        *,
        suspects: bool = True,
        mapping: Mapping[str, Any] | None = None,
    ) -> Claim | None:
        """Claim a run for a registered worker. None: there is nothing to claim now (see `next_wait`).

        Runs with expired leases come first (the old attempt is recorded as lost), then the largest. Runs whose last
        attempts ended in silence come last, and only with `suspects`. A fork waits while its parent is pending or
        running in the same phase. A copy that begins is bound to the options `mapping` (JSON); one that has begun keeps
        its own.
        """
        with self._database.write() as connection:
            statement = claim_statement(phase, only, suspects=suspects)
            parameters = {"_worker": worker_id, "_lease_s": lease_s}
            if phase is Phase.COPY:
                parameters["_mapping"] = mapping
            run = connection.execute(statement, parameters).scalar()
            if run is None:
                return None
            claim = to_claim(connection.execute(claimed_run(), {"_run": run}).one())
            attempts.begin_attempt(connection, claim)
            return claim

    def next_wait(self, phase: Phase, only: Selection = EVERYTHING) -> float | None:
        """Seconds until `claim` may succeed (0: now). None: there will be nothing more to claim.

        Runs of other workers may be released earlier: wait a few seconds at most, then call this again.
        """
        with self._database.read() as connection:
            seconds: float | None = connection.execute(wait_statement(phase, only)).scalar()
        return None if seconds is None else max(0.0, seconds)

    def parts(self, claim: Claim) -> dict[str, PartProgress]:
        """The progress of the run's parts, by name, without parts that were never begun. Fenced.

        If the source has changed since, parts are open again, with their cursors and counts.
        """
        with self._database.read() as connection:
            rows = connection.execute(statements.held_parts(), statements.fence_of(claim)).all()
            if not rows:
                raise _lost(claim)
            return to_parts(connection, [row for row in rows if row.name is not None], claim.fingerprint)

    def intend(self, claim: Claim, steps: Mapping[str, float]) -> None:
        """Record, before sending, the highest step that each part may send. It never decreases. Fenced."""
        with self._database.write() as connection:
            _changed(connection.execute(statements.show_life(), statements.fence_of(claim)), claim)
            if steps:
                rows = [{"run": claim.run, "name": part, "intent": step} for part, step in steps.items()]
                connection.execute(statements.save_intent(self._database.dialect), rows)

    def begin_digests(self, claim: Claim) -> None:
        """Delete earlier digests, because the run is copied from its start. Fenced."""
        with self._database.write() as connection:
            _hold(connection, claim)
            forget_digests(connection, [Digest.run == claim.run])

    def digests(self, claim: Claim) -> dict[str, DigestRow]:
        """The saved digests by path. Fenced."""
        with self._database.write() as connection:
            _hold(connection, claim)
            return read_digests(connection, claim.run)

    def checkpoint(
        self,
        claim: Claim,
        updates: Sequence[PartUpdate],
        position: str | None = None,
        digests: Mapping[str, DigestRow] | None = None,
    ) -> None:
        """Save cursors, counts, ledger lines and digests of what is durable now, all or nothing. Fenced.

        `position` None keeps the saved one. `digests` replace those at the same paths. Progress (something read, or a
        part done) resets `failures` to 0.
        """
        moved = any(u.read or u.done for u in updates)
        with self._database.write() as connection:
            if any(u.fresh for u in updates):
                _hold(connection, claim)
                updates = [saving.start_anew(connection, claim.run, u) if u.fresh else u for u in updates]
            counted = updates if claim.phase is Phase.COPY else ()  # an upload moves the same points again
            progress = {
                "_part": updates[-1].name if updates else None,
                "_position": position,
                "_moved": moved,
                "_read": sum(u.read for u in counted),
                "_written": sum(u.written for u in counted),
                "_size_bytes": sum(u.size_bytes for u in counted),
            }
            _changed(connection.execute(statements.add_progress(), statements.fence_of(claim) | progress), claim)
            if updates:
                rows = [saving.part_row(connection, claim, one) for one in updates]
                connection.execute(statements.save_part(self._database.dialect), rows)
            for one in updates:
                saving.save_ledger(self._database, connection, claim.run, one)
            if digests:
                saving.save_digests(self._database, connection, claim.run, digests)

    def forget_copy(self, claim: Claim) -> None:
        """Delete cursors, counts and ledger, because the destination has lost the run. It is copied again. Fenced."""
        with self._database.write() as connection:
            run = _hold(connection, claim)
            values = forgetting.NOTHING_COPIED | {"part": None}
            connection.execute(update(Run).where(Run.id == run.run).values(values))
            forgetting.drop_parts(connection, Run.id == claim.run)

    def forget_part(self, claim: Claim, part: str) -> None:
        """Delete a part's cursor, counts and ledger lines, because it is done again from its start. Fenced."""
        with self._database.write() as connection:
            _hold(connection, claim)
            forgetting.drop_parts(connection, Run.id == claim.run, part)

    def complete(self, claim: Claim, selected: Collection[str]) -> None:
        """Mark the run done. Fenced.

        Raises `CountsDisagree` and changes nothing unless every selected part is done, with read == written + skipped.
        """
        with self._database.write() as connection:
            run = _hold(connection, claim)
            parts = {row.name: row for row in connection.execute(statements.count_parts(), {"_run": claim.run})}
            for name in selected:
                _check_part(claim, name, parts.get(name))
            attempts.succeed(connection, run.run)

    def release(self, claim: Claim, delay_s: float = 0.0) -> None:
        """Make the run pending without counting a failure. It cannot be claimed for `delay_s`. Fenced."""
        with self._database.write() as connection:
            run = _hold(connection, claim)
            attempts.give_back(connection, [run.run], Outcome.RELEASED, delay_s=delay_s)

    def throttle(self, claim: Claim, service: str, delay_s: float, failure: Failure) -> None:
        """Make the run pending without counting a failure, and pause `service` for all workers. Fenced.

        The pause is `delay_s` from now, unless there is already a longer one.
        """
        with self._database.write() as connection:
            run = _hold(connection, claim)
            attempts.give_back(connection, [run.run], Outcome.THROTTLED, delay_s=delay_s, failure=failure)
            row = self._database.insert(Service).values(
                name=service, not_before=now_plus(delay_s), reason=failure.message
            )
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=[Service.name],
                    set_={"not_before": row.excluded.not_before, "reason": row.excluded.reason},
                    where=Service.not_before < row.excluded.not_before,
                )
            )

    def fail(self, claim: Claim, failure: Failure, retry: Retry | None = None) -> RunStatus:
        """End a failed attempt. Returns pending (to be tried again) or failed. `retry` None: never again. Fenced."""
        retry = retry or Retry(max_failures=0)
        with self._database.write() as connection:
            return attempts.count_failure(
                connection,
                _hold(connection, claim),
                Outcome.RETRY,
                failure,
                max_failures=retry.max_failures,
                delay_s=retry.delay_s,
            )

    # ------------------------------------------------------------ pauses of services

    def paused(self, *services: str) -> Pause | None:
        """The longest pause of these services. None: none is paused."""
        with self._database.read() as connection:
            rows = connection.execute(statements.pauses()).all()
        pauses = [Pause(row.name, row.left, row.reason) for row in rows if row.name in services and row.left > 0]
        return max(pauses, key=attrgetter("seconds_left"), default=None)

    # ------------------------------------------------------------ moves by command

    def retry_failed(self, only: Selection = EVERYTHING, error_classes: Collection[str] = ()) -> int:
        """Make failed runs (of these classes; empty: all) pending and reset their failures. Returns how many."""
        failed = [Run.status == RunStatus.FAILED, *in_selection(Run, only)]
        if error_classes:
            failed.append(Run.error_class.in_(error_classes))
        values = {
            "status": RunStatus.PENDING,
            "failures": 0,
            "silent_attempts": 0,
            "not_before": None,
            "finished_at": None,
        }
        with self._database.write() as connection:
            return connection.execute(update(Run).where(*failed).values(values)).rowcount

    def fail_fork_cycles(self, phase: Phase, only: Selection, error_class: str) -> list[str]:
        """Mark pending runs that are forks of each other, in a circle, as failed with this class.

        They would wait forever. Returns their names for users.
        """
        with self._database.write() as connection:
            return forks.fail_cycles(connection, phase, only, error_class)

    def start_copy(self, parts: Collection[str], only: Selection = EVERYTHING) -> int:
        """Make runs that are done without one of these parts (copy, pending). Returns how many."""
        values = {"phase": Phase.COPY, "status": RunStatus.PENDING, "finished_at": None}
        with self._database.write() as connection:
            return connection.execute(
                update(Run).where(*lacks(parts), *in_selection(Run, only)).values(values)
            ).rowcount

    def start_upload(self, only: Selection = EVERYTHING) -> int:
        """(copy, done) -> (upload, pending). Returns how many."""
        copied = [Run.status == RunStatus.DONE, Run.phase == Phase.COPY, *in_selection(Run, only)]
        values = {"phase": Phase.UPLOAD, "status": RunStatus.PENDING, "finished_at": None}
        with self._database.write() as connection:
            return connection.execute(update(Run).where(*copied).values(values)).rowcount

    def forget(self, only: Selection = EVERYTHING) -> int:
        """Reset runs whose copy has begun, except running ones, as if it had never begun. Returns how many."""
        with self._database.write() as connection:
            return forgetting.forget(connection, [*in_selection(Run, only)])


def _hold(connection: Connection, claim: Claim) -> attempts.Held:
    row = connection.execute(statements.lock_run(), statements.fence_of(claim)).one_or_none()
    if row is None:
        raise _lost(claim)
    return attempts.Held(*row)


def _changed(result: CursorResult[Any], claim: Claim) -> None:
    """Raise `LeaseLost` unless a fenced statement has found its run."""
    if result.rowcount != 1:
        raise _lost(claim)


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(
        f"{claim.ref}: the claim of {claim.worker_id} (attempt {claim.attempt}) has ended: another worker has the run, "
        "or may take it. Nothing was saved; `migrate status` shows who has it."
    )


def _check_part(claim: Claim, name: str, part: AnyRow | None) -> None:
    if part is None or not is_done(part.done_fingerprint, claim.fingerprint):
        raise CountsDisagree(f"{claim.ref}: part {name} is not done.", name)
    if part.read != part.written + part.skipped:
        raise CountsDisagree(
            f"{claim.ref}: part {name} read {part.read} values, but wrote {part.written} and skipped {part.skipped}.",
            name,
        )
