"""Metrics of a run as the source has them now, mapped by the parts that have copied it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from migrations_db.report_types import RunDetail
from migrations_db.store import Store
from migrator.commands.report.buckets import Buckets
from migrator.copying.digests import SeriesDigest
from migrator.copying.points import columns_of
from migrator.copying.run_digests import measure
from migrator.job.job import build_source
from migrator.listed import RunRef
from migrator.parts import PARTS
from migrator.parts.base import Context, MappingOptions
from migrator.records import Batch
from migrator.settings import tool_version
from migrator.sources.base import Source

METRIC_PARTS = ("history", "system")  # that write series of numbers
DOWNLOADS_AT_A_TIME = 4  # media of the history are loaded with it
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class SourceReader:
    """Reads runs of a state database at their sources. `scratch` is an empty directory."""

    store: Store
    scratch: Path
    _sources: dict[str, Source] = field(default_factory=dict)

    def read(self, number: int, curves: Mapping[str, Buckets]) -> dict[str, SeriesDigest]:
        """Digests of the series of a run at these paths; their points go into `curves`. `RunError` or `UserError`."""
        detail = self.store.reports.run_detail(number)
        assert detail is not None
        project = detail.project
        digests: dict[str, SeriesDigest] = {}
        source = self._source(project.source_service)
        scratch = self.scratch / str(number)
        scratch.mkdir()
        ref = RunRef(project.entity, project.name, detail.run_id, detail.location)
        with ThreadPoolExecutor(DOWNLOADS_AT_A_TIME) as downloads, source.open_run(ref, scratch) as run:
            context = _context(detail, scratch, downloads)
            for part in METRIC_PARTS:
                for batch in PARTS[part](run, {}, context):
                    _take(batch, curves, digests)
        return digests

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def _source(self, service: str) -> Source:
        if service not in self._sources:
            self._sources[service] = build_source(service, self.scratch / service)
        return self._sources[service]


def _context(detail: RunDetail, scratch: Path, downloads: ThreadPoolExecutor) -> Context:
    """As it was when the run was copied."""
    return Context(
        options=MappingOptions.from_json(detail.mapping or {}),
        created_at=detail.created_at or EPOCH,
        fingerprint=detail.fingerprint,
        scratch=scratch,
        downloads=downloads,
        clock=time.monotonic,
        tool_version=tool_version(),
        fork_step=None if detail.fork_run_id is None else detail.fork_step or 0,
    )


def _take(batch: Batch, curves: Mapping[str, Buckets], digests: dict[str, SeriesDigest]) -> None:
    for path, (_, digest) in measure(batch.records).series.items():
        if path in curves:
            digests.setdefault(path, SeriesDigest()).add(digest)
    for path, column in columns_of(batch.records):
        if path in curves and not column.told:
            curves[path].add(column.steps, column.bits.view(np.float64))
