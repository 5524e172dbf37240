"""Reads done runs back and saves the findings, with several threads of one process that claim runs like workers.

    claim (some runs of one project) -> digests, the source -> read back, compare -> save, run by run

After it was killed, a verification resumes where it was: runs that have a verdict are not claimed again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from migrations_db.report_types import FindingRow
from migrations_db.states import Phase, Verdict
from migrations_db.store import Store
from migrations_db.types import Selection, WorkerInfo
from migrations_db.verification import ToVerify, VerifiedRun
from migrator.copying.copy import fork_of
from migrator.copying.findings import Expected, Finding, How, Result
from migrator.copying.pipeline import Stopped
from migrator.copying.verify import verify_runs
from migrator.destinations.base import ReadBack
from migrator.errors import Rejected
from migrator.job.job import build_read_back
from migrator.job.processes import host_id, is_alive, started_s, worker_id_of
from migrator.job.rereading import Reread, Rereader, Sources
from migrator.naming import neptune_run_id
from migrator.redaction import without_keys

log = logging.getLogger(__name__)

RUNS_AT_A_TIME = 50  # claimed and read together
POINTS_AT_A_TIME = 1_000_000  # of these runs; a larger run is read alone
HEARTBEAT_S = 5.0
JOIN_S = 0.2  # between two checks whether the threads have ended
LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class VerifyScope:
    """Which runs, and where they are. `offline_dir` None: all are in Neptune. `workspace` is Neptune's.

    `sources` None: they are not read.
    """

    only: Selection
    workspace: str
    offline_dir: Path | None
    how: How
    threads: int
    invocation_id: int
    sources: Sources | None = None


@dataclass(slots=True)
class VerifyCounts:
    """What was compared so far by all threads."""

    runs: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    values: int = 0
    series: int = 0
    points: int = 0
    files: int = 0

    def add(self, result: Result) -> None:
        self.runs[result.verdict] += 1
        for name in ("values", "series", "points", "files"):
            setattr(self, name, getattr(self, name) + getattr(result, name))


class Verifier:
    """One verification. `downloads` reads several files at a time."""

    def __init__(self, scope: VerifyScope, store: Store, downloads: Executor) -> None:
        self.compared = VerifyCounts()
        self._scope, self._store, self._downloads = scope, store, downloads
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._backs: dict[bool, ReadBack] = {}
        self._rereader = Rereader(store, scope.sources, downloads, self._stop) if scope.sources else None
        self._error: BaseException | None = None
        self._worker_id = worker_id_of(os.getpid())
        free = store.verification.counts(scope.only).not_verified
        self._at_a_time = min(RUNS_AT_A_TIME, ceil(max(free, 1) / scope.threads))  # so that no thread has nothing to do

    def run(self, tell_progress: Callable[[VerifyCounts], None]) -> None:
        """Verify until no run of the scope is left. Raises `RunError` or `UserError` if it had to stop."""
        self._store.workers.recover(host_id(), is_alive)  # claims of verifications that were killed
        pid = os.getpid()
        info = WorkerInfo(self._worker_id, host_id(), pid, started_s(pid), self._scope.invocation_id)
        self._store.workers.register(info)
        threads = [
            threading.Thread(target=self._guarded, args=(self._work,), name=f"verify-{n}", daemon=True)
            for n in range(self._scope.threads)
        ]
        try:
            for thread in threads:
                thread.start()
            beat_at = time.monotonic()
            while working := [thread for thread in threads if thread.is_alive()]:
                working[0].join(JOIN_S)
                tell_progress(self.compared)
                if time.monotonic() - beat_at > HEARTBEAT_S:
                    self._store.workers.heartbeat(self._worker_id, LEASE_S)
                    beat_at = time.monotonic()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._store.verification.release(self._worker_id)
            self._store.workers.stop(self._worker_id)
            for back in self._backs.values():
                back.close()
            if self._rereader:
                self._rereader.close()
        if self._error is not None:
            raise self._error

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread. Its error ends the verification."""
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._error = self._error or error
            self._stop.set()

    def _work(self) -> None:
        while not self._stop.is_set():
            claimed = self._store.verification.claim(
                self._worker_id, self._at_a_time, self._scope.only, POINTS_AT_A_TIME
            )
            if not claimed:
                return
            self._verify(claimed)

    def _verify(self, runs: Sequence[ToVerify]) -> None:
        sources = [self._rereader.read(run.run) for run in runs] if self._rereader else [None] * len(runs)
        expected = [
            self._expected(number, run, source) for number, (run, source) in enumerate(zip(runs, sources, strict=True))
        ]
        try:
            self._compare(runs, expected)
        finally:
            for run, source in zip(runs, sources, strict=True):
                if self._rereader and source and source.mapped:
                    source.mapped.points.close()
                    self._rereader.done_with(run.run)

    def _compare(self, runs: Sequence[ToVerify], expected: Sequence[Expected]) -> None:
        claim = runs[0].run
        project = f"{self._scope.workspace}/{claim.destination_name}"
        try:
            results = verify_runs(expected, project, self._back(claim.phase), self._scope.how)
        except Rejected as error:
            if len(runs) > 1:  # the others may be all right
                for run, one in zip(runs, expected, strict=True):
                    self._compare([run], [one])
                return
            results = [_rejected(expected[0], error)]
        rows = [VerifiedRun(run, one.verdict, _rows(one)) for run, one in zip(runs, results, strict=True)]
        saved = {
            one.run.run.run for one in self._store.verification.save_all(self._worker_id, str(self._scope.how), rows)
        }
        for run, result in zip(runs, results, strict=True):
            if run.run.run in saved:
                log.info("run %s: %s, %d findings", run.ref, result.verdict, len(result.findings))
                with self._lock:
                    self.compared.add(result)

    def _expected(self, number: int, run: ToVerify, source: Reread | None) -> Expected:
        claim = run.run
        source = source or Reread(None)
        return Expected(
            number=number,
            run_id=neptune_run_id(claim.run_id).name,
            digests=self._store.verification.digests(claim.run) or None,
            fork=fork_of(claim),
            source=source.mapped,
            source_problem=source.problem,
            refused=source.refused,
            kept=source.kept,
        )

    def _back(self, phase: Phase) -> ReadBack:
        """Where to read back. Runs copied to offline files are there until they are uploaded."""
        offline = self._scope.offline_dir if phase is Phase.COPY else None
        with self._lock:
            back = self._backs.get(offline is None)
            if back is None:
                back = self._backs[offline is None] = build_read_back(offline, self._downloads)
        return back


def _rows(result: Result) -> list[FindingRow]:
    """The findings as the state database stores them."""
    return [FindingRow(one.path, one.verdict, one.want, without_keys(one.got)) for one in result.findings]


def _rejected(expected: Expected, error: Rejected) -> Result:
    """The result for a run that the destination refuses to return, or that cannot be read."""
    return Result(expected, [Finding("", Verdict.NOT_VERIFIED, "the run", str(error))])
