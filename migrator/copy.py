"""Copying one run: read a batch, convert it, write it, flush, checkpoint. Always in that order.

    for each part: for each batch behind the cursor:
        intend(highest step)  ->  write  ->  flush (a barrier)      up to PIPELINE_DEPTH barriers stay open
        when the oldest barrier is passed: checkpoint(cursor, counts, ledger)

A saved cursor means that everything before it is durable at the destination. Steps up to the saved intent may have
been sent by an earlier attempt: only for those are "already there" answers benign.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from migrations_db.states import PartStatus
from migrations_db.types import Claim, LedgerEntry, PartProgress, PartUpdate
from migrator.destinations.base import Barrier, Destination, DestinationRun, RunTarget
from migrator.errors import MigratorError
from migrator.naming import Renamed, neptune_run_id, neptune_run_name
from migrator.parts import PARTS
from migrator.parts.base import Context, MappingOptions
from migrator.records import (
    Assign,
    AssignFile,
    Batch,
    Entry,
    Fork,
    Kind,
    LocalFile,
    Points,
    Record,
    RunAttributes,
    RunRef,
)
from migrator.sources.base import Source, SourceRun

PIPELINE_DEPTH = 2  # batches sent but not yet confirmed: enough to hide processing delay, little enough to send again
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stopped(MigratorError):
    """The copy was asked to stop; everything in hand is durable and its cursor saved."""


class Progress(Protocol):
    """What a copy asks and tells between batches."""

    def check(self) -> None:
        """Raise `Stopped` on a clean stop, `LeaseLost` when another worker has the run."""
        ...

    def at(self, part: str) -> None:
        """The copy is alive, and at this part."""
        ...


class Claims(Protocol):
    """The part of the state store that a copy needs; all of it fenced by the claim's attempt number."""

    def parts(self, claim: Claim) -> dict[str, PartProgress]: ...

    def intend(self, claim: Claim, part: str, step: float) -> None: ...

    def checkpoint(self, claim: Claim, updates: Sequence[PartUpdate], position: str | None = None) -> None: ...

    def complete(self, claim: Claim, selected: Collection[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to copy of every run, and how."""

    workspace: str
    parts: Sequence[str]
    options: MappingOptions
    tool_version: str
    clock: Callable[[], float] = time.monotonic


def copy_run(
    claim: Claim,
    source: Source,
    destination: Destination,
    claims: Claims,
    plan: CopyPlan,
    workspace: Workspace,
) -> None:
    """Copy all that is missing of a claimed run and mark it done.

    Raises `RunError` (why it stopped), `Stopped`, `LeaseLost`, or `UserError` when the whole job must stop.
    """
    saved = claims.parts(claim)
    ref = RunRef(claim.entity, claim.project, claim.run_id, claim.location)
    workspace.progress.at("open")
    with source.open_run(ref, workspace.scratch) as run:
        attributes = run.attributes()
        target, notes = run_target(claim, attributes, plan)
        context = Context(
            options=plan.options,
            created_at=target.created_at,
            fingerprint=claim.fingerprint,
            scratch=workspace.scratch,
            downloads=workspace.downloads,
            clock=plan.clock,
            tool_version=plan.tool_version,
        )
        with destination.open_run(target, claim.position) as out:
            pipeline = _Pipeline(claim, claims, run, out, workspace.progress)
            for name in plan.parts:
                progress = saved.get(name, PartProgress())
                if progress.status is PartStatus.DONE:
                    continue
                workspace.progress.at(name)
                for batch in PARTS[name](run, progress.cursor or {}, context):
                    if notes and name == "attributes":
                        batch.ledger.extend(notes)
                    pipeline.send(name, batch, progress.intent)
            pipeline.drain()
            workspace.progress.check()
            out.write([Assign({"migration/complete": True})])
            out.flush().wait()
    claims.complete(claim, plan.parts)


@dataclass(frozen=True, slots=True)
class Workspace:
    """What one lane of a worker has for one run."""

    scratch: Path
    downloads: Executor
    progress: Progress


def run_target(claim: Claim, attributes: RunAttributes, plan: CopyPlan) -> tuple[RunTarget, list[Entry]]:
    """Which Neptune run the claim's run becomes, and what had to change about its names."""
    run_id, name = neptune_run_id(claim.run_id), neptune_run_name(attributes.name, claim.run_id)
    fork = Fork(neptune_run_id(claim.fork.run_id).name, claim.fork.step or 0) if claim.fork else None
    target = RunTarget(
        project=f"{plan.workspace}/{claim.destination_name}",
        run_id=run_id.name,
        name=name.name,
        created_at=attributes.created_at or claim.created_at or EPOCH,
        fork=fork,
    )
    return target, [*_renaming("run id", claim.run_id, run_id), *_renaming("run name", attributes.name or "", name)]


def _renaming(what: str, original: str, renamed: Renamed) -> list[Entry]:
    if renamed.reason is None:
        return []
    return [Entry(Kind.RENAMED, f"{what} {original[:80]} → {renamed.name[:80]}", renamed.reason)]


@dataclass(slots=True)
class _InFlight:
    """A batch that is written, but not yet known to be durable."""

    part: str
    batch: Batch
    barrier: Barrier


class _Pipeline:
    """Sends batches and saves their cursors in order, each after its barrier."""

    def __init__(self, claim: Claim, claims: Claims, run: SourceRun, out: DestinationRun, progress: Progress) -> None:
        self._claim, self._claims = claim, claims
        self._run, self._out, self._progress = run, out, progress
        self._in_flight: deque[_InFlight] = deque()

    def send(self, part: str, batch: Batch, intent: float | None) -> None:
        """Write a batch; settle what has become durable meanwhile. `intent`: what an earlier attempt may have sent."""
        self._stop_if_asked()
        if batch.until_step is not None:
            self._claims.intend(self._claim, part, batch.until_step)
        seen, unseen = _split(batch.records, intent)
        if seen:
            self._out.write(seen, replayed=True)
        self._out.write(unseen)
        self._in_flight.append(_InFlight(part, replace(batch), self._out.flush()))
        self._progress.at(part)
        ready = 0
        while ready < len(self._in_flight) and self._in_flight[ready].barrier.ready():
            ready += 1
        self._settle(max(ready, len(self._in_flight) - PIPELINE_DEPTH))

    def drain(self) -> None:
        """Settle everything."""
        self._settle(len(self._in_flight))

    def _stop_if_asked(self) -> None:
        try:
            self._progress.check()
        except Stopped:
            self.drain()
            raise

    def _settle(self, count: int) -> None:
        """Wait for the oldest barriers and save their cursors in one transaction."""
        if not count:
            return
        updates: list[PartUpdate] = []
        position: str | None = None
        settled = [self._in_flight.popleft() for _ in range(count)]
        for item in settled:
            updates.append(_update(item.part, item.batch, self._refusals(item)))
            position = item.barrier.position
            self._progress.at(item.part)
        self._claims.checkpoint(self._claim, updates, position)
        for item in settled:
            for file in _files(item.batch.records):
                self._run.release(file)

    def _refusals(self, item: _InFlight) -> list[Entry]:
        entries = []
        for path, reason, count in ((refused.path, refused.reason, refused.count) for refused in item.barrier.wait()):
            if count:
                entries.append(Entry(Kind.SKIPPED, path, f"refused: {reason}", count))
            else:
                entries.append(Entry(Kind.CONVERTED, path or "run", reason))
        return entries


def _update(part: str, batch: Batch, refusals: Sequence[Entry]) -> PartUpdate:
    """A batch's share of a checkpoint. What was refused counts as skipped, not as written."""
    refused = min(batch.written, sum(entry.count for entry in refusals if entry.kind is Kind.SKIPPED))
    skipped = sum(entry.count for entry in batch.ledger if entry.kind is Kind.SKIPPED)
    return PartUpdate(
        name=part,
        cursor=batch.cursor,
        done=batch.done,
        read=batch.read,
        written=batch.written - refused,
        skipped=skipped + refused,
        size_bytes=batch.size_bytes,
        ledger=[LedgerEntry(entry.kind, entry.path, entry.reason, entry.count) for entry in [*batch.ledger, *refusals]],
    )


def _split(records: Sequence[Record], intent: float | None) -> tuple[Sequence[Record], Sequence[Record]]:
    """(what an earlier attempt may have sent, what it cannot have). Points ascend; single values may be sent twice."""
    if intent is None:
        return (), records
    for i, record in enumerate(records):
        if isinstance(record, Points) and record.step > intent:
            return records[:i], records[i:]
    return records, ()


def _files(records: Sequence[Record]) -> list[LocalFile]:
    files: list[LocalFile] = []
    for record in records:
        match record:
            case AssignFile(_, file):
                files.append(file)
            case Points(_, _, values):
                files += [value for value in values.values() if isinstance(value, LocalFile)]
    return files
