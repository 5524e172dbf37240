"""From batches to checkpoints, in order, with several requests in flight.

    gather batches until they are worth a request
    intend(highest steps)  ->  write  ->  flush: a barrier          up to DEPTH barriers stay open
    the oldest barrier is passed  ->  checkpoint(cursors, counts, ledger, digests)  ->  scratch files released

How the sizes of the chain fit, from the source to the request:

    page      1 MiB (files), 4 MiB (W&B's API)       what a source reads at a time    sources/paging, wandb/live
    batch     25,000 values, 4 MiB, 64 files, 10 s   what a part converts at a time   parts/base
    group     25,000 values, 8 MiB, 10 s             what goes out together           here
    request   2 MiB a snapshot, 16 MiB an operation  what Neptune takes               limits
    in flight 2 groups                               sent, but not confirmed          here

So at most 4 batches lie between two checkpoints: well below 100,000 values are sent again after a crash.

An earlier attempt may have sent steps up to the saved intent. Only for those steps is the answer "already there"
harmless.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from migrations_db.types import Claim, DigestRow, PartProgress, PartUpdate
from migrator.copying.run_digests import Digests, RecordSums, measure
from migrator.destinations.base import Barrier, DestinationRun, Refused
from migrator.errors import MigratorError, RunError
from migrator.records import AddTags, Assign, AssignFile, Batch, Columns, Entry, Kind, LocalFile, Points, Record
from migrator.sources.base import SourceRun

DEPTH = 2  # groups sent but not yet confirmed: enough to hide the processing delay, few enough to send again
GROUP_VALUES = 25_000  # batches are gathered up to this size, so all parts of a small run go in one request
GROUP_BYTES = 8 * 1024 * 1024
GROUP_SECONDS = 10.0  # a batch does not wait longer than this for more batches


log = logging.getLogger(__name__)


class Stopped(MigratorError):
    """The copy stopped as requested: everything read so far is durable and its cursor is saved."""


class RunControl(Protocol):
    """How the worker controls a copy, and how the copy reports to the worker, between batches."""

    def check(self) -> None:
        """Raise `Stopped` if a clean stop was requested, or `LeaseLost` as `confirm` does."""
        ...

    def confirm(self) -> None:
        """Raise `LeaseLost` if another worker has the run. Cheap; may be called from any thread."""
        ...

    def at(self, part: str) -> None:
        """Report that the copy is alive and working on this part."""
        ...


class ClaimStore(Protocol):
    """The part of the state store that a copy needs. Every call is fenced by the claim's attempt number."""

    def parts(self, claim: Claim) -> dict[str, PartProgress]: ...

    def intend(self, claim: Claim, steps: Mapping[str, float]) -> None: ...

    def begin_digests(self, claim: Claim) -> None: ...

    def digests(self, claim: Claim) -> dict[str, DigestRow]: ...

    def checkpoint(
        self,
        claim: Claim,
        updates: Sequence[PartUpdate],
        position: str | None = None,
        digests: Mapping[str, DigestRow] | None = None,
    ) -> None: ...

    def forget_part(self, claim: Claim, part: str) -> None: ...

    def complete(self, claim: Claim, selected: Collection[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Item:
    """A batch, and the intent up to which an earlier attempt may have sent its part."""

    part: str
    batch: Batch
    intent: float | None


@dataclass(frozen=True, slots=True)
class _Group:
    """Batches that are written but not yet known to be durable."""

    items: Sequence[_Item]
    barrier: Barrier
    measured: RecordSums | None


class Tally:
    """What an attempt has copied of a part, for one line in the log when the part is done."""

    def __init__(self, ref: str, part: str, clock: Callable[[], float]) -> None:
        self._name, self._clock, self._began = f"run {ref}: {part}", clock, clock()
        self._read = self._written = self._skipped = self._bytes = 0

    def add(self, update: PartUpdate) -> None:
        self._read += update.read
        self._written += update.written
        self._skipped += update.skipped
        self._bytes += update.size_bytes
        if update.done:
            figures = (self._read, self._written, self._skipped, self._bytes, self._clock() - self._began)
            log.info("%s: %d read, %d written, %d skipped, %d bytes in %.1f s", self._name, *figures)


class Pipeline:
    """Sends the batches of one run and saves each cursor after its barrier has passed."""

    def __init__(
        self,
        claim: Claim,
        claims: ClaimStore,
        run: SourceRun,
        out: DestinationRun,
        control: RunControl,
        digests: Digests | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`digests` None: the digests of what was copied earlier are unknown, so none are kept."""
        self._claim, self._claims = claim, claims
        self._run, self._out, self._control = run, out, control
        self._digests = digests
        self._clock = clock
        self._gathered: list[_Item] = []
        self._gathering_since = 0.0
        self._in_flight: deque[_Group] = deque()
        self._tallies: dict[str, Tally] = {}

    def begin(self, part: str) -> None:
        """The next batches are of this part. It is logged when it is done, with its time from now on."""
        self._tallies[part] = Tally(self._claim.ref, part, self._clock)
        self._control.at(part)

    def send(self, part: str, batch: Batch, intent: float | None) -> None:
        """Accept a batch, and checkpoint what has become durable meanwhile."""
        self._stop_if_asked()
        self._control.at(part)
        if not self._gathered:
            self._gathering_since = self._clock()
        self._gathered.append(_Item(part, batch, intent))
        if self._is_worth_a_request():
            self._dispatch()
        ready = 0
        while ready < len(self._in_flight) and self._in_flight[ready].barrier.ready():
            ready += 1
        self._settle(max(ready, len(self._in_flight) - DEPTH))

    def drain(self) -> None:
        """Make everything durable and save the cursors."""
        self._dispatch()
        self._settle(len(self._in_flight))

    def salvage(self) -> None:
        """After an error, save what was read before it, if the destination still accepts it."""
        try:
            self.drain()
        except RunError:
            pass  # the first error says more than this one; what is not saved is read again

    def _stop_if_asked(self) -> None:
        try:
            self._control.check()
        except Stopped:
            self.drain()
            raise

    def _is_worth_a_request(self) -> bool:
        batches = [item.batch for item in self._gathered]
        return (
            sum(batch.read for batch in batches) >= GROUP_VALUES
            or sum(batch.size_bytes for batch in batches) >= GROUP_BYTES
            or self._clock() - self._gathering_since >= GROUP_SECONDS
        )

    def _dispatch(self) -> None:
        if not self._gathered:
            return
        self._out.identify()  # before the intent, so that an attempt refused here has written nothing
        items, self._gathered = self._gathered, []
        steps = {item.part: item.batch.until_step for item in items if item.batch.until_step is not None}
        self._claims.intend(self._claim, steps)  # even without steps: a stale worker stops here, before it writes
        for item in items:
            seen, unseen = _split(item.batch.records, item.intent)
            if seen:
                self._out.write(seen, replayed=True)
            self._out.write(unseen)
        barrier = self._out.flush()
        measured = measure(record for item in items for record in item.batch.records) if self._digests else None
        self._in_flight.append(_Group(items, barrier, measured))  # measured while the request is in flight

    def _settle(self, count: int) -> None:
        """Wait for the oldest barriers and save their cursors in one transaction."""
        if not count:
            return
        updates: list[PartUpdate] = []
        position: str | None = None
        settled = [self._in_flight.popleft() for _ in range(count)]
        for group in settled:
            refused = group.barrier.wait()
            updates += _updates(group.items, refused)
            if self._digests and group.measured:
                self._digests.add(group.measured, refused)
            position = group.barrier.position
            self._control.at(group.items[-1].part)
        self._claims.checkpoint(self._claim, updates, position, self._digests.take() if self._digests else None)
        for update in updates:
            self._tallies[update.name].add(update)
        for group in settled:
            for item in group.items:
                for file in files_of(item.batch.records):
                    self._run.release(file)


def _split(records: Sequence[Record], intent: float | None) -> tuple[Sequence[Record], Sequence[Record]]:
    """Split into (what an earlier attempt may have sent, the rest). Single values may always be sent twice."""
    if intent is None:
        return (), records
    seen: list[Record] = []
    unseen: list[Record] = []
    for record in records:
        match record:
            case Columns(steps):
                known = int((steps <= intent).sum())
                seen += [record.rows(0, known)] if known else []
                unseen += [record.rows(known, len(steps))] if known < len(steps) else []
            case Points(step):
                (unseen if step > intent else seen).append(record)
            case _:
                (unseen or seen).append(record)
    return seen, unseen


def _updates(items: Sequence[_Item], refused: Sequence[Refused]) -> Iterator[PartUpdate]:
    """The updates of a checkpoint for one group, one per part. What was refused counts as skipped, not as written."""
    by_part: dict[str, list[Batch]] = {}
    for item in items:
        by_part.setdefault(item.part, []).append(item.batch)
    refusals = _by_part(by_part, refused)
    for part, batches in by_part.items():
        ledger = [entry for batch in batches for entry in batch.ledger]
        written = sum(batch.written for batch in batches)
        lost = min(written, sum(entry.count for entry in refusals[part] if entry.kind is Kind.SKIPPED))
        yield PartUpdate(
            name=part,
            cursor=batches[-1].cursor,
            done=batches[-1].done,
            fresh=batches[0].fresh,
            read=sum(batch.read for batch in batches),
            written=written - lost,
            skipped=sum(entry.count for entry in ledger if entry.kind is Kind.SKIPPED) + lost,
            size_bytes=sum(batch.size_bytes for batch in batches),
            ledger=ledger + refusals[part],
        )


def _by_part(by_part: Mapping[str, Sequence[Batch]], refused: Sequence[Refused]) -> dict[str, list[Entry]]:
    """Ledger entries for refusals, by the part that wrote the path. Refusals without a path go to the largest part."""
    entries: dict[str, list[Entry]] = {part: [] for part in by_part}
    if not refused:
        return entries
    owners = {
        path: part
        for part, batches in by_part.items()
        for batch in batches
        for record in batch.records
        for path in _paths(record)
    }
    largest = max(by_part, key=lambda part: sum(batch.written for batch in by_part[part]))
    for one in refused:
        entries[owners.get(one.path, largest)].append(one.entry())
    return entries


def _paths(record: Record) -> Iterator[str]:
    match record:
        case Assign(values) | Points(_, _, values) | Columns(_, _, values):
            yield from values
        case AssignFile(path, _):
            yield path
        case AddTags(_, group):
            yield "sys/group_tags" if group else "sys/tags"


def files_of(records: Sequence[Record]) -> Iterator[LocalFile]:
    """The files that the records refer to."""
    for record in records:
        match record:
            case AssignFile(_, file):
                yield file
            case Points(_, _, values):
                yield from (value for value in values.values() if isinstance(value, LocalFile))
