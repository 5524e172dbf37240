"""One worker process: claims runs and copies several at a time, each in a thread of its own (a lane).

    lane:      wait for pauses -> claim -> copy_run -> complete | release | throttle | fail
    heartbeat: every few seconds renews the leases of all lanes, says how long each is idle, learns which are lost

A run that is suspected to kill its worker is copied while the other lanes rest: the next crash names its culprit.

The worker ends when nothing is left to claim, when it is asked to stop (SIGTERM: clean), when its parent is gone,
or when a `UserError` concerns the whole job.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from migrations_db import StateError, StateSilent, open_store
from migrations_db.states import Phase
from migrations_db.store import Store
from migrations_db.types import Claim, WorkerInfo
from migrator import life
from migrator.copying.copy import CopyPlan, RunTools, copy_run
from migrator.errors import ExitCode, Retryable, UserError
from migrator.garbage import collect_rarely
from migrator.job.adapters import Adapters
from migrator.job.job import Ended, Job
from migrator.job.leases import HEARTBEAT_S, Leases, RunInHand
from migrator.job.log import start_log
from migrator.job.outcomes import Outcomes
from migrator.job.patience import Patience
from migrator.job.processes import host_id, started_s, worker_id_of
from migrator.job.signals import GROUP, TERMINAL
from migrator.parts.base import MappingOptions
from migrator.redaction import own_keys, without_keys
from migrator.settings import hold

log = logging.getLogger(__name__)

ORPHAN_STOP_S = 8.0  # for a worker without supervisor to stop cleanly
STOP_S = 6.0  # for lanes to finish what is in hand: a call to W&B may block for many minutes
JOIN_S = 0.2  # between two looks whether lanes are at their end
IDLE_WAIT_S = 1.0  # between two looks for work while others still copy


def run_worker(job: Job, number: int, pipe: Pipe, keys: Mapping[str, str]) -> None:
    """The main function of a worker process. `keys` come by a pipe: its environment, which /proc shows, has none."""
    hold(keys)
    for terminal in TERMINAL:  # they reach the whole group: the supervisor decides
        signal.signal(terminal, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP)  # they were blocked while this process started
    start_log(job.log_file, job.verbose)
    collect_rarely()
    try:
        with Worker(job, number, stop) as worker:
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


class Worker:
    """Runs the lanes and the heartbeat of one process. Registers itself; leaves nothing behind when the block ends."""

    def __init__(self, job: Job, number: int, stop: threading.Event) -> None:
        self._job, self._stop = job, stop
        self._error: BaseException | None = None
        self._supervisor = multiprocessing.parent_process()
        self._scratch = job.work_dir / f"worker-{number}-{os.getpid()}"
        self._scratch.mkdir(parents=True)
        self._store: Store = open_store(job.database, create=False)
        self._worker_id = _registered(self._store, job)
        self._pool = life.Pool(2 * job.lanes, thread_name_prefix="files")
        self._adapters = Adapters(job, self._store, self._scratch, self._pool)
        self._patience = Patience(job.pause_max_s)
        self._claiming = threading.Lock()
        self._freed = threading.Condition()  # notified when a lane has ended a run
        self._outcomes = Outcomes(
            self._store,
            job.max_failures,
            self._scratch,
            stop,
            self._adapters.pings,
            lambda: self._store.reports.progress(job.phase, job.only),
            job.pause_max_s,
        )
        self._plan = CopyPlan(
            job.workspace, job.parts, job.options, job.tool_version, keys=[os.fsdecode(key) for key in own_keys()]
        )
        self.leases = Leases(self._store, self._worker_id, job, stop)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)  # a download may go on for ever, with nobody to take it
        closing = threading.Thread(target=self._adapters.close, name="close", daemon=True)
        closing.start()
        closing.join(STOP_S)  # wandb-core may not answer
        self._store.workers.stop(self._worker_id)
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # ------------------------------------------------------------ threads

    def run(self) -> bool:
        """Copy until nothing is left; False: was asked to stop before."""
        self._adapters.connect()
        heartbeat = threading.Thread(target=self._guarded, args=(self._heartbeat,), name="heartbeat", daemon=True)
        lanes = [
            threading.Thread(target=self._guarded, args=(self._lane,), name=f"lane-{n}", daemon=True)
            for n in range(self._job.lanes)
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
        self.leases.hand_back()
        heartbeat.join()
        if self._error is not None:
            raise self._error
        return finished

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread's errors end the worker."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = self._error or error
            self._stop.set()

    def _heartbeat(self) -> None:
        orphaned = False
        while not self._stop.wait(HEARTBEAT_S) or self.leases:
            if not orphaned and self._supervisor is not None and not self._supervisor.is_alive():
                orphaned = True
                log.warning("the supervisor is gone: stopping")
                self._stop.set()
                end = threading.Timer(ORPHAN_STOP_S, os._exit, [ExitCode.UNEXPECTED])
                end.daemon = True
                end.start()
            try:
                self.leases.beat()
            except StateSilent as error:
                self._bear(error)
            if self._stop.is_set():
                time.sleep(0.2)  # lanes are finishing: keep their leases, do not spin

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
        self.leases.release_given_up()
        if self._wait_for_pauses():
            return True
        with self._claiming:  # one lane after the other, or all would find the worker empty and take a long run
            if self._stop.is_set():
                return False
            full = self.leases.is_full
            held = None if full else self.leases.claim()
        if held is not None:
            self._copy(held)
            return True
        wait = IDLE_WAIT_S if full else self._store.next_wait(self._job.phase, self._job.only)
        if wait is None:
            return False
        with self._freed:
            self._freed.wait(min(max(wait, IDLE_WAIT_S / 4), IDLE_WAIT_S))
        return True

    def _wait_for_pauses(self) -> bool:
        pause = self._store.paused(*self._job.awaited)
        if pause is None:
            return False
        self._stop.wait(min(pause.seconds_left + random.random(), 5.0))
        return True

    # ------------------------------------------------------------ one run

    def _copy(self, held: RunInHand) -> None:
        claim, began = held.claim, time.monotonic()
        log.info("run %s: attempt %d begins", claim.ref, claim.attempt)
        try:
            with (
                self._outcomes.recorded(claim),
                self._scratch_of(claim) as scratch,
                self._adapters.in_project(claim),
                life.heard_by(held.show_life),
            ):
                self._copy_or_upload(claim, RunTools(scratch, self._pool, held))
                log.info("run %s: attempt %d ends: done, in %.1f s", claim.ref, claim.attempt, time.monotonic() - began)
        except StateSilent:
            self.leases.give_up(claim)
            raise
        finally:
            self.leases.end(held)
            with self._freed:
                self._freed.notify_all()

    def _copy_or_upload(self, claim: Claim, tools: RunTools) -> None:
        destination = self._adapters.destination
        if self._job.phase is Phase.UPLOAD:
            from migrator.copying.upload import upload_run  # brings the Neptune SDK, which a copy may not need

            upload_run(claim, destination, self._store, self._job.workspace, self._job.offline_dir, tools)
            return
        own = MappingOptions.from_json(claim.mapping or {})  # what its copy began with
        source = self._adapters.source(claim.source_service)
        copy_run(claim, source, destination, self._store, replace(self._plan, options=own), tools)

    @contextmanager
    def _scratch_of(self, claim: Claim) -> Iterator[Path]:
        scratch = self._scratch / f"run-{claim.run}-{claim.attempt}"
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _registered(store: Store, job: Job) -> str:
    """This process is a worker from now on; its id."""
    pid = os.getpid()
    worker_id = worker_id_of(pid)
    store.workers.register(WorkerInfo(worker_id, host_id(), pid, started_s(pid), job.invocation_id))
    return worker_id
