"""What becomes of a run whose attempt ended with an error."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrations_db import LeaseLost, StateDiskFull
from migrations_db.errors import CountsDisagree
from migrator.copying.pipeline import Stopped
from migrator.errors import (
    ErrorClass,
    ExitCode,
    MigratorError,
    Rejected,
    Retryable,
    RunError,
    Throttled,
    TurnedAway,
    UserError,
    Vanished,
)
from migrator.job.decisions import (
    LOOK_AGAIN_S,
    PAUSE_S,
    REFUSED_AGAIN_S,
    STUCK_RUNS,
    UNKNOWN_FAILURES,
    Again,
    Decision,
    PauseService,
    Release,
    StopJob,
    decide,
    looks,
)

MAX_FAILURES = 5


@dataclass(frozen=True)
class Given:
    """AttemptFacts that a test makes up."""

    stopping: bool = False
    refused_s: float = 0.0
    runs_alike: int = 1
    answer: Throttled | MigratorError | None = None  # to a simple question to the services
    scratch: Path = Path()
    max_failures: int = MAX_FAILURES

    def refused_for_s(self, service: str) -> float:
        return self.refused_s

    def alike(self, error_class: ErrorClass) -> int:
        return self.runs_alike

    def outage(self, error: RunError) -> Throttled | None:
        if self.answer is None or isinstance(self.answer, Throttled):
            return self.answer
        raise self.answer


TIMEOUT = Retryable(ErrorClass.TIMEOUT, "no answer")
GONE = Rejected(ErrorClass.NOT_FOUND, "no such run")
LIMITED = Throttled(ErrorClass.RATE_LIMITED, "slow down", "wandb", 3.0)
AWAY = Throttled(ErrorClass.UNAVAILABLE, "away", "neptune")
REFUSED = TurnedAway("the key is refused", "neptune")
WRONG = UserError("no such workspace")
KEY_PAUSE = PauseService("neptune", ErrorClass.AUTH, str(REFUSED), REFUSED_AGAIN_S)


@pytest.mark.parametrize(
    ("error", "given", "expected"),
    [
        (Stopped("asked to stop"), Given(), Release()),
        (TIMEOUT, Given(stopping=True), Release()),
        (REFUSED, Given(stopping=True), Release()),
        (OSError(errno.EIO, "broken"), Given(stopping=True), Release()),
        (TIMEOUT, Given(), Again(ErrorClass.TIMEOUT, "no answer", MAX_FAILURES)),
        (TIMEOUT, Given(answer=AWAY), PauseService("neptune", ErrorClass.UNAVAILABLE, "away", PAUSE_S)),
        (LIMITED, Given(answer=LIMITED), PauseService("wandb", ErrorClass.RATE_LIMITED, "slow down", 3.0)),
        (Vanished("r"), Given(), Again(ErrorClass.NOT_FOUND, str(Vanished("r")), MAX_FAILURES, anew=True)),
        (GONE, Given(), Again(ErrorClass.NOT_FOUND, "no such run", 2, LOOK_AGAIN_S)),
        (GONE, Given(runs_alike=STUCK_RUNS), Again(ErrorClass.NOT_FOUND, "no such run", MAX_FAILURES, LOOK_AGAIN_S)),
        (GONE, Given(answer=REFUSED), KEY_PAUSE),
        (GONE, Given(answer=WRONG), StopJob(WRONG)),
        (REFUSED, Given(), KEY_PAUSE),
        (REFUSED, Given(refused_s=REFUSED_AGAIN_S), StopJob(REFUSED)),
        (WRONG, Given(), StopJob(WRONG)),
        (CountsDisagree("1 != 2", "history"), Given(), Again(ErrorClass.BAD_DATA, "1 != 2", UNKNOWN_FAILURES)),
        (ZeroDivisionError("bug"), Given(), Again(ErrorClass.UNKNOWN, "ZeroDivisionError: bug", UNKNOWN_FAILURES)),
        (
            OSError(errno.EIO, "broken"),
            Given(),
            Again(ErrorClass.UNKNOWN, "OSError: [Errno 5] broken", MAX_FAILURES),
        ),
    ],
)
def test_an_error_comes_to_its_decision(error: Exception, given: Given, expected: Decision) -> None:
    assert decide(error, given) == expected


@pytest.mark.parametrize("error", [LeaseLost("another worker"), StateDiskFull("full")])
def test_nothing_is_written_any_more_when_the_state_database_fails(error: Exception) -> None:
    assert decide(error, Given()) == StopJob(error, release=False)


@pytest.mark.parametrize(
    ("error", "scratch", "words"),
    [
        (OSError(errno.ENOENT, "no file"), Path("nowhere"), "nowhere is gone"),
        (OSError(errno.EMFILE, "too many"), Path(), "ulimit -n"),
        (OSError(errno.EDQUOT, "quota"), Path(), "Free some space"),
    ],
)
def test_what_every_run_would_meet_stops_the_job(error: OSError, scratch: Path, words: str) -> None:
    decided = decide(error, Given(scratch=scratch))
    assert isinstance(decided, StopJob)
    assert isinstance(decided.error, UserError)
    assert (words in str(decided.error), decided.error.exit_code) == (True, ExitCode.UNEXPECTED)


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
