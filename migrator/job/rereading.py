"""Reads runs that are done at their sources again, for `migrate verify --level values`."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from migrations_db.store import Store
from migrations_db.types import Claim
from migrator.copying.copy import CopyPlan, RunTools
from migrator.copying.pipeline import Stopped
from migrator.copying.reread import Copied, Mapped, read_again
from migrator.errors import DiskFull, ErrorClass, Rejected, Retryable, RunError, Throttled
from migrator.job.job import build_source, load_shared
from migrator.parts.base import MappingOptions
from migrator.records import Kind
from migrator.sources.base import Source

log = logging.getLogger(__name__)

TRIES = 3  # of one run, before it is asked whether the source answers at all
WAIT_S = 2.0  # before the second try; twice as long before the next
WAIT_MAX_S = 60.0  # even if the source asks for more


@dataclass(frozen=True, slots=True)
class Reread:
    """A run as its source has it now; `mapped` None: it could not be read, for this `problem`.

    From the ledger, the number of values that the destination refused, by path, and the paths where an earlier copy was
    kept.
    """

    mapped: Mapped | None
    problem: str = ""
    refused: Mapping[str, int] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Sources:
    """How sources are read. `plan` is for all runs, but for the options, which are those of each run's copy."""

    plan: CopyPlan
    scratch: Path
    follow_links: bool


class Rereader:
    """Used by several threads. `stopped`: whether to end between two batches."""

    def __init__(self, store: Store, how: Sources, downloads: Executor, stopped: threading.Event) -> None:
        self._store, self._how, self._downloads, self._stopped = store, how, downloads, stopped
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}

    def read(self, claim: Claim) -> Reread:
        """Read a run. A run that fails has a problem; if its source does not answer at all, this raises `Retryable`.

        Raises `UserError` if the source refuses us, and `Stopped`.
        """
        tried = 0
        while True:
            tried += 1
            try:
                return Reread(self._read(claim), "", *self._ledger(claim))
            except Rejected as error:
                return self._failed(claim, error)
            except DiskFull:
                raise
            except Retryable as error:
                if tried == TRIES or error.error_class is ErrorClass.BAD_DATA:
                    if isinstance(error, Throttled):
                        raise
                    self._source(claim.source_service).ping()
                    return self._failed(claim, error)
                asked = error.retry_after_s if isinstance(error, Throttled) else None
                self._stopped.wait(min(asked or WAIT_S * tried, WAIT_MAX_S))

    def done_with(self, claim: Claim) -> None:
        """Remove what was kept of a run on disk."""
        shutil.rmtree(self._place(claim), ignore_errors=True)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def _failed(self, claim: Claim, error: RunError) -> Reread:
        log.warning("run %s: cannot be read again: %s", claim.ref, error)
        return Reread(None, str(error))

    def _ledger(self, claim: Claim) -> tuple[Mapping[str, int], frozenset[str]]:
        """What was refused and what was kept, as `Reread` has it."""
        refused: dict[str, int] = {}
        kept: set[str] = set()
        for line in self._store.reports.ledger(claim.run):
            if line.kind == Kind.SKIPPED and line.reason.startswith("refused"):
                refused[line.path] = refused.get(line.path, 0) + line.count
            elif line.kind == Kind.KEPT:
                kept.add(line.path)
        return refused, frozenset(kept)

    def _read(self, claim: Claim) -> Mapped:
        detail = self._store.reports.run_detail(claim.run)
        assert detail is not None
        cursors = {name: part.cursor or {} for name, part in detail.parts.items()}
        own = replace(self._how.plan, parts=list(cursors), options=MappingOptions.from_json(claim.mapping or {}))
        scratch = self._place(claim)
        self.done_with(claim)
        scratch.mkdir(parents=True)
        tools = RunTools(scratch, self._downloads, _Control(self._stopped))
        return read_again(Copied(claim, cursors), self._source(claim.source_service), own, tools)

    def _place(self, claim: Claim) -> Path:
        return self._how.scratch / f"run-{claim.run}"

    def _source(self, service: str) -> Source:
        with self._lock:
            if not self._sources:
                load_shared({project.source_service for project in self._store.inventory.projects()})
            if service not in self._sources:
                where, links = self._how.scratch / service, self._how.follow_links
                self._sources[service] = build_source(service, where, follow_links=links)
            return self._sources[service]


@dataclass(frozen=True, slots=True)
class _Control:
    """The `RunControl` of a run that is only read."""

    stopped: threading.Event

    def check(self) -> None:
        if self.stopped.is_set():
            raise Stopped("the verification was stopped")

    def confirm(self) -> None:
        """No other worker minds."""

    def at(self, part: str) -> None:
        """Nobody watches."""
