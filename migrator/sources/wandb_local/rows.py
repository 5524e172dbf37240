"""Rows of a local run: history, system metrics and console lines, streamed from its logs.

Nothing is read beyond what the first pass saw (`LogScan.end`), so that all parts of a run that is still being
written belong to one moment. Rows come with their size in the log: pages end by it, whatever the rows hold.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from migrator.records import ConsoleLine, HistoryRow, SystemRow
from migrator.sources.wandb_local.log import WandbLog, opened
from migrator.sources.wandb_local.scan import LogScan
from migrator.sources.wandb_local.terminal import LINE_MAX, Console
from migrator.sources.wandb_local.values import as_time_s, epoch_s, parse_json, row_step, row_values

Row = TypeVar("Row", HistoryRow, SystemRow, ConsoleLine)
Sized = tuple[Row, int]  # a row and how many bytes of the log it takes

PAGE_BYTES = 1024 * 1024  # in memory some 10 times as many: 100 bytes a number with its name, 30 in a list
LINE_BYTES = 32  # of a console line besides its text: an empty one counts, too
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
                    yield from map(_sized, console.write(stream, time_s, piece.line))
        yield from map(_sized, console.finish())
        number = console.next_number


def output_file_lines(paths: Sequence[Path]) -> Iterator[Sized[ConsoleLine]]:
    """Lines of `output.log` files: without times, and both streams as one."""
    number = 0
    for path in paths:
        with opened(path) as file:
            while line := file.readline(LINE_MAX):
                text = line.decode(errors="replace").removesuffix("\n").removesuffix("\r")
                yield _sized(ConsoleLine(number, None, "stdout", text))
                number += 1
                while line and not line.endswith(b"\n"):  # the rest of a longer one
                    line = file.readline(LINE_MAX)


def _sized(line: ConsoleLine) -> Sized[ConsoleLine]:
    return line, LINE_BYTES + len(line.text)


def pages(rows: Iterable[Sized[Row]]) -> Iterator[list[Row]]:
    """Pages of about `PAGE_BYTES`; rows of one step in one page."""
    page: list[Row] = []
    size = 0
    for row, size_bytes in rows:
        if size >= PAGE_BYTES and row[0] != page[-1][0]:  # a row's first field is its step or number
            yield page
            page, size = [], 0
        page.append(row)
        size += size_bytes
    if page:
        yield page


def _records(log: LogScan, offset: int = 0) -> Iterator[tuple[Any, int]]:
    """Each record with its size."""
    before = offset
    for record, end in WandbLog(log.log, offset).records():
        if end > log.end:
            return
        yield record, end - before
        before = end
