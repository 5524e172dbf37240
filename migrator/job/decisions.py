"""What becomes of a run whose attempt ended with an error. Decisions only: `job.outcomes` carries them out.

Stopped, LeaseLost                       Release: it costs nothing
Throttled, or a service does not answer  PauseService: it costs nothing, and all workers leave it alone for a while
Retryable                                Again: a failure; tried later, until there were too many in a row
Rejected                                 Again, as `looks` says: at least a second look, later; then the run has failed
TurnedAway                               PauseService, and when it happens again StopJob
UserError, a full disk                   StopJob: the whole job stops; the run is as it was

If a service also refuses a simple request, the trouble is temporary: then `Rejected` is a PauseService.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from migrations_db import StateError
from migrations_db.errors import CountsDisagree
from migrator.copying.pipeline import Stopped
from migrator.errors import (
    DiskFull,
    ErrorClass,
    ExitCode,
    Rejected,
    Retryable,
    RunError,
    Throttled,
    TurnedAway,
    UserError,
    Vanished,
    disk_full,
    too_few_files,
)

STUCK_RUNS = 6  # if this many runs fail and none succeeds, the service is to blame
LOOKS = 2  # tries before a run counts as gone, forbidden or refused
LOOK_AGAIN_S = 8.0  # the next try comes after at least half of this: short trouble of the service has passed by then
REFUSED_AGAIN_S = 5.0  # a key counts as refused if it is refused again after this time
UNKNOWN_FAILURES = 2  # a bug of ours seldom goes away by itself
PAUSE_S = 15.0  # for a service that asks to wait but does not say how long
RETRY_BASE_S = 2.0  # before a failed run is tried again: doubling, with jitter
OTHER_PLACE = "Run the same command again, with scratch files where nobody removes them (--work-dir)"
MAKE_ROOM = "Free some space (or give another --work-dir for scratch files), then run the same command again"


@dataclass(frozen=True, slots=True)
class Release:
    """Back to pending, at no cost."""


@dataclass(frozen=True, slots=True)
class PauseService:
    """All workers leave `service` alone for `delay_s`; the run goes back to pending, at no cost."""

    service: str
    error_class: ErrorClass
    message: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Again:
    """A failure: tried again, until `allowed` of them came in a row. `anew`: from the start of the run."""

    error_class: ErrorClass
    message: str
    allowed: int
    base_s: float = RETRY_BASE_S
    anew: bool = False


@dataclass(frozen=True, slots=True)
class StopJob:
    """`error` concerns every run. `release`: the run is still ours to give back."""

    error: BaseException
    release: bool = True


Decision = Release | PauseService | Again | StopJob


class AttemptFacts(Protocol):
    """What a decision depends on, beside the error."""

    @property
    def max_failures(self) -> int: ...

    @property
    def stopping(self) -> bool:
        """The worker was asked to stop. Who stops a whole job also ends the SDK's processes, which then fail."""
        ...

    @property
    def scratch(self) -> Path:
        """Where the worker's scratch files are, or were."""
        ...

    def refused_for_s(self, service: str) -> float:
        """How long the service has refused our key, since a run succeeded."""
        ...

    def alike(self, error_class: ErrorClass) -> int:
        """How many runs, this one among them, were rejected likewise since one succeeded."""
        ...

    def outage(self, error: RunError) -> Throttled | None:
        """Why all runs have to wait: a service says so, or does not answer a simple request either.

        Raises `TurnedAway` or `UserError` if that is the answer to the request.
        """
        ...


def decide(error: BaseException, facts: AttemptFacts) -> Decision:
    """What an attempt that ended with `error` comes to."""
    match error:
        case Stopped():
            return Release()
        case CountsDisagree():
            return Again(ErrorClass.BAD_DATA, str(error), UNKNOWN_FAILURES)
        case StateError():  # LeaseLost among them: nothing may be written any more
            return StopJob(error, release=False)
        case TurnedAway():
            return _of_refused_key(error, facts)
        case UserError():
            return StopJob(error)
        case RunError():
            return _of_run(error, facts)
        case OSError():
            return _of_system(error, facts)
    return Again(ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}", UNKNOWN_FAILURES)  # a bug


def _of_refused_key(error: TurnedAway, facts: AttemptFacts) -> Decision:
    """The job stops if the service has refused the key for a while; the first refusal makes all wait."""
    if facts.stopping:
        return Release()
    left_s = REFUSED_AGAIN_S - facts.refused_for_s(error.service)
    return PauseService(error.service, ErrorClass.AUTH, str(error), left_s) if left_s > 0 else StopJob(error)


def _of_run(error: RunError, facts: AttemptFacts) -> Decision:
    if facts.stopping:
        return Release()
    if isinstance(error, Vanished):
        return Again(error.error_class, str(error), facts.max_failures, anew=True)
    try:
        outage = facts.outage(error)
    except TurnedAway as answer:
        return _of_refused_key(answer, facts)
    except UserError as answer:
        return StopJob(answer)
    if outage:
        return PauseService(outage.service, outage.error_class, str(outage), outage.retry_after_s or PAUSE_S)
    if isinstance(error, DiskFull) and error.concerns_all():  # it would fail run after run
        return StopJob(UserError(f"{error}. {MAKE_ROOM}", ExitCode.UNEXPECTED))
    if isinstance(error, Rejected):
        allowed = looks(error.error_class, facts.alike(error.error_class), facts.max_failures)
        return Again(error.error_class, str(error), allowed, LOOK_AGAIN_S)
    return Again(error.error_class, str(error), facts.max_failures)


def _of_system(error: OSError, facts: AttemptFacts) -> Decision:
    if not facts.scratch.exists():
        return StopJob(UserError(f"{facts.scratch} is gone. {OTHER_PLACE}", ExitCode.UNEXPECTED))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StopJob(too_few_files())
    unknown = Retryable(ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}")
    return _of_run(disk_full(error, "scratch files", facts.scratch) or unknown, facts)


def looks(error_class: ErrorClass, alike: int, max_failures: int) -> int:
    """How many rejections in a row fail a run, if `alike` runs (this one among them) met the same since one succeeded.

    Data that cannot be read does not change within moments. What many runs meet is more likely the service's fault
    than theirs.
    """
    if error_class is ErrorClass.BAD_DATA:
        return 1
    return max(LOOKS, max_failures) if alike >= STUCK_RUNS else LOOKS
