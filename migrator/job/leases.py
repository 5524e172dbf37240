"""The runs that a worker has in hand: claimed, kept by heartbeats, given back.

A claim has a lease, which the heartbeat renews. Whoever has not renewed it in time has lost the run to another worker,
and learns so before it writes anything more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from migrations_db import LeaseLost, StateSilent
from migrations_db.store import Store
from migrations_db.types import Activity, Claim
from migrator.copying.pipeline import Stopped
from migrator.job.job import Job

HEARTBEAT_S = 5.0  # well inside a lease of 60 s
FULL_POINTS = 500_000  # a worker with this many expected points in hand takes no further run: they share one core


@dataclass(slots=True)
class RunInHand:
    """One run in hand. Its lane writes this, but for `lost`, which the heartbeat sets; both read it."""

    claim: Claim
    stop: threading.Event
    renew: Callable[[], None]
    part: str = "open"
    active_at: float = field(default_factory=time.monotonic)
    lost: bool = False

    def confirm(self) -> None:
        self.renew()
        if self.lost:
            raise LeaseLost(f"run {self.claim.ref} has another worker now")

    def check(self) -> None:
        self.confirm()
        if self.stop.is_set():
            raise Stopped("asked to stop")

    def at(self, part: str) -> None:
        self.part = part
        self.show_life()

    def show_life(self) -> None:
        self.active_at = time.monotonic()


class Leases:
    """All claims of one worker. May be used by all of its threads, but for `claim`: by one at a time."""

    def __init__(self, store: Store, worker_id: str, job: Job, stop: threading.Event) -> None:
        self._store, self._worker_id, self._job, self._stop = store, worker_id, job, stop
        self._held: dict[int, RunInHand] = {}
        self._given_up: deque[Claim] = deque()
        self._beating = threading.Lock()
        self._beat_at = _seconds()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether no further run should be claimed: a suspect is copied alone, and large runs share one core."""
        claims = [held.claim for held in list(self._held.values())]
        return any(claim.suspect for claim in claims) or sum(claim.size_hint for claim in claims) >= FULL_POINTS

    def claim(self) -> RunInHand | None:
        """The next run; None: there is nothing to claim now."""
        self._renew()  # after a long sleep, our own runs' leases would look like those of others
        claim = self._store.claim(
            self._worker_id,
            self._job.phase,
            self._job.lease_s,
            self._job.only,
            suspects=not self._held,
            mapping=self._job.options.as_json(),
        )
        if claim is None:
            return None
        if before := self._held.get(claim.run):  # its lease ended all the same: its lane has to see that first
            before.lost = True
            self._store.release(claim, delay_s=HEARTBEAT_S)
            return None
        held = self._held[claim.run] = RunInHand(claim, self._stop, self._renew)
        return held

    def end(self, held: RunInHand) -> None:
        """The lane is done with the run, whatever became of it."""
        self._held.pop(held.claim.run, None)

    def give_up(self, claim: Claim) -> None:
        """The state database is silent: the run is released once it answers."""
        self._given_up.append(claim)

    def release_given_up(self) -> None:
        """Raises `StateSilent` when the state database is still silent."""
        while True:
            try:
                claim = self._given_up.popleft()
            except IndexError:
                return
            try:
                self._store.release(claim)
            except LeaseLost:
                pass  # its lease ended meanwhile
            except StateSilent:
                self._given_up.append(claim)
                raise

    def hand_back(self) -> None:
        """Release what lanes still have in hand that did not stop in time: their threads end with this process."""
        for run, held in list(self._held.items()):
            held.lost = True
            self._held.pop(run, None)
            try:
                self._store.release(held.claim)
            except LeaseLost:
                pass  # it ended just now

    def beat(self) -> None:
        """Renew the leases, say what each run is at, and learn which are lost."""
        with self._beating:
            self._beat()

    def _renew(self) -> None:
        """After a long silence (SIGSTOP, a laptop that slept, a locked database) a lane may wake before the heartbeat
        does, when others have its run: it beats for itself.
        """
        with self._beating:
            if _seconds() - self._beat_at > self._job.lease_s / 2:
                self._beat()

    def _beat(self) -> None:
        began_at, now = _seconds(), time.monotonic()
        in_hand = dict(self._held)
        active = {run: Activity(held.part, now - held.active_at) for run, held in in_hand.items()}
        leases = self._store.workers.heartbeat(self._worker_id, self._job.lease_s, active)
        for run, held in in_hand.items():
            if leases.get(run) != held.claim.attempt:
                held.lost = True
        self._beat_at = began_at


def _seconds() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
