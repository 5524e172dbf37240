"""One worker process: claims runs and copies several at a time, each in a thread of its own (a lane).

    lane:      wait for pauses -> claim -> copy_run -> complete | release | throttle | fail
    heartbeat: every few seconds renews the leases of all lanes, tells how long each is idle, learns which are lost

A run that is suspected to kill its worker is copied while the other lanes rest: the next crash names its culprit.

The worker ends when nothing is left to claim, when it is asked to stop (SIGTERM: clean), when its parent is gone,
or when a `UserError` concerns the whole job.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from migrations_db import LeaseLost, StateError, StateSilent, open_store
from migrations_db.states import Phase
from migrations_db.store import Store
from migrations_db.types import Activity, Claim, WorkerInfo
from migrator import life
from migrator.copying.copy import CopyPlan, RunTools, copy_run
from migrator.copying.pipeline import Stopped
from migrator.destinations.base import Destination
from migrator.errors import ExitCode, Retryable, RunError, UserError
from migrator.job.job import Job, build_api_source, build_destination, build_local_source
from migrator.job.log import own_keys, start_log, without_keys
from migrator.job.outcomes import Outcomes, Pings
from migrator.job.patience import Patience
from migrator.job.processes import host_id, started_s, worker_id_of
from migrator.job.signals import GROUP, TERMINAL
from migrator.parts.base import MappingOptions
from migrator.settings import hold
from migrator.sources.base import Source

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0  # well inside a lease of 60 s
ORPHAN_STOP_S = 8.0  # for a worker without supervisor to stop cleanly
STOP_S = 6.0  # for lanes to finish what is in hand: a call to W&B may block for many minutes
JOIN_S = 0.2  # between two looks whether lanes are at their end
IDLE_WAIT_S = 1.0  # between two looks for work while others still copy
FULL_POINTS = 500_000  # a worker with this many expected points in hand takes no further run: they share one core
GC_THRESHOLD = 100_000  # objects: a page of rows makes as many, and none of them is in a cycle


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word to its supervisor. `message` None: all went well."""

    exit_code: ExitCode
    message: str | None = None
    finished: bool = True  # False: stopped before nothing was left


def run_worker(job: Job, number: int, pipe: Pipe, keys: Mapping[str, str]) -> None:
    """The main function of a worker process. `keys` come by a pipe: its environment, which /proc shows, has none."""
    hold(keys)
    for terminal in TERMINAL:  # they reach the whole group: the supervisor decides
        signal.signal(terminal, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP)  # they were blocked while this process started
    start_log(job.log_file, job.verbose)
    gc.set_threshold(GC_THRESHOLD)
    try:
        with _Worker(job, number, stop) as worker:
            ended = Ended(ExitCode.OK, finished=worker.run())
    except UserError as error:
        ended = Ended(error.exit_code, str(error))
    except StateError as error:
        ended = Ended(ExitCode.STATE, str(error))
    except Retryable as error:
        ended = Ended(ExitCode.TRY_LATER, f"{error}. Nothing is lost: run the same command again later")
    except Exception as error:  # a bug: the log gets the traceback, the supervisor the message
        log.exception("worker %d ends", number)
        ended = Ended(ExitCode.UNEXPECTED, f"{type(error).__name__}: {error}. See {job.log_file}")
    try:
        pipe.send(replace(ended, message=ended.message and without_keys(ended.message)))
    except OSError:
        pass  # the supervisor is gone
    logging.shutdown()
    os._exit(ExitCode.OK)  # threads that wait for an answer would keep the process


@dataclass(slots=True)
class _InHand:
    """What a lane has in hand. The lane writes it, but for `lost`, which the heartbeat sets; both read it."""

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


class _Worker:
    def __init__(self, job: Job, number: int, stop: threading.Event) -> None:
        self.job = job
        self._error: BaseException | None = None
        self._stop = stop
        self._supervisor = multiprocessing.parent_process()
        self._scratch = job.work_dir / f"worker-{number}-{os.getpid()}"
        self._scratch.mkdir(parents=True)
        self._store: Store = open_store(job.database, create=False)
        self._pool = life.Pool(2 * job.lanes, thread_name_prefix="files")
        self._sources: dict[str, Future[Source]] = {}
        self._sources_lock = threading.Lock()
        self._destination: Destination | None = None
        self._in_hand: dict[int, _InHand] = {}
        self._given_up: deque[Claim] = deque()  # when the state database was silent: to be released
        self._patience = Patience(job.pause_max_s)
        self._claiming = threading.Lock()
        self._freed = threading.Condition()  # notified when a lane has ended a run
        self._beating = threading.Lock()
        self._beat_at = _seconds()
        self._projects: set[str] = set()
        self.worker_id = self._register()
        self._outcomes = Outcomes(
            self._store,
            job.max_failures,
            self._scratch,
            stop,
            self._pings,
            lambda: self._store.reports.progress(job.phase, job.only),
            job.pause_max_s,
        )
        self._plan = CopyPlan(
            job.workspace, job.parts, job.options, job.tool_version, keys=[os.fsdecode(key) for key in own_keys()]
        )

    def _register(self) -> str:
        pid = os.getpid()
        worker_id = worker_id_of(pid)
        info = WorkerInfo(worker_id, host_id(), pid, started_s(pid), self.job.invocation_id)
        self._store.workers.register(info)
        return worker_id

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)  # a download may go on for ever, with nobody to take it
        closing = threading.Thread(target=self._close, name="close", daemon=True)
        closing.start()
        closing.join(STOP_S)  # wandb-core may not answer
        self._store.workers.stop(self.worker_id)
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _close(self) -> None:
        for source in self._sources.values():
            if source.done() and not source.cancelled() and source.exception() is None:
                source.result().close()
        if self._destination is not None:
            self._destination.close()

    # ------------------------------------------------------------ threads

    def run(self) -> bool:
        """Copy until nothing is left; False: was asked to stop before."""
        for service in self.job.services:
            self._connect(service)  # in the background: both services take their time
        self._destination = build_destination(self.job, self._pool, lambda: datetime.now(UTC))
        heartbeat = threading.Thread(target=self._guarded, args=(self._heartbeat,), name="heartbeat", daemon=True)
        lanes = [
            threading.Thread(target=self._guarded, args=(self._lane,), name=f"lane-{n}", daemon=True)
            for n in range(self.job.lanes)
        ]
        for thread in (heartbeat, *lanes):
            thread.start()
        while not self._stop.is_set() and (working := [lane for lane in lanes if lane.is_alive()]):
            working[0].join(JOIN_S)
        finished = not self._stop.is_set()
        self._stop.set()
        give_up = time.monotonic() + STOP_S
        for lane in lanes:
            lane.join(max(0.0, give_up - time.monotonic()))
        self._hand_back()
        heartbeat.join()
        if self._error is not None:
            raise self._error
        return finished

    def _hand_back(self) -> None:
        """Release what lanes still have in hand that did not stop in time: their threads end with this process."""
        for run, held in list(self._in_hand.items()):
            held.lost = True
            self._in_hand.pop(run, None)
            try:
                self._store.release(held.claim)
            except LeaseLost:
                pass  # it ended just now

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread's errors end the worker."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = self._error or error
            self._stop.set()

    def _heartbeat(self) -> None:
        orphaned = False
        while not self._stop.wait(HEARTBEAT_S) or self._in_hand:
            if not orphaned and self._supervisor is not None and not self._supervisor.is_alive():
                orphaned = True
                log.warning("the supervisor is gone: stopping")
                self._stop.set()
                end = threading.Timer(ORPHAN_STOP_S, os._exit, [ExitCode.UNEXPECTED])
                end.daemon = True
                end.start()
            try:
                with self._beating:
                    self._beat()
            except StateSilent as error:
                self._bear(error)
            if self._stop.is_set():
                time.sleep(0.2)  # lanes are finishing: keep their leases, do not spin

    def _beat(self) -> None:
        began_at, now = _seconds(), time.monotonic()
        in_hand = dict(self._in_hand)
        active = {run: Activity(held.part, now - held.active_at) for run, held in in_hand.items()}
        leases = self._store.workers.heartbeat(self.worker_id, self.job.lease_s, active)
        for run, held in in_hand.items():
            if leases.get(run) != held.claim.attempt:
                held.lost = True
        self._beat_at = began_at

    def _renew(self) -> None:
        """After a long silence (SIGSTOP, a laptop that slept, a locked database) a lane may wake before the heartbeat
        does, when others have its run: it beats for itself.
        """
        with self._beating:
            if _seconds() - self._beat_at > self.job.lease_s / 2:
                self._beat()

    def _lane(self) -> None:
        left = True
        while left and not self._stop.is_set():
            try:
                left = self._do_next()
                self._patience.answered()
            except StateSilent as error:
                self._bear(error)
                self._stop.wait(IDLE_WAIT_S)

    def _bear(self, error: StateSilent) -> None:
        if self._patience.bear(error):
            log.warning("%s Waiting for it.", error)

    def _do_next(self) -> bool:
        """Copy a run, or wait; False: nothing is left."""
        self._release_given_up()
        if self._wait_for_pauses():
            return True
        with self._claiming:  # one lane after the other, or all would find the worker empty and take a long run
            if self._stop.is_set():
                return False
            full = self._is_full()
            held = None if full else self._claim()
        if held is not None:
            self._copy(held)
            return True
        wait = IDLE_WAIT_S if full else self._store.next_wait(self.job.phase, self.job.only)
        if wait is None:
            return False
        with self._freed:
            self._freed.wait(min(max(wait, IDLE_WAIT_S / 4), IDLE_WAIT_S))
        return True

    def _release_given_up(self) -> None:
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

    def _claim(self) -> _InHand | None:
        self._renew()  # after a long sleep, our own runs' leases would look like those of others
        claim = self._store.claim(
            self.worker_id,
            self.job.phase,
            self.job.lease_s,
            self.job.only,
            suspects=not self._in_hand,
            mapping=self.job.options.as_json(),
        )
        if claim is None:
            return None
        if before := self._in_hand.get(claim.run):  # its lease ended all the same: its lane has to see that first
            before.lost = True
            self._store.release(claim, delay_s=HEARTBEAT_S)
            return None
        held = self._in_hand[claim.run] = _InHand(claim, self._stop, self._renew)
        return held

    def _wait_for_pauses(self) -> bool:
        pause = self._store.paused(*self.job.awaited)
        if pause is None:
            return False
        self._stop.wait(min(pause.seconds_left + random.random(), 5.0))
        return True

    def _is_full(self) -> bool:
        claims = [held.claim for held in list(self._in_hand.values())]
        return any(claim.suspect for claim in claims) or sum(claim.size_hint for claim in claims) >= FULL_POINTS

    # ------------------------------------------------------------ one run

    def _copy(self, held: _InHand) -> None:
        claim = held.claim
        log.info("run %s: attempt %d begins", claim.ref, claim.attempt)
        try:
            with (
                self._outcomes.recorded(claim),
                self._scratch_of(claim) as scratch,
                self._in_project(claim),
                life.heard_by(held.show_life),
            ):
                tools = RunTools(scratch, self._pool, held)
                assert self._destination is not None
                if self.job.phase is Phase.UPLOAD:
                    from migrator.copying.upload import upload_run  # brings the Neptune SDK, which a copy may not need

                    upload_run(claim, self._destination, self._store, self.job.workspace, self.job.offline_dir, tools)
                else:
                    source = self._source(claim.source_service)
                    own = MappingOptions.from_json(claim.mapping or {})  # what its copy began with
                    plan = replace(self._plan, options=own)
                    copy_run(claim, source, self._destination, self._store, plan, tools)
                log.info("run %s: done", claim.ref)
        except StateSilent:
            self._given_up.append(claim)
            raise
        finally:
            self._in_hand.pop(claim.run, None)
            with self._freed:
                self._freed.notify_all()

    def _pings(self, claim: Claim) -> Pings:
        assert self._destination is not None
        pings = {self._destination.service: self._destination.ping}
        if self.job.phase is Phase.COPY:  # an upload reads nothing but offline files
            pings[claim.source_service] = lambda: self._source(claim.source_service).ping()
        return pings

    @contextmanager
    def _scratch_of(self, claim: Claim) -> Iterator[Path]:
        scratch = self._scratch / f"run-{claim.run}-{claim.attempt}"
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def _in_project(self, claim: Claim) -> Iterator[None]:
        """The project exists, and the database belongs to this destination. After a failure it is looked at again."""
        assert self._destination is not None
        project = f"{self.job.workspace}/{claim.destination_name}"
        if project not in self._projects:
            self._destination.ensure_project(project, f"Exported from {claim.project_url}")
            if self.job.binding:
                self.job.binding.bind(self._store)
            self._projects.add(project)
        try:
            yield
        except RunError:
            self._projects.discard(project)  # it may be gone
            raise

    def _source(self, service: str) -> Source:
        return self._connect(service).result()

    def _connect(self, service: str) -> Future[Source]:
        """The adapter of a service, one for all lanes; one that could not connect is tried anew."""
        with self._sources_lock:
            source = self._sources.get(service)
            if source is None or (source.done() and source.exception()):
                source = self._sources[service] = self._pool.submit(self._build_source, service)
            return source

    def _build_source(self, service: str) -> Source:
        if service == "local":
            return build_local_source((), follow_links=self.job.follow_links)
        return build_api_source(self._scratch / "wandb")


def _seconds() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
