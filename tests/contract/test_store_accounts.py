"""What the state database tells a report of every run: on SQLite and on PostgreSQL."""
# ruff: noqa: F811 - fixtures are imported, and named by tests

from __future__ import annotations

from migrations_db import Phase, Store
from migrations_db.accounts import PAGE_RUNS, LedgerSample, RunAccount
from migrations_db.report_types import FindingRow
from migrations_db.states import RunStatus, Verdict
from migrations_db.types import Failure, PartUpdate, ProjectRow, RunRow
from migrator.records import Entry
from tests.contract.store_fixtures import empty_database, empty_file, register, store, url  # noqa: F401


def fill(store: Store, name: str, *run_ids: str) -> None:
    [project] = store.inventory.save_projects([ProjectRow("team", name, "wandb", f"https://w.invalid/team/{name}")])
    store.inventory.save_runs(project, [RunRow(one, f"named {one}", "finished", "f") for one in run_ids], 1)


def copy(store: Store, run_id: str, *ledger: Entry, written: int = 10) -> None:
    claim = store.claim(register(store), Phase.COPY, 60.0, store.select(run_ids=[run_id]))
    assert claim is not None
    skipped = sum(entry.count for entry in ledger if entry.kind == "skipped")
    store.checkpoint(
        claim,
        [
            PartUpdate(
                "history",
                {},
                done=True,
                read=written + skipped,
                written=written,
                skipped=skipped,
                size_bytes=80,
                ledger=ledger,
            )
        ],
    )
    store.complete(claim, ["history"])


def verdict(store: Store, run_id: str, *findings: FindingRow) -> None:
    [run] = store.verification.claim(register(store), 1, store.select(run_ids=[run_id]))
    saved = Verdict.DIFFERS if any(one.verdict is Verdict.DIFFERS for one in findings) else Verdict.VERIFIED
    assert store.verification.save(run, "w1", saved, "digests, files by size", findings)


def accounts(store: Store) -> dict[str, RunAccount]:
    return {run.ref: run for run in store.accounts.runs()}


def test_a_run_is_told_with_its_sums(store: Store) -> None:
    fill(store, "b", "good", "bad", "waits")
    fill(store, "a", "other")
    copy(store, "good")
    copy(
        store,
        "bad",
        Entry("skipped", "a.png", "missing_file", 3),
        Entry("skipped", "b.png", "missing_file", 4),
        Entry("renamed", "config/x → metrics/config/x", "first level is reserved", 5),
    )
    verdict(store, "good", FindingRow("lr", Verdict.NOT_VERIFIED, "floats", "some were refused"))
    verdict(store, "bad", FindingRow("loss", Verdict.DIFFERS, "floats", "missing"))
    told = accounts(store)
    assert list(told) == ["team/a/other", "team/b/good", "team/b/bad", "team/b/waits"]
    good, bad, waits = told["team/b/good"], told["team/b/bad"], told["team/b/waits"]
    assert (good.verdict, good.unverifiable, good.differing, good.skipped) == (Verdict.VERIFIED, 1, 0, 0)
    assert (bad.verdict, bad.differing, bad.skipped, bad.changed) == (Verdict.DIFFERS, 1, 7, 5)
    assert (bad.values_read, bad.values_written, bad.size_bytes, bad.attempts) == (17, 10, 80, 1)
    assert bad.copied_at is not None
    assert bad.copy_s >= 0
    assert (waits.status, waits.attempts, waits.copied_at) == (RunStatus.PENDING, 0, None)
    copy_again = store.verification.retry_differing()
    assert copy_again == 1
    assert accounts(store)["team/b/bad"].differing == 0


def test_a_story_has_examples_and_the_worst_findings_first(store: Store) -> None:
    fill(store, "b", "bad", "fails")
    lines = [Entry("skipped", f"{n:02}.png", "missing_file", 2) for n in range(20)]
    copy(store, "bad", *lines, Entry("renamed", "x → y", "taken"))
    differs = [FindingRow(f"z{n}", Verdict.DIFFERS, "floats", "missing") for n in range(3)]
    verdict(store, "bad", FindingRow("a", Verdict.NOT_VERIFIED, "floats", "refused"), *differs)
    failing = store.claim("w1", Phase.COPY, 60.0)
    assert failing is not None
    store.fail(failing, Failure("unavailable", "answered 502"))
    numbers = {ref: run.run for ref, run in accounts(store).items()}
    order = [numbers["team/b/fails"], numbers["team/b/bad"]]
    (first, fails), (second, bad) = store.accounts.stories(order, examples=3, findings=2)
    assert [first, second] == order
    assert bad.ledger == [
        LedgerSample("history", "renamed", "taken", 1, 1, ["x → y"]),
        LedgerSample("history", "skipped", "missing_file", 40, 20, ["00.png", "01.png", "02.png"]),
    ]
    assert [one.path for one in bad.findings] == ["z0", "z1"]
    assert [(one.error_class, one.message) for one in fails.attempts] == [("unavailable", "answered 502")]


def test_more_runs_than_a_page_are_told_once_each(store: Store) -> None:
    fill(store, "many", *(f"r{n:05}" for n in range(PAGE_RUNS + 200)))
    runs = [run.run for run in store.accounts.runs()]
    assert len(set(runs)) == len(runs) == PAGE_RUNS + 200
    assert [number for number, _ in store.accounts.stories(runs, 3, 3)] == runs


def test_the_last_good_inventory_says_what_is_known(store: Store) -> None:
    assert store.accounts.listed_at() is None
    failed = store.begin_invocation("inventory", "host", 1, "1.0")
    store.end_invocation(failed, 4)
    assert store.accounts.listed_at() is None
    good = store.begin_invocation("inventory", "host", 1, "1.0")
    store.end_invocation(good, 0)
    [newest, _] = store.accounts.invocations(10)
    assert (newest.command, newest.exit_code, newest.started_at) == ("inventory", 0, store.accounts.listed_at())
