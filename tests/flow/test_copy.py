"""Copying a run, from memory to memory, over the real state database."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from migrations_db import LeaseLost, Phase, RunStatus
from migrations_db.states import PartStatus
from migrator.copying.pipeline import DEPTH, Stopped
from migrator.destinations.memory import MemoryDestination, StoredRun
from migrator.errors import ErrorClass, Rejected, Retryable
from migrator.parts import PARTS
from migrator.parts.base import MappingOptions
from migrator.parts.shortage import SHORT_TRIES
from migrator.records import Artifact, ConsoleLine, Fork, HistoryRow, SystemRow
from migrator.sources.memory import MemoryData
from tests.migration import SELECTED, Migration, Undisturbed, undisturbed

ALWAYS_SLOW = (True,)  # every batch has had its time: one for each page, and each goes by itself


class Idle(random.Random):
    """The chance of a server that does nothing until it is waited for, and of a process that leaves nothing behind."""

    def randint(self, a: int, b: int) -> int:
        return a


class Eager(random.Random):
    """The chance of a server that does all at once, and of a process whose last words all arrive."""

    def randint(self, a: int, b: int) -> int:
        return b


class Watch(Undisturbed):
    """Calls `look` at each question of the copy."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def check(self) -> None:
        self._look()

    def at(self, part: str) -> None:
        self._look()


class After(Undisturbed):
    """Raises `error` at the question after so many others, but to confirm only `LeaseLost`; first, it calls `then`."""

    def __init__(self, checks: int, error: BaseException | None, then: Callable[[], None] = lambda: None) -> None:
        self._checks, self._error, self._then = checks, error, then

    def check(self) -> None:
        self._checks -= 1
        if self._checks == 0:
            self._then()
        if self._checks <= 0 and self._error is not None:
            raise self._error

    def confirm(self) -> None:
        if isinstance(self._error, LeaseLost):
            self.check()


def rows(count: int, first: int = 0) -> list[HistoryRow]:
    return [HistoryRow(step, 1.7e9 + step, {"loss": step * 0.5}) for step in range(first, first + count)]


def full_run() -> MemoryData:
    """A run with something of everything."""
    image = {"_type": "image-file", "path": "media/images/a.png"}
    return MemoryData(
        "r",
        name="fast fox",
        notes="why",
        tags=["t"],
        group="g",
        config={"lr": 0.1, "layers": {"n": 3}},
        summary={"loss": 0.5, "img": image},
        history=[*rows(9), HistoryRow(9, 1.7e9 + 9, {"img": image, "loss": 2})],
        system=[SystemRow(n, 1.7e9 + n, {"cpu": n}) for n in range(5)],
        console=[ConsoleLine(n, 1.7e9 + n, "stdout", f"line {n}") for n in range(5)],
        files={"media/images/a.png": b"png", "output.log": b"log"},
    )


@pytest.fixture(params=["at once", "by chance"])
def destination(request: pytest.FixtureRequest) -> MemoryDestination:
    """Servers that process what they are sent at once, or sooner or later."""
    return MemoryDestination(None if request.param == "at once" else random.Random(7))


@pytest.fixture
def migration(destination: MemoryDestination) -> Iterator[Migration]:
    """One run, listed and ready to be claimed, in pages of two rows."""
    with Migration([full_run()], destination, page_rows=2) as migration:
        migration.refresh()
        yield migration


def test_everything_of_a_run_arrives(migration: Migration) -> None:
    migration.copy(migration.must_claim())
    stored = migration.stored()
    assert stored.target.name == "fast fox"
    assert stored.values == {
        "sys/description": "why",
        "wandb/id": "r",
        "wandb/state": "finished",
        "migration/source_url": f"memory:team/{migration.project}/r",
        "migration/tool_version": "1.0",
        "migration/mapping_version": 1,
        "migration/complete": True,
        "config/lr": 0.1,
        "config/layers/n": 3,
        "summary/loss": 0.5,
    }
    assert (stored.tags, stored.group_tags) == ({"t"}, {"g"})
    assert [value for _, _, value in stored.series["loss"]] == [*(step * 0.5 for step in range(9)), 2.0]
    assert [value for _, _, value in stored.series["img"]] == [b"png"]
    assert [step for step, _, _ in stored.series["system/cpu"]] == [*range(5)]
    assert [value for _, _, value in stored.series["runtime/stdout"]] == [f"line {n}" for n in range(5)]
    assert set(stored.files) == {"wandb/raw/config.json", "wandb/raw/summary.json", "files/output.log"}


def test_a_run_is_done_with_counts_that_agree(migration: Migration) -> None:
    migration.copy(migration.must_claim())
    detail = migration.detail()
    assert (detail.status, detail.phase) == (RunStatus.DONE, Phase.COPY)
    assert set(detail.parts) == set(SELECTED)
    assert all(part.status is PartStatus.DONE for part in detail.parts.values())
    assert all(part.read == part.written + part.skipped for part in detail.parts.values())
    assert detail.parts["summary"].skipped == 1  # img is in the history


def test_a_done_run_is_not_claimed_again(migration: Migration) -> None:
    migration.copy(migration.must_claim())
    assert migration.claim() is None
    assert migration.refresh().changed == 0
    assert migration.claim() is None


@pytest.mark.parametrize("page_rows", [1, 3, 100])
@pytest.mark.parametrize("slow", [(False,), (True,), (False, True, True)])
def test_the_size_of_batches_and_groups_changes_nothing(page_rows: int, slow: tuple[bool, ...]) -> None:
    with Migration([full_run()], page_rows=page_rows) as migration:
        migration.run(slow)
        assert migration.arrived() == undisturbed(full_run())


def test_only_selected_parts_are_copied() -> None:
    with Migration([full_run()], parts=["attributes", "config"]) as migration:
        migration.run()
        assert set(migration.detail().parts) == {"attributes", "config"}
        assert not migration.stored().series


def test_what_is_saved_is_durable_and_what_is_sent_was_announced(migration: Migration) -> None:
    claim = migration.must_claim()
    unsaved = []

    def look() -> None:
        parts, series = migration.store.parts(claim), migration.destination.runs and migration.stored().series
        if not series or "console" not in parts:
            return
        there = len(series.get("runtime/stdout", ()))
        assert parts["console"].written <= there  # saved: durable
        assert there == 0 or (parts["console"].intent or 0) >= there - 1  # sent: announced
        unsaved.append(there - parts["console"].written)

    migration.copy(claim, Watch(look), slow=ALWAYS_SLOW)
    assert unsaved


def test_no_more_than_a_few_groups_wait_for_their_confirmation() -> None:
    with Migration([replace(full_run(), history=rows(40))], MemoryDestination(Idle()), page_rows=2) as migration:
        migration.refresh()
        claim = migration.must_claim()
        ahead = []

        def look() -> None:
            if (history := migration.store.parts(claim).get("history")) and history.intent is not None:
                ahead.append(history.intent + 1 - history.read)

        migration.copy(claim, Watch(look), slow=ALWAYS_SLOW)
        assert max(ahead) == DEPTH + 1  # groups of one row


def test_the_mark_of_a_complete_run_comes_last(migration: Migration) -> None:
    seen = []

    def look() -> None:
        if migration.destination.runs:
            seen.append(migration.stored().values.get("migration/complete"))

    migration.copy(migration.must_claim(), Watch(look), slow=ALWAYS_SLOW)
    assert set(seen) == {None}
    assert migration.stored().values["migration/complete"] is True


def test_scratch_space_is_given_back(migration: Migration) -> None:
    migration.copy(migration.must_claim(), slow=ALWAYS_SLOW)
    assert migration.scratch_files() == []


# ---------------------------------------------------------------- stops and failures


@pytest.mark.parametrize("checks", [1, 3, 10, 19])
def test_a_clean_stop_loses_nothing_that_was_read_and_costs_nothing(migration: Migration, checks: int) -> None:
    claim = migration.must_claim()
    with pytest.raises(Stopped):
        migration.copy(claim, After(checks, Stopped("asked to")), slow=ALWAYS_SLOW)
    saved = migration.store.parts(claim)
    read = {name: part.read for name, part in saved.items()}
    assert sum(1 for part in saved.values() if part.cursor is not None) >= min(checks - 1, 1)
    migration.store.release(claim)
    assert migration.detail().failures == 0
    offered = migration.destination.offered_twice

    again = migration.must_claim("another")
    migration.copy(again, slow=ALWAYS_SLOW)
    assert migration.destination.offered_twice == offered  # nothing was sent again
    assert all(migration.detail().parts[name].read >= count for name, count in read.items())
    assert migration.arrived() == undisturbed(full_run())


@pytest.mark.parametrize("chance", [Idle, Eager])
@pytest.mark.parametrize("checks", [1, 5, 9, 16, 21])
def test_a_crash_is_made_good_by_the_next_attempt(chance: type[random.Random], checks: int) -> None:
    with Migration([full_run()], MemoryDestination(chance()), page_rows=2) as migration:
        migration.refresh()
        with pytest.raises(KeyboardInterrupt):
            migration.copy(migration.must_claim("dead"), After(checks, KeyboardInterrupt()), slow=ALWAYS_SLOW)
        migration.bury("dead")
        migration.copy(migration.must_claim("next"), slow=ALWAYS_SLOW)
        assert migration.arrived() == undisturbed(full_run())


def test_points_of_a_lost_attempt_are_sent_again_and_not_counted_as_refused() -> None:
    destination = MemoryDestination(Idle())
    with Migration([full_run()], destination, page_rows=2) as migration:
        migration.refresh()

        def die() -> None:
            destination.chance = Eager()

        with pytest.raises(KeyboardInterrupt):
            migration.copy(migration.must_claim("dead"), After(9, KeyboardInterrupt(), die), slow=ALWAYS_SLOW)
        migration.bury("dead")
        migration.copy(migration.must_claim("next"))
        assert destination.offered_twice > 0
        assert migration.arrived() == undisturbed(full_run())


def test_an_error_keeps_what_was_read_before_it(migration: Migration) -> None:
    claim = migration.must_claim()

    def fail() -> None:
        raise Retryable(ErrorClass.UNAVAILABLE, "no answer")

    with pytest.raises(Retryable):
        migration.copy(claim, After(5, None, fail))
    done = {name for name, part in migration.store.parts(claim).items() if part.status is PartStatus.DONE}
    assert {"attributes", "config", "summary"} <= done


def test_a_history_that_is_cut_short_fails_the_attempt_and_goes_on_later() -> None:
    data = replace(full_run(), history_rows=11)
    with Migration([data]) as migration:
        migration.refresh()
        claim = migration.must_claim()
        with pytest.raises(Retryable, match="counts 11 but returns 10"):
            migration.copy(claim, slow=ALWAYS_SLOW)
        migration.store.release(claim)
        assert "migration/complete" not in migration.stored().values
        migration.data[0] = replace(data, history=[*data.history, *rows(1, first=10)], history_rows=None)
        migration.run()
        assert migration.arrived() == undisturbed(migration.data[0])


def test_rows_and_files_that_the_source_has_lost_end_in_the_ledger_and_the_run_is_done() -> None:
    with Migration([replace(full_run(), history_rows=12, file_count=9)]) as migration:
        migration.refresh()
        for tries in range(2 * (SHORT_TRIES - 1)):  # first the history, then the files
            claim = migration.must_claim()
            with pytest.raises(Retryable, match="history" if tries < SHORT_TRIES - 1 else "files"):
                migration.copy(claim)
            migration.store.release(claim)
        migration.copy(migration.must_claim())
        assert migration.detail().status is RunStatus.DONE
        lost = {(part, reason, count) for part, _, _, reason, count in migration.ledger() if reason.startswith("miss")}
        assert lost == {("history", "missing_rows", 2), ("files", "missing_file", 9 - len(full_run().files))}
        assert all(part.read == part.written + part.skipped for part in migration.detail().parts.values())


@pytest.mark.parametrize(("knows", "checks"), [*((True, n) for n in range(1, 11)), (False, 1), (False, 5), (False, 8)])
def test_a_worker_that_has_lost_its_lease_sends_nothing_more(migration: Migration, knows: bool, checks: int) -> None:
    """Wherever it learns of it; if it does not, the state database stops it before the next group."""
    lost = migration.must_claim("stale")
    before: list[str] = []

    def lose() -> None:
        migration.expire("stale")
        migration.store.release(migration.must_claim("other"))
        before.append(repr(migration.destination.runs and migration.stored()))

    with pytest.raises(LeaseLost):
        migration.copy(lost, After(checks, LeaseLost("told so") if knows else None, lose), slow=(False,))
    assert [repr(migration.stored())] == before
    assert migration.detail().status is RunStatus.PENDING


def test_a_worker_that_is_told_of_its_lost_lease_stops_at_once(migration: Migration) -> None:
    with pytest.raises(LeaseLost):
        migration.copy(migration.must_claim(), After(3, LeaseLost("told so")))
    assert not migration.detail().parts


def test_a_run_that_is_gone_from_the_source_is_rejected(migration: Migration) -> None:
    claim = migration.must_claim()
    migration.data.clear()
    with pytest.raises(Rejected) as rejected:
        migration.copy(claim)
    assert rejected.value.error_class is ErrorClass.NOT_FOUND


def test_a_project_that_is_not_there_rejects_the_run(migration: Migration) -> None:
    claim = migration.must_claim()
    migration.destination.projects.clear()
    with pytest.raises(Rejected, match="does not exist"):
        migration.copy(claim)


# ---------------------------------------------------------------- what the destination refuses


def test_refused_values_count_as_skipped_and_say_why(migration: Migration) -> None:
    migration.destination.refuse |= {"loss", "config/lr"}
    migration.copy(migration.must_claim(), slow=ALWAYS_SLOW)
    parts = migration.detail().parts
    assert (parts["history"].read, parts["history"].written, parts["history"].skipped) == (11, 1, 10)
    assert (parts["config"].read, parts["config"].written, parts["config"].skipped) == (3, 2, 1)
    refused = {entry for entry in migration.arrived().ledger if entry[3] == "refused: FIELD_PATH_INVALID"}
    assert refused == {
        ("history", "skipped", "loss", "refused: FIELD_PATH_INVALID", 10),
        ("config", "skipped", "config/lr", "refused: FIELD_PATH_INVALID", 1),
    }


def test_what_is_refused_again_after_a_crash_counts_once() -> None:
    destinations = MemoryDestination(Eager()), MemoryDestination(Eager())
    for destination in destinations:
        destination.refuse.add("loss")
    whole, cut = (Migration([full_run()], destination, page_rows=2) for destination in destinations)
    with whole, cut:
        whole.run(ALWAYS_SLOW)
        cut.refresh()
        with pytest.raises(KeyboardInterrupt):
            cut.copy(cut.must_claim("dead"), After(8, KeyboardInterrupt()), slow=ALWAYS_SLOW)
        cut.bury("dead")
        cut.run(ALWAYS_SLOW)
        assert cut.arrived() == whole.arrived()


# ---------------------------------------------------------------- names, forks, refreshes


def test_changed_names_are_in_the_ledger() -> None:
    with Migration([MemoryData("i" * 731, name="n" * 731)]) as migration:
        migration.run()
        (stored,) = migration.destination.runs.values()
        assert stored.target.name == "n" * 730
        changes = {(part, kind, reason) for part, kind, _, reason, _ in migration.ledger("i" * 731)}
        assert changes == {
            ("attributes", "renamed", "run id not allowed in Neptune"),
            ("attributes", "renamed", "name over 730 bytes"),
        }


def test_a_fork_waits_for_its_parent_and_names_it() -> None:
    child = MemoryData("child", fork=Fork("parent", 3), history=rows(50))
    with Migration([child, MemoryData("parent", history=rows(5))]) as migration:
        migration.refresh()
        first = migration.must_claim("one")
        assert first.run_id == "parent"
        assert migration.claim("two") is None
        migration.copy(first)
        migration.copy(migration.must_claim("two"))
        assert migration.stored("child").target.fork == Fork("parent", 3)


def test_a_refresh_copies_what_is_new_and_counts_nothing_twice(migration: Migration) -> None:
    migration.copy(migration.must_claim(), slow=ALWAYS_SLOW)
    old = migration.data[0]
    migration.data[0] = replace(
        old,
        config={**old.config, "lr": 0.2, "big": 2**64},
        summary={"loss": 0.25, "img": old.summary["img"]},
        history=[*old.history, *rows(3, first=10)],
        console=[*old.console, ConsoleLine(5, None, "stderr", "more")],
        files={**old.files, "output.log": b"longer log", "new.txt": b""},
    )
    assert migration.refresh().changed == 1
    migration.copy(migration.must_claim("again"), slow=ALWAYS_SLOW)
    assert migration.destination.offered_twice == 0
    assert migration.stored().values["config/lr"] == 0.2
    assert migration.arrived() == undisturbed(migration.data[0])


def copied_again(before: MemoryData, after: MemoryData) -> tuple[StoredRun, set[tuple[str, str, str, str, int]]]:
    """What stands at the destination, and in the ledger, after the run was copied, changed, and copied again."""
    with Migration([before], parts=[*PARTS]) as migration:
        migration.run()
        migration.data[0] = after
        migration.run()
        part_counts = migration.detail().parts.values()
        assert all(part.read == part.written + part.skipped for part in part_counts)
        return migration.stored(), migration.ledger()


def test_tags_that_the_source_has_no_more_are_removed() -> None:
    stored, _ = copied_again(MemoryData("r", tags=["a", "b"], group="g"), MemoryData("r", tags=["b", "c"]))
    assert (stored.tags, stored.group_tags) == ({"b", "c"}, set())


@pytest.mark.parametrize("part", ["config", "summary"])
def test_a_value_whose_type_changes_goes_beside_the_one_that_neptune_keeps(part: str) -> None:
    def run(**values: Any) -> MemoryData:
        fields: dict[str, Any] = {part: values}
        return MemoryData("r", **fields)

    stored, ledger = copied_again(run(a=1, b={"c": "x"}, d=1), run(a=1.5, b={"c": "y"}))
    values = {path: value for path, value in stored.values.items() if path.startswith(part)}
    assert values == {f"{part}/a": 1, f"{part}/a/float": 1.5, f"{part}/b/c": "y", f"{part}/d": 1}
    assert ledger == {
        (part, "renamed", f"{part}/a → {part}/a/float", "an earlier copy has another type there", 1),
        (part, "kept", f"{part}/a", "the source no longer has this value", 1),
        (part, "kept", f"{part}/d", "the source no longer has this value", 1),
    }


def test_a_value_whose_type_changed_before_stays_where_it_went() -> None:
    with Migration([MemoryData("r", config={"a": 1})]) as migration:
        for value in (1, 1.5, 2.5, 3):
            migration.data[0] = MemoryData("r", config={"a": value})
            migration.run()
        assert (migration.stored().values["config/a"], migration.stored().values["config/a/float"]) == (3, 2.5)
        assert migration.ledger() == {("config", "kept", "config/a/float", "the source no longer has this value", 1)}


def test_a_text_metric_that_has_numbers_later_keeps_its_path() -> None:
    texts = [HistoryRow(0, 1.7e9, {"a": "x"})]
    after = [*texts, HistoryRow(1, 1.7e9, {"a": 1.5}), HistoryRow(2, 1.7e9, {"a": "y"})]
    stored, ledger = copied_again(MemoryData("r", history=texts), MemoryData("r", history=after))
    assert {path: [(step, value) for step, _, value in points] for path, points in stored.series.items()} == {
        "a": [(0, "x"), (2, "y")],
        "a/number": [(1, 1.5)],
    }
    assert ledger == {("history", "renamed", "a → a/number", "another kind of value has the key's path", 1)}


def test_a_media_file_that_comes_late_goes_to_the_other_files() -> None:
    image = {"_type": "image-file", "path": "media/images/a.png"}
    before = MemoryData("r", state="running", history=[HistoryRow(0, 1.7e9, {"i": image})])
    stored, ledger = copied_again(before, replace(before, state="finished", files={image["path"]: b"late"}))
    assert stored.files["files/media/images/a.png"] == b"late"
    assert ledger == {
        ("history", "skipped", "media/images/a.png", "missing_file", 1),
        ("history", "renamed", "media/images/a.png → files/media/images/a.png", "its point was skipped", 1),
    }


def test_aliases_that_move_are_written_again() -> None:
    def version(number: int, *aliases: str) -> Artifact:
        return Artifact("model", f"v{number}", "model", aliases, f"d{number}", 0, None, "{}", [], {})

    before = MemoryData("r", artifacts=[version(0, "latest"), version(1)])
    after = MemoryData("r", artifacts=[version(0), version(1, "latest"), version(2)])
    stored, _ = copied_again(before, after)
    aliases = {path: value for path, value in stored.values.items() if path.endswith("aliases")}
    assert aliases == {
        "artifacts/model/v0/info/aliases": frozenset(),
        "artifacts/model/v1/info/aliases": frozenset({"latest"}),
    }


def test_a_source_that_grows_under_the_copy_is_finished_after_the_next_inventory(migration: Migration) -> None:
    def grow() -> None:
        old = migration.data[0]
        migration.data[0] = replace(old, history=[*old.history, *rows(2, first=10)], config={**old.config, "new": 1})

    migration.copy(migration.must_claim(), After(4, None, grow), slow=ALWAYS_SLOW)
    assert migration.detail().status is RunStatus.DONE
    migration.run()
    assert migration.arrived() == undisturbed(migration.data[0])


def test_options_change_what_is_copied() -> None:
    options = MappingOptions(include_private=True, stringify=True, metrics_namespace="m", max_file_bytes=3)
    data = MemoryData(
        "r",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        config={"lr": 0.5},
        history=[HistoryRow(0, 1.7e9, {"_runtime": 1.0})],
        files={"big": b"1234"},
    )
    with Migration([data], options=options) as migration:
        migration.run()
        stored = migration.stored()
        assert stored.values["config/lr"] == "0.5"
        assert set(stored.series) == {"m/_runtime"}
        assert migration.detail().parts["files"].skipped == 1


def test_a_run_that_a_listing_may_have_left_out_is_not_gone() -> None:
    with Migration([MemoryData("r"), MemoryData("other")]) as migration:
        migration.refresh()
        left_out = migration.data.pop(0)
        migration.source.shortages[migration.project] = "the source counts 2 runs but returns 1"
        migration.refresh()
        assert migration.detail().status is RunStatus.PENDING
        migration.source.shortages.clear()
        migration.refresh()
        assert migration.detail().status is RunStatus.SKIPPED
        migration.data.append(left_out)


def test_rows_without_a_step_are_skipped_and_counted_once() -> None:
    with Migration([MemoryData("r", history=rows(3), bad_rows=2)]) as migration:
        migration.run()
        migration.data[0] = replace(migration.data[0], history=rows(5), bad_rows=3)
        migration.run()
        part = migration.detail().parts["history"]
        assert (part.read, part.written, part.skipped) == (8, 5, 3)
