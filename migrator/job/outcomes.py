"""How an attempt at a run ends in the state database: what its error costs, and who has to wait.

Stopped, LeaseLost                       nothing
Throttled, or a service does not answer  nothing; all workers leave that service alone for a while
Retryable                                a failure: tried again later, until there were too many in a row
Rejected                                 the run has failed
UserError, a full disk                   the whole job stops; the run is as it was
"""

from __future__ import annotations

import logging
import random
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
    UserError,
    Vanished,
    disk_full,
)
from migrator.job.log import without_keys

log = logging.getLogger(__name__)

STUCK_RUNS = 6  # so many runs that fail, and none that succeeds: the service is to blame
UNKNOWN_FAILURES = 2  # a bug of ours seldom passes by itself
PAUSE_S = 15.0  # a service that asks to wait, but does not say how long
RETRY_BASE_S, RETRY_MAX_S = 2.0, 300.0  # before a run that failed is tried again: doubling, with jitter
OTHER_PLACE = "Run the same command again, with scratch files where nobody removes them (--work-dir)"
MAKE_ROOM = "Free some space (or give another --work-dir for scratch files), then run the same command again"

#: of each service by its name, a question that raises `Retryable` if it does not answer
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
    ) -> None:
        self._store, self._max_failures, self._progress = store, max_failures, progress
        self._scratch, self._stop, self._pings = scratch, stop, pings
        self._stuck: set[int] = set()  # runs that have failed since one succeeded

    @contextmanager
    def recorded(self, claim: Claim) -> Iterator[None]:
        """Records how the block ended. A run's failure never stops another run; what stops the job comes out."""
        try:
            try:
                yield
                self._stuck.clear()
            except Stopped:
                self._store.release(claim)
            except CountsDisagree as error:
                self._retry(claim, ErrorClass.BAD_DATA, str(error), UNKNOWN_FAILURES)
            except StateError:  # LeaseLost among them: nothing may be written any more
                raise
            except UserError:
                self._store.release(claim)
                raise
            except Rejected as error:
                log.error("run %s: %s: %s", claim.ref, error.error_class, error)
                self._store.fail(claim, _failure(error.error_class, str(error)))
            except RunError as error:
                self._not_now(claim, error)
            except OSError as error:
                if not self._scratch.exists():
                    self._store.release(claim)
                    raise UserError(f"{self._scratch} is gone. {OTHER_PLACE}", ExitCode.UNEXPECTED) from error
                told = Retryable(ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}")
                self._not_now(claim, disk_full(error, "scratch files", self._scratch) or told)
            except Exception as error:  # a bug: it costs this run an attempt, no other run anything
                log.exception("run %s: unexpected error", claim.ref)
                self._retry(claim, ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}", UNKNOWN_FAILURES)
        except LeaseLost:
            log.warning("run %s: another worker has it now", claim.ref)

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
            else:
                self._retry(claim, error.error_class, str(error), self._max_failures)
        except UserError:
            self._store.release(claim)
            raise

    def _outage(self, claim: Claim, error: RunError) -> Throttled | None:
        """Why all runs have to wait: a service says so, or does not answer a simple question either."""
        if isinstance(error, Throttled):
            return error
        if error.error_class not in (ErrorClass.UNAVAILABLE, ErrorClass.TIMEOUT):
            return None
        pings = self._pings(claim)
        for service, ping in pings.items():
            try:
                ping()
            except Rejected:
                pass  # it answers
            except Retryable as silence:
                retry_after_s = silence.retry_after_s if isinstance(silence, Throttled) else None
                return Throttled(error.error_class, f"{error} ({service} does not answer)", service, retry_after_s)
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
        delay_s = outage.retry_after_s or PAUSE_S  # 0 did not help on the spot
        log.warning("run %s: %s: %s; all workers wait %.0f s", claim.ref, outage.error_class, outage, delay_s)
        self._store.throttle(claim, outage.service, delay_s, _failure(outage.error_class, str(outage)))

    def _retry(self, claim: Claim, error_class: ErrorClass, message: str, max_failures: int) -> None:
        delay_s = min(RETRY_BASE_S * 2**claim.failures, RETRY_MAX_S) * random.uniform(0.5, 1.5)
        status = self._store.fail(claim, _failure(error_class, message), Retry(max_failures, delay_s))
        log.warning("run %s: %s: %s (now %s)", claim.ref, error_class, message, status)


def _failure(error_class: ErrorClass, message: str) -> Failure:
    """What the state database keeps of an error."""
    return Failure(error_class, without_keys(message))
