"""One quick pass over a log, for what is needed to list it and to order it among other logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrator.errors import ErrorClass, Rejected, RunError
from migrator.sources.wandb_local.head import RunHead, latest
from migrator.sources.wandb_local.log import Tail, WandbLog, opened
from migrator.sources.wandb_local.values import as_time_s, epoch_s, row_step, row_time_s

SYNC_STATE_MAX_BYTES = 1024 * 1024
OFFLINE_DIRECTORIES = ("offline-", "dryrun-")  # of offline runs, named by SDKs; the oldest logs do not record it


@dataclass(frozen=True, slots=True)
class LogGlance:
    """The contents of one log, in numbers. Steps are as logged; `first_step` is None without rows.

    `rising_end` is the last step if the step rises by at least one with each row. `first_time_s` and `last_time_s` are
    times of rows, samples and output (None: there are no times).
    """

    log: Path
    head: RunHead
    rows: int
    first_step: int | None
    last_step: int
    rising_end: int
    samples: int
    pieces: int
    exit_code: int | None
    first_time_s: float | None
    last_time_s: float | None
    size_bytes: int
    mtime_ns: int
    end: int
    tail: Tail

    @property
    def written_at(self) -> datetime:
        return datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)

    @property
    def whole_bytes(self) -> int:
        """The size of the readable part of the log."""
        return self.end - sum(end - begin for begin, end in self.tail.holes)

    @property
    def began_s(self) -> float | None:
        started_ns = self.head.started_ns
        return started_ns / 1e9 if started_ns is not None else self.first_time_s

    @property
    def offline(self) -> bool:
        return self.head.offline or self.log.parent.name.startswith(OFFLINE_DIRECTORIES)

    @property
    def title(self) -> str:
        """The name of the log in the ledger."""
        return f"{self.log.parent.name}/{self.log.name}"


def glance(path: Path) -> LogGlance | None:
    """Read a log once, quickly. None: it contains no run."""
    try:
        status = path.stat()
    except OSError as error:
        raise Rejected(ErrorClass.NOT_FOUND, f"{path} is gone") from error
    reader = WandbLog(path)
    rows, samples, pieces, end = 0, 0, 0, 0
    first_step: int | None = None
    last_step, rising_end, step = -1, -1, -1
    exit_code: int | None = None
    times = _Times()
    run: Any = None
    last_row: Any = None
    for record, end in reader.records():  # noqa: B007, needed after the loop
        match record.WhichOneof("record_type"):
            case "history":
                step = row_step(record.history, step)
                if first_step is None:
                    first_step = rising_end = step
                    times.saw(row_time_s(record.history))
                else:
                    rising_end = max(step, rising_end + 1)
                last_step = max(step, last_step)
                rows += 1
                last_row = record.history
            case "stats":
                samples += record.stats.stats_type == 0
                times.saw_in(record.stats)
            case "output_raw" | "output" as kind:
                pieces += bool(getattr(record, kind).line)
                times.saw_in(getattr(record, kind))
            case "run":
                run = latest(record.run, run)
            case "exit":
                exit_code = record.exit.exit_code
    if run is None or not run.run_id:
        return None
    if last_row is not None:
        times.saw(row_time_s(last_row))
    return LogGlance(
        log=path,
        head=RunHead.of(run),
        rows=rows,
        first_step=first_step,
        last_step=last_step,
        rising_end=rising_end,
        samples=samples,
        pieces=pieces,
        exit_code=exit_code,
        first_time_s=times.first_s,
        last_time_s=times.last_s,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        end=end,
        tail=reader.tail,
    )


class _Times:
    def __init__(self) -> None:
        self.first_s: float | None = None
        self.last_s: float | None = None

    def saw_in(self, record: Any) -> None:
        if record.HasField("timestamp"):
            self.saw(epoch_s(record.timestamp))

    def saw(self, time_s: float | None) -> None:
        if time_s and as_time_s(time_s):
            self.first_s = time_s if self.first_s is None else min(time_s, self.first_s)
            self.last_s = time_s if self.last_s is None else max(time_s, self.last_s)


def first_head(log: Path) -> RunHead | None:
    """The head of a log from its first run record, without reading further."""
    runs = (record.run for record, _ in WandbLog(log).records() if record.HasField("run"))
    run = next(runs, None)
    return RunHead.of(run) if run is not None else None


def starting_step(log: Path) -> int | None:
    """The step at which W&B began to number the rows when the log was first uploaded. None: it was not uploaded."""
    path = log.with_name(log.name + ".syncstate")
    try:
        with opened(path) as file:
            state = json.loads(file.read(SYNC_STATE_MAX_BYTES))
    except (RunError, ValueError, RecursionError):
        return None
    step = state.get("starting_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def last_sign(written_at: datetime, last_time_s: float | None, head: RunHead) -> datetime:
    """When a run was last known to be alive: the time of its last record, but not after its log was written.

    If the log contains no times, this is when it was written. (A copied file may be much newer than its records.)
    """
    started_s = (head.started_ns or 0) / 1e9
    known_s = max(last_time_s or 0.0, started_s)
    return min(written_at, datetime.fromtimestamp(known_s, UTC)) if known_s else written_at


def longest_first(logs: Sequence[LogGlance]) -> list[LogGlance]:
    """Sort copies of one log: the most complete first; among equal ones, that with the SDK's name and place."""

    def rank(one: LogGlance) -> tuple[int, bool, bool, int, str]:
        named = one.log.name == f"run-{one.head.run_id}.wandb"
        return -one.whole_bytes, not named, one.log.parent.parent.name != "wandb", len(one.log.parts), str(one.log)

    return sorted(logs, key=rank)
