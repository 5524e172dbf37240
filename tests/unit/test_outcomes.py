"""How often a run has to be rejected before it fails."""

from __future__ import annotations

import pytest

from migrator.errors import ErrorClass
from migrator.job.outcomes import STUCK_RUNS, looks


@pytest.mark.parametrize(
    ("error_class", "alike", "max_failures", "expected"),
    [
        (ErrorClass.NOT_FOUND, 1, 5, 2),
        (ErrorClass.PERMISSION, STUCK_RUNS - 1, 5, 2),
        (ErrorClass.PERMISSION, STUCK_RUNS, 5, 5),
        (ErrorClass.UNKNOWN, STUCK_RUNS, 1, 2),
        (ErrorClass.BAD_DATA, 1, 5, 1),
        (ErrorClass.BAD_DATA, STUCK_RUNS, 5, 1),
    ],
)
def test_a_rejection_is_looked_at_again_the_more_often_the_more_runs_meet_it(
    error_class: ErrorClass, alike: int, max_failures: int, expected: int
) -> None:
    assert looks(error_class, alike, max_failures) == expected
