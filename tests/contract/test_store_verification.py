"""What the state database keeps for verifications, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrations_db import LeaseLost, Phase, RunStatus, Store
from migrations_db.relistings import ListedProject, RelistDifference
from migrations_db.report_types import FindingRow, VerdictCounts
from migrations_db.states import Verdict
from migrations_db.types import Claim, DigestRow, PartUpdate, ProjectRow, RunRow
from migrator.records import Entry, Kind
from tests.contract.store_fixtures import register

LOSS = DigestRow("numbers", '{"count":3}')


def add(store: Store, *run_ids: str, project: str = "demo") -> None:
    [number] = store.inventory.save_projects([ProjectRow("team", project, "wandb", "", project)])
    store.inventory.save_runs(number, [RunRow(run_id, run_id, "finished", "v1") for run_id in run_ids], 1)


def copied(store: Store, *run_ids: str, project: str = "demo", written: int = 0) -> dict[str, Claim]:
    """Runs that are done, with a digest. Of the one called "explained", something was skipped."""
    add(store, *run_ids, project=project)
    claims: dict[str, Claim] = {}
    register(store, "copier")
    while claim := store.claim("copier", Phase.COPY, 60):
        store.begin_digests(claim)
        skipped = [Entry(Kind.SKIPPED, "x", "too_large")] if claim.run_id == "explained" else []
        read = written + len(skipped)
        done = PartUpdate("config", {}, True, read, written, skipped=len(skipped), ledger=skipped)
        store.checkpoint(claim, [done], None, {"loss": LOSS})
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


def test_no_more_points_are_claimed_at_a_time_than_asked_for(store: Store) -> None:
    copied(store, "explained", "a", "b", "c", written=100)
    register(store, "v1")
    for points, run_ids in ((250, ["explained", "a"]), (50, ["b"]), (None, ["c"])):
        claimed = store.verification.claim("v1", 9, points=points)
        assert [run.run.run_id for run in claimed] == run_ids


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


def test_runs_of_each_project_are_counted_by_what_is_proved(store: Store) -> None:
    copied(store, "equal", "explained", "differs", "unread")
    copied(store, "other", project="small")
    add(store, "pending")
    register(store, "verifier")
    verdicts = {"equal": Verdict.VERIFIED, "explained": Verdict.VERIFIED, "differs": Verdict.DIFFERS}
    for run in store.verification.claim("verifier", 9):
        if run.run.run_id in verdicts:
            store.verification.save(run, "verifier", verdicts[run.run.run_id], "digests", [])
    demo, small = store.verification.by_project()
    assert (demo.project.name, small.project.name) == ("demo", "small")
    assert (demo.equal, demo.explained, demo.differs, demo.not_verified, demo.not_copied) == (1, 1, 1, 1, 1)
    assert (small.not_verified, small.equal + small.explained + small.differs + small.not_copied) == (1, 0)
    assert [one.project.name for one in store.verification.by_project(store.select(["small"]))] == ["small"]


def test_lists_of_the_source_are_compared_and_kept_until_the_next(store: Store) -> None:
    copied(store, "a", "b", "c")
    [project] = [one.id for one in store.inventory.projects()]
    compared = store.relistings.compare(project, ["c", "new\0", "a", "a"])
    assert compared == RelistDifference(3, 3, ["new\N{SYMBOL FOR NULL}"], ["b"])
    assert store.relistings.read() is None
    demo = ListedProject("wandb", "team", "demo", 3, 3, 1, ["new"], 1, ["b"])
    other = ListedProject("wandb", "team", "other", None, 4, 0, [], 4, ["x", "y"], "W&B counts 9 runs")
    unknown = ListedProject("local", "team", "demo", 7, None, 7, [], 0, [])
    store.relistings.save([other, demo, unknown], whole=True)
    found = store.relistings.read()
    assert found is not None
    assert sorted(found[1], key=repr) == sorted([demo, other, unknown], key=repr)
    store.relistings.save([replace(demo, new=0, new_examples=[])], whole=False)
    later = store.relistings.read()
    assert later is not None
    assert later[0] == found[0]  # of the oldest that still counts
    assert [one.new for one in later[1] if one.known == 3] == [0]
    store.relistings.save([demo], whole=True)
    assert [one.source for _, listed in [store.relistings.read() or (None, [])] for one in listed] == ["team/demo"]
