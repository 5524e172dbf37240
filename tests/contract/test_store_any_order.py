"""The state database, on SQLite and PostgreSQL: any order of events."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from migrations_db import (
    CountsDisagree,
    LeaseLost,
    Outcome,
    Phase,
    RunStatus,
    Unseen,
    open_store,
)
from migrations_db.states import may_move
from migrations_db.types import (
    Claim,
    PartUpdate,
    Retry,
)
from tests.contract.store_fixtures import register
from tests.contract.store_rows import BROKEN, EXPIRED, LEASE_S, project, row

# ---------------------------------------------------------------- any order of events


class AnyOrder(RuleBasedStateMachine):
    """Two workers, three runs, and whatever may happen to them, in any order."""

    empty: Path
    place: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = self.place / "any.db"
        for leftover in self.place.glob("any.db*"):
            leftover.unlink()
        shutil.copy(self.empty, self.path)
        self.store = open_store(self.path)
        self.project = project(self.store)
        self.inventory = 0
        self.claims: list[Claim] = []
        self.read: dict[str, int] = {}
        self.before: dict[str, RunStatus] = {}
        for worker_id in ("w1", "w2"):
            register(self.store, worker_id)

    def teardown(self) -> None:
        self.store.close()

    def holder(self, claim: Claim) -> bool:
        """Whether the claim is the latest of its run, and not ended."""
        run = self.store.reports.run_detail(claim.run)
        return run is not None and run.status is RunStatus.RUNNING and run.attempt == claim.attempt

    @rule(version=st.sampled_from(["v1", "v2"]), ids=st.sets(st.sampled_from("abc")), unseen=st.sampled_from(Unseen))
    def list_runs(self, version: str, ids: set[str], unseen: Unseen) -> None:
        self.inventory += 1
        self.store.inventory.save_runs(self.project, [row(r, version) for r in sorted(ids)], self.inventory)
        self.store.inventory.finish_inventory(self.project, self.inventory, unseen)

    @rule(worker_id=st.sampled_from(["w1", "w2"]), lease_s=st.sampled_from([LEASE_S, EXPIRED]))
    def claim(self, worker_id: str, lease_s: float) -> None:
        waiting = self.store.next_wait(Phase.COPY)
        claim = self.store.claim(worker_id, Phase.COPY, lease_s)
        assert (claim is not None) == (waiting == 0)
        if claim:
            assert all(claim.attempt > old.attempt for old in self.claims if old.run == claim.run)
            self.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), write=st.sampled_from(["checkpoint", "complete", "release", "retry", "fail"]))
    def write(self, data: st.DataObject, write: str) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        holds = self.holder(claim)
        try:
            match write:
                case "checkpoint":
                    update = PartUpdate("history", {"at": 1}, done=True, read=2, written=1, skipped=1)
                    self.store.checkpoint(claim, [update])
                    self.read[claim.run_id] = self.read.get(claim.run_id, 0) + 2
                case "complete":
                    self.store.complete(claim, ["history"])
                case "release":
                    self.store.release(claim)
                case "retry":
                    self.store.fail(claim, BROKEN, Retry(max_failures=3))
                case "fail":
                    self.store.fail(claim, BROKEN)
        except LeaseLost:
            assert not holds
        except CountsDisagree:
            assert holds
        else:
            assert holds

    @rule(worker_id=st.sampled_from(["w1", "w2"]), end=st.sampled_from(["heartbeat", "crash", "stop", "lost"]))
    def worker_event(self, worker_id: str, end: str) -> None:
        match end:
            case "heartbeat":
                held = self.store.workers.heartbeat(worker_id, LEASE_S, {})
                claims = {c.run: c.attempt for c in self.claims if c.worker_id == worker_id and self.holder(c)}
                assert held == claims
            case "crash":
                self.store.workers.crash(worker_id, None, BROKEN, Outcome.CRASHED, 3)
            case "stop":
                self.store.workers.stop(worker_id)
            case "lost":
                self.store.workers.recover("here", lambda pid, started: False)

    @rule()
    def retry_failed(self) -> None:
        self.store.retry_failed()

    @invariant()
    def every_move_is_allowed_and_counts_add_up(self) -> None:
        for status in RunStatus:
            for found in self.store.reports.runs(status):
                run = self.store.reports.run_detail(found.run)
                assert run is not None
                old = self.before.get(run.run_id, RunStatus.PENDING)
                assert status is old or may_move(old, status) or may_move(RunStatus.PENDING, status)
                self.before[run.run_id] = status
                assert (run.claimed_by is not None) == (status is RunStatus.RUNNING)
                assert [a.number for a in run.attempts if a.outcome is None] == (
                    [run.attempt] if status is RunStatus.RUNNING else []
                )
                history = run.parts.get("history")
                assert (history.read if history else 0) == run.points_read == self.read.get(run.run_id, 0)


def test_any_order_of_events_keeps_the_rules(empty_file: Path, tmp_path: Path) -> None:
    machine = type("Machine", (AnyOrder,), {"empty": empty_file, "place": tmp_path})
    machine.TestCase.settings = settings(  # type: ignore[attr-defined]
        max_examples=12, stateful_step_count=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    machine.TestCase("runTest").runTest()  # type: ignore[attr-defined]
