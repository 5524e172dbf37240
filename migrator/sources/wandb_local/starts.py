"""Combines log files into starts, and starts into a run.

A start is what one process logged. Logs with one run id that began at the same nanosecond are copies of one start: only
the most complete one counts. The starts of a run are ordered by time and joined as `Join` says. Rows of a start that
continues earlier ones are numbered `max(logged step, last step + 1)`, as `wandb sync` does (measured with SDK 0.31).

Every decision here that loses data, or might be wrong, becomes an entry of the ledger.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from migrator.records import Entry, Kind
from migrator.sources.wandb_local.glance import LogGlance, longest_first, starting_step
from migrator.sources.wandb_local.head import RunHead, merged

COPY = "a copy of another log: only one of them is read"
ASSUMED = "not marked as resumed: read as a continuation of the start before it"
BESIDE = "logged at the same time as another start: their rows are merged by step"
SHARED = "several processes wrote this run: its rows are numbered in order of time"


class Join(Enum):
    """How a start relates to the starts before it."""

    FIRST = auto()  #: there are no earlier starts
    FOLLOWS = auto()  #: its steps continue theirs
    RESUMED = auto()  #: its log says that it resumed the run
    ASSUMED = auto()  #: offline, and began after they had ended: old SDKs do not record whether it resumed the run
    REWOUND = auto()  #: it continues after one of their steps, and everything after that step is undone
    BESIDE = auto()  #: another process at the same time
    OVERWRITES = auto()  #: online, not resumed, and its steps start again: in W&B it has replaced them


@dataclass(frozen=True, slots=True)
class Start:
    """The log of one start of a run.

    `floor`: its rows are numbered from the step after this one on (None: they keep their steps). Rows above `until` are
    left out, because a later start has rewound the run to that step.
    """

    glance: LogGlance
    copies: tuple[LogGlance, ...] = ()
    join: Join = Join.FIRST
    floor: int | None = None
    until: float = math.inf

    @property
    def log(self) -> Path:
        return self.glance.log

    @property
    def last_step(self) -> int | None:
        if not self.glance.rows:
            return None
        if self.floor is None:
            return self.glance.last_step
        return max(self.glance.rising_end, self.floor + self.glance.rows)

    @property
    def first_step(self) -> int | None:
        first = self.glance.first_step
        return first if first is None or self.floor is None else max(first, self.floor + 1)


@dataclass(frozen=True, slots=True)
class RunStarts:
    """The logs with one run id: the `starts` of the run in order, and those that they have `overwritten`."""

    starts: Sequence[Start]
    overwritten: Sequence[Start] = ()

    @property
    def head(self) -> RunHead:
        heads = [start.glance.head for start in self.starts]
        if not self.shared:
            return merged(heads)
        primary = heads[0]
        return replace(merged([*heads[1:], primary]), started_at=primary.started_at, started_ns=primary.started_ns)

    @property
    def shared(self) -> bool:
        """Whether several processes wrote the run together, so that W&B numbers its rows."""
        return len(self.starts) > 1 and any(start.glance.head.shared for start in self.starts)

    @property
    def concurrent(self) -> bool:
        """Whether some of its starts ran at the same time."""
        return any(start.join is Join.BESIDE for start in self.starts)

    @property
    def deciding(self) -> int:
        """The index of the start that decides the state: the last or, of several writers, the first (W&B: primary)."""
        return 0 if self.shared else len(self.starts) - 1

    @property
    def logs(self) -> list[LogGlance]:
        """All logs, including copies and overwritten ones."""
        return [log for start in (*self.overwritten, *self.starts) for log in (start.glance, *start.copies)]

    def entries(self) -> Iterator[Entry]:
        """The ledger entries about the decisions."""
        for start in self.overwritten:
            yield from _left_out(start.glance)
        for start in self.starts:
            yield from (Entry(Kind.JOINED, str(copy.log), COPY) for copy in start.copies)
            if start.join is Join.ASSUMED:
                yield Entry(Kind.JOINED, start.glance.title, ASSUMED)
            elif start.join is Join.BESIDE and not self.shared:
                yield Entry(Kind.JOINED, start.glance.title, BESIDE)
        if self.shared:
            yield Entry(Kind.JOINED, "history", SHARED, len(self.starts))


def _left_out(log: LogGlance) -> Iterator[Entry]:
    counts = {"config and summary": 1, "rows": log.rows, "samples": log.samples, "pieces of output": log.pieces}
    for what, count in counts.items():
        if count:
            yield Entry(Kind.SKIPPED, f"{log.title}: {what}", "overwritten", count)


def run_of(logs: Sequence[LogGlance]) -> RunStarts:
    """Combine logs, which all have the same run id, into a run."""
    starts: list[Start] = []
    overwritten: list[Start] = []
    last: int | None = None
    shared = any(log.head.shared for log in logs)
    for start in sorted(_starts(logs), key=lambda start: (start.glance.began_s or 0.0, start.log)):
        join = Join.BESIDE if shared and starts else _join(starts, last, start.glance)
        if join is Join.OVERWRITES:
            overwritten += starts
            starts, last = [], None
        if join is Join.REWOUND and start.glance.head.rewound_to is not None:
            step = start.glance.head.rewound_to
            starts = [replace(one, until=min(one.until, step)) for one in starts]
            last = min(math.floor(step), math.floor(step) if last is None else last)
        start = replace(start, join=join, floor=_floor(join, last, start.glance))
        starts.append(start)
        last = max((step for step in (last, start.last_step) if step is not None), default=None)
    return RunStarts(starts, overwritten)


def _starts(logs: Sequence[LogGlance]) -> Iterator[Start]:
    """Group logs into starts, each with its copies."""
    by_start: defaultdict[object, list[LogGlance]] = defaultdict(list)
    for log in logs:
        by_start[log.head.started_ns or log.log].append(log)
    for copies in by_start.values():
        longest, *others = longest_first(copies)
        yield Start(longest, tuple(others))


def _join(before: Sequence[Start], last: int | None, log: LogGlance) -> Join:
    """How the start of `log` relates to those before it. `last` is their last step."""
    if not before:
        return Join.FIRST
    if log.head.rewound_to is not None:
        return Join.REWOUND
    if log.head.resume and log.offline:
        return Join.RESUMED
    ended_s = max((start.glance.last_time_s or 0.0 for start in before), default=0.0)
    if log.began_s is None or log.began_s < ended_s:
        return Join.BESIDE
    if log.head.resume:
        return Join.RESUMED
    if log.offline:
        return Join.ASSUMED
    if log.first_step is not None and last is not None and log.first_step <= last:
        return Join.OVERWRITES
    return Join.FOLLOWS


def first_floor(log: Path, head: RunHead) -> int | None:
    """The step after which the rows of a run's first log are numbered. None: they keep their steps."""
    forked = math.floor(head.fork.step) if head.fork else None
    uploaded = starting_step(log) if head.offline and head.resume else None
    return forked if uploaded is None else max(uploaded - 1, -1 if forked is None else forked)


def _floor(join: Join, last: int | None, log: LogGlance) -> int | None:
    match join:
        case Join.FIRST | Join.OVERWRITES:
            return first_floor(log.log, log.head)
        case Join.FOLLOWS | Join.BESIDE:
            return None
        case _:
            before = -1 if last is None else last
            uploaded = starting_step(log.log) if log.offline and log.head.resume else None
            return before if uploaded is None else max(uploaded - 1, before)


# ---------------------------------------------------------------- forks


def parent_has_changed(fork: RunHead, logs_of: Mapping[str, Sequence[LogGlance]]) -> bool:
    """Whether a fork's parent was rewound or overwritten after the fork, so that it now has other rows.

    `logs_of`: the logs of each run in its project.
    """
    if fork.fork is None or fork.fork.run_id not in logs_of:
        return False
    parent = logs_of[fork.fork.run_id]
    then = _as_of(fork, parent)
    return bool(then.starts) and _rows_below(then, fork.fork.step) != _rows_below(run_of(parent), fork.fork.step)


def inherited_starts(
    fork: RunHead, logs_of: Mapping[str, Sequence[LogGlance]], seen: tuple[str, ...] = ()
) -> list[Start]:
    """The starts of other runs whose rows a fork reads, oldest ancestor first, each up to its fork point."""
    if fork.fork is None or fork.fork.run_id not in logs_of or fork.fork.run_id in seen:
        return []
    step = fork.fork.step
    parent = _as_of(fork, logs_of[fork.fork.run_id])
    if not parent.starts:
        return []
    above = inherited_starts(parent.head, logs_of, (*seen, fork.run_id))
    return [replace(start, until=min(start.until, step)) for start in (*above, *parent.starts)]


def _as_of(fork: RunHead, parent: Sequence[LogGlance]) -> RunStarts:
    """The parent as it was when `fork` was forked from it."""
    left_ns = fork.started_ns
    return run_of([log for log in parent if left_ns is None or (log.head.started_ns or 0) <= left_ns])


def _rows_below(run: RunStarts, step: float) -> list[tuple[int | None, int | None, float]]:
    """Identify the rows of a run up to `step`: for each start, when it began, its floor, and the end of its rows."""
    return [
        (start.glance.head.started_ns, start.floor, min(start.until, step))
        for start in run.starts
        if start.first_step is not None and start.first_step <= step
    ]
