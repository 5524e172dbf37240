"""Which moves a run may make."""

from __future__ import annotations

import pytest

from migrations_db.states import MOVES, RunStatus, after_failure, listed, may_move


def test_every_status_has_its_moves() -> None:
    assert set(MOVES) == set(RunStatus)


def test_every_status_can_be_reached_and_none_is_final() -> None:
    reachable = {RunStatus.PENDING}
    for _ in RunStatus:
        reachable |= {new for old in reachable for new in MOVES[old]}
    assert reachable == set(RunStatus)
    assert all(MOVES.values())


def test_only_a_running_run_ends_but_for_one_that_would_wait_for_ever() -> None:
    ends = {new: {old for old in RunStatus if may_move(old, new)} for new in (RunStatus.DONE, RunStatus.FAILED)}
    assert ends[RunStatus.DONE] == {RunStatus.RUNNING}
    assert ends[RunStatus.FAILED] == {RunStatus.RUNNING, RunStatus.PENDING}


def test_only_a_pending_run_or_an_expired_claim_is_claimed() -> None:
    assert {old for old in RunStatus if may_move(old, RunStatus.RUNNING)} == {RunStatus.PENDING, RunStatus.RUNNING}


@pytest.mark.parametrize("status", RunStatus)
@pytest.mark.parametrize("changed", [False, True])
def test_a_listing_makes_only_allowed_moves(status: RunStatus, changed: bool) -> None:
    after = listed(status, changed=changed)
    assert after is status or may_move(status, after)


def test_a_listing_brings_back_what_has_changed_and_what_was_skipped() -> None:
    assert {s for s in RunStatus if listed(s, changed=True) is RunStatus.PENDING} == {
        RunStatus.PENDING,
        RunStatus.DONE,
        RunStatus.FAILED,
        RunStatus.SKIPPED,
    }
    assert {s for s in RunStatus if listed(s, changed=False) is RunStatus.PENDING} == {
        RunStatus.PENDING,
        RunStatus.SKIPPED,
    }


def test_the_last_failure_ends_the_run() -> None:
    assert [after_failure(n, 3) for n in (1, 2, 3, 4)] == [RunStatus.PENDING] * 2 + [RunStatus.FAILED] * 2
