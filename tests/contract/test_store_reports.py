"""The state database, on SQLite and PostgreSQL: reports."""

from __future__ import annotations

import pytest

from migrations_db import (
    Phase,
    RunStatus,
    Store,
    Unseen,
)
from migrations_db.report_types import PartSums
from migrations_db.types import (
    Failure,
    PartUpdate,
    WorkerInfo,
)
from migrator.records import Entry
from tests.contract.store_rows import LEASE_S, add, row, take

# ---------------------------------------------------------------- reports


@pytest.fixture
def busy_store(store: Store, worker: str) -> Store:
    """Runs in every status, in two projects."""
    add(store, *[row(r, size_hint=10) for r in ("done", "fails", "breaks", "waits", "runs")], name="p")
    gone = add(store, "gone", name="q")
    store.inventory.finish_inventory(gone, 2, Unseen.GONE)
    done, fails, breaks, runs = (take(store, store.select(run_ids=[r])) for r in ("done", "fails", "breaks", "runs"))
    nan = Entry("skipped", "loss", "nan")
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


def test_every_run_in_full_is_what_one_run_tells(busy_store: Store) -> None:
    told = [*busy_store.reports.every_run()]
    assert [detail.run_id for detail, _ in told] == ["done", "fails", "breaks", "waits", "runs", "gone"]
    for detail, ledger in told:
        assert detail == busy_store.reports.run_detail(detail.run)
        assert ledger == [*busy_store.reports.ledger(detail.run)]
    assert [len(ledger) for _, ledger in told] == [1, 0, 0, 0, 1, 0]
    only = busy_store.select(run_ids=["runs"])
    assert [detail.run_id for detail, _ in busy_store.reports.every_run(only)] == ["runs"]


def test_workers_are_told_with_their_claims_and_their_command(busy_store: Store, worker: str) -> None:
    number = busy_store.begin_invocation("sync", "there", 7, "1.0", "/logs/7.jsonl")
    busy_store.workers.register(WorkerInfo("idle:7:x", "there", 7, 1.0, number))
    by_id = {row.id: row for row in busy_store.reports.workers()}
    busy, idle = by_id[worker], by_id["idle:7:x"]
    assert (busy.ref, busy.since is not None, busy.elapsed_s < 60) == ("e/p/runs", True, True)
    assert (idle.ref, idle.command, idle.elapsed_s < 60) == (None, "sync", True)
    busy_store.workers.stop("idle:7:x")
    assert [row.id for row in busy_store.reports.workers()] == [worker]
