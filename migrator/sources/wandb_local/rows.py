"""Rows of a local run: history, system metrics and console lines, streamed from its logs.

Nothing after the end of the first pass (`LogScan.end`) is read, so that all parts of a run that is still being written
are from the same moment. Rows come with their size in the log, which decides where a page ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from migrator.records import ConsoleLine, HistoryRow, SystemRow
from migrator.sources.paging import Row, Sized, output_lines, sized
from migrator.sources.wandb_local.log import WandbLog, opened
from migrator.sources.wandb_local.scan import LogScan, RunScan
from migrator.sources.wandb_local.terminal import Terminal
from migrator.sources.wandb_local.values import as_time_s, epoch_s, json_or_text, row_values

STREAMS = {0: "stderr", 1: "stdout"}  # wandb_internal.proto, OutputRawRecord.OutputType


def history_rows(scan: RunScan, after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    """Rows with a step above `after_step`, ascending. Rows of equal step are in the order of the logs."""
    if scan.shared:
        return _shared_rows(scan.logs, after_step)
    logs = [log for log in (*scan.inherited, *scan.logs) if log.rows]
    streams = [_log_rows(log, after_step) for log in logs]
    if all(before.last_step < log.first_step for before, log in pairwise(logs)):
        return chain.from_iterable(streams)
    return heapq.merge(*streams, key=lambda sized: sized[0].step)


def _shared_rows(logs: Sequence[LogScan], after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    """Rows of all writers in order of time, numbered from 0."""
    for step, (row, size_bytes) in enumerate(_by_time([_log_rows(log, None) for log in logs])):
        if after_step is None or step > after_step:
            yield row._replace(step=step), size_bytes


def _log_rows(log: LogScan, after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    offset, step = log.offset_for(after_step)
    for record, size_bytes in _records(log, offset):
        if not record.HasField("history"):
            continue
        history = record.history
        step = log.step_of(history, step)
        if step > log.until or (after_step is not None and step <= after_step):
            continue
        values = row_values(history)
        values.pop("_step", None)
        yield HistoryRow(step, as_time_s(values.pop("_timestamp", None)), values), size_bytes


def system_rows(scan: RunScan, first_row: int) -> Iterator[Sized[SystemRow]]:
    """Samples of system metrics, numbered over all logs. Those of concurrent processes are in order of time."""
    if scan.concurrent:
        for number, (row, size_bytes) in enumerate(_by_time([_samples(log, 0, 0) for log in scan.logs])):
            if number >= first_row:
                yield row._replace(number=number), size_bytes
        return
    number = 0
    for log in scan.logs:
        if number + log.stats > first_row:
            yield from _samples(log, number, first_row)
        number += log.stats


def _samples(log: LogScan, number: int, first_row: int) -> Iterator[Sized[SystemRow]]:
    """The samples of a log from number `first_row` on. Its first sample has number `number`."""
    for record, size_bytes in _records(log):
        if not record.HasField("stats") or record.stats.stats_type != 0:
            continue
        if number >= first_row:
            yield _system_row(number, record.stats), size_bytes
        number += 1


def _by_time(streams: Sequence[Iterator[Sized[Row]]]) -> Iterator[Sized[Row]]:
    """Merge rows of several processes in order of time. Rows of one process keep their order."""

    def timed(stream: Iterator[Sized[Row]]) -> Iterator[tuple[float, Sized[Row]]]:
        latest_s = 0.0
        for row in stream:
            latest_s = max(latest_s, row[0].time or 0.0)
            yield latest_s, row

    return (sized for _, sized in heapq.merge(*map(timed, streams), key=lambda one: one[0]))


def _system_row(number: int, stats: Any) -> SystemRow:
    time_s = epoch_s(stats.timestamp) if stats.HasField("timestamp") else None
    values = {item.key.removeprefix("system."): json_or_text(item.value_json) for item in stats.item}
    return SystemRow(number, time_s, values)


def console_lines(scan: RunScan) -> Iterator[Sized[ConsoleLine]]:
    """Lines from the raw output in the logs. Those of concurrent processes are in order of time."""
    streams = [_log_lines(log) for log in scan.logs if log.pieces]
    lines = _by_time(streams) if scan.concurrent else chain.from_iterable(streams)
    for number, (line, size_bytes) in enumerate(lines):
        yield line._replace(number=number), size_bytes


def _log_lines(log: LogScan) -> Iterator[Sized[ConsoleLine]]:
    """The lines of one process, numbered from 0."""
    console = Terminal()
    for record, _ in _records(log):
        kind = record.WhichOneof("record_type")
        if kind in ("output_raw", "output"):
            piece = getattr(record, kind)
            time_s = epoch_s(piece.timestamp) if piece.HasField("timestamp") else None
            stream = STREAMS.get(piece.output_type, "stdout")
            yield from map(sized, console.write(stream, time_s, piece.line))
    yield from map(sized, console.finish())


def output_file_lines(paths: Sequence[Path]) -> Iterator[Sized[ConsoleLine]]:
    """Lines of `output.log` files, numbered over all of them."""
    number = 0
    for path in paths:
        with opened(path) as file:
            for line in output_lines(file, number):
                yield line
                number = line[0].number + 1


def _records(log: LogScan, offset: int = 0) -> Iterator[tuple[Any, int]]:
    """Yield each record with its size."""
    before = offset
    for record, end in WandbLog(log.log, offset).records():
        if end > log.end:
            return
        yield record, end - before
        before = end
