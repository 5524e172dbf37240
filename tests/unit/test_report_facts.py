"""What a report says of all runs together: classes, the verdict, and which runs are told and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from migrations_db.accounts import RunAccount
from migrations_db.states import Phase, RunStatus, Verdict
from migrations_db.types import Project
from migrator.commands.report.facts import TOLD_RUNS, gather
from migrator.commands.report.words import CLASSES_MEAN, RunClass, headline

PROJECTS = {n: Project(n, "team", f"p{n}", "wandb", "", f"p{n}", None) for n in (1, 2)}


def account(number: int, project: int = 1, **more: Any) -> RunAccount:
    """A run that was copied and verified, and arrived as it was."""
    usual = {"status": RunStatus.DONE, "verdict": Verdict.VERIFIED, "values_written": 10, "values_read": 10}
    nothing = dict.fromkeys(("reason", "error_class", "error_message", "verified_at", "verified_by", "finished_at"))
    fixed = {"name": "", "source_state": "finished", "phase": Phase.COPY, "size_bytes": 8, "project_id": project}
    run_id = f"r{number}"
    return RunAccount(run=number, run_id=run_id, ref=f"team/p{project}/{run_id}", **fixed | nothing | usual | more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, RunClass.EQUAL),
        ({"skipped": 1}, RunClass.EXPLAINED),
        ({"changed": 1}, RunClass.EXPLAINED),
        ({"verdict": Verdict.DIFFERS, "skipped": 1}, RunClass.UNEXPLAINED),
        ({"verdict": Verdict.NOT_VERIFIED}, RunClass.NOT_VERIFIED),
        ({"verdict": None}, RunClass.NOT_VERIFIED),
        ({"status": RunStatus.FAILED}, RunClass.NOT_COPIED),
        ({"status": RunStatus.PENDING, "verdict": None}, RunClass.NOT_COPIED),
    ],
    ids=str,
)
def test_a_run_is_of_one_class(more: Mapping[str, Any], expected: RunClass) -> None:
    facts = gather([account(1, **more)], PROJECTS, 0)
    assert +facts.classes == facts.projects[1].classes == {expected: 1}


@pytest.mark.parametrize(
    ("runs", "worst", "told"),
    [
        ({}, RunClass.NOT_COPIED, "There are no runs to report on."),
        ({"equal": 1}, RunClass.EQUAL, "The one run is copied, read back, and found as sent."),
        ({"equal": 5, "explained": 1}, RunClass.EXPLAINED, "All 6 runs are copied, read back, and found as sent. What"),
        ({"equal": 5, "not verified": 1}, RunClass.NOT_VERIFIED, "All 6 runs are copied, 5 of them verified."),
        (
            {"not verified": 2},
            RunClass.NOT_VERIFIED,
            "All 2 runs are copied. None has been read back: `migrate",
        ),
        ({"equal": 5, "not copied": 2}, RunClass.NOT_COPIED, "2 runs of 7 are not copied yet."),
        ({"equal": 5, "not copied": 2, "unexplained": 1}, RunClass.UNEXPLAINED, "1 run of 8 is not as sent."),
    ],
    ids=str,
)
def test_the_verdict_is_that_of_the_worst_class(runs: Mapping[str, int], worst: RunClass, told: str) -> None:
    found, sentence = headline({RunClass(word): count for word, count in runs.items()})
    assert (found, sentence[: len(told)]) == (worst, told)


def test_every_class_is_explained() -> None:
    assert set(CLASSES_MEAN) == set(RunClass)


def test_runs_that_differ_are_drawn_first_then_the_largest_of_each_project() -> None:
    runs = [account(n, values_written=n) for n in range(1, 8)]
    runs += [account(8, verdict=Verdict.DIFFERS, values_written=1), account(9, project=2, values_written=2)]
    runs += [account(10, status=RunStatus.FAILED, values_written=99)]

    def drawn(charts: int, *named: str) -> list[int]:
        return [run.run for run in gather(runs, PROJECTS, charts, named).drawn]

    assert (drawn(0), drawn(1), drawn(3), drawn(5)) == ([], [8], [8, 7, 9], [8, 7, 9, 6, 5])
    assert drawn(2, "r3", "team/p2/r9") == [3, 9]


def test_the_worst_runs_are_told_where_not_all_can_be() -> None:
    runs = [account(n, changed=1) for n in range(TOLD_RUNS)] + [account(2_000), account(2_001, skipped=1)]
    runs += [account(2_002, status=RunStatus.FAILED), account(2_003, verdict=Verdict.DIFFERS, differing=1)]
    facts = gather(runs, PROJECTS, 0)
    assert facts.tellable == TOLD_RUNS + 3
    assert facts.told == [2_003, 2_002, 2_001, *range(TOLD_RUNS - 3)]
