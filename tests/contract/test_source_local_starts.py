"""Log files become starts, starts become runs: directories as people have them, each with its right value."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.records import Fork
from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.log import BLOCK_BYTES
from migrator.sources.wandb_local.run import INHERITED
from migrator.sources.wandb_local.starts import ASSUMED, BESIDE, COPY, SHARED
from migrator.sources.wandb_local.summaries import FILE_NEWER, LOG_NEWER, OF_FILE, OF_FILE_AND_ROWS, OF_ROWS
from tests.contract.local_source import listings, opened, rows_of, same
from tests.servers.offline_runs import BEGAN_S, StartLog

Rows = Sequence[tuple[int, dict[str, Any]]]


@dataclass
class Right:
    """What must come out of the run `r` of a case. `times` are those of rows, `lines` and `samples` (time, value),
    all times in seconds behind BEGAN_S; None: not looked at. `ledger` is (kind, reason) -> count."""

    rows: Rows
    ledger: dict[tuple[str, str], int] = field(default_factory=dict)
    times: Sequence[float] | None = None
    lines: Sequence[tuple[float, str]] | None = None
    samples: Sequence[tuple[float, float]] | None = None
    summary: dict[str, Any] | None = None
    state: str = "finished"
    name: str = ""
    fork: Fork | None = None


CASES: dict[str, tuple[Callable[[Path], None], Right]] = {}


def case(right: Right) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(build: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES[build.__name__] = build, right
        return build

    return add


def counting(log: StartLog, steps: Sequence[int], key: str = "a", add: float = 0) -> StartLog:
    for step in steps:
        log.row(step, **{key: step + add})
    return log


def steps_with(steps: Sequence[int], values: Sequence[float], key: str = "a") -> Rows:
    return [(step, {key: value}) for step, value in zip(steps, values, strict=True)]


def full(log: StartLog, count: int) -> StartLog:
    for i in range(count):
        log.row(i, a=i).sample(i, cpu=i).line(i, f"line {i}")
    return log


FULL = Right(
    steps_with(range(4), range(4)),
    {("joined", COPY): 1},
    lines=[(i, f"line {i}") for i in range(4)],
    samples=[(i, i) for i in range(4)],
    summary={"a": 3},
)


@case(FULL)
def a_backup_beside_the_original(root: Path) -> None:
    log = full(StartLog(root, "r"), 4).summary(a=3).exit()
    shutil.copytree(log.directory, root / "backup" / log.directory.name)


@case(FULL)
def an_older_backup_and_a_damaged_one(root: Path) -> None:
    log = full(StartLog(root, "r"), 4).summary(a=3).exit()
    older = root / "backup" / log.directory.name / log.path.name
    older.parent.mkdir(parents=True)
    older.write_bytes(full(StartLog(root, "r"), 2).content()[:-5])


@case(FULL)
def a_longer_copy_with_another_name(root: Path) -> None:
    log = full(StartLog(root, "r"), 4).summary(a=3).exit()
    log.path.rename(log.path.with_name("run-r (1).wandb"))
    full(StartLog(root, "r"), 2).close()


RESUMED_LATER = {("joined", ASSUMED): 2}


@case(
    Right(
        steps_with(range(6), [0, 1, 10, 11, 20, 21]),
        RESUMED_LATER,
        times=[0, 1, 100, 101, 200, 201],
        summary={"a": 21},
    )
)
def offline_starts_of_old_sdks(root: Path) -> None:
    for part in range(3):
        log = StartLog(root, "r", BEGAN_S + 100 * part, offline=True)
        counting(log, range(2), add=10 * part).summary(a=10 * part + 1).exit()


@pytest.mark.parametrize(
    ("logged", "steps"),
    [
        ([0, 1, 2], [24, 25, 26]),
        ([20, 25, 30], [24, 25, 30]),
        ([30, 31, 40], [30, 31, 40]),
        ([0, 5, 9], [24, 25, 26]),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
def test_a_resumed_start_goes_on_by_the_rule_of_wandb_sync(
    tmp_path: Path, logged: list[int], steps: list[int], offline: bool
) -> None:
    counting(StartLog(tmp_path, "r", resume=True, offline=offline), range(24)).summary(a=1).exit()
    counting(StartLog(tmp_path, "r", BEGAN_S + 500, resume=True, offline=offline), logged).summary(a=1).exit()
    run = opened(LocalSource([tmp_path]), "r")
    assert [row.step for row in rows_of(run)] == [*range(24), *steps]
    for after in (-1, 22, 23, 24, 26, 40):
        assert [row.step for row in rows_of(run, after)] == [step for step in [*range(24), *steps] if step > after]
    assert run.attributes().wandb["last_history_step"] == steps[-1]
    assert not run.findings()


@case(Right(steps_with(range(4), range(4)), {}, summary={"a": 3}))
def an_online_start_of_an_old_sdk_that_was_resumed(root: Path) -> None:
    counting(StartLog(root, "r"), [0, 1]).summary(a=1).exit()
    counting(StartLog(root, "r", BEGAN_S + 100), [2, 3]).summary(a=3).exit()


@case(
    Right(
        steps_with(range(2), [100, 101]),
        {("skipped", "overwritten"): 1 + 3 + 1 + 1},
        lines=[(1000, "second")],
        samples=[],
        summary={"a": 101},
        name="second",
    )
)
def an_id_used_again_online(root: Path) -> None:
    first = StartLog(root, "r", display_name="first", tags=["t1"], notes="first", config={"lr": 1, "old": 1})
    counting(first, range(3)).line(0, "first").sample(0, cpu=1).summary(a=2, gone=1).exit(1)
    second = StartLog(root, "r", BEGAN_S + 1000, display_name="second", tags=["t2"], config={"lr": 2})
    counting(second, range(2), add=100).line(0, "second").summary(a=101).exit()


def shared_writer(root: Path, rank: int, offset_s: float) -> StartLog:
    log = StartLog(root, "r", BEGAN_S + offset_s, shared=True, directory=f"wandb/run-2022041{rank}_000000-r")
    for i in range(3):
        log.row(None, i, loss=10 * rank + i).line(i, f"rank {rank}, {i}")
        log.sample(i, **{f"cpu/l:{rank}": i, "cpu": rank})
    return log.summary(loss=2).exit(1 - rank)


@case(
    Right(
        steps_with(range(6), [0, 10, 1, 11, 2, 12], "loss"),
        {("joined", SHARED): 2},
        times=[0, 0.5, 1, 1.5, 2, 2.5],
        lines=[(i / 2, f"rank {i % 2}, {i // 2}") for i in range(6)],
        samples=[(i / 2, i % 2) for i in range(6)],
        state="failed",
    )
)
def several_writers_of_one_run(root: Path) -> None:
    shared_writer(root, 1, 0.5)
    shared_writer(root, 0, 0.0)


@case(
    Right(
        [(0, {"train": 0}), (0, {"eval": 0}), (1, {"train": 1}), (1, {"eval": 1})],
        {("joined", BESIDE): 1},
        times=[0, 0.5, 1, 5.5],
        lines=[(0, "train"), (0.5, "eval"), (1, "train")],
    )
)
def two_processes_at_the_same_time(root: Path) -> None:
    train = StartLog(root, "r").row(0, 0, train=0).row(1, 1, train=1).line(0, "train").line(1, "train")
    train.summary(train=1).exit()
    other = StartLog(root, "r", BEGAN_S + 0.5, directory="wandb/run-20220415_000001-r")
    other.row(0, 0, eval=0).row(1, 5, eval=1).line(0, "eval").summary(eval=1).exit()


@case(Right([(0, {"a": 0}), (1, {"a": 1}), (2, {"a": 102})], {}, summary={"a": 102}))
def a_run_that_was_rewound(root: Path) -> None:
    counting(StartLog(root, "r"), range(5)).summary(a=4).exit()
    counting(StartLog(root, "r", BEGAN_S + 100, branch=("r", 1)), [2], add=100).summary(a=102).exit()


# ---------------------------------------------------------------- forks


@case(Right(steps_with([3, 4], [103, 104]), fork=Fork("parent", 2)))
def a_fork_whose_parent_is_as_it_was(root: Path) -> None:
    counting(StartLog(root, "parent"), range(5)).exit()
    counting(StartLog(root, "r", BEGAN_S + 100, branch=("parent", 2)), [3, 4], add=100).summary(a=1).exit()
    counting(StartLog(root, "parent", BEGAN_S + 200, branch=("parent", 3)), [4, 5], add=400).exit()


@case(Right(steps_with(range(8), [0, 1, 2, 3, 4, 5, 106, 107]), {("joined", INHERITED): 1}))
def a_fork_whose_parent_was_rewound_later(root: Path) -> None:
    counting(StartLog(root, "parent"), range(10)).exit()
    counting(StartLog(root, "r", BEGAN_S + 100, branch=("parent", 5)), [6, 7], add=100).summary(a=1).exit()
    counting(StartLog(root, "parent", BEGAN_S + 200, branch=("parent", 3)), [4, 5, 6], add=400).exit()


@case(Right(steps_with(range(6), [0, 1, 202, 203, 104, 105]), {("joined", INHERITED): 1}))
def a_fork_of_a_fork_whose_parent_was_overwritten_later(root: Path) -> None:
    counting(StartLog(root, "grand"), range(3)).exit()
    counting(StartLog(root, "parent", BEGAN_S + 50, branch=("grand", 1)), [2, 3], add=200).exit()
    counting(StartLog(root, "r", BEGAN_S + 100, branch=("parent", 3)), [4, 5], add=100).summary(a=1).exit()
    counting(StartLog(root, "parent", BEGAN_S + 200), [0, 1, 2], add=900).exit()


# ---------------------------------------------------------------- logs that are not whole


def summary_file(log: StartLog, **values: Any) -> StartLog:
    return log.file("wandb-summary.json", json.dumps(values))


def killed(root: Path) -> StartLog:
    return counting(StartLog(root, "r"), range(3)).row(3, b=1)


KILLED_ROWS: Rows = [*steps_with(range(3), range(3)), (3, {"b": 1})]


@case(Right(KILLED_ROWS, {("estimated", OF_ROWS): 1}, summary={"a": 2, "b": 1}, state="crashed"))
def killed_without_any_summary(root: Path) -> None:
    killed(root).close()


@case(Right(KILLED_ROWS, {("estimated", OF_FILE): 1}, summary={"best": 7, "b": 1}, state="crashed"))
def killed_with_a_summary_file(root: Path) -> None:
    summary_file(killed(root), best=7, b=1, _step=3).close()


@case(
    Right(
        KILLED_ROWS,
        {("estimated", OF_FILE_AND_ROWS): 1},
        summary={"a": {"max": 9}, "b": 1, "own": "kept"},
        state="crashed",
    )
)
def killed_with_an_older_summary_file(root: Path) -> None:
    summary_file(killed(root), a={"max": 9}, b=0, own="kept", _step=1, _timestamp=BEGAN_S + 1).close()


@case(Right(KILLED_ROWS, {("estimated", FILE_NEWER): 1}, summary={"a": 2, "b": 1}, state="crashed"))
def killed_with_a_newer_summary_file(root: Path) -> None:
    log = killed(root).summary(a=1, _step=1, _timestamp=BEGAN_S + 1)
    summary_file(log, a=2, b=1, _step=3, _timestamp=BEGAN_S + 3).close()


@case(Right(KILLED_ROWS, {("estimated", LOG_NEWER): 1}, summary={"a": 2}, state="crashed"))
def killed_with_a_newer_summary_in_the_log(root: Path) -> None:
    log = killed(root).summary(a=2, _step=3, _timestamp=BEGAN_S + 3)
    summary_file(log, a=1, b=1, _step=1, _timestamp=BEGAN_S + 1).close()


@case(
    Right(
        steps_with(range(4), range(4)),
        {("skipped", "unreadable"): 1, ("estimated", OF_ROWS): 1},
        summary={"a": 3},
        state="crashed",
    )
)
def killed_long_ago_and_copied_just_now(root: Path) -> None:
    counting(StartLog(root, "r"), range(5)).close(cut_bytes=9, written_s=time.time())


@pytest.mark.parametrize("name", CASES)
def test_a_directory_as_people_have_it_gives_the_right_run(tmp_path: Path, name: str) -> None:
    build, right = CASES[name]
    build(tmp_path)
    source = LocalSource([tmp_path])
    listing, run = listings(source)["r"], opened(source, "r")
    rows = rows_of(run)
    public = [{key: value for key, value in row.values.items() if not key.startswith("_")} for row in rows]
    assert [(row.step, values) for row, values in zip(rows, public, strict=True)] == list(right.rows)
    assert run.survey().rows == len(rows)
    assert {(entry.kind.value, entry.reason) for entry in run.findings()} == right.ledger.keys()
    counts = dict.fromkeys(right.ledger, 0)
    for entry in run.findings():
        counts[entry.kind.value, entry.reason] += entry.count
    assert counts == right.ledger
    samples = [row for page in run.system(0) for row in page]
    lines = [line for page in run.console(0) for line in page]
    for number, (sample, line) in enumerate(zip(samples, lines, strict=False)):
        assert sample.number == line.number == number
    for found, wanted in (
        ([(row.time or 0) - BEGAN_S for row in rows], right.times),
        ([((row.time or 0) - BEGAN_S, row.values["cpu"]) for row in samples], right.samples),
        ([((line.time or 0) - BEGAN_S, line.text) for line in lines], right.lines),
    ):
        assert wanted is None or found == list(wanted)
    summary = {key: value for key, value in run.summary().values.items() if not key.startswith("_")}
    assert right.summary is None or summary == right.summary
    assert listing.source_state == run.attributes().wandb["state"] == right.state
    assert (listing.name, listing.fork, run.attributes().fork) == (right.name, right.fork, right.fork)


def test_an_overwritten_start_leaves_nothing_of_itself(tmp_path: Path) -> None:
    CASES["an_id_used_again_online"][0](tmp_path)
    source = LocalSource([tmp_path])
    listing, run = listings(source)["r"], opened(source, "r")
    attributes = run.attributes()
    assert (listing.tags, listing.history_rows, attributes.notes) == (("t2",), 2, None)
    assert run.config().values == {"lr": 2}
    assert attributes.created_at == datetime.fromtimestamp(BEGAN_S + 1000, UTC)


def test_a_copy_is_named_in_full(tmp_path: Path) -> None:
    CASES["a_backup_beside_the_original"][0](tmp_path)
    [entry] = opened(LocalSource([tmp_path]), "r").findings()
    assert entry.path.startswith(str(tmp_path / "backup"))


def test_one_directory_given_twice_is_one_run(tmp_path: Path) -> None:
    log = full(StartLog(tmp_path / "one", "r"), 4).summary(a=3).exit()
    shutil.copytree(log.directory, tmp_path / "two" / "wandb" / log.directory.name)
    source = LocalSource([tmp_path / "one", tmp_path / "two"])
    assert listings(source)["r"].history_rows == 4
    assert len(rows_of(opened(source, "r"))) == 4


def test_a_block_of_zeros_is_a_skip_that_names_the_place(tmp_path: Path) -> None:
    log = StartLog(tmp_path, "r")
    for step in range(100):
        log.row(step, a=step, pad="x" * 1000)
    log.summary(a=99).exit()
    content = bytearray(log.path.read_bytes())
    content[BLOCK_BYTES : 2 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    log.path.write_bytes(content)
    run = opened(LocalSource([tmp_path]), "r")
    [entry] = run.findings()
    assert entry.reason == "unreadable"
    begin = int(entry.path.partition("(bytes ")[2].split()[0])
    assert BLOCK_BYTES - 1100 < begin <= BLOCK_BYTES
    steps = [row.step for row in rows_of(run)]
    assert (steps[0], steps[-1]) == (0, 99)
    assert 60 < len(steps) < 70


def test_a_state_that_time_alone_changes_is_another_fingerprint(tmp_path: Path) -> None:
    now_s = time.time()
    counting(StartLog(tmp_path, "r", now_s), range(3)).close(written_s=now_s)
    found = [
        listings(LocalSource([tmp_path], now=lambda at=at: datetime.fromtimestamp(at, UTC)))["r"]
        for at in (now_s + 60, now_s + 120, now_s + 3600)
    ]
    assert [one.source_state for one in found] == ["running", "running", "crashed"]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


# ---------------------------------------------------------------- any split


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_split_into_starts_gives_the_rows_of_the_unsplit_history(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    steps = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1, max_size=20)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(steps)), max_size=4)))
    kind = data.draw(st.sampled_from(["online", "resumed", "offline", "flagged"]))
    root = tmp_path_factory.mktemp("split")
    begin = 0
    for part, end in enumerate([*cuts, len(steps)]):
        fields: dict[str, Any] = {"offline": kind in ("offline", "flagged"), "resume": kind in ("resumed", "flagged")}
        place = {"directory": f"wandb/{'offline-' * fields['offline']}run-2022041{part}_000000-r"}
        log = StartLog(root, "r", BEGAN_S + 1000 * part, **place, **fields)
        for step in steps[begin:end]:
            log.row(step, step, a=step).sample(step, cpu=step).line(step, f"line {step}")
        begin = end
        copy_bytes = data.draw(st.integers(20, len(log.content())), label="bytes of a copy")
        if data.draw(st.booleans(), label="killed"):
            log.add(exit={"exit_code": 0}).close(cut_bytes=data.draw(st.integers(1, 5), label="torn"))
        else:
            log.exit()
        if data.draw(st.booleans(), label="copied"):
            copy = root / f"backup{part}" / log.path.name
            copy.parent.mkdir()
            copy.write_bytes(log.path.read_bytes()[:copy_bytes])
    run = opened(LocalSource([root]), "r")
    assert [(row.step, row.values["a"]) for row in rows_of(run)] == [(step, step) for step in steps]
    assert [row.values["cpu"] for page in run.system(0) for row in page] == steps
    assert [line.text for page in run.console(0) for line in page] == [f"line {step}" for step in steps]
    assert same([list(row) for row in rows_of(run, 30)], [list(row) for row in rows_of(run) if row.step > 30])
