"""Rows of a local run: history, system metrics and console lines, streamed from its logs.

Nothing after the end of the first pass (`LogScan.end`) is read, so that all parts of a run that is still being written
are from the same moment. Rows come with their size in the log, which decides where a page ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any

from migrator.records import ConsoleLine, HistoryColumns, HistoryRow, SystemRow
from migrator.sources.paging import Row, Sized, output_lines, pages, sized
from migrator.sources.wandb_local.bulk import OneByOne, columns_of
from migrator.sources.wandb_local.log import HISTORY, OUTPUT, OUTPUT_RAW, STATS, WandbLog, opened
from migrator.sources.wandb_local.scan import LogScan, RunScan
from migrator.sources.wandb_local.terminal import Terminal
from migrator.sources.wandb_local.values import as_time_s, epoch_s, json_or_text, row_values

STREAMS = {0: "stderr", 1: "stdout"}  # wandb_internal.proto, OutputRawRecord.OutputType


def history_pages(scan: RunScan, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
    """Rows with a step above `after_step`, ascending, in pages. Rows of equal step are in the order of the logs."""
    if scan.shared:
        yield from pages(_shared_rows(scan.logs, after_step))
        return
    logs = [log for log in (*scan.inherited, *scan.logs) if log.rows]
    if any(before.last_step >= log.first_step for before, log in pairwise(logs)):
        streams = [_log_rows(log, after_step) for log in logs]
        yield from pages(heapq.merge(*streams, key=lambda sized: sized[0].step))
        return
    for log in logs:
        if log.strictly_ascending:
            yield from _log_pages(log, after_step)
        else:
            yield from pages(_log_rows(log, after_step))


def _shared_rows(logs: Sequence[LogScan], after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    """Rows of all writers in order of time, numbered from 0."""
    for step, (row, size_bytes) in enumerate(_by_time([_log_rows(log, None) for log in logs])):
        if after_step is None or step > after_step:
            yield row._replace(step=step), size_bytes


def _log_rows(log: LogScan, after_step: float | None) -> Iterator[Sized[HistoryRow]]:
    offset, step = log.offset_for(after_step)
    return _wanted(log, _numbered(log, _records(log, HISTORY, offset=offset), step), after_step)


def _log_pages(log: LogScan, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
    """Like `_log_rows`, for a log in which no step is there twice. The numbers of a page are columns if possible."""
    offset, step = log.offset_for(after_step)
    reader = WandbLog(log.log, offset)
    for page in reader.pages(until=log.end):
        try:
            columns = columns_of(page.payloads, log.floor, step)
        except OneByOne:
            records = reader.parse(zip(page.payloads, page.ends, strict=True), HISTORY)
            rows = [*_numbered(log, records, step)]
            yield from pages(_wanted(log, rows, after_step))
            step = rows[-1][0] if rows else step
        else:
            step = int(columns.steps[-1])
            if len((columns := columns.between(after_step, log.until)).steps):
                yield columns


def _numbered(log: LogScan, records: Iterable[tuple[Any, int, int]], step: int) -> Iterator[tuple[int, Any, int]]:
    """The rows among records: (step, row, size). `step` is that of the row before them."""
    for record, size_bytes, _ in records:
        if record.HasField("history"):
            step = log.step_of(record.history, step)
            yield step, record.history, size_bytes


def _wanted(
    log: LogScan, rows: Iterable[tuple[int, Any, int]], after_step: float | None
) -> Iterator[Sized[HistoryRow]]:
    for step, history, size_bytes in rows:
        if step <= log.until and (after_step is None or step > after_step):
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
    for record, size_bytes, _ in _records(log, STATS):
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
    for record, _, _ in _records(log, OUTPUT, OUTPUT_RAW):
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


def _records(log: LogScan, *kinds: int, offset: int = 0) -> Iterator[tuple[Any, int, int]]:
    """Yield each record of these kinds with its size, and the offset after it."""
    reader = WandbLog(log.log, offset)
    return reader.parse(takewhile(lambda one: one[1] <= log.end, reader.payloads()), *kinds)
