"""The adapters of a worker: one source for each service, one destination, and the projects that are known to exist."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from migrations_db.states import Phase
from migrations_db.store import Store
from migrations_db.types import Claim
from migrator.destinations.base import Destination
from migrator.errors import RunError
from migrator.job.job import Job, build_destination, build_source, load_shared
from migrator.job.outcomes import Pings
from migrator.sources.base import Source


class Adapters:
    """Shared by all lanes of a worker. Connects to sources in the background: every service takes its time."""

    def __init__(self, job: Job, store: Store, scratch: Path, pool: Executor) -> None:
        self._job, self._store, self._scratch, self._pool = job, store, scratch, pool
        self._sources: dict[str, Future[Source]] = {}
        self._connecting = threading.Lock()
        self._destination: Destination | None = None
        self._projects: set[str] = set()

    def connect(self) -> None:
        """Raises `UserError` or `Retryable` where the destination cannot be used; a source says so when it is used."""
        load_shared(self._job.services)
        for service in self._job.services:
            self._connect(service)
        self._destination = build_destination(self._job, self._pool, lambda: datetime.now(UTC))

    @property
    def destination(self) -> Destination:
        assert self._destination is not None, "connect() comes first"
        return self._destination

    def source(self, service: str) -> Source:
        return self._connect(service).result()

    def pings(self, claim: Claim) -> Pings:
        """Simple questions to the services that a run concerns."""
        pings = {self.destination.service: self.destination.ping}
        if self._job.phase is Phase.COPY:  # an upload reads nothing but offline files
            pings[claim.source_service] = lambda: self.source(claim.source_service).ping()
        return pings

    @contextmanager
    def in_project(self, claim: Claim) -> Iterator[None]:
        """The project exists, and the database belongs to this destination. After a failure it is looked at again."""
        project = f"{self._job.workspace}/{claim.destination_name}"
        if project not in self._projects:
            self.destination.ensure_project(project, f"Exported from {claim.project_url}")
            if self._job.binding:
                self._job.binding.bind(self._store)
            self._projects.add(project)
        try:
            yield
        except RunError:
            self._projects.discard(project)  # it may be gone
            raise

    def close(self) -> None:
        for source in self._sources.values():
            if source.done() and not source.cancelled() and source.exception() is None:
                source.result().close()
        if self._destination is not None:
            self._destination.close()

    def _connect(self, service: str) -> Future[Source]:
        """The adapter of a service; one that could not connect is tried anew."""
        with self._connecting:
            source = self._sources.get(service)
            if source is None or (source.done() and source.exception()):
                source = self._sources[service] = self._pool.submit(self._build, service)
            return source

    def _build(self, service: str) -> Source:
        return build_source(service, self._scratch / service, follow_links=self._job.follow_links)
