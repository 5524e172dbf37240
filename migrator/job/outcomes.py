"""How an attempt at a run ends in the state database: what its error costs, and who has to wait.

Stopped, LeaseLost                       nothing
Throttled, or a service does not answer  nothing; all workers leave that service alone for a while
Retryable                                a failure: tried again later, until there were too many in a row
Rejected                                 as `looks` says: at least a second look, later; then the run has failed
TurnedAway                               nothing; all workers wait, and when it does so again the whole job stops
UserError, a full disk                   the whole job stops; the run is as it was

A service whose answer to a simple question is a refusal, too, has a bad minute: then `Rejected` costs nothing either.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from migrations_db import LeaseLost, StateError
from migrations_db.errors import CountsDisagree
from migrations_db.report_types import Progress
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrations_db.types import Claim, Failure, Retry
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
from migrator.job.log import without_keys

log = logging.getLogger(__name__)

STUCK_RUNS = 6  # so many runs that fail, and none that succeeds: the service is to blame
LOOKS = 2  # before a run is believed to be gone, forbidden or refused
LOOK_AGAIN_S = 8.0  # at least half of it until the next one: a bad moment of the service has passed by then
REFUSED_AGAIN_S = 5.0  # from the first refusal of a key to the one that is believed
UNKNOWN_FAILURES = 2  # a bug of ours seldom passes by itself
PAUSE_S = 15.0  # a service that asks to wait, but does not say how long
RETRY_BASE_S, RETRY_MAX_S = 2.0, 300.0  # before a run that failed is tried again: doubling, with jitter
OTHER_PLACE = "Run the same command again, with scratch files where nobody removes them (--work-dir)"
MAKE_ROOM = "Free some space (or give another --work-dir for scratch files), then run the same command again"

#: of each service by its name, a question that raises a `MigratorError` if all is not well
Pings = Mapping[str, Callable[[], None]]


class Outcomes:
    """Of the attempts of one worker. `stop` is set when it was asked to stop; `scratch` is where its files lie."""

    def __init__(
        self,
        store: Store,
        max_failures: int,
        scratch: Path,
        stop: Event,
        pings: Callable[[Claim], Pings],
        progress: Callable[[], Progress],
        pause_max_s: float,
    ) -> None:
        self._store, self._max_failures, self._progress = store, max_failures, progress
        self._scratch, self._stop, self._pings = scratch, stop, pings
        self._pause_max_s = pause_max_s
        self._stuck: set[int] = set()  # runs that have failed since one succeeded
        self._rejected: dict[ErrorClass, set[int]] = {}  # likewise, those that were rejected
        self._turned_away_at: dict[str, float] = {}  # by service: when it first turned us away since a run succeeded

    @contextmanager
    def recorded(self, claim: Claim) -> Iterator[None]:
        """Records how the block ended. A run's failure never stops another run; what stops the job comes out."""
        try:
            try:
                yield
                self._succeeded()
            except Stopped:
                self._store.release(claim)
            except CountsDisagree as error:
                self._retry(claim, ErrorClass.BAD_DATA, str(error), UNKNOWN_FAILURES)
            except StateError:  # LeaseLost among them: nothing may be written any more
                raise
            except TurnedAway as error:
                self._turned_away(claim, error)
            except UserError:
                self._store.release(claim)
                raise
            except RunError as error:
                self._not_now(claim, error)
            except OSError as error:
                if not self._scratch.exists():
                    self._store.release(claim)
                    raise UserError(f"{self._scratch} is gone. {OTHER_PLACE}", ExitCode.UNEXPECTED) from error
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._store.release(claim)
                    raise too_few_files() from error
                told = Retryable(ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}")
                self._not_now(claim, disk_full(error, "scratch files", self._scratch) or told)
            except Exception as error:  # a bug: it costs this run an attempt, no other run anything
                log.exception("run %s: unexpected error", claim.ref)
                self._retry(claim, ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}", UNKNOWN_FAILURES)
        except LeaseLost:
            log.warning("run %s: another worker has it now", claim.ref)

    def _succeeded(self) -> None:
        self._stuck.clear()
        self._rejected.clear()
        self._turned_away_at.clear()

    def _turned_away(self, claim: Claim, error: TurnedAway) -> None:
        """The job stops if the service has said so for a while; a first refusal makes all wait."""
        now = time.monotonic()
        left_s = self._turned_away_at.setdefault(error.service, now) + REFUSED_AGAIN_S - now
        if self._stop.is_set():
            self._store.release(claim)
        elif left_s > 0:
            self._throttle(claim, Throttled(ErrorClass.AUTH, str(error), error.service, left_s))
        else:
            self._store.release(claim)
            raise error

    def _not_now(self, claim: Claim, error: RunError) -> None:
        try:
            if self._stop.is_set():  # who stops a whole job also ends the SDK's processes, which then fail
                self._store.release(claim)
            elif isinstance(error, Vanished):
                self._store.forget_copy(claim)
                self._retry(claim, error.error_class, str(error), self._max_failures)
            elif outage := self._outage(claim, error):
                self._throttle(claim, outage)
            elif isinstance(error, DiskFull) and error.concerns_all():  # it would fail run after run
                raise UserError(f"{error}. {MAKE_ROOM}", ExitCode.UNEXPECTED) from error
            elif isinstance(error, Rejected):
                alike = self._rejected.setdefault(error.error_class, set())
                alike.add(claim.run)
                allowed = looks(error.error_class, len(alike), self._max_failures)
                self._retry(claim, error.error_class, str(error), allowed, LOOK_AGAIN_S)
            else:
                self._retry(claim, error.error_class, str(error), self._max_failures)
        except TurnedAway as answer:  # the answer to a simple question
            self._turned_away(claim, answer)
        except UserError:
            self._store.release(claim)
            raise

    def _outage(self, claim: Claim, error: RunError) -> Throttled | None:
        """Why all runs have to wait: a service says so, or does not answer a simple question either."""
        if isinstance(error, Throttled):
            return error
        rejected = isinstance(error, Rejected) and error.error_class is not ErrorClass.BAD_DATA
        if not rejected and error.error_class not in (ErrorClass.UNAVAILABLE, ErrorClass.TIMEOUT):
            return None
        pings = self._pings(claim)
        for service, ping in pings.items():
            try:
                ping()
            except Rejected as answer:
                if rejected:
                    return Throttled(error.error_class, f"{error} ({service} refuses any request: {answer})", service)
            except Retryable as silence:
                retry_after_s = silence.retry_after_s if isinstance(silence, Throttled) else None
                return Throttled(error.error_class, f"{error} ({service} does not answer)", service, retry_after_s)
        if rejected:
            return None
        self._stuck.add(claim.run)
        if self._all_are_stuck():
            message = f"{error} (as {len(self._stuck) - 1} other runs, and none succeeds)"
            return Throttled(error.error_class, message, [*pings][-1])  # who is to blame is not known
        return None

    def _all_are_stuck(self) -> bool:
        """Whether all runs fail: those that were tried lately did, and others are left, or none has ever been done.

        So runs that are bad themselves fail in the end, when all others are done.
        """
        if len(self._stuck) < STUCK_RUNS:
            return False
        runs = self._progress().runs
        left = runs[RunStatus.PENDING] + runs[RunStatus.RUNNING]
        return left > len(self._stuck) or not runs[RunStatus.DONE]

    def _throttle(self, claim: Claim, outage: Throttled) -> None:
        delay_s = min(outage.retry_after_s or PAUSE_S, self._pause_max_s)  # 0 did not help on the spot
        log.warning("run %s: %s: %s; all workers wait %.0f s", claim.ref, outage.error_class, outage, delay_s)
        self._store.throttle(claim, outage.service, delay_s, _failure(outage.error_class, str(outage)))

    def _retry(
        self, claim: Claim, error_class: ErrorClass, message: str, max_failures: int, base_s: float = RETRY_BASE_S
    ) -> None:
        delay_s = min(base_s * 2**claim.failures, RETRY_MAX_S) * random.uniform(0.5, 1.5)
        status = self._store.fail(claim, _failure(error_class, message), Retry(max_failures, delay_s))
        log.warning("run %s: %s: %s (now %s)", claim.ref, error_class, message, status)


def looks(error_class: ErrorClass, alike: int, max_failures: int) -> int:
    """How many rejections in a row fail a run, if `alike` runs (this one among them) met the same since one succeeded.

    Data that cannot be read are no moment's matter. What many runs meet is more likely the service's fault than theirs.
    """
    if error_class is ErrorClass.BAD_DATA:
        return 1
    return max(LOOKS, max_failures) if alike >= STUCK_RUNS else LOOKS


def _failure(error_class: ErrorClass, message: str) -> Failure:
    """What the state database keeps of an error."""
    return Failure(error_class, without_keys(message))
