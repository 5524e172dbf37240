"""The state database, on SQLite and PostgreSQL: claims and the workers that hold them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from migrations_db import (
    LeaseLost,
    Outcome,
    Phase,
    RunStatus,
    Store,
    Unseen,
    open_store,
)
from migrations_db.claiming import claim_statement
from migrations_db.types import (
    EVERYTHING,
    Activity,
    Claim,
    Failure,
    PartUpdate,
    ProjectRow,
    Selection,
)
from tests.contract.store_fixtures import claim_all, eventually, register
from tests.contract.store_rows import BROKEN, EXPIRED, LEASE_S, add, detail, finish, outcomes, row, take

# ---------------------------------------------------------------- claims


def test_a_claim_carries_what_the_copy_needs(store: Store, worker: str) -> None:
    [project_id] = store.inventory.save_projects([ProjectRow("e", "p", "wandb", "https://wandb.test/e/p", "dest")])
    created = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    listed = row("a", created_at=created, history_rows=5, size_hint=50, location=["x", "y"])
    store.inventory.save_runs(project_id, [listed], 1)
    claim = take(store)
    assert claim.ref == "e/p/a"
    assert (claim.attempt, claim.failures, claim.position, claim.fork_run_id) == (1, 0, None, None)
    assert (claim.destination_name, claim.project_url, claim.source_service) == (
        "dest",
        "https://wandb.test/e/p",
        "wandb",
    )
    assert (claim.created_at, claim.history_rows, claim.size_hint, claim.location) == (created, 5, 50, ["x", "y"])
    assert store.parts(claim) == {}


def test_the_biggest_run_is_claimed_first(store: Store, worker: str) -> None:
    add(store, row("small", size_hint=1), row("big", size_hint=100), row("middle", size_hint=10))
    assert [take(store).run_id for _ in range(3)] == ["big", "middle", "small"]
    assert store.claim(worker, Phase.COPY, LEASE_S) is None


@pytest.mark.parametrize("projects", [("b",), ("b", "c"), ("e/b", "c*")])
def test_a_selection_limits_claims_and_keeps_the_order(store: Store, worker: str, projects: tuple[str, ...]) -> None:
    add(store, row("a1", size_hint=99), name="a")
    add(store, row("b1", size_hint=1), row("b2", size_hint=5), name="b")
    if len(projects) > 1:
        add(store, row("c1", size_hint=3), name="c")
    only = store.select(projects)
    expected = ["b2", "c1", "b1"] if len(projects) > 1 else ["b2", "b1"]
    assert [take(store, only).run_id for _ in expected] == expected
    assert store.claim(worker, Phase.COPY, LEASE_S, only) is None


def test_a_selection_of_runs_takes_ids_and_full_names(store: Store, worker: str) -> None:
    add(store, "a", "b", name="p")
    add(store, "a", name="q")
    only = store.select(run_ids=["e/p/a", "b", "no such run"])
    assert len(only.runs or ()) == 2
    assert {take(store, only).ref for _ in range(2)} == {"e/p/a", "e/p/b"}
    assert store.claim(worker, Phase.COPY, LEASE_S, only) is None
    assert store.select(["q"], ["a"]).runs == (3,)


def test_a_selection_that_matches_nothing_claims_nothing(store: Store, worker: str) -> None:
    add(store, "a")
    for only in (store.select(["x*"]), store.select(run_ids=["x"])):
        assert store.claim(worker, Phase.COPY, LEASE_S, only) is None
        assert store.next_wait(Phase.COPY, only) is None
    assert store.select() == EVERYTHING


def test_a_selection_may_name_more_runs_than_a_statement_takes_parameters(store: Store, worker: str) -> None:
    add(store, *[f"r{n}" for n in range(3)])
    only = store.select(run_ids=[f"r{n}" for n in range(70_000)])
    assert only.runs == (1, 2, 3)
    assert take(store, Selection(runs=tuple(range(2, 70_000)))).run_id == "r1"


def test_eight_workers_never_get_the_same_run(url: str) -> None:
    store = open_store(url)
    add(store, *[f"r{n}" for n in range(400)])
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        claimed = [r for f in [pool.submit(claim_all, url, f"p{n}", 2) for n in range(4)] for r in f.result()]
    assert sorted(claimed) == sorted(f"r{n}" for n in range(400))
    assert store.reports.overview().runs[RunStatus.DONE] == 400
    store.close()


def test_an_expired_lease_is_taken_over_and_costs_nothing(store: Store, worker: str) -> None:
    add(store, "a")
    old = take(store, lease_s=EXPIRED)
    register(store, "w2")
    new = take(store, worker="w2")
    assert (new.run, new.attempt, new.failures) == (old.run, old.attempt + 1, 0)
    assert outcomes(store, "a") == [Outcome.LOST, None]


def test_a_lease_that_holds_is_not_taken_over(store: Store, worker: str) -> None:
    add(store, "a")
    take(store)
    assert store.claim(worker, Phase.COPY, LEASE_S) is None


FENCED: dict[str, Callable[[Store, Claim], object]] = {
    "parts": lambda store, claim: store.parts(claim),
    "intend": lambda store, claim: store.intend(claim, {"history": 1.0}),
    "checkpoint": lambda store, claim: store.checkpoint(claim, [PartUpdate("history", {"step": 99}, read=1)]),
    "complete": lambda store, claim: store.complete(claim, []),
    "release": lambda store, claim: store.release(claim),
    "throttle": lambda store, claim: store.throttle(claim, "wandb", 60, BROKEN),
    "fail": lambda store, claim: store.fail(claim, BROKEN),
}


@pytest.mark.parametrize("write", FENCED)
def test_a_stale_attempt_can_write_nothing(store: Store, worker: str, write: str) -> None:
    add(store, "a")
    stale = take(store, lease_s=EXPIRED)
    take(store)  # the same worker: it is the number that counts
    before = detail(store, "a")
    with pytest.raises(LeaseLost, match=r"e/p/a.*attempt 1"):
        FENCED[write](store, stale)
    assert detail(store, "a") == before
    assert store.paused("wandb") is None


@pytest.mark.parametrize("write", FENCED)
def test_a_released_claim_can_write_nothing(store: Store, worker: str, write: str) -> None:
    add(store, "a")
    claim = take(store)
    store.release(claim)
    with pytest.raises(LeaseLost):
        FENCED[write](store, claim)


def test_a_fork_waits_for_its_parent(store: Store, worker: str) -> None:
    add(store, row("child", size_hint=99, fork_run_id="parent", fork_step=5.0), row("parent", size_hint=1))
    parent = take(store)
    assert parent.run_id == "parent"
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    assert store.next_wait(Phase.COPY) == pytest.approx(LEASE_S, abs=5)
    finish(store, parent, "config")
    child = take(store)
    assert (child.fork_run_id, child.fork_step) == ("parent", 5.0)


@pytest.mark.parametrize("parent", ["failed", "skipped", "absent", "itself"])
def test_a_fork_does_not_wait_for_a_parent_that_will_not_come(store: Store, worker: str, parent: str) -> None:
    child = row("child", fork_run_id="child" if parent == "itself" else "parent")
    project_id = add(store, child)
    if parent in ("failed", "skipped"):
        add(store, row("parent", size_hint=9))
        if parent == "failed":
            store.fail(take(store), BROKEN)
        else:
            store.inventory.save_runs(project_id, [child], 2)
            assert store.inventory.finish_inventory(project_id, 2, Unseen.EXCLUDED) == 1
    assert take(store).run_id == "child"


def test_selecting_a_fork_selects_its_ancestors(store: Store, worker: str) -> None:
    add(store, "root", row("middle", fork_run_id="root"), row("leaf", fork_run_id="middle"), "other")
    only = store.select(run_ids=["leaf"])
    for expected in ("root", "middle", "leaf"):
        claim = take(store, only)
        assert claim.run_id == expected
        finish(store, claim, "config")


def test_the_wait_is_that_for_the_earliest_run(store: Store, worker: str) -> None:
    assert store.next_wait(Phase.COPY) is None
    add(store, "a", "b")
    assert store.next_wait(Phase.COPY) == 0
    store.release(take(store), delay_s=500)
    running = take(store, lease_s=100)
    assert store.next_wait(Phase.COPY) == pytest.approx(100, abs=5)
    store.fail(running, BROKEN)
    assert store.next_wait(Phase.COPY) == pytest.approx(500, abs=5)
    assert store.next_wait(Phase.UPLOAD) is None


def test_a_run_is_not_claimed_before_its_time(store: Store, worker: str) -> None:
    add(store, "a")
    store.release(take(store), delay_s=0.3)
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    assert eventually(lambda: store.claim(worker, Phase.COPY, LEASE_S)).attempt == 2


def test_claiming_reads_the_first_entry_of_an_index(empty_file: Path) -> None:
    engine = create_engine(f"sqlite:///{empty_file}")
    sent: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, sql, values, *_: sent.append((sql, values)))
    for only, index in (
        (EVERYTHING, "INDEX run_pending (phase=?)"),
        (Selection(projects=(1,)), "INDEX run_pending_project (project_id=? AND phase=?)"),
        (Selection(projects=(1, 2)), "INDEX run_pending_project (project_id=? AND phase=?)"),
        (Selection(runs=(1, 2)), "INTEGER PRIMARY KEY (rowid=?)"),
    ):
        with engine.connect() as connection:
            connection.execute(claim_statement(Phase.COPY, only), {"_worker": "w1", "_lease_s": LEASE_S})
            sql, values = sent[-1]
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            plan = "\n".join(row.detail for row in rows)
        assert index in plan
        assert "SCAN run" not in plan
    engine.dispose()


# ---------------------------------------------------------------- workers


def test_a_heartbeat_renews_leases_and_tells_what_is_still_held(store: Store, worker: str) -> None:
    add(store, "a", "b")
    a, b = take(store, lease_s=EXPIRED), take(store, lease_s=EXPIRED, only=Selection(runs=(2,)))
    active = {a.run: Activity("history", 1.0), b.run: Activity(None, 0.0), 999: Activity(None, 0.0)}
    held = store.workers.heartbeat(worker, LEASE_S, active)
    assert held == {a.run: a.attempt, b.run: b.attempt}
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    store.release(b)
    assert store.workers.heartbeat(worker, LEASE_S, {}) == {a.run: a.attempt}
    assert detail(store, "a").part == "history"


def test_a_claim_that_its_worker_never_heard_of_is_free_when_its_lease_ends(store: Store, worker: str) -> None:
    add(store, "a", "b")
    known, unheard = take(store, lease_s=EXPIRED), take(store, lease_s=EXPIRED, only=Selection(runs=(2,)))
    store.workers.heartbeat(worker, LEASE_S, {known.run: Activity("history", 1.0)})
    assert take(store, worker=register(store, "w2")).run == unheard.run


def test_a_worker_learns_that_its_claim_was_taken_over(store: Store, worker: str) -> None:
    add(store, "a")
    take(store, lease_s=EXPIRED)
    register(store, "w2")
    take(store, worker="w2")
    assert store.workers.heartbeat(worker, LEASE_S, {}) == {}


def test_a_worker_that_stops_gives_back_what_it_holds(store: Store, worker: str) -> None:
    add(store, "a")
    take(store)
    store.workers.stop(worker)
    assert outcomes(store, "a") == [Outcome.RELEASED]
    assert store.reports.overview().workers == []


def test_claims_of_dead_processes_of_this_host_are_free_at_once(store: Store) -> None:
    add(store, "dead", "alive", "elsewhere")
    for number, (run_id, host) in enumerate([("dead", "here"), ("alive", "here"), ("elsewhere", "there")]):
        register(store, run_id, host, pid=number)
        take(store, store.select(run_ids=[run_id]), worker=run_id)
    asked: list[tuple[int, float]] = []

    def is_alive(pid: int, started: float) -> bool:
        asked.append((pid, started))
        return pid == 1

    assert store.workers.recover("here", is_alive) == 1
    assert sorted(asked) == [(0, 1000.0), (1, 1000.0)]
    assert outcomes(store, "dead") == [Outcome.LOST]
    assert detail(store, "dead").failures == 0
    assert outcomes(store, "alive") == outcomes(store, "elsewhere") == [None]
    assert store.workers.recover("here", is_alive) == 0


def test_workers_of_other_hosts_are_forgotten_when_they_are_silent_and_hold_nothing(store: Store, url: str) -> None:
    add(store, "held")
    for worker in ("holds", "held nothing", "speaks"):
        register(store, worker, "there")
    take(store, worker="holds")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE worker SET heartbeat_at = '2024-01-01 00:00:00' WHERE id <> 'speaks'"))
    engine.dispose()
    assert store.workers.recover("here", lambda pid, started: False) == 0
    assert [worker.id for worker in store.reports.overview().workers] == ["holds", "speaks"]
    assert outcomes(store, "held") == [None]


def test_a_run_that_kills_its_worker_fails_in_the_end(store: Store, worker: str) -> None:
    add(store, "killer", "neighbour")
    for crashes in range(1, 4):
        killer = take(store, store.select(run_ids=["killer"]))
        neighbour = take(store, store.select(run_ids=["neighbour"]))
        assert store.workers.crash(worker, [killer.run], Failure("crashed", "code -9"), Outcome.CRASHED, 3) == 1
        assert detail(store, "killer").failures == crashes
        with pytest.raises(LeaseLost):
            store.checkpoint(neighbour, [])
    assert (detail(store, "killer").status, detail(store, "killer").failures) == (RunStatus.FAILED, 3)
    assert outcomes(store, "killer") == [Outcome.CRASHED] * 3
    assert (detail(store, "neighbour").status, detail(store, "neighbour").failures) == (RunStatus.PENDING, 0)
    assert outcomes(store, "neighbour") == [Outcome.LOST] * 3


def test_of_several_runs_none_is_blamed_for_a_crash_but_those_without_progress_are_suspects(
    store: Store, worker: str
) -> None:
    crash = Failure("crashed", "code -9")
    add(store, "a", "b")
    assert not take(store).suspect
    store.checkpoint(take(store), [PartUpdate("history", {"step": 1}, read=1, written=1)])
    assert store.workers.crash(worker, None, crash, Outcome.CRASHED, 5) == 0
    assert outcomes(store, "a") == outcomes(store, "b") == [Outcome.CRASHED]
    assert detail(store, "a").failures == detail(store, "b").failures == 0
    moving = take(store)
    assert (moving.run_id, moving.suspect) == ("b", False)
    store.complete(moving, [])
    for only in (EVERYTHING, store.select(["p"]), store.select(run_ids=["a", "b"])):
        assert store.claim(worker, Phase.COPY, LEASE_S, only, suspects=False) is None
    assert take(store).suspect
    assert store.workers.crash(worker, None, crash, Outcome.CRASHED, 5) == 1
    assert detail(store, "a").failures == 1


def test_a_suspect_that_makes_progress_is_none_any_more(store: Store, worker: str) -> None:
    add(store, "a")
    take(store)
    store.workers.recover("here", lambda pid, started: False)
    suspect = take(store)
    assert suspect.suspect
    store.checkpoint(suspect, [PartUpdate("history", {"step": 1}, read=1, written=1)])
    store.workers.heartbeat(worker, LEASE_S)
    store.workers.recover("here", lambda pid, started: False)
    again = store.claim(worker, Phase.COPY, LEASE_S, suspects=False)
    assert again is not None
    assert not again.suspect


@pytest.mark.parametrize("end", ["crashed", "lost"])
def test_a_run_that_may_kill_its_worker_comes_last(store: Store, worker: str, end: str) -> None:
    add(store, row("suspect", size_hint=99), row("small", size_hint=1))
    assert take(store).run_id == "suspect"
    if end == "crashed":
        store.workers.crash(worker, None, Failure("crashed", "code -9"), Outcome.CRASHED, 5)
    else:
        store.workers.recover("here", lambda pid, started: False)
    assert [take(store).run_id, take(store).run_id] == ["small", "suspect"]


def test_a_lost_run_that_was_making_progress_keeps_its_place(store: Store, worker: str) -> None:
    add(store, row("big", size_hint=99), row("small", size_hint=1))
    store.checkpoint(take(store), [PartUpdate("history", {"step": 1}, read=1)])
    store.workers.recover("here", lambda pid, started: False)
    assert take(store).run_id == "big"


def test_expired_leases_of_runs_that_go_silent_again_and_again_come_last(store: Store, worker: str) -> None:
    add(store, row("killer", size_hint=99), row("small", size_hint=1))
    for _ in range(2):
        assert take(store, lease_s=EXPIRED).run_id == "killer"
    assert [take(store).run_id, take(store).run_id] == ["small", "killer"]


def test_a_claim_without_progress_is_reported(store: Store, worker: str) -> None:
    add(store, "a", "b")
    stuck, well = take(store), take(store)
    activity = {stuck.run: Activity("files", 900.0), well.run: Activity("history", 1.0)}
    store.workers.heartbeat(worker, LEASE_S, activity)
    [found] = store.workers.stalled([worker, "other"], older_than_s=600)
    assert (found.run, found.worker_id, found.ref, found.part) == (stuck.run, worker, stuck.ref, "files")
    assert found.idle_s == pytest.approx(900, abs=5)
    assert store.workers.stalled(["other"], older_than_s=600) == []
    store.checkpoint(stuck, [])
    assert store.workers.stalled([worker], older_than_s=600) == []


def test_a_worker_believed_dead_that_speaks_is_alive(store: Store, worker: str) -> None:
    store.workers.recover("here", lambda pid, started: False)
    assert store.reports.overview().workers == []
    assert store.workers.heartbeat(worker, LEASE_S, {}) == {}
    assert [w.id for w in store.reports.overview().workers] == [worker]
