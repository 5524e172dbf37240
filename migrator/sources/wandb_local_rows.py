"""Rows of a local run: history, system metrics and console lines, streamed from its logs.

Nothing is read beyond what the first pass saw (`LogScan.end`), so that all parts of a run that is still being
written belong to one moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from migrator.records import ConsoleLine, HistoryRow, SystemRow
from migrator.sources.wandb_local_console import Console
from migrator.sources.wandb_local_scan import LogScan
from migrator.sources.wandb_local_values import as_time_s, epoch_s, parse_json, row_step, row_values
from migrator.sources.wandb_log import WandbLog, opened

T = TypeVar("T")

PAGE_VALUES = 20_000
PAGE_CHARACTERS = 16_000_000  # of texts in the values
PAGE_LINES = 5_000
STREAMS = {0: "stderr", 1: "stdout"}  # wandb_internal.proto, OutputRawRecord.OutputType


def history_rows(logs: Sequence[LogScan], after_step: float | None) -> Iterator[HistoryRow]:
    """Rows above `after_step`, ascending; rows of equal step in the order of the logs."""
    streams = [_log_rows(log, after_step) for log in logs if log.rows]
    if _follow_each_other(logs):
        return chain.from_iterable(streams)
    return heapq.merge(*streams, key=lambda row: row.step)


def _follow_each_other(logs: Sequence[LogScan]) -> bool:
    last: int | None = None
    for log in logs:
        if not log.rows:
            continue
        if last is not None and log.first_step + log.shift <= last:
            return False
        last = log.last_step + log.shift
    return True


def _log_rows(log: LogScan, after_step: float | None) -> Iterator[HistoryRow]:
    offset, step = log.offset_for(after_step)
    shift = log.shift
    for record in _records(log, offset):
        if not record.HasField("history"):
            continue
        history = record.history
        step = row_step(history, step)
        if after_step is not None and step + shift <= after_step:
            continue
        values = row_values(history)
        values.pop("_step", None)
        yield HistoryRow(step + shift, as_time_s(values.pop("_timestamp", None)), values)


def history_pages(rows: Iterator[HistoryRow]) -> Iterator[list[HistoryRow]]:
    """Pages of about `PAGE_VALUES` values or `PAGE_CHARACTERS`; a page ends only where the step changes."""
    page: list[HistoryRow] = []
    size = characters = 0
    for row in rows:
        if (size >= PAGE_VALUES or characters >= PAGE_CHARACTERS) and row.step != page[-1].step:
            yield page
            page, size, characters = [], 0, 0
        page.append(row)
        size += len(row.values) + 1
        characters += sum([len(value) for value in row.values.values() if type(value) is str])
    if page:
        yield page


def system_rows(logs: Sequence[LogScan], first_row: int) -> Iterator[SystemRow]:
    """Samples of system metrics, numbered over all logs."""
    number = 0
    for log in logs:
        if number + log.stats <= first_row:
            number += log.stats
            continue
        for record in _records(log):
            if not record.HasField("stats") or record.stats.stats_type != 0:
                continue
            if number >= first_row:
                yield _system_row(number, record.stats)
            number += 1


def _system_row(number: int, stats: Any) -> SystemRow:
    time_s = epoch_s(stats.timestamp) if stats.HasField("timestamp") else None
    values = {item.key.removeprefix("system."): parse_json(item.value_json) for item in stats.item}
    return SystemRow(number, time_s, values)


def console_lines(logs: Sequence[LogScan]) -> Iterator[ConsoleLine]:
    """Lines from the raw output in the logs."""
    number = 0
    for log in logs:
        console = Console(number)
        if log.pieces:
            for record in _records(log):
                kind = record.WhichOneof("record_type")
                if kind in ("output_raw", "output"):
                    piece = getattr(record, kind)
                    time_s = epoch_s(piece.timestamp) if piece.HasField("timestamp") else None
                    yield from console.write(STREAMS.get(piece.output_type, "stdout"), time_s, piece.line)
        yield from console.finish()
        number = console.next_number


def output_file_lines(paths: Sequence[Path]) -> Iterator[ConsoleLine]:
    """Lines of `output.log` files: without times, and both streams as one."""
    number = 0
    for path in paths:
        with opened(path) as file:
            for line in file:
                yield ConsoleLine(number, None, "stdout", line.decode(errors="replace").rstrip("\r\n"))
                number += 1


def pages(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    """Pages of `size` rows."""
    page: list[T] = []
    for row in rows:
        page.append(row)
        if len(page) >= size:
            yield page
            page = []
    if page:
        yield page


def _records(log: LogScan, offset: int = 0) -> Iterator[Any]:
    for record, end in WandbLog(log.log, offset).records():
        if end > log.end:
            return
        yield record
