"""Records how attempts at runs end: `job.decisions` decides, from facts that are gathered here."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from migrations_db import LeaseLost
from migrations_db.report_types import Progress
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrations_db.types import Claim, Failure, Retry
from migrator.errors import ErrorClass, Rejected, Retryable, RunError, Throttled
from migrator.job.decisions import STUCK_RUNS, Again, Decision, PauseService, Release, StopJob, decide
from migrator.redaction import without_keys

log = logging.getLogger(__name__)

RETRY_MAX_S = 300.0  # before a failed run is tried again

#: by service, a simple request that raises a `MigratorError` if there is a problem
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
        self.max_failures, self.scratch = max_failures, scratch
        self.stop, self.pings, self.progress = stop, pings, progress
        self.stuck: set[int] = set()  # runs that have failed since one succeeded
        self.rejected: dict[ErrorClass, set[int]] = {}  # runs rejected since one succeeded
        self.turned_away_at: dict[str, float] = {}  # by service: when it first refused us since a run succeeded
        self._store, self._pause_max_s = store, pause_max_s

    @contextmanager
    def recorded(self, claim: Claim) -> Iterator[None]:
        """Records how the block ended. A run's failure never stops another run; what stops the job comes out."""
        try:
            try:
                yield
            except Exception as error:  # noqa: BLE001 - whatever it is, it is accounted for
                self._carry_out(claim, decide(error, _Attempt(self, claim)), error)
            else:
                self.stuck.clear()
                self.rejected.clear()
                self.turned_away_at.clear()
        except LeaseLost:
            log.warning("run %s: another worker has it now", claim.ref)

    def _carry_out(self, claim: Claim, decided: Decision, error: Exception) -> None:
        match decided:
            case Release():
                log.info("run %s: attempt %d ends: stopped, to be continued", claim.ref, claim.attempt)
                self._store.release(claim)
            case StopJob(reason, release):
                log.warning("run %s: attempt %d ends: the job stops: %s", claim.ref, claim.attempt, reason)
                if release:
                    self._store.release(claim)
                if reason is error:
                    raise error
                raise reason from error
            case PauseService(service, error_class, message, delay_s):
                delay_s = min(delay_s, self._pause_max_s)
                told = f"{error_class}: {message}; all workers wait {delay_s:.0f} s"
                log.warning("run %s: attempt %d ends: %s", claim.ref, claim.attempt, told)
                self._store.throttle(claim, service, delay_s, _failure(error_class, message))
            case Again(error_class, message, allowed, base_s, anew):
                if error_class is ErrorClass.UNKNOWN:  # a bug, perhaps: its place is worth knowing
                    log.error("run %s: unexpected error", claim.ref, exc_info=error)
                if anew:
                    self._store.forget_copy(claim)
                delay_s = min(base_s * 2**claim.failures, RETRY_MAX_S) * random.uniform(0.5, 1.5)
                status = self._store.fail(claim, _failure(error_class, message), Retry(allowed, delay_s))
                told = f"{error_class}: {message} (now {status})"
                log.warning("run %s: attempt %d ends: %s", claim.ref, claim.attempt, told)


class _Attempt:
    """The `AttemptFacts` of one attempt."""

    def __init__(self, outcomes: Outcomes, claim: Claim) -> None:
        self._outcomes, self._claim = outcomes, claim
        self.max_failures, self.scratch = outcomes.max_failures, outcomes.scratch

    @property
    def stopping(self) -> bool:
        return self._outcomes.stop.is_set()

    def refused_for_s(self, service: str) -> float:
        now = time.monotonic()
        return now - self._outcomes.turned_away_at.setdefault(service, now)

    def alike(self, error_class: ErrorClass) -> int:
        runs = self._outcomes.rejected.setdefault(error_class, set())
        runs.add(self._claim.run)
        return len(runs)

    def outage(self, error: RunError) -> Throttled | None:
        if isinstance(error, Throttled):
            return error
        rejected = isinstance(error, Rejected) and error.error_class is not ErrorClass.BAD_DATA
        if not rejected and error.error_class not in (ErrorClass.UNAVAILABLE, ErrorClass.TIMEOUT):
            return None
        pings = self._outcomes.pings(self._claim)
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
        stuck = self._outcomes.stuck
        stuck.add(self._claim.run)
        if self._all_are_stuck():
            message = f"{error} (as {len(stuck) - 1} other runs, and none succeeds)"
            return Throttled(error.error_class, message, [*pings][-1])  # which service is to blame is not known
        return None

    def _all_are_stuck(self) -> bool:
        """Whether all runs fail: the last ones did, and other runs are left, or no run was ever done.

        So runs that are faulty themselves do fail in the end, when all others are done.
        """
        stuck = len(self._outcomes.stuck)
        if stuck < STUCK_RUNS:
            return False
        runs = self._outcomes.progress().runs
        return runs[RunStatus.PENDING] + runs[RunStatus.RUNNING] > stuck or not runs[RunStatus.DONE]


def _failure(error_class: ErrorClass, message: str) -> Failure:
    """What the state database keeps of an error."""
    return Failure(error_class, without_keys(message))
