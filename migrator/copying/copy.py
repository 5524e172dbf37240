"""Copies one run: read a batch, convert it, write it, flush, checkpoint. Always in that order.

    for each part, for each batch after the cursor: send it to the pipeline, which writes, flushes and checkpoints
    once everything is durable: write migration/complete and mark the run done

A saved cursor means that everything before it is durable at the destination (see pipeline).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from migrations_db.states import PartStatus
from migrations_db.types import Claim, PartProgress
from migrator.copying.pipeline import ClaimStore, Pipeline, RunControl
from migrator.copying.run_digests import Digests
from migrator.destinations.base import Destination, RunTarget
from migrator.errors import RunError
from migrator.listed import RunRef
from migrator.naming import Renamed, clean_text, neptune_run_id, neptune_run_name
from migrator.parts import PARTS
from migrator.parts.base import Context, MappingOptions, is_neptune_time
from migrator.records import Assign, Entry, Fork, Kind, RunAttributes, Scalar
from migrator.sources.base import Source

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COMPLETE: Mapping[str, Scalar] = {"migration/complete": True}


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to copy of every run, and how. Text that contains one of `keys` is not sent."""

    workspace: str
    parts: Sequence[str]
    options: MappingOptions
    tool_version: str
    keys: Collection[str] = ()
    clock: Callable[[], float] = time.monotonic


def copy_run(
    claim: Claim,
    source: Source,
    destination: Destination,
    claims: ClaimStore,
    plan: CopyPlan,
    tools: RunTools,
) -> None:
    """Copy what is still missing of a claimed run and mark it done.

    Raises `RunError` (why the copy of this run stopped), `Stopped`, `LeaseLost`, or `UserError` (the job must stop).
    """
    saved = claims.parts(claim)
    ref = RunRef(claim.entity, claim.project, claim.run_id, claim.location)
    tools.control.at("open")
    with source.open_run(ref, tools.scratch) as run:
        attributes = run.attributes()
        target, notes = run_target(claim, attributes, plan)
        context = context_of(claim, target, plan, tools)
        begun = any(progress.intent is not None for progress in saved.values())
        confirm = tools.control.confirm
        with destination.open_run(target, claim.position, begun=begun, confirm=confirm) as out:
            nothing_yet = all(progress.cursor is None for progress in saved.values())  # intents at most
            digests = _digests(claim, claims, target, anew=nothing_yet)
            pipeline = Pipeline(claim, claims, run, out, tools.control, digests, plan.clock)
            try:
                for name in plan.parts:
                    progress = saved.get(name, PartProgress())
                    if progress.status is PartStatus.DONE:
                        continue
                    pipeline.begin(name)
                    for batch in PARTS[name](run, progress.cursor or {}, context):
                        if notes and name == "attributes":
                            batch.ledger.extend(notes)
                        pipeline.send(name, batch, progress.intent)
            except RunError:
                pipeline.salvage()
                raise
            pipeline.drain()
            out.write([Assign(COMPLETE)])
            out.flush().wait()
            if (position := out.finish()) is not None:
                claims.checkpoint(claim, [], position)
    claims.complete(claim, plan.parts)


def _digests(claim: Claim, claims: ClaimStore, target: RunTarget, *, anew: bool) -> Digests | None:
    """The digests of the run so far. None: its copy began with a version that kept none."""
    if anew:
        claims.begin_digests(claim)
        return Digests.begun(first_values(target))
    saved = claims.digests(claim)
    return Digests(saved) if saved else None


def first_values(target: RunTarget) -> dict[str, Scalar]:
    """What a run has besides its parts. `COMPLETE` is written last, but only runs that are done are ever verified."""
    created: dict[str, Scalar] = {"sys/custom_run_id": target.run_id, "sys/name": target.name}
    return {**created, "sys/creation_time": target.created_at, **COMPLETE}


@dataclass(frozen=True, slots=True)
class RunTools:
    """What a worker provides for one run."""

    scratch: Path
    downloads: Executor
    control: RunControl


def context_of(claim: Claim, target: RunTarget, plan: CopyPlan, tools: RunTools) -> Context:
    """What the parts of a claimed run may use."""
    return Context(
        options=plan.options,
        created_at=target.created_at,
        fingerprint=claim.fingerprint,
        scratch=tools.scratch,
        downloads=tools.downloads,
        clock=plan.clock,
        tool_version=plan.tool_version,
        has_history="history" in plan.parts,
        keys=plan.keys,
        fork_step=target.fork.step if target.fork else None,
    )


def fork_of(claim: Claim) -> Fork | None:
    """The fork point of the Neptune run."""
    if claim.fork_run_id is None:
        return None
    return Fork(neptune_run_id(claim.fork_run_id).name, claim.fork_step or 0)


def run_target(claim: Claim, attributes: RunAttributes, plan: CopyPlan) -> tuple[RunTarget, list[Entry]]:
    """The Neptune run that the claimed run becomes, and ledger entries for what had to change about its names."""
    run_id, name = neptune_run_id(claim.run_id), neptune_run_name(attributes.name, claim.run_id)
    created_at, notes = attributes.created_at or claim.created_at, []
    if created_at is None or not is_neptune_time(created_at):
        created_at, notes = EPOCH, [Entry(Kind.ESTIMATED, "created_at", "no time that Neptune can hold: 1970")]
    target = RunTarget(
        project=f"{plan.workspace}/{claim.destination_name}",
        run_id=run_id.name,
        name=name.name,
        created_at=created_at,
        fork=fork_of(claim),
        source_url=clean_text(attributes.url),
    )
    notes += [*_renaming("run id", claim.run_id, run_id), *_renaming("run name", attributes.name or "", name)]
    return target, notes


def _renaming(what: str, original: str, renamed: Renamed) -> list[Entry]:
    if renamed.reason is None:
        return []
    return [Entry(Kind.RENAMED, f"{what} {original[:80]} → {renamed.name[:80]}", renamed.reason)]
