"""Rows of a local run: history, system metrics and console lines, streamed from its logs.

Nothing is read beyond what the first pass saw (`LogScan.end`), so that all parts of a run that is still being
written belong to one moment. Rows come with their size in the log: pages end by it, whatever the rows hold.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from migrator.records import ConsoleLine, HistoryRow, SystemRow
from migrator.sources.paging import Sized, output_lines, sized
from migrator.sources.wandb_local.log import WandbLog, opened
from migrator.sources.wandb_local.scan import LogScan
from migrator.sources.wandb_local.terminal import Console
from migrator.sources.wandb_local.values import as_time_s, epoch_s, parse_json, row_step, row_values

STREAMS = {0: "stderr", 1: "stdout"}  # wandb_internal.proto, OutputRawRecord.OutputType


def history_rows(logs: Sequence[LogScan], after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    """Rows above `after_step`, ascending; rows of equal step in the order of the logs."""
    streams = [_log_rows(log, after_step) for log in logs if log.rows]
    if _follow_each_other(logs):
        return chain.from_iterable(streams)
    return heapq.merge(*streams, key=lambda sized: sized[0].step)


def _follow_each_other(logs: Sequence[LogScan]) -> bool:
    last: int | None = None
    for log in logs:
        if not log.rows:
            continue
        if last is not None and log.first_step + log.shift <= last:
            return False
        last = log.last_step + log.shift
    return True


def _log_rows(log: LogScan, after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    offset, step = log.offset_for(after_step)
    shift = log.shift
    for record, size_bytes in _records(log, offset):
        if not record.HasField("history"):
            continue
        history = record.history
        step = row_step(history, step)
        if step > log.until or (after_step is not None and step + shift <= after_step):
            continue
        values = row_values(history)
        values.pop("_step", None)
        yield HistoryRow(step + shift, as_time_s(values.pop("_timestamp", None)), values), size_bytes


def system_rows(logs: Sequence[LogScan], first_row: int) -> Iterator[Sized[SystemRow]]:
    """Samples of system metrics, numbered over all logs."""
    number = 0
    for log in logs:
        if number + log.stats <= first_row:
            number += log.stats
            continue
        for record, size_bytes in _records(log):
            if not record.HasField("stats") or record.stats.stats_type != 0:
                continue
            if number >= first_row:
                yield _system_row(number, record.stats), size_bytes
            number += 1


def _system_row(number: int, stats: Any) -> SystemRow:
    time_s = epoch_s(stats.timestamp) if stats.HasField("timestamp") else None
    values = {item.key.removeprefix("system."): parse_json(item.value_json) for item in stats.item}
    return SystemRow(number, time_s, values)


def console_lines(logs: Sequence[LogScan]) -> Iterator[Sized[ConsoleLine]]:
    """Lines from the raw output in the logs."""
    number = 0
    for log in logs:
        console = Console(number)
        if log.pieces:
            for record, _ in _records(log):
                kind = record.WhichOneof("record_type")
                if kind in ("output_raw", "output"):
                    piece = getattr(record, kind)
                    time_s = epoch_s(piece.timestamp) if piece.HasField("timestamp") else None
                    stream = STREAMS.get(piece.output_type, "stdout")
                    yield from map(sized, console.write(stream, time_s, piece.line))
        yield from map(sized, console.finish())
        number = console.next_number


def output_file_lines(paths: Sequence[Path]) -> Iterator[Sized[ConsoleLine]]:
    """Lines of `output.log` files, numbered over all of them."""
    number = 0
    for path in paths:
        with opened(path) as file:
            for line in output_lines(file, number):
                yield line
                number = line[0].number + 1


def _records(log: LogScan, offset: int = 0) -> Iterator[tuple[Any, int]]:
    """Each record with its size."""
    before = offset
    for record, end in WandbLog(log.log, offset).records():
        if end > log.end:
            return
        yield record, end - before
        before = end
