"""One worker process: claims runs and copies several at a time, each in a thread of its own (a lane).

    lane:      wait for pauses -> claim -> copy_run -> complete | release | throttle | fail
    heartbeat: every few seconds renews the leases of all lanes, tells how long each is idle, learns which are lost

The worker ends when nothing is left to claim, when it is asked to stop (SIGTERM: clean), when its parent is gone,
or when a `UserError` concerns the whole job.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil

from migrations_db import LeaseLost, StateError, open_store
from migrations_db.states import Phase
from migrations_db.store import Store
from migrations_db.types import Activity, Claim, Failure, Retry, WorkerInfo
from migrator.copy import CopyPlan, Workspace, copy_run
from migrator.destinations.base import Destination
from migrator.errors import ErrorClass, ExitCode, Rejected, RunError, Throttled, UserError
from migrator.job import Job, build_api_source, build_destination, build_local_source
from migrator.log import start_log, without_keys
from migrator.pipeline import Stopped
from migrator.sources.base import Source

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0  # well inside a lease of 60 s
IDLE_WAIT_S = 1.0  # between two looks for work while others still copy
FULL_POINTS = 500_000  # a worker with this many expected points in hand takes no further run: they share one core
UNKNOWN_FAILURES = 2  # a bug of ours seldom passes by itself
PAUSE_S = 15.0  # a service that asks to wait, but does not say how long
RETRY_BASE_S, RETRY_MAX_S = 2.0, 300.0  # before a run that failed is tried again: doubling, with jitter


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word to its supervisor. `message` None: all went well."""

    exit_code: ExitCode
    message: str | None = None


def run_worker(job: Job, number: int, supervisor_pid: int, pipe: Pipe) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the supervisor decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked while this process started
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    start_log(job.log_file, job.verbose)
    try:
        with _Worker(job, number, supervisor_pid, stop) as worker:
            worker.run()
        ended = Ended(ExitCode.OK)
    except UserError as error:
        ended = Ended(error.exit_code, str(error))
    except StateError as error:
        ended = Ended(ExitCode.STATE, str(error))
    except Throttled as error:
        ended = Ended(ExitCode.TRY_LATER, str(error))
    except Exception as error:
        log.exception("worker %d ends", number)
        ended = Ended(ExitCode.UNEXPECTED, f"{type(error).__name__}: {error}. See {job.log_file}")
    pipe.send(replace(ended, message=ended.message and without_keys(ended.message)))


@dataclass(slots=True)
class _Task:
    """What a lane has in hand. The lane writes it, but for `lost`, which the heartbeat sets; both read it."""

    claim: Claim
    stop: threading.Event
    part: str = "open"
    active_at: float = field(default_factory=time.monotonic)
    lost: bool = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost(f"run {self.claim.ref} has another worker now")
        if self.stop.is_set():
            raise Stopped("asked to stop")

    def at(self, part: str) -> None:
        self.part = part
        self.active_at = time.monotonic()


def worker_id_of(process: psutil.Process) -> str:
    """Names a process for ever: pids are used again, start times tell them apart."""
    return f"{socket.gethostname()}:{process.pid}:{int(process.create_time() * 1000):x}"


class _Worker:
    def __init__(self, job: Job, number: int, supervisor_pid: int, stop: threading.Event) -> None:
        self.job = job
        self._error: BaseException | None = None
        self._stop = stop
        self._supervisor_pid = supervisor_pid
        self._scratch = job.work_dir / f"worker-{number}-{os.getpid()}"
        self._scratch.mkdir(parents=True)
        self._store: Store = open_store(job.database, create=False)
        self._pool = ThreadPoolExecutor(2 * job.lanes, thread_name_prefix="files")
        self._sources: dict[str, Source] = {}
        self._sources_lock = threading.Lock()
        self._destination: Destination | None = None
        self._tasks: dict[int, _Task] = {}
        self._claiming = threading.Lock()
        self._projects: set[str] = set()
        self.worker_id = self._register()
        self._plan = CopyPlan(job.workspace, job.parts, job.options, job.tool_version)

    def _register(self) -> str:
        process = psutil.Process()
        worker_id = worker_id_of(process)
        info = WorkerInfo(worker_id, socket.gethostname(), process.pid, process.create_time(), self.job.invocation_id)
        self._store.workers.register(info)
        return worker_id

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        for adapter in (*self._sources.values(), self._destination):
            if adapter is not None:
                adapter.close()
        self._store.workers.stop(self.worker_id)
        self._store.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # ------------------------------------------------------------ threads

    def run(self) -> None:
        self._destination = build_destination(self.job, self._pool, lambda: datetime.now(UTC))
        heartbeat = threading.Thread(target=self._guarded, args=(self._heartbeat,), name="heartbeat", daemon=True)
        lanes = [
            threading.Thread(target=self._guarded, args=(self._lane,), name=f"lane-{n}", daemon=True)
            for n in range(self.job.lanes)
        ]
        for thread in (heartbeat, *lanes):
            thread.start()
        for lane in lanes:
            lane.join()
        self._stop.set()
        heartbeat.join()
        if self._error is not None:
            raise self._error

    def _guarded(self, work: Callable[[], None]) -> None:
        """A thread's errors end the worker."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = self._error or error
            self._stop.set()

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S) or self._tasks:
            if os.getppid() != self._supervisor_pid:
                log.warning("the supervisor is gone: stopping")
                self._stop.set()
            tasks = dict(self._tasks)
            now = time.monotonic()
            active = {run: Activity(task.part, now - task.active_at) for run, task in tasks.items()}
            held = self._store.workers.heartbeat(self.worker_id, self.job.lease_s, active)
            for run, task in tasks.items():
                if held.get(run) != task.claim.attempt:
                    task.lost = True
            if self._stop.is_set():
                time.sleep(0.2)  # lanes are finishing: keep their leases, do not spin

    def _lane(self) -> None:
        while not self._stop.is_set():
            if self._wait_for_pauses():
                continue
            with self._claiming:  # one lane after the other, or all would find the worker empty and take a long run
                task = None if self._is_full() else self._claim()
            if task is not None:
                self._copy(task)
                continue
            wait = self._store.next_wait(self.job.phase, self.job.only)
            if wait is None:
                return
            self._stop.wait(min(max(wait, IDLE_WAIT_S / 4), IDLE_WAIT_S))

    def _claim(self) -> _Task | None:
        claim = self._store.claim(self.worker_id, self.job.phase, self.job.lease_s, self.job.only)
        if claim is None:
            return None
        task = self._tasks[claim.run] = _Task(claim, self._stop)
        return task

    def _wait_for_pauses(self) -> bool:
        for service in ("wandb", "neptune"):
            pause = self._store.paused(service)
            if pause is not None:
                self._stop.wait(min(pause.seconds_left + random.random(), 5.0))
                return True
        return False

    def _is_full(self) -> bool:
        return sum(task.claim.size_hint for task in list(self._tasks.values())) >= FULL_POINTS

    # ------------------------------------------------------------ one run

    def _copy(self, task: _Task) -> None:
        claim = task.claim
        log.info("run %s: attempt %d begins", claim.ref, claim.attempt)
        try:
            with self._outcome(claim), self._scratch_of(claim) as scratch:
                workspace = Workspace(scratch, self._pool, task)
                assert self._destination is not None
                self._ensure_project(claim)
                if self.job.phase is Phase.UPLOAD:
                    from migrator.upload import upload_run  # brings the Neptune SDK, which a copy may not need

                    upload_run(claim, self._destination, self._store, self.job, workspace)
                else:
                    source = self._source(claim.source_service)
                    copy_run(claim, source, self._destination, self._store, self._plan, workspace)
                log.info("run %s: done", claim.ref)
        finally:
            del self._tasks[claim.run]

    @contextmanager
    def _outcome(self, claim: Claim) -> Iterator[None]:
        """Records how the attempt ended. A run's failure never stops another run."""
        store = self._store
        try:
            try:
                yield
            except Stopped:
                store.release(claim)
            except UserError:
                store.release(claim)
                raise
            except StateError:  # LeaseLost among them: nothing may be written any more
                raise
            except Throttled as error:
                delay_s = PAUSE_S if error.retry_after_s is None else error.retry_after_s
                log.warning("run %s: %s: %s; all workers wait %.0f s", claim.ref, error.error_class, error, delay_s)
                store.throttle(claim, error.service, delay_s, _failure(error.error_class, str(error)))
            except Rejected as error:
                log.error("run %s: %s: %s", claim.ref, error.error_class, error)
                store.fail(claim, _failure(error.error_class, str(error)))
            except RunError as error:
                self._retry(claim, error.error_class, str(error))
            except OSError as error:
                self._retry(claim, _os_error_class(error), f"{type(error).__name__}: {error}")
            except Exception as error:
                log.exception("run %s: unexpected error", claim.ref)
                self._retry(claim, ErrorClass.UNKNOWN, f"{type(error).__name__}: {error}", UNKNOWN_FAILURES)
        except LeaseLost:
            log.warning("run %s: another worker has it now", claim.ref)

    def _retry(self, claim: Claim, error_class: ErrorClass, message: str, max_failures: int | None = None) -> None:
        delay_s = min(RETRY_BASE_S * 2**claim.failures, RETRY_MAX_S) * random.uniform(0.5, 1.5)
        retry = Retry(max_failures or self.job.max_failures, delay_s)
        status = self._store.fail(claim, _failure(error_class, message), retry)
        log.warning("run %s: %s: %s (now %s)", claim.ref, error_class, message, status)

    @contextmanager
    def _scratch_of(self, claim: Claim) -> Iterator[Path]:
        scratch = self._scratch / f"run-{claim.run}-{claim.attempt}"
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _ensure_project(self, claim: Claim) -> None:
        assert self._destination is not None
        project = f"{self.job.workspace}/{claim.destination_name}"
        if project not in self._projects:
            self._destination.ensure_project(project, f"Exported from {claim.project_url}")
            if self.job.binding:
                self.job.binding.bind(self._store)
            self._projects.add(project)

    def _source(self, service: str) -> Source:
        with self._sources_lock:
            if service not in self._sources:
                if service == "local":
                    self._sources[service] = build_local_source(())
                else:
                    self._sources[service] = build_api_source(self._scratch / "wandb")
            return self._sources[service]


def _failure(error_class: ErrorClass, message: str) -> Failure:
    """What the state database keeps of an error."""
    return Failure(error_class, without_keys(message))


def _os_error_class(error: OSError) -> ErrorClass:
    return ErrorClass.DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else ErrorClass.UNKNOWN
