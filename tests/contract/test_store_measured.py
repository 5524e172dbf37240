"""How large runs were that are done, and how fast it went, on both databases."""
# ruff: noqa: F811 - fixtures are imported, and named by tests

from __future__ import annotations

import time

from migrations_db import Phase, Store
from migrations_db.report_types import MeasuredPart
from migrations_db.types import PartUpdate, ProjectRow, RunRow
from tests.contract.store_fixtures import empty_database, empty_file, register, store, url  # noqa: F401


def copy(store: Store, run_ids: list[str], *, done: bool = True) -> None:
    """A command that copies so many runs, of which each has a history and a config."""
    invocation = store.begin_invocation("run", "here", 1, "1.0")
    for _ in run_ids:
        claim = store.claim("w1", Phase.COPY, 60)
        assert claim is not None
        store.checkpoint(
            claim,
            [
                PartUpdate("config", {}, read=3, written=2, skipped=1, size_bytes=32, done=True),
                PartUpdate("history", {}, read=50, written=50, size_bytes=800, done=True),
            ],
        )
        if done:
            store.complete(claim, ["config", "history"])
    time.sleep(0.01)
    store.end_invocation(invocation, 0)


def test_runs_that_are_done_are_a_measure_for_others(store: Store) -> None:
    [project] = store.inventory.save_projects([ProjectRow("team", "p", "wandb", "", "p")])
    rows = {"a": 10, "b": None, "c": 10, "d": 10}
    listed = [RunRow(run_id, "", "finished", "v1", history_rows=count) for run_id, count in rows.items()]
    store.inventory.save_runs(project, listed, 1)
    register(store, "w1")
    assert store.reports.measured().runs == 0
    assert store.reports.measured().speed is None
    copy(store, ["a", "b"])
    copy(store, ["c"])
    copy(store, ["d"], done=False)
    found = store.reports.measured()
    assert (found.runs, found.uploads, found.written) == (3, 0, 156)
    assert (found.rows, found.row_values, found.row_bytes) == (20, 100, 1_600)
    assert found.parts == {"config": MeasuredPart(3, 9, 96), "history": MeasuredPart(3, 150, 2_400)}
    assert found.speed is not None
    assert (found.speed.jobs, found.speed.runs, found.speed.values, found.speed.size_bytes) == (2, 3, 159, 2_496)
    assert 0 < found.speed.elapsed_s < 60
    store.start_upload(store.select((), ["team/p/a"]))
    assert (store.reports.measured().runs, store.reports.measured().uploads) == (3, 1)
    [summary] = [run for run in store.reports.begun() if run.run_id == "d"]
    assert (summary.ref, summary.history_rows, summary.points_read, summary.size_bytes) == ("team/p/d", 10, 53, 832)


def test_forks_of_each_other_are_told_and_left_alone(store: Store) -> None:
    [project] = store.inventory.save_projects([ProjectRow("team", "p", "wandb", "", "p")])
    forks = {"a": "b", "b": "a", "c": "a", "d": None}
    listed = [RunRow(run_id, "", "finished", "v1", fork_run_id=parent) for run_id, parent in forks.items()]
    store.inventory.save_runs(project, listed, 1)
    [circle] = store.reports.fork_circles(Phase.COPY)
    assert sorted(circle) == ["team/p/a", "team/p/b"]
    assert {run.status.value for run in store.reports.runs(next(iter(store.reports.find_runs("a"))).status)} == {
        "pending"
    }
