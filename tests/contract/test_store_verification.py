"""What the state database keeps for verifications, on both databases."""

from __future__ import annotations

import pytest

from migrations_db import LeaseLost, Phase, RunStatus, Store
from migrations_db.report_types import FindingRow, VerdictCounts
from migrations_db.states import Verdict
from migrations_db.types import Claim, DigestRow, PartUpdate, ProjectRow, RunRow
from tests.contract.store_fixtures import register

LOSS = DigestRow("numbers", '{"count":3}')


def add(store: Store, *run_ids: str, project: str = "demo") -> None:
    [number] = store.inventory.save_projects([ProjectRow("team", project, "wandb", "", project)])
    store.inventory.save_runs(number, [RunRow(run_id, run_id, "finished", "v1") for run_id in run_ids], 1)


def copied(store: Store, *run_ids: str, project: str = "demo") -> dict[str, Claim]:
    """Runs that are done, with a digest."""
    add(store, *run_ids, project=project)
    claims: dict[str, Claim] = {}
    register(store, "copier")
    while claim := store.claim("copier", Phase.COPY, 60):
        store.begin_digests(claim)
        store.checkpoint(claim, [PartUpdate("config", {}, done=True)], None, {"loss": LOSS})
        store.complete(claim, ["config"])
        claims[claim.run_id] = claim
    return claims


def test_digests_are_saved_with_the_cursor_or_not_at_all(store: Store) -> None:
    add(store, "a")
    register(store, "w1")
    claim = store.claim("w1", Phase.COPY, 60)
    assert claim is not None
    store.begin_digests(claim)
    store.checkpoint(claim, [], None, {"loss": LOSS, "lr": LOSS})
    store.checkpoint(claim, [], None, {"loss": DigestRow("text", "{}")})
    assert store.digests(claim) == {"loss": DigestRow("text", "{}"), "lr": LOSS}
    store.release(claim)
    again = store.claim("w1", Phase.COPY, 60)
    assert again is not None
    for late in (
        lambda: store.checkpoint(claim, [], None, {"loss": LOSS}),
        lambda: store.begin_digests(claim),
        lambda: store.digests(claim),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert store.digests(again)["loss"].kind == "text"
    store.forget_copy(again)
    assert store.digests(again) == {}


def test_runs_are_claimed_by_project_once_and_given_back(store: Store) -> None:
    copied(store, "a", "b", "c")
    copied(store, "d", project="other")
    add(store, "pending")
    register(store, "v1")
    register(store, "v2")
    first = store.verification.claim("v1", 2)
    assert [run.run.run_id for run in first] == ["a", "b"]
    assert [run.run.run_id for run in store.verification.claim("v2", 9)] == ["c"]
    assert [run.run.run_id for run in store.verification.claim("v2", 9)] == ["d"]
    assert store.verification.claim("v2", 9) == []
    assert store.verification.digests(first[0].run.run) == {"loss": LOSS}
    store.workers.stop("v1")  # it died: its runs are free
    assert [run.run.run_id for run in store.verification.claim("v2", 9)] == ["a", "b"]
    store.verification.release("v2")
    assert len(store.verification.claim("v2", 9)) == 3


def test_a_verdict_stays_until_the_run_is_copied_again(store: Store) -> None:
    copied(store, "a", "b")
    register(store, "v1")
    a, b = store.verification.claim("v1", 9)
    row = FindingRow("loss", Verdict.DIFFERS, "3 points", "2 points")
    assert store.verification.save(a, "v1", Verdict.DIFFERS, "digests", [row])
    assert store.verification.save(b, "v1", Verdict.VERIFIED, "digests", [])
    assert store.verification.counts() == VerdictCounts(1, 1, 0)
    assert list(store.verification.findings()) == [("team/demo/a", row)]
    assert store.reports.overview().verdicts == VerdictCounts(1, 1, 0)
    detail = store.reports.run_detail(a.run.run)
    assert detail is not None
    assert (detail.verdict, detail.findings) == (Verdict.DIFFERS, [row])
    assert store.verification.claim("v1", 9) == []

    assert store.verification.retry_differing() == 1
    assert store.verification.counts() == VerdictCounts(1, 0, 0)
    assert list(store.verification.findings()) == []
    claim = store.claim("copier", Phase.COPY, 60)
    assert claim is not None
    assert (claim.run_id, claim.mapping, claim.position) == ("a", None, None)
    assert store.parts(claim) == {}
    assert not store.verification.save(a, "v1", Verdict.VERIFIED, "digests", [])  # too late: it is copied again
    assert store.verification.begin_again() == 1
    assert store.verification.counts() == VerdictCounts(0, 0, 1)


def test_runs_that_change_at_the_source_lose_their_verdict_when_they_are_copied(store: Store) -> None:
    copied(store, "a")
    register(store, "v1")
    [run] = store.verification.claim("v1", 9)
    store.verification.save(run, "v1", Verdict.VERIFIED, "counts", [])
    store.inventory.save_runs(run.run.project_id, [RunRow("a", "a", "finished", "v2")], 2)
    claim = store.claim("copier", Phase.COPY, 60)
    assert claim is not None
    store.checkpoint(claim, [PartUpdate("config", {}, done=True)])
    store.complete(claim, ["config"])
    assert store.verification.counts() == VerdictCounts(0, 0, 1)
    assert store.reports.overview().runs[RunStatus.DONE] == 1
