"""Pages of rows, in the same way for every source: a page ends at a given size, whatever the rows contain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

from migrator.limits import STRING_MAX_BYTES
from migrator.records import ConsoleLine, HistoryRow, SystemRow

Row = TypeVar("Row", HistoryRow, SystemRow, ConsoleLine)
Sized = tuple[Row, int]  # a row and its size in the source, in bytes

PAGE_BYTES = 1024 * 1024  # in memory about 10 times as much: 100 bytes per number with its name, 30 in a list
LINE_BYTES = 32  # of a console line besides its text, so that empty lines count too
LINE_MAX = STRING_MAX_BYTES + 2  # characters kept: over Neptune's limit even without a final "\r", so the cut is noted


def pages(rows: Iterable[Sized[Row]]) -> Iterator[list[Row]]:
    """Group rows into pages of about `PAGE_BYTES`. Rows of one step stay in one page."""
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


def output_lines(file: BinaryIO, number: int) -> Iterator[Sized[ConsoleLine]]:
    """The lines of an `output.log` from `number` on, without times, and with both streams as one."""
    while line := file.readline(LINE_MAX):
        text = line.decode(errors="replace").removesuffix("\n").removesuffix("\r")
        yield sized(ConsoleLine(number, None, "stdout", text))
        number += 1
        while line and not line.endswith(b"\n"):  # the rest of a longer line
            line = file.readline(LINE_MAX)


def sized(line: ConsoleLine) -> Sized[ConsoleLine]:
    """A line with its size in memory."""
    return line, LINE_BYTES + len(line.text)
