"""The state database, on SQLite and PostgreSQL: inventories, settings and projects."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from migrations_db import (
    PartStatus,
    Phase,
    RunStatus,
    Store,
    Unseen,
)
from migrations_db.types import (
    Counts,
    LeftOutRow,
    PartUpdate,
    ProjectRow,
)
from tests.contract.store_rows import BROKEN, add, detail, finish, project, row, take

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
