"""`migrate run` and `migrate sync`: keeps workers alive, shows progress, ends when nothing is left.

    start: free the claims and scratch space of dead processes of this host -> spawn workers
    every tick: draw progress from the database; restart workers that died; kill one that makes no progress
    end: all workers ended | Ctrl-C, SIGTERM, SIGHUP (clean; twice: at once) | a worker's UserError | a service is down

The supervisor never touches W&B or Neptune. All it knows of the work is in the state database.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Protocol

import psutil

from migrations_db import StateError, StateSilent
from migrations_db.report_types import Progress
from migrations_db.states import Outcome, RunStatus
from migrations_db.store import Store
from migrations_db.types import Failure
from migrator.errors import ErrorClass, ExitCode
from migrator.job import forking
from migrator.job.job import Ended, Job
from migrator.job.patience import Patience
from migrator.job.processes import host_id, is_alive, started_s, worker_id_of
from migrator.job.stopping import Signals
from migrator.settings import keys

log = logging.getLogger(__name__)

TICK_S, TICK_MAX_S = 0.25, 2.0  # between two looks at the state database
LOOK_SHARE = 10  # times as long as a look takes
CLEAN_STOP_S = 8.0  # for workers to finish the batch in hand; the promise is 10 s for everything
CHECK_S = 5.0  # between two looks for runs without progress, and for claims of processes that are gone
HOPELESS_DEATHS = 3  # of each worker, without progress and without a run to blame: workers cannot run here


class Display(Protocol):
    """Shows progress to a person or to a log."""

    def update(self, progress: Progress) -> None: ...

    def say(self, message: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Supervision:
    """How workers are watched. `give_up_s`: end (exit 5) when a paused service lets nothing through for so long."""

    workers: int
    stall_timeout_s: float = 600.0
    give_up_s: float = 900.0


@dataclass(slots=True)
class _Child:
    number: int
    process: BaseProcess
    started_s: float  # since the boot: with the pid, it names the process for ever
    worker_id: str
    pipe: Pipe
    ended: Ended | None = None


class Supervisor:
    """Runs one job to its end."""

    def __init__(
        self,
        job: Job,
        supervision: Supervision,
        store: Store,
        display: Display,
        signals: Signals,
    ) -> None:
        self._job, self._supervision = job, supervision
        self._store, self._display = store, display
        self._children: list[_Child] = []
        self._signals = signals
        signals.overdue = self._end_at_once
        self._futile_deaths = 0
        self._moved_at = time.monotonic()
        self._moved: object = None
        self._next_check = time.monotonic() + CHECK_S

    def run(self) -> ExitCode:
        """The exit code of the command, failed runs not counted: the caller asks the store for those."""
        with forking.server(self._job.imports):
            try:
                self._free_claims()
                for number in range(self._supervision.workers):
                    self._children.append(self._spawn(number))
                return self._watch()
            finally:
                self._kill_all()
                self._store.workers.recover(host_id(), is_alive)

    # ------------------------------------------------------------ the loop

    def _watch(self) -> ExitCode:
        patience = Patience(self._supervision.give_up_s)
        while True:
            looked_at = time.monotonic()
            if self._signals.count:
                return self._stop_cleanly()
            try:
                ended = self._look()
                patience.answered()
            except StateSilent as error:
                ended = None
                if patience.bear(error):
                    self._display.say(f"{error} Waiting for it")
            if ended is not None:
                return ended
            self._wait(time.monotonic() - looked_at)

    def _look(self) -> ExitCode | None:
        """Show progress and see to the workers; the exit code once the job is at its end."""
        progress = self._store.reports.progress(self._job.phase, self._job.only)
        self._display.update(progress)
        self._note(progress)
        if self._signals.count:
            return None
        self._reap()
        fatal = next((child.ended for child in self._children if child.ended and child.ended.message), None)
        if fatal:
            if fatal.exit_code is ExitCode.STATE:  # what the state database says of the runs may not be true
                self._terminate()
                raise StateError(fatal.message)
            self._display.say(f"Error: {fatal.message}")
            self._terminate()
            return fatal.exit_code
        if not self._children or all(child.ended for child in self._children):
            self._display.update(self._store.reports.progress(self._job.phase, self._job.only))
            return ExitCode.OK
        if self._is_shut_out():
            self._terminate()
            return ExitCode.TRY_LATER
        if time.monotonic() >= self._next_check:
            self._kill_stalled()
            self._free_claims()
            self._next_check = time.monotonic() + CHECK_S
        return None

    def _wait(self, look_s: float) -> None:
        """Until a worker or a signal has something to say, or it is time to look again: looking takes longer with
        many runs.
        """
        pipes = [child.pipe for child in self._children if not child.ended]
        connection.wait([*pipes, self._signals.pipe], min(max(TICK_S, LOOK_SHARE * look_s), TICK_MAX_S))

    def _reap(self) -> None:
        """Hear the last words of workers that ended; replace those that died without any, or were told to stop."""
        for i, child in enumerate(self._children):
            if child.ended:
                continue
            child.ended = _last_word(child)
            if child.ended is None and not child.process.is_alive():
                child.ended = _last_word(child)  # it may have spoken between the two looks
                if child.ended is None:
                    self._children[i] = self._replace(child, None, ErrorClass.CRASHED, Outcome.CRASHED)
            elif child.ended and not child.ended.finished and not self._signals.count:
                log.warning("worker %d was told to stop by somebody else", child.number)
                self._children[i] = self._spawn(child.number)

    def _free_claims(self) -> None:
        """Take over from commands of this host that were killed. One may take a while to die, so it is asked again.

        Our own workers' deaths are accounted for elsewhere.
        """
        ours = {child.process.pid for child in self._children}
        freed = self._store.workers.recover(host_id(), lambda pid, started: pid in ours or is_alive(pid, started))
        if freed:
            self._display.say(f"Taking over {freed} runs of an earlier command that did not end cleanly")

    def _kill_stalled(self) -> None:
        by_id = {child.worker_id: child for child in self._children if not child.ended}
        for stalled in self._store.workers.stalled(list(by_id), self._supervision.stall_timeout_s):
            child = by_id.pop(stalled.worker_id, None)
            if child is None:
                continue  # its worker is gone already, for another run of its
            self._display.say(f"{stalled.ref} made no progress for {stalled.idle_s:.0f} s: stopping its worker")
            _kill_tree(child)
            index = self._children.index(child)
            self._children[index] = self._replace(child, [stalled.run], ErrorClass.STALLED, Outcome.STALLED)

    def _note(self, progress: Progress) -> None:
        """Remember when the job moved on last. Claims, and ends but for the good one, are no progress."""
        done = progress.runs[RunStatus.DONE]
        moved = (progress.points_read, progress.points_written, progress.size_bytes, done)
        if moved != self._moved:
            self._moved, self._moved_at = moved, time.monotonic()
            self._futile_deaths = 0

    def _is_shut_out(self) -> bool:
        """Whether a service has let nothing through for so long that it is better to come back later."""
        if time.monotonic() - self._moved_at < self._supervision.give_up_s:
            return False
        for service in self._job.awaited:
            pause = self._store.paused(service)
            if pause:
                minutes = self._supervision.give_up_s / 60
                self._display.say(
                    f"{service} has let nothing through for {minutes:.0f} minutes ({pause.reason}). "
                    "Nothing is lost: run the same command again later"
                )
                return True
        return False

    # ------------------------------------------------------------ processes

    def _spawn(self, number: int) -> _Child:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = forking.context().Process(  # type: ignore[attr-defined]
            target=forking.work, args=(self._job, number, theirs, keys()), name=f"worker-{number}"
        )
        with forking.undisturbed():
            process.start()
        theirs.close()
        return _Child(number, process, *_identity(process.pid or 0), ours)

    def _replace(self, dead: _Child, culprits: list[int] | None, error: ErrorClass, outcome: Outcome) -> _Child:
        """Account for a worker that died (its runs are suspects) or was killed, and start another."""
        _kill_tree(dead)  # what is only said to be dead would go on beside its successor
        message = f"worker process ended with code {dead.process.exitcode}"
        if error is ErrorClass.STALLED:
            message = f"no progress for {self._supervision.stall_timeout_s:.0f} s"
        log.error("%s (worker %d): %s", error, dead.number, message)
        failure = Failure(error, message)
        blamed = self._store.workers.crash(dead.worker_id, culprits, failure, outcome, self._job.max_failures)
        self._futile_deaths += 0 if blamed else 1
        if self._futile_deaths > HOPELESS_DEATHS * self._supervision.workers:
            dead.ended = Ended(ExitCode.UNEXPECTED, f"workers keep dying ({message}): see {self._job.log_file}")
            return dead
        return self._spawn(dead.number)

    def _end_at_once(self) -> None:
        """Called in a thread of its own: the main thread waits for the state database and cannot be reached."""
        for child in self._children:
            _kill_tree(child)
        shutil.rmtree(self._job.work_dir, ignore_errors=True)
        self._display.say("Stopped, although the state database does not answer. The same command goes on from here")

    def _stop_cleanly(self) -> ExitCode:
        self._display.say("Stopping: finishing what is in hand (Ctrl-C again stops at once)")
        self._terminate()
        self._display.say("Stopped. Nothing is lost: the same command goes on from here")
        return self._signals.exit_code

    def _terminate(self) -> None:
        """Ask all workers to stop; wait a little; then kill. A second Ctrl-C shortens the wait."""
        asked_twice = self._signals.count
        for child in self._children:
            if child.process.is_alive():
                child.process.terminate()
        deadline = time.monotonic() + CLEAN_STOP_S
        while time.monotonic() < deadline and any(child.process.is_alive() for child in self._children):
            if self._signals.count > max(asked_twice, 1):
                break
            time.sleep(0.05)
        self._kill_all()

    def _kill_all(self) -> None:
        for child in self._children:
            _kill_tree(child)
            child.process.join()


def _identity(pid: int) -> tuple[float, str]:
    """When a worker started, and its id."""
    try:
        return started_s(pid), worker_id_of(pid)
    except psutil.NoSuchProcess:
        return 0.0, f"dead:{pid}"  # before it did anything: it has no claims


def _last_word(child: _Child) -> Ended | None:
    try:
        return child.pipe.recv() if child.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _kill_tree(child: _Child) -> None:
    """Kill a worker and what it started. Children of one that died before are not found any more, but wandb-core
    ends by itself without its parent.
    """
    pid = child.process.pid or 0
    if not is_alive(pid, child.started_s):
        return
    try:
        worker = psutil.Process(pid)
        for member in (worker, *worker.children(recursive=True)):  # the parent first, or it would start new ones
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass  # it was faster
    except psutil.NoSuchProcess:
        pass
