"""Rows for tests of the state database, and what tests of it do again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrations_db import (
    Outcome,
    Phase,
    Store,
)
from migrations_db.report_types import RunDetail
from migrations_db.types import (
    EVERYTHING,
    Claim,
    Failure,
    PartUpdate,
    ProjectRow,
    RunRow,
    Selection,
)
from tests.contract.store_fixtures import (
    register,
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
