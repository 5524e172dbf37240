"""The state database: one behaviour, two databases."""
# ruff: noqa: F811 - fixtures are imported, and named by tests

from __future__ import annotations

import ast
import shutil
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, create_engine, event, text

import migrations_db
from migrations_db import (
    CountsDisagree,
    LeaseLost,
    Outcome,
    PartStatus,
    Phase,
    RunStatus,
    StateDamaged,
    StateDiskFull,
    StateError,
    StateLocked,
    StateMissing,
    StateReadOnly,
    StateTooNew,
    StateUnreachable,
    StateUnsupported,
    Store,
    Unseen,
    open_store,
)
from migrations_db.claiming import claim_statement
from migrations_db.database import translate
from migrations_db.engine import SCHEMA_REVISION, Mount, network_type
from migrations_db.models import Base
from migrations_db.report_types import PartSums, RunDetail
from migrations_db.states import may_move
from migrations_db.types import (
    EVERYTHING,
    Activity,
    Claim,
    Counts,
    Failure,
    LedgerEntry,
    LeftOutRow,
    PartUpdate,
    ProjectRow,
    Retry,
    RunRow,
    Selection,
)
from tests.contract.store_fixtures import (  # noqa: F401 - fixtures
    SERVER,
    blank_url,
    claim_all,
    empty_database,
    empty_file,
    eventually,
    open_and_begin,
    register,
    store,
    url,
)

LEASE_S = 60.0
EXPIRED = -1.0  # a lease that has ended when it begins
BROKEN = Failure("unavailable", "503 from the server")
DATA = Path(__file__).parents[1] / "data"


def row(run_id: str, fingerprint: str = "v1", **more: Any) -> RunRow:
    return RunRow(run_id, f"name of {run_id}", "finished", fingerprint, **more)


def project(store: Store, name: str = "p") -> int:
    [project_id] = store.inventory.save_projects([ProjectRow("e", name, "wandb", f"https://wandb.test/e/{name}")])
    return project_id


def add(store: Store, *runs: RunRow | str, name: str = "p", inventory: int = 1) -> int:
    """Save runs (or runs of these ids) of a project; returns the project."""
    project_id = project(store, name)
    store.inventory.save_runs(project_id, [row(run) if isinstance(run, str) else run for run in runs], inventory)
    return project_id


def take(store: Store, only: Selection = EVERYTHING, *, lease_s: float = LEASE_S, worker: str = "w1") -> Claim:
    claim = store.claim(worker, Phase.COPY, lease_s, only)
    assert claim is not None
    return claim


def detail(store: Store, run_id: str) -> RunDetail:
    [found] = store.reports.find_runs(run_id)
    run = store.reports.run_detail(found.run)
    assert run is not None
    return run


def outcomes(store: Store, run_id: str) -> list[Outcome | None]:
    return [attempt.outcome for attempt in detail(store, run_id).attempts]


def finish(store: Store, claim: Claim, *parts: str) -> None:
    """Copy three values of each part, one of them skipped."""
    store.checkpoint(claim, [PartUpdate(p, {"at": 3}, done=True, read=3, written=2, skipped=1) for p in parts])
    store.complete(claim, parts)


@pytest.fixture
def worker(store: Store) -> str:
    return register(store)


# ---------------------------------------------------------------- invocations, settings, projects


def test_an_invocation_is_recorded_with_its_end(store: Store) -> None:
    first = store.begin_invocation("inventory", "here", 1, "1.0")
    second = store.begin_invocation("run", "here", 2, "1.0")
    store.end_invocation(first, 0)
    assert second > first


def test_the_first_value_of_a_setting_stays(store: Store) -> None:
    assert store.setting("destination") is None
    assert store.claim_setting("destination", "neptune") == "neptune"
    assert store.claim_setting("destination", "offline") == "neptune"
    assert store.setting("destination") == "neptune"


def test_a_project_keeps_its_destination_until_it_is_changed_on_purpose(store: Store) -> None:
    first, undecided = store.inventory.save_projects(
        [
            ProjectRow("e", "a", "wandb", "https://old", "a", "short"),
            ProjectRow("e", "b", "wandb", "https://b"),
        ]
    )
    again = store.inventory.save_projects(
        [ProjectRow("e", "b", "wandb", "https://b", "b", None), ProjectRow("e", "a", "wandb", "https://new", "x", None)]
    )
    assert again == [undecided, first]
    a, b = store.inventory.projects()
    assert (a.url, a.destination_name, a.name_note) == ("https://new", "a", "short")
    assert b.destination_name == "b"
    assert store.inventory.set_destinations({first: ("chosen", "by --project-map")}) == []
    assert store.inventory.projects()[0].destination_name == "chosen"


# ---------------------------------------------------------------- inventory


def test_new_runs_are_pending_and_an_unchanged_listing_changes_nothing(store: Store) -> None:
    project_id = project(store)
    page = [row("a", tags=["x", "y"], created_at=datetime(2024, 1, 2, tzinfo=UTC), location=["/data/a"]), row("b")]
    assert store.inventory.save_runs(project_id, page, 1) == Counts(new=2)
    before = detail(store, "a")
    assert store.inventory.save_runs(project_id, page, 2) == Counts(unchanged=2)
    assert detail(store, "a") == before
    assert (before.status, before.phase, list(before.tags)) == (RunStatus.PENDING, Phase.COPY, ["x", "y"])
    assert before.created_at == datetime(2024, 1, 2, tzinfo=UTC)
    assert before.location == ["/data/a"]


def test_counts_of_pages_add_up() -> None:
    assert Counts(1, 2, 3) + Counts(new=1) == Counts(2, 2, 3)


def test_a_listing_refreshes_metadata_without_touching_the_status(store: Store, worker: str) -> None:
    project_id = add(store, row("a", size_hint=1))
    finish(store, take(store), "config")
    store.inventory.save_runs(project_id, [row("a", size_hint=7, tags=["new"])], 2)
    run = detail(store, "a")
    assert (run.status, run.size_hint, list(run.tags)) == (RunStatus.DONE, 7, ["new"])


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_a_changed_run_is_pending_again_with_cursors_kept(store: Store, worker: str, ending: str) -> None:
    project_id = add(store, "a")
    claim = take(store)
    store.checkpoint(claim, [PartUpdate("history", {"step": 9}, done=True, read=9, written=9)], position="p9")
    if ending == "done":
        store.complete(claim, ["history"])
    else:
        store.fail(claim, BROKEN)
    assert store.inventory.save_runs(project_id, [row("a", "v2")], 2) == Counts(changed=1)
    claim = take(store)
    assert (claim.fingerprint, claim.position, claim.failures) == ("v2", "p9", 0)
    history = store.parts(claim)["history"]
    assert (history.status, history.cursor, history.read) == (PartStatus.OPEN, {"step": 9}, 9)


def test_a_run_that_changes_while_it_is_copied_is_found_by_the_next_inventory(store: Store, worker: str) -> None:
    project_id = add(store, "a")
    claim = take(store)
    store.inventory.save_runs(project_id, [row("a", "v2")], 2)
    assert detail(store, "a").status is RunStatus.RUNNING
    finish(store, claim, "config")
    assert detail(store, "a").status is RunStatus.DONE
    assert store.inventory.save_runs(project_id, [row("a", "v2")], 3) == Counts(changed=1)
    assert detail(store, "a").status is RunStatus.PENDING


def test_parts_done_before_the_source_changed_are_open_in_the_next_attempt(store: Store, worker: str) -> None:
    project_id = add(store, "a")
    claim = take(store)
    store.checkpoint(claim, [PartUpdate("config", {"n": 1}, done=True)])
    store.release(claim)
    assert store.parts(take(store))["config"].status is PartStatus.DONE
    store.workers.stop(worker)
    store.inventory.save_runs(project_id, [row("a", "v2")], 2)
    assert store.parts(take(store))["config"].status is PartStatus.OPEN


def test_a_run_changed_after_its_copy_is_copied_again_even_if_it_waits_for_its_upload(
    store: Store, worker: str
) -> None:
    project_id = add(store, "a", "b")
    for _ in range(2):
        finish(store, take(store), "config")
    assert store.start_upload() == 2
    store.inventory.save_runs(project_id, [row("a", "v2"), row("b")], 2)
    assert (detail(store, "a").phase, detail(store, "a").status) == (Phase.COPY, RunStatus.PENDING)
    assert (detail(store, "b").phase, detail(store, "b").status) == (Phase.UPLOAD, RunStatus.PENDING)


def test_runs_gone_from_the_source_are_skipped_unless_something_was_copied(store: Store, worker: str) -> None:
    project_id = add(store, "new", "half", "done", "busy", "listed")
    half, done, busy = (take(store, store.select(run_ids=[r])) for r in ("half", "done", "busy"))
    store.checkpoint(half, [PartUpdate("history", {"step": 1}, read=1, written=1)])
    store.release(half)
    finish(store, done, "config")
    store.inventory.save_runs(project_id, [row("listed")], 2)
    assert store.inventory.finish_inventory(project_id, 2, Unseen.GONE) == 1
    states = {r: (detail(store, r).status, detail(store, r).reason) for r in ("new", "half", "done", "listed")}
    assert states == {
        "new": (RunStatus.SKIPPED, "gone from the source"),
        "half": (RunStatus.PENDING, "gone from the source"),
        "done": (RunStatus.DONE, "gone from the source"),
        "listed": (RunStatus.PENDING, None),
    }
    store.checkpoint(busy, [])  # its worker finds out by itself


def test_failed_runs_gone_from_the_source_are_skipped_although_something_was_copied(store: Store, worker: str) -> None:
    project_id = add(store, "half")
    half = take(store)
    store.checkpoint(half, [PartUpdate("history", {"step": 1}, read=1, written=1)])
    store.fail(half, BROKEN)
    assert store.inventory.finish_inventory(project_id, 2, Unseen.GONE) == 1
    assert (detail(store, "half").status, detail(store, "half").reason) == (RunStatus.SKIPPED, "gone from the source")


@pytest.mark.parametrize("first_to_end", [1, 2])
def test_two_inventories_at_once_take_nothing_from_each_other(store: Store, first_to_end: int) -> None:
    project_id = project(store)
    store.inventory.save_runs(project_id, [row("a")], 1)
    store.inventory.save_runs(project_id, [row("a"), row("b")], 2)
    store.inventory.save_runs(project_id, [row("b")], 1)
    for inventory_id in (first_to_end, 3 - first_to_end):
        assert store.inventory.finish_inventory(project_id, inventory_id, Unseen.GONE) == 0


def test_runs_that_a_filter_leaves_out_are_skipped_until_they_are_listed_again(store: Store, worker: str) -> None:
    project_id = add(store, "out", "in", "done")
    finish(store, take(store, store.select(run_ids=["done"])), "config")
    store.inventory.save_runs(project_id, [row("in")], 2)
    assert store.inventory.finish_inventory(project_id, 2, Unseen.EXCLUDED) == 1
    assert detail(store, "out").status is RunStatus.SKIPPED
    assert "filter" in (detail(store, "out").reason or "")
    assert detail(store, "done").status is RunStatus.DONE
    assert store.inventory.save_runs(project_id, [row("out")], 3) == Counts(changed=1)
    assert (detail(store, "out").status, detail(store, "out").reason) == (RunStatus.PENDING, None)


def test_an_inventory_of_some_directories_says_nothing_of_runs_elsewhere(store: Store) -> None:
    places = {"a": ["/x/a"], "b": ["/y/b"], "both": ["/x/both", "/y/both"], "beside": ["/xy/beside"], "api": None}
    project_id = add(store, *(row(run_id, location=place) for run_id, place in places.items()))
    assert store.inventory.locations("wandb") == {
        ("e", "p", run_id): place for run_id, place in places.items() if place
    }
    assert store.inventory.finish_inventory(project_id, 2, Unseen.EXCLUDED, ["/x"]) == 1
    assert store.inventory.finish_inventory(project_id, 3, Unseen.GONE, ["/x", "/y/"]) == 2
    gone = {run_id for run_id in places if detail(store, run_id).status is RunStatus.SKIPPED}
    assert gone == {"a", "b", "both"}
    assert sorted(store.inventory.run_ids(project_id)) == sorted(places)


def test_what_an_inventory_left_out_is_kept_until_its_place_is_looked_at_again(store: Store) -> None:
    many = [LeftOutRow("lfs_pointer", f"/x/{number}") for number in range(5)]
    store.inventory.save_left_out("local", ["/x"], [*many, LeftOutRow("crlf", "/x/c\0\udcff")], 1)
    store.inventory.save_left_out("local", ["/xy"], [LeftOutRow("crlf", "/xy/d")], 2)
    groups = store.reports.problems()
    assert store.reports.overview().problems == groups
    assert [(group.cause, group.count) for group in groups] == [("lfs_pointer", 5), ("crlf", 2)]
    assert groups[0].examples == ["/x/0", "/x/1", "/x/2"]
    store.inventory.save_left_out("local", ["/x/"], [], 3)
    assert [(group.cause, group.examples) for group in store.reports.problems()] == [("crlf", ["/xy/d"])]


def test_another_projects_runs_are_not_touched_by_an_inventory(store: Store) -> None:
    add(store, "other", name="q")
    assert store.inventory.finish_inventory(add(store, "a"), 1, Unseen.GONE) == 0
    assert detail(store, "other").status is RunStatus.PENDING


# ---------------------------------------------------------------- claims


def test_a_claim_carries_what_the_copy_needs(store: Store, worker: str) -> None:
    [project_id] = store.inventory.save_projects([ProjectRow("e", "p", "wandb", "https://wandb.test/e/p", "dest")])
    created = datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    listed = row("a", created_at=created, history_rows=5, size_hint=50, location=["x", "y"])
    store.inventory.save_runs(project_id, [listed], 1)
    claim = take(store)
    assert claim.ref == "e/p/a"
    assert (claim.attempt, claim.failures, claim.position, claim.fork) == (1, 0, None, None)
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
    assert child.fork is not None
    assert (child.fork.run_id, child.fork.step) == ("parent", 5.0)


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


# ---------------------------------------------------------------- the copy of one run


@pytest.mark.parametrize("count", [0, 1, 8, 9, 40])
@pytest.mark.usefixtures("worker")
def test_a_list_in_a_cursor_that_grows_comes_back_whole(store: Store, count: int) -> None:
    add(store, "a")
    claim = take(store)
    items = [{"name": n, "more": ["ä", None, n / 3]} for n in range(count)]
    for end in sorted({0, count // 3, count // 2, count}):
        store.checkpoint(claim, [PartUpdate("files", {"items": items[:end], "end": end}), PartUpdate("config", {})])
    assert store.parts(claim)["files"].cursor == {"items": items, "end": count}
    assert store.parts(claim)["config"].cursor == {}
    again = [{"anew": n} for n in range(12)]
    store.checkpoint(claim, [PartUpdate("files", {"items": again}, fresh=True)])
    assert store.parts(claim)["files"].cursor == {"items": again}
    store.forget_copy(claim)
    store.checkpoint(claim, [PartUpdate("files", {"items": again[:10]})])
    assert store.parts(claim)["files"].cursor == {"items": again[:10]}


@pytest.mark.usefixtures("worker")
def test_a_checkpoint_writes_only_the_new_items_of_a_long_cursor(store: Store) -> None:
    add(store, "a")
    claim = take(store)
    written: list[int] = []
    event.listen(
        store._database.engine, "before_cursor_execute", lambda _c, _k, _s, values, *_: written.append(len(str(values)))
    )
    items = [{str(n): "x" * 1000} for n in range(100)]
    sizes = []
    for end in range(1, len(items) + 1):
        written.clear()
        store.checkpoint(claim, [PartUpdate("files", {"items": items[:end]})])
        sizes.append(sum(written))
    assert max(sizes[10:]) < 4000


def test_a_checkpoint_saves_cursors_counts_and_ledger_together(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    nan, long = LedgerEntry("skipped", "loss", "nan", 2), LedgerEntry("renamed", "x" * 5000, "too long")
    first = PartUpdate("history", {"step": 10}, read=5, written=3, skipped=2, size_bytes=7, ledger=[nan, nan, long])
    store.checkpoint(claim, [first, PartUpdate("config", {"n": 1}, done=True, read=1, written=1)], position="p1")
    store.checkpoint(claim, [PartUpdate("history", {"step": 20}, done=True, read=2, written=2, ledger=[nan])])
    parts = store.parts(claim)
    history = parts["history"]
    assert list(parts) == ["config", "history"]
    assert (history.status, history.cursor) == (PartStatus.DONE, {"step": 20})
    assert (history.read, history.written, history.skipped, history.size_bytes) == (7, 5, 2, 7)
    run = detail(store, "a")
    assert (run.position, run.points_read, run.points_written, run.part) == ("p1", 8, 6, "history")
    ledger = list(store.reports.ledger(run.run))
    assert [(line.part, line.kind, line.path[:4], line.count) for line in ledger] == [
        ("history", "renamed", "xxxx", 1),
        ("history", "skipped", "loss", 6),
    ]
    assert store.parts(claim) == run.parts


def test_a_part_that_is_read_anew_counts_anew(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    nan = LedgerEntry("skipped", "loss", "nan")
    store.checkpoint(claim, [PartUpdate("config", {}, read=5, written=4, skipped=1, size_bytes=9, ledger=[nan])])
    other = PartUpdate("history", {}, read=3, written=2, skipped=1, ledger=[nan])
    again = PartUpdate("config", {}, done=True, read=6, written=6, size_bytes=10, fresh=True)
    store.checkpoint(claim, [other, again])
    config = store.parts(claim)["config"]
    assert (config.read, config.written, config.skipped, config.size_bytes) == (6, 6, 0, 10)
    run = detail(store, "a")
    assert (run.points_read, run.points_written, run.size_bytes) == (9, 8, 10)
    assert [(line.part, line.count) for line in store.reports.ledger(run.run)] == [("history", 1)]


def test_a_refused_checkpoint_saves_nothing_of_it(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    impossible: Any = {"step": object()}
    with pytest.raises(TypeError):
        store.checkpoint(claim, [PartUpdate("config", {}, read=1), PartUpdate("history", impossible, read=1)])
    assert store.parts(claim) == {}
    assert detail(store, "a").points_read == 0


def test_an_intent_never_goes_back(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    for step in (5.0, 2.0, 7.5):
        store.intend(claim, {"history": step})
    assert store.parts(claim)["history"].intent == 7.5
    store.checkpoint(claim, [PartUpdate("history", {"step": 8}, done=True)])
    assert store.parts(claim)["history"].intent == 7.5


def test_a_run_with_agreeing_counts_is_done(store: Store, worker: str) -> None:
    add(store, "a")
    finish(store, take(store), "history", "config")
    run = detail(store, "a")
    assert (run.status, run.claimed_by, run.lease_until, run.part) == (RunStatus.DONE, None, None, None)
    assert run.finished_at is not None
    assert outcomes(store, "a") == [Outcome.DONE]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (PartUpdate("history", {}, done=False, read=3, written=3), "history is not done"),
        (
            PartUpdate("history", {}, done=True, read=3, written=1, skipped=1),
            "read 3 values, but wrote 1",
        ),
        (PartUpdate("config", {}, done=True), "history is not done"),
    ],
)
def test_a_run_is_not_done_while_counts_disagree(store: Store, worker: str, update: PartUpdate, message: str) -> None:
    add(store, "a")
    claim = take(store)
    store.checkpoint(claim, [update])
    with pytest.raises(CountsDisagree, match=message) as caught:
        store.complete(claim, ["history"])
    assert caught.value.part == "history"
    assert detail(store, "a").status is RunStatus.RUNNING
    store.checkpoint(claim, [])  # the claim still holds


def test_a_part_that_is_not_selected_does_not_count(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    store.checkpoint(claim, [PartUpdate("files", {}, read=5)])
    store.complete(claim, [])
    assert detail(store, "a").status is RunStatus.DONE


def test_a_clean_release_costs_nothing(store: Store, worker: str) -> None:
    add(store, "a")
    for _ in range(20):
        store.release(take(store))
    claim = take(store)
    assert (claim.attempt, claim.failures) == (21, 0)
    assert outcomes(store, "a") == [Outcome.RELEASED] * 20 + [None]


def test_a_throttled_run_costs_nothing_and_pauses_the_service(store: Store, worker: str) -> None:
    add(store, "a")
    store.throttle(take(store), "wandb", 0.2, Failure("rate_limited", "429"))
    pause = store.paused("wandb")
    assert pause is not None
    assert pause.reason == "429"
    assert 0 < pause.seconds_left <= 0.2
    assert store.paused("neptune") is None
    assert eventually(lambda: store.claim(worker, Phase.COPY, LEASE_S)).failures == 0
    assert outcomes(store, "a") == [Outcome.THROTTLED, None]
    eventually(lambda: store.paused("wandb") is None)


def test_a_longer_pause_stays(store: Store, worker: str) -> None:
    add(store, "a", "b")
    claims = take(store), take(store)
    store.throttle(claims[0], "neptune", 100, Failure("unavailable", "down"))
    store.throttle(claims[1], "neptune", 1, Failure("unavailable", "busy"))
    pause = store.paused("neptune")
    assert pause is not None
    assert pause.reason == "down"
    assert pause.seconds_left == pytest.approx(100, abs=5)


def test_failures_count_until_the_last(store: Store, worker: str) -> None:
    add(store, "a")
    ends = [store.fail(take(store), BROKEN, Retry(max_failures=3)) for _ in range(3)]
    assert ends == [RunStatus.PENDING, RunStatus.PENDING, RunStatus.FAILED]
    assert outcomes(store, "a") == [Outcome.RETRY, Outcome.RETRY, Outcome.FAILED]
    run = detail(store, "a")
    assert (run.failures, run.error_class, run.error_message) == (3, BROKEN.error_class, BROKEN.message)
    assert run.attempts[0].message == BROKEN.message


def test_a_failure_that_will_not_pass_ends_the_run_at_once(store: Store, worker: str) -> None:
    add(store, "a")
    assert store.fail(take(store), BROKEN) is RunStatus.FAILED
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    assert store.next_wait(Phase.COPY) is None


def test_a_failed_run_waits_before_it_is_tried_again(store: Store, worker: str) -> None:
    add(store, "a")
    store.fail(take(store), BROKEN, Retry(max_failures=3, delay_s=100))
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    assert store.next_wait(Phase.COPY) == pytest.approx(100, abs=5)


def test_progress_forgives_earlier_failures(store: Store, worker: str) -> None:
    add(store, "a")
    for step in range(5):
        claim = take(store)
        assert claim.failures == min(step, 1)
        store.checkpoint(claim, [PartUpdate("history", {"step": step}, read=1, written=1)])
        assert store.fail(claim, BROKEN, Retry(max_failures=2)) is RunStatus.PENDING


def test_a_checkpoint_without_progress_forgives_nothing(store: Store, worker: str) -> None:
    add(store, "a")
    for expected in (RunStatus.PENDING, RunStatus.FAILED):
        claim = take(store)
        store.checkpoint(claim, [PartUpdate("history", None)], position="p")
        assert store.fail(claim, BROKEN, Retry(max_failures=2)) is expected


def test_any_text_can_be_stored(store: Store, worker: str) -> None:
    class Kind(StrEnum):
        SKIPPED = "skipped"

    strange = "nul \0, surrogate \udc80, quote ' \N{PILE OF POO}"
    add(store, RunRow(strange, strange, "finished", "f", location=[strange], tags=[strange]))
    claim = take(store)
    assert claim.location == [strange]
    entry = LedgerEntry(Kind.SKIPPED, strange, strange)
    store.checkpoint(claim, [PartUpdate("history", {"key": strange}, ledger=[entry, entry])], position=strange)
    assert store.parts(claim)["history"].cursor == {"key": strange}
    store.fail(claim, Failure(Kind.SKIPPED, strange))
    assert [(line.kind, line.count) for line in store.reports.ledger(claim.run)] == [("skipped", 2)]
    assert store.inventory.save_runs(claim.project_id, [RunRow(strange, strange, "finished", "f")], 2).new == 0


# ---------------------------------------------------------------- workers


def test_a_heartbeat_renews_leases_and_tells_what_is_still_held(store: Store, worker: str) -> None:
    add(store, "a", "b")
    a, b = take(store, lease_s=EXPIRED), take(store, lease_s=EXPIRED, only=Selection(runs=(2,)))
    held = store.workers.heartbeat(worker, LEASE_S, {a.run: Activity("history", 1.0), 999: Activity(None, 0.0)})
    assert held == {a.run: a.attempt, b.run: b.attempt}
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    store.release(b)
    assert store.workers.heartbeat(worker, LEASE_S, {}) == {a.run: a.attempt}
    assert detail(store, "a").part == "history"


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


# ---------------------------------------------------------------- moves by command


def test_failed_runs_are_retried_by_class_project_and_run(store: Store, worker: str) -> None:
    add(store, "a", "b", name="p")
    add(store, "c", name="q")
    for run_id, error_class in (("a", "auth"), ("b", "timeout"), ("c", "auth")):
        store.fail(take(store, store.select(run_ids=[run_id])), Failure(error_class, "no"))
    assert store.retry_failed(error_classes=["bad_data"]) == 0
    assert store.retry_failed(store.select(["p"]), ["auth"]) == 1
    assert detail(store, "a").status is RunStatus.PENDING
    assert store.retry_failed(store.select(run_ids=["b"])) == 1
    assert store.retry_failed() == 1
    claim = take(store)
    assert (claim.failures, claim.attempt) == (0, 2)


def test_copied_runs_wait_for_their_upload_and_are_claimed_for_it(store: Store, worker: str) -> None:
    add(store, "a", "b")
    done = take(store)
    finish(store, done, "history")
    assert store.start_upload() == 1
    assert store.start_upload() == 0
    claim = store.claim(worker, Phase.UPLOAD, LEASE_S)
    assert claim is not None
    assert (claim.run, claim.phase, claim.fingerprint) == (done.run, Phase.UPLOAD, "v1")
    assert store.parts(claim)["history"].status is PartStatus.DONE
    store.checkpoint(claim, [PartUpdate("upload", {"at": 9}, done=True, read=2, written=2)])
    store.complete(claim, ["upload"])
    assert store.start_upload() == 0
    assert detail(store, claim.run_id).points_read == 3  # the copy's
    assert store.claim(worker, Phase.UPLOAD, LEASE_S) is None
    assert [a.phase for a in detail(store, claim.run_id).attempts] == [Phase.COPY, Phase.UPLOAD]


def test_skipped_values_are_counted_of_the_runs_that_are_asked_for(store: Store, worker: str) -> None:
    add(store, "a", "b", "c")
    for skipped in (1, 20):
        claim = take(store)
        store.checkpoint(claim, [PartUpdate(p, {}, read=skipped, skipped=skipped) for p in ("config", "history")])
    asked = [store.reports.skipped(store.select((), ids)) for ids in (["a"], ["a", "b"], ["c"], [])]
    assert [*asked, store.reports.skipped()] == [2, 42, 0, 42, 42]


def test_what_is_copied_of_a_run_can_be_forgotten(store: Store, worker: str) -> None:
    add(store, "a")
    claim = take(store)
    update = PartUpdate("history", {"at": 3}, read=3, written=2, skipped=1, ledger=[LedgerEntry("skipped", "p", "r")])
    store.checkpoint(claim, [update], "here")
    store.forget_copy(claim)
    assert (store.parts(claim), list(store.reports.ledger(claim.run))) == ({}, [])
    found = detail(store, "a")
    assert (found.position, found.points_read, found.status) == (None, 0, RunStatus.RUNNING)
    store.checkpoint(claim, [update, PartUpdate("config", {}, read=1, written=1)], "there")
    store.forget_part(claim, "history")
    assert [*store.parts(claim), *store.reports.ledger(claim.run)] == ["config"]
    store.release(claim)
    for forget in (lambda: store.forget_copy(claim), lambda: store.forget_part(claim, "history")):
        with pytest.raises(LeaseLost):
            forget()


def test_runs_that_a_person_has_forgotten_are_as_if_never_copied(store: Store, worker: str) -> None:
    add(store, "done", "failed", "held", "new", "other")
    update = PartUpdate("history", {"at": 3}, read=3, written=2, skipped=1, ledger=[LedgerEntry("skipped", "p", "r")])
    for run_id in ("done", "failed", "held", "other"):
        claim = take(store, store.select(run_ids=[run_id]))
        store.checkpoint(claim, [replace(update, done=True)], "here")
        match run_id:
            case "done" | "other":
                store.complete(claim, ["history"])
            case "failed":
                store.fail(claim, Failure("bad_data", "no"))
    store.start_upload(store.select(run_ids=["done"]))
    only = store.select(run_ids=["done", "failed", "held", "new"])
    assert [run.ref.rpartition("/")[2] for run in store.reports.begun(only)] == ["done", "failed", "held"]
    assert store.forget(only) == 2  # not the one that is held, nor the one of which nothing is known
    never = detail(store, "new")
    for run_id in ("done", "failed"):
        found = detail(store, run_id)
        same = ("phase", "status", "position", "parts", "points_read", "failures", "error_class", "finished_at")
        assert [getattr(found, name) for name in same] == [getattr(never, name) for name in same]
        assert list(store.reports.ledger(found.run)) == []
        assert take(store, store.select(run_ids=[run_id])).attempt == 2
    assert [detail(store, run_id).points_read for run_id in ("held", "other")] == [3, 3]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_removed_or_replaced_while_it_is_used_is_told_and_not_made_anew(
    tmp_path: Path, *, replaced: bool
) -> None:
    path = tmp_path / "my state?#%.db"
    with closing(open_store(path)) as store:
        add(store, "a")
        path.rename(tmp_path / "away")
        if replaced:
            shutil.copy(tmp_path / "away", path)
        for ask in (store.reports.overview, lambda: store.claim_setting("a", "b")):
            with pytest.raises(StateMissing, match="removed or replaced"):
                ask()
        assert path.exists() is replaced
        path.unlink(missing_ok=True)
        (tmp_path / "away").rename(path)
        assert store.reports.overview().runs[RunStatus.PENDING] == 1


def test_a_destination_that_has_something_of_a_project_is_fixed(store: Store, worker: str) -> None:
    project_id = add(store, "a")
    assert store.inventory.set_destinations({project_id: ("early", None)}) == []
    claim = take(store)
    assert store.inventory.set_destinations({project_id: ("held", None)}) == [project_id]
    store.fail(claim, Failure("bad_data", "refused before anything was written"))
    assert store.inventory.set_destinations({project_id: ("other", None)}) == []
    store.retry_failed()
    claim = take(store)
    store.intend(claim, {"history": 3})
    store.release(claim)
    assert store.inventory.set_destinations({project_id: ("late", None)}) == [project_id]
    assert store.inventory.set_destinations({project_id: ("other", "again")}) == []
    assert [project.destination_name for project in store.inventory.projects()] == ["other"]
    store.forget()
    assert store.inventory.set_destinations({project_id: ("moved", None)}) == []
    assert [project.destination_name for project in store.inventory.projects()] == ["moved"]


def test_forks_of_each_other_fail_and_those_that_only_wait_for_them_do_not(store: Store, worker: str) -> None:
    forks = {"a": "b", "b": "c", "c": "a", "waits": "a", "self": "self", "child": "parent", "x": "y", "y": "x"}
    add(store, *(replace(row(run), fork_run_id=parent) for run, parent in forks.items()), row("parent"))
    add(store, replace(row("a"), fork_run_id="b"), name="other project")
    only = store.select(["p"], [run for run in forks if run not in ("x", "y")])
    assert store.fail_fork_cycles(Phase.COPY, only, "bad_data") == ["e/p/a", "e/p/b", "e/p/c"]
    assert store.fail_fork_cycles(Phase.COPY, EVERYTHING, "bad_data") == ["e/p/x", "e/p/y"]
    assert store.fail_fork_cycles(Phase.COPY, EVERYTHING, "bad_data") == []
    failed = list(store.reports.runs(RunStatus.FAILED))
    assert "e/p/a -> e/p/b -> e/p/c" in (failed[0].error_message or "")
    for _ in range(5):
        store.complete(take(store), [])
    assert store.next_wait(Phase.COPY) is None
    assert store.retry_failed() == 5


def test_runs_that_are_done_without_a_part_are_counted(store: Store, worker: str) -> None:
    add(store, "a", "b", "c")
    for run_id, parts in (("a", ["config", "history"]), ("b", ["config"])):
        claim = take(store, store.select(run_ids=[run_id]))
        store.checkpoint(claim, [PartUpdate(part, {}, done=True) for part in parts])
        store.complete(claim, parts)
    assert store.reports.left_out(["config", "history", "files"]) == {"history": 1, "files": 2}
    assert store.reports.left_out(["config", "history"], store.select(run_ids=["a"])) == {}
    assert store.reports.overview(wanted_parts=["config", "history"]).left_out == {"history": 1}


def test_runs_that_are_listed_from_two_services_are_found(store: Store) -> None:
    add(store, "a", "b", "c")
    add(store, "a", name="another project")
    rows = [ProjectRow("local", name, "local", "file:///data") for name in ("p", "q")]
    for project_id in store.inventory.save_projects(rows):
        store.inventory.save_runs(project_id, [row("a"), row("c"), row("d")], 1)
    [twin] = store.inventory.listed_twice()
    assert {twin.one.source, twin.other.source, str(twin.runs)} == {"local/p", "e/p", "2"}


def test_runs_that_must_have_an_offline_file_are_counted(store: Store, worker: str) -> None:
    add(store, "done", "uploaded", "begun", "new")
    for run_id, position in (("done", "4:1"), ("uploaded", "uploaded"), ("begun", "2:0")):
        claim = take(store, store.select(run_ids=[run_id]))
        store.checkpoint(claim, [], position)
        if run_id == "begun":
            store.release(claim)
        else:
            store.complete(claim, [])
    counts = [store.reports.awaited_files(phase, EVERYTHING, "uploaded") for phase in Phase]
    assert counts == [1, 1]
    store.start_upload()
    assert store.reports.awaited_files(Phase.UPLOAD, EVERYTHING, "uploaded") == 1


def test_runs_that_are_done_without_a_part_are_copied_further_when_it_is_asked_for(store: Store, worker: str) -> None:
    project_id = add(store, "a", "b", "gone", "pending")
    for _ in range(3):
        finish(store, take(store), "config")
    store.inventory.save_runs(project_id, [row("a"), row("b"), row("pending")], 2)
    store.inventory.finish_inventory(project_id, 2, Unseen.GONE)
    store.start_upload(store.select(run_ids=["b"]))
    upload = store.claim(worker, Phase.UPLOAD, LEASE_S)
    assert upload is not None
    finish(store, upload, "upload")

    assert store.start_copy(["config"]) == 0
    assert [run.ref[-1] for run in store.reports.lacking(["config", "files"])] == ["a", "b"]
    assert store.start_copy(["config", "files"], store.select(run_ids=["b"])) == 1
    assert (detail(store, "b").phase, detail(store, "b").status) == (Phase.COPY, RunStatus.PENDING)
    assert store.start_copy(["config", "files"]) == 1
    claim = take(store, store.select(run_ids=["a"]))
    assert store.parts(claim)["config"].status is PartStatus.DONE
    finish(store, claim, "files")
    assert store.start_copy(["config", "files"]) == 0


def test_a_failed_upload_is_retried_as_an_upload(store: Store, worker: str) -> None:
    add(store, "a")
    finish(store, take(store), "history")
    store.start_upload()
    claim = store.claim(worker, Phase.UPLOAD, LEASE_S)
    assert claim is not None
    store.fail(claim, BROKEN)
    assert store.retry_failed() == 1
    assert store.claim(worker, Phase.COPY, LEASE_S) is None
    assert store.claim(worker, Phase.UPLOAD, LEASE_S) is not None


# ---------------------------------------------------------------- reports


@pytest.fixture
def busy_store(store: Store, worker: str) -> Store:
    """Runs in every status, in two projects."""
    add(store, *[row(r, size_hint=10) for r in ("done", "fails", "breaks", "waits", "runs")], name="p")
    gone = add(store, "gone", name="q")
    store.inventory.finish_inventory(gone, 2, Unseen.GONE)
    done, fails, breaks, runs = (take(store, store.select(run_ids=[r])) for r in ("done", "fails", "breaks", "runs"))
    nan = LedgerEntry("skipped", "loss", "nan")
    store.checkpoint(done, [PartUpdate("history", {"s": 1}, done=True, read=8, written=7, skipped=1, ledger=[nan])])
    store.complete(done, ["history"])
    store.checkpoint(runs, [PartUpdate("history", {"s": 1}, read=4, written=3, skipped=1, size_bytes=6, ledger=[nan])])
    store.fail(fails, Failure("auth", "no key"))
    store.fail(breaks, Failure("auth", "no key either"))
    waits = take(store, store.select(run_ids=["waits"]))
    store.throttle(waits, "neptune", 100, Failure("unavailable", "down"))
    return store


def test_the_overview_shows_everything_of_one_moment(busy_store: Store) -> None:
    seen = busy_store.reports.overview()
    assert {status.value: count for status, count in seen.runs.items()} == {
        "pending": 1,
        "running": 1,
        "done": 1,
        "failed": 2,
        "skipped": 1,
    }
    assert seen.phases[Phase.COPY] == seen.runs
    assert sum(seen.phases[Phase.UPLOAD].values()) == 0
    assert [(p.project.source, p.runs[RunStatus.SKIPPED], sum(p.runs.values())) for p in seen.projects] == [
        ("e/p", 0, 5),
        ("e/q", 1, 1),
    ]
    [history] = seen.parts
    assert history == PartSums("history", read=12, written=10, skipped=2, size_bytes=6)
    [failure] = seen.failures
    assert (failure.error_class, failure.count, failure.example.ref, failure.example.text) == (
        "auth",
        2,
        "e/p/fails",
        "no key",
    )
    [skip] = seen.ledger
    assert (skip.reason, skip.part, skip.kind, skip.count, skip.runs) == ("nan", "history", "skipped", 2, 2)
    assert (skip.example.ref, skip.example.text) == ("e/p/done", "loss")
    [reason] = seen.reasons
    assert (reason.status, reason.count, reason.example_ref) == (RunStatus.SKIPPED, 1, "e/q/gone")
    [working] = seen.workers
    assert (working.id, working.ref, working.part) == ("w1", "e/p/runs", "history")
    assert working.heartbeat_age_s < 10
    assert [pause.service for pause in seen.pauses] == ["neptune"]


def test_progress_counts_ended_runs_exactly_and_guesses_the_rest(busy_store: Store) -> None:
    progress = busy_store.reports.progress(Phase.COPY)
    assert (progress.runs_total, progress.runs[RunStatus.DONE]) == (5, 1)
    assert (progress.points_read, progress.points_written, progress.size_bytes) == (12, 10, 6)
    assert progress.points_expected == 8 + 0 + 0 + 10 + 10
    assert all(type(n) is int for n in (progress.points_read, progress.points_expected, progress.size_bytes))
    [running] = progress.running
    assert (running.ref, running.part, running.points_read, running.points_expected) == ("e/p/runs", "history", 4, 10)
    assert busy_store.reports.progress(Phase.COPY, busy_store.select(["q"])).runs_total == 0


def test_progress_of_uploads_counts_what_the_copy_wrote(busy_store: Store) -> None:
    assert busy_store.start_upload() == 1
    assert busy_store.reports.progress(Phase.COPY).runs[RunStatus.DONE] == 1
    claim = busy_store.claim("w1", Phase.UPLOAD, LEASE_S)
    assert claim is not None
    busy_store.checkpoint(claim, [PartUpdate("upload", {}, done=True, read=5, written=5)])
    progress = busy_store.reports.progress(Phase.UPLOAD)
    assert (progress.runs_total, progress.points_read, progress.points_expected) == (1, 5, 7)
    busy_store.complete(claim, ["upload"])
    assert busy_store.reports.progress(Phase.UPLOAD).points_read == 7


@pytest.mark.parametrize("text_", ["done", "p/done", "e/p/done"])
def test_a_run_is_found_by_any_of_its_names(busy_store: Store, text_: str) -> None:
    [found] = busy_store.reports.find_runs(text_)
    assert (found.ref, found.status) == ("e/p/done", RunStatus.DONE)


@pytest.mark.parametrize("text_", ["don", "q/done", "x/p/done", "", "/"])
def test_a_run_is_not_found_by_other_names(busy_store: Store, text_: str) -> None:
    assert busy_store.reports.find_runs(text_) == []


def test_a_run_whose_id_has_slashes_is_found_by_any_of_its_names(store: Store) -> None:
    add(store, "a/b/c", "b/c", "c")
    for text_ in ("a/b/c", "p/a/b/c", "e/p/a/b/c"):
        assert [found.ref for found in store.reports.find_runs(text_)] == ["e/p/a/b/c"]
    assert [found.ref for found in store.reports.find_runs("e/p/b/c")] == ["e/p/b/c"]


def test_runs_of_a_status_are_listed_one_by_one(busy_store: Store) -> None:
    assert [run.ref for run in busy_store.reports.runs(RunStatus.FAILED)] == ["e/p/fails", "e/p/breaks"]
    assert next(busy_store.reports.runs(RunStatus.PENDING)).ref == "e/p/waits"
    assert list(busy_store.reports.runs(RunStatus.FAILED, busy_store.select(["q"]))) == []


def test_an_empty_database_has_an_empty_report(store: Store) -> None:
    seen = store.reports.overview()
    assert sum(seen.runs.values()) == 0
    assert store.reports.progress(Phase.COPY).runs_total == 0
    assert store.reports.run_detail(1) is None
    assert list(store.reports.ledger(1)) == []


def test_a_reader_does_not_hold_up_writers(store: Store, worker: str) -> None:
    add(store, "a", "b")
    listing = store.reports.runs(RunStatus.PENDING)
    next(listing)
    take(store)
    assert len(list(listing)) == 1  # as of the moment it began


# ---------------------------------------------------------------- opening


def test_what_was_written_is_there_after_opening_again(url: str) -> None:
    with closing(open_store(url)) as store:
        add(store, "a")
    with closing(open_store(url, create=False)) as store:
        assert detail(store, "a").status is RunStatus.PENDING


def test_processes_that_open_a_fresh_database_at_once_do_not_collide(blank_url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        numbers = [f.result() for f in [pool.submit(open_and_begin, blank_url) for _ in range(8)]]
    assert sorted(numbers) == list(range(1, 9))


def test_a_database_that_must_exist_and_does_not_is_missing(blank_url: str) -> None:
    with pytest.raises(StateMissing, match="migrate inventory"):
        open_store(blank_url, create=False)
    if blank_url.startswith("sqlite"):
        assert not Path(blank_url.removeprefix("sqlite:///")).exists()


def test_a_database_of_a_newer_version_is_refused_untouched(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'abcd'"))
    with pytest.raises(StateTooNew, match=r"abcd.*--upgrade"):
        open_store(url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "abcd"
    engine.dispose()


def test_somebody_elses_database_is_refused_untouched(blank_url: str) -> None:
    engine = create_engine(blank_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bookmarks (id INTEGER)"))
    with pytest.raises(StateDamaged, match="bookmarks"):
        open_store(blank_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE bookmarks"))
        if blank_url.startswith("sqlite"):
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "delete"
    engine.dispose()


def test_tables_and_upgrades_agree(url: str, tmp_path: Path) -> None:
    engine, built = create_engine(url), create_engine(f"sqlite:///{tmp_path}/built.db")
    options = {"include_object": lambda thing, name, kind, *_: kind != "index"} if url.startswith("sqlite") else {}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        if url.startswith("sqlite"):  # Alembic does not see the DESC of an index there
            Base.metadata.create_all(built)
            with built.connect() as other:
                assert indexes(connection) == indexes(other)
    engine.dispose()
    built.dispose()


def indexes(connection: Connection) -> set[str]:
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    return set(connection.execute(text(query)).scalars())


def test_the_newest_upgrade_is_the_revision_that_opens_fast() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations_db.__file__).parent / "upgrades"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_an_up_to_date_database_opens_without_alembic(empty_file: Path) -> None:
    opening = f"migrations_db.open_store({str(empty_file)!r}).close()"
    program = f"import sys, migrations_db; {opening}; print('alembic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_first_released_database_opens_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "v1.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / "state-v1.sql").read_text())
    with closing(open_store(path)) as store:
        register(store)
        assert {s.value: n for s, n in store.reports.overview().runs.items() if n} == {"pending": 1, "done": 1}
        done = detail(store, "finished-run")
        assert done.parts["history"].cursor == {"step": 3}
        assert [line.reason for line in store.reports.ledger(done.run)] == ["nan"]
        finish(store, take(store), "config")


def test_a_database_may_be_open_twice_at_once(url: str) -> None:
    with closing(open_store(url)) as first, closing(open_store(url)) as second:
        assert first.claim_setting("a", "1") == second.claim_setting("a", "2") == "1"


# ---------------------------------------------------------------- what can go wrong


def test_only_its_owner_can_read_a_new_database(tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "migration.db")):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StateDamaged, match=r"notes\.txt.*--db OTHER"):
        open_store(path)
    assert path.read_text().startswith("Dear diary")


def test_a_damaged_database_says_so(empty_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    content = bytearray(empty_file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StateDamaged):
        open_store(path).reports.overview()


def test_a_lost_table_is_damage(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE setting"))
    engine.dispose()
    with closing(open_store(url)) as store, pytest.raises(StateDamaged, match="setting"):
        store.setting("a")


def test_a_database_that_somebody_else_locks_says_so(url: str) -> None:
    sqlite = url.startswith("sqlite")
    impatient = f"{url}?timeout=0.05" if sqlite else f"{url}?options=-c%20lock_timeout%3D50"
    engine = create_engine(url)
    with closing(open_store(impatient)) as store, engine.connect() as connection:
        connection.execute(text("DELETE FROM setting" if sqlite else "LOCK TABLE setting"))
        with pytest.raises(StateLocked, match="another process"):
            store.claim_setting("a", "1")
        if sqlite:
            assert store.setting("a") is None  # readers go on
        connection.rollback()
        assert store.claim_setting("a", "1") == "1"
    engine.dispose()


@pytest.mark.postgres
def test_a_server_that_may_only_be_read_says_so(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("PostgreSQL only: tests may run as root, who may write any file")
    with (
        closing(open_store(f"{url}?options=-c%20default_transaction_read_only%3Don")) as store,
        pytest.raises(StateReadOnly, match="--db"),
    ):
        store.claim_setting("a", "1")


def sqlite_error(tmp_path: Path, cause: str) -> sqlite3.Error:
    """An error as the driver raises it."""
    path = tmp_path / "x.db"
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (x)")
            match cause:
                case "full":
                    connection.execute("PRAGMA max_page_count=2")
                    connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
                case "read only":
                    connection.execute("PRAGMA query_only=ON")
                    connection.execute("INSERT INTO t VALUES (1)")
                case "absent":
                    sqlite3.connect(tmp_path / "no" / "x.db")
    except sqlite3.Error as error:
        return error
    raise AssertionError(f"{cause}: no error")


@pytest.mark.parametrize(
    ("cause", "ours"), [("full", StateDiskFull), ("read only", StateReadOnly), ("absent", StateUnreachable)]
)
def test_what_sqlite_says_becomes_a_message_with_the_next_step(
    tmp_path: Path, cause: str, ours: type[StateError]
) -> None:
    error = translate(sqlite_error(tmp_path, cause), "here.db")
    assert type(error) is ours
    assert "here.db" in str(error)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite://", "must be a file"),
        (":memory:", "must be a file"),
        ("mysql://me@host/db", "cannot be mysql"),
        (".", "is a directory"),
    ],
)
def test_places_that_cannot_hold_the_state_are_refused(place: str, message: str) -> None:
    with pytest.raises(StateUnsupported, match=message):
        open_store(place)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateMissing, match="no directory"):
        open_store(tmp_path / "no" / "state.db")


def test_a_network_file_system_is_recognised_by_its_nearest_mount() -> None:
    mounts = [Mount("/", "ext4"), Mount("/home", "nfs4"), Mount("/home/me/local", "xfs"), Mount("/mnt", "fuse.sshfs")]
    assert network_type(Path("/home/me/state.db"), mounts) == "nfs4"
    assert network_type(Path("/home/me/local/state.db"), mounts) is None
    assert network_type(Path("/homes/state.db"), mounts) is None
    assert network_type(Path("/mnt/x"), mounts) == "fuse.sshfs"
    assert network_type(Path("/mnt/x"), [*mounts, Mount("/mnt", "tmpfs")]) is None
    assert network_type(Path("/x"), []) is None


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrations_db.engine.mounted", lambda: [Mount("/", "nfs")])
    with pytest.raises(StateUnsupported, match=r"network file system \(nfs\).*postgresql"):
        open_store(tmp_path / "state.db")


@pytest.mark.parametrize(
    "url_",
    [
        "postgresql+psycopg://me:hunter22@127.0.0.1:1/db",
        "postgresql://me:hunter22@127.0.0.1:1/db",
        "postgres://me@127.0.0.1:1/db?password=hunter22",
        "postgresql://me:hunter22/x@127.0.0.1:1/db",
        "postgresql+nosuch://me:hunter22@host/db",
        "mysql://me:hunter22@host/db",
    ],
)
def test_passwords_never_show(url_: str) -> None:
    with pytest.raises(StateError) as caught:
        open_store(url_)
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StateUnreachable, match=r"me:\*\*\*@127\.0\.0\.1:1/db"):
        open_store("postgresql://me:hunter22@127.0.0.1:1/db")


@pytest.mark.postgres
def test_a_server_that_goes_away_is_an_error_and_its_return_is_noticed(store: Store, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("PostgreSQL only")
    store.claim_setting("a", "1")
    add(store, *[f"r{n}" for n in range(3000)])
    listing = store.reports.runs(RunStatus.PENDING)
    next(listing)
    admin = create_engine(SERVER or "", isolation_level="AUTOCOMMIT")
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with admin.connect() as connection:
        connection.execute(kill, {"name": url.rpartition("/")[2]})
    admin.dispose()
    with pytest.raises(StateUnreachable, match="does not answer"):
        list(listing)
    assert store.setting("a") == "1"


def test_the_package_imports_nothing_of_the_program() -> None:
    for path in Path(migrations_db.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "migrator" for name in names), path


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
