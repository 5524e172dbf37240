"""The state database, on SQLite and PostgreSQL: the copy of one run, and how commands move runs."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from migrations_db import (
    CountsDisagree,
    LeaseLost,
    Outcome,
    PartStatus,
    Phase,
    RunStatus,
    StateMissing,
    Store,
    Unseen,
    open_store,
)
from migrations_db.types import (
    EVERYTHING,
    Failure,
    PartUpdate,
    ProjectRow,
    Retry,
    RunRow,
)
from migrator.records import Entry
from tests.contract.store_fixtures import eventually
from tests.contract.store_rows import BROKEN, LEASE_S, add, detail, finish, outcomes, row, take

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
    nan, long = Entry("skipped", "loss", "nan", 2), Entry("renamed", "x" * 5000, "too long")
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
    nan = Entry("skipped", "loss", "nan")
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
    entry = Entry(Kind.SKIPPED, strange, strange)
    store.checkpoint(claim, [PartUpdate("history", {"key": strange}, ledger=[entry, entry])], position=strange)
    assert store.parts(claim)["history"].cursor == {"key": strange}
    store.fail(claim, Failure(Kind.SKIPPED, strange))
    assert [(line.kind, line.count) for line in store.reports.ledger(claim.run)] == [("skipped", 2)]
    assert store.inventory.save_runs(claim.project_id, [RunRow(strange, strange, "finished", "f")], 2).new == 0


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
    update = PartUpdate("history", {"at": 3}, read=3, written=2, skipped=1, ledger=[Entry("skipped", "p", "r")])
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
    update = PartUpdate("history", {"at": 3}, read=3, written=2, skipped=1, ledger=[Entry("skipped", "p", "r")])
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
