"""What `migrate plan` makes of what is known: estimates, and names and runs that will not arrive as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from migrations_db import Phase, RunStatus
from migrations_db.report_types import Measured, MeasuredPart, MeasuredSpeed, RunSummary
from migrator.commands.plan.estimate import (
    OFFLINE_RUN_BYTES,
    OFFLINE_VALUE_BYTES,
    Estimator,
    OfflineSize,
    Sizes,
    offline_size,
    time_s,
)
from migrator.commands.plan.requests import Amounts, neptune_requests, wandb_requests
from migrator.commands.plan.trouble import Trouble
from migrator.job.job import local_file_sizes

#: four runs with 10 rows of 5 numbers, 20 config values and 2 files of 500 bytes each
MEASURED = Measured(
    runs=4,
    uploads=0,
    written=288,
    rows=40,
    row_values=200,
    row_bytes=3_200,
    parts={
        "history": MeasuredPart(4, 200, 3_200),
        "config": MeasuredPart(4, 80, 1_280),
        "files": MeasuredPart(4, 8, 4_000),
    },
    speed=MeasuredSpeed(1, 4, 288, 8_480, 2.0),
)
PARTS = ["config", "history", "files"]


@pytest.mark.parametrize(
    ("run", "values", "files", "size_bytes"),
    [
        ((100, 0, 0, None), 500 + 20 + 2, 2, 8_000 + 320 + 1_000),  # rows in proportion, the others as on average
        ((None, 0, 0, None), 50 + 20 + 2, 2, 800 + 320 + 1_000),  # rows not counted
        ((100, 22, 1_320, None), 500, 2, 8_000),  # begun: the rest
        ((1, 9_999, 9_999, None), 0, 2, 0),
        ((10, 0, 0, [7, 8, 9]), 50 + 20 + 3, 3, 800 + 320 + 24),  # its files are known
    ],
)
def test_a_run_is_as_large_as_others_were(run: tuple[int, ...], values: int, files: int, size_bytes: int) -> None:
    found = Estimator(MEASURED, PARTS).sizes(*run)  # type: ignore[arg-type]
    assert (found.values, found.files, found.size_bytes) == (values, files, size_bytes)
    assert (found.runs, found.rows, found.rows_unknown) == (1, run[0] or 0, int(run[0] is None))


def test_what_no_run_has_shown_is_not_guessed() -> None:
    few = replace(MEASURED, parts={"history": MeasuredPart(2, 9, 9)})
    estimator = Estimator(few, PARTS)
    found = estimator.sizes(100, 0, 0, None)
    assert estimator.unknown == PARTS
    assert (found.values, found.files, found.size_bytes) == (None, None, None)
    found.add(Sizes(1, 1, 0, 1.0, 1.0, 1.0))
    assert (found.runs, found.rows, found.values, time_s(found, few), offline_size(found, few, None)) == (
        2,
        101,
        *[None] * 3,
    )
    with_artifacts = Estimator(MEASURED, [*PARTS, "artifacts"])
    assert with_artifacts.unknown == ["artifacts"]  # told apart: all else is known
    assert with_artifacts.sizes(10, 0, 0, None).values == 72
    assert Estimator(MEASURED, ["config"]).sizes(10, 0, 0, None).files == 0  # --exclude files


EVERY = frozenset({"attributes", "config", "summary", "history", "system", "console", "files"})


@pytest.mark.parametrize(
    ("parts", "amounts", "of_wandb", "of_neptune"),
    [
        (EVERY, Amounts(100, 500, 50, 2, 8_000), 1 + 2 + 2 + 1 + (1 + 2), 2 + 1 + 1 + 2),
        (EVERY, Amounts(0, 0, 0, 0, 0), 1 + 2 + 2 + 1 + 1, 2 + 1),
        (EVERY - {"files"}, Amounts(1_000_000, 1e7, 5_000, 0, 1.6e8), 1 + (1 + 200) + 2 + 3, 2 + 400),
        (frozenset({"files"}), Amounts(0, 1_000, 0, 1_000, 0), 1 + 2 + 1_000, 2 + 1 + 63 + 1_000),
        (frozenset({"history"}), Amounts(100, 100, 0, 0, 5e8), 1 + 2, 2 + 60),  # texts: by bytes
    ],
)
def test_requests_follow_from_the_sizes_of_pages(
    parts: frozenset[str], amounts: Amounts, of_wandb: int, of_neptune: int
) -> None:
    assert (wandb_requests(parts, amounts), neptune_requests(amounts)) == (of_wandb, of_neptune)


def test_requests_add_up_and_a_local_run_asks_nothing_of_wandb() -> None:
    estimator, total = Estimator(MEASURED, PARTS), Sizes()
    total.add(estimator.sizes(100, 0, 0, None))
    assert (total.wandb_requests, total.neptune_requests) == (1 + 2 + 3, 2 + 1 + 1 + 2)
    total.add(estimator.sizes(100, 0, 0, None, is_local=True))
    assert (total.wandb_requests, total.neptune_requests) == (6, 12)
    total.add(Estimator(MEASURED, [*PARTS, "console"]).sizes(100, 0, 0, None))
    assert (total.wandb_requests, total.neptune_requests) == (None, None)


def test_time_is_that_of_the_slower_of_values_and_bytes() -> None:
    assert time_s(Sizes(values=1_440.0, size_bytes=100.0), MEASURED) == 10.0
    assert time_s(Sizes(values=1.0, size_bytes=42_400.0), MEASURED) == 10.0
    assert time_s(Sizes(values=1.0, size_bytes=1.0), replace(MEASURED, speed=None)) is None


def test_offline_files_are_estimated_by_those_that_are_there_or_as_usual() -> None:
    sizes = Sizes(runs=2, values=1_000.0, size_bytes=16_000.0 + 5_000.0)
    usual = 1_000 * OFFLINE_VALUE_BYTES + 2 * OFFLINE_RUN_BYTES + 5_000
    assert offline_size(sizes, MEASURED, None) == OfflineSize(usual, OFFLINE_VALUE_BYTES, 0)
    on_disk = 4 * OFFLINE_RUN_BYTES + 288 * 50 + (8_480 - 288 * 16)
    assert offline_size(sizes, MEASURED, on_disk) == OfflineSize(50_000 + 2 * OFFLINE_RUN_BYTES + 5_000, 50.0, 4)


def test_names_that_change_and_runs_that_will_not_fit_are_told_with_examples(tmp_path: Path) -> None:
    trouble = Trouble()
    plain = RunSummary(1, "team/p/a", "fine", Phase.COPY, RunStatus.PENDING, None, None, None, run_id="a")
    files = tmp_path / "run-20240501_120000-b" / "files"
    files.mkdir(parents=True)
    (files / "large.bin").write_bytes(bytes(900))
    (files / "small.bin").write_bytes(bytes(9))
    for number in range(5):
        trouble.of_run(replace(plain, run_id=f"{number}/x", ref=f"team/p/{number}/x", name="n" * 800), None, 100)
    local = replace(plain, ref="team/p/b", run_id="b", location=[str(files.parent)])
    gone = replace(plain, ref="team/p/c", run_id="c", location=[str(tmp_path / "gone")])
    for run in (plain, local, gone):
        trouble.of_run(run, local_file_sizes(run.location) if run.location else None, 100)
    trouble.of_circles([["team/p/d", "team/p/e"]])
    assert {what: group.count for (what, _), group in trouble.renamed.items()} == {"run id": 5, "run name": 5}
    assert trouble.renamed["run id", "run id not allowed in Neptune"].examples[0] == ("0/x", "0-x-afe44fac")
    assert [(group.count, group.examples[0]) for group in trouble.unfit.values()] == [
        (1, ("team/p/b", "1 of 2")),
        (1, ("team/p/c", str(tmp_path / "gone"))),
        (2, ("team/p/d", "team/p/d -> team/p/e")),
    ]
