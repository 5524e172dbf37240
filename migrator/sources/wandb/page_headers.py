"""Finds the largest page of a Parquet file. pyarrow holds pages in memory as a whole, but does not tell their sizes.

A column chunk is a sequence of pages, each a `PageHeader` in Thrift's compact protocol and its bytes:
https://github.com/apache/parquet-format (parquet.thrift) and thrift/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

HEADER_BYTES = 64 * 1024  # read at a time; a header is seldom over 100 bytes, but may hold the lowest and highest text
HEADER_BYTES_MAX = 16 * 1024 * 1024
LEVELS_MAX = 20  # of structs in a header; it has 3
UNCOMPRESSED, COMPRESSED = 2, 3  # fields of PageHeader: sizes in bytes, without the header


class ThriftType(IntEnum):
    """Types of values in the compact protocol."""

    STOP = 0
    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    STRUCT = 12


def largest_page(path: Path, meta: Any, over_bytes: int) -> int:
    """The size of the largest page in bytes, decompressed, or 0 if none is over `over_bytes`.

    `meta` is pyarrow's FileMetaData of the file. ValueError if the headers do not fit the file, OSError as usual.
    """
    largest = 0
    with path.open("rb") as file:
        for group in range(meta.num_row_groups):
            for column in range(meta.num_columns):
                chunk = meta.row_group(group).column(column)
                if max(chunk.total_uncompressed_size, chunk.total_compressed_size) > over_bytes:
                    largest = max(largest, *_pages(file, chunk))
    return largest if largest > over_bytes else 0


def _pages(file: BinaryIO, chunk: Any) -> Iterator[int]:
    """The sizes of a chunk's pages, each the larger one of its two."""
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    at = min(starts)
    end = at + chunk.total_compressed_size
    yield 0
    while at < end:
        header = _Header(file, at)
        sizes = header.numbers(UNCOMPRESSED, COMPRESSED)
        if min(sizes) < 0:
            raise ValueError("a page of negative size")
        yield max(sizes)
        at += header.length + sizes[1]


class _Header:
    """A PageHeader at a position of the file."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        file.seek(at)
        self._file, self._bytes, self._next = file, file.read(HEADER_BYTES), 0
        self._numbers: dict[int, int] = {}
        for field, kind in self._fields():
            if kind == ThriftType.I32:
                self._numbers[field] = self._integer()
            else:
                self._skip(kind, 0)

    @property
    def length(self) -> int:
        return self._next

    def numbers(self, *fields: int) -> list[int]:
        try:
            return [self._numbers[field] for field in fields]
        except KeyError as error:
            raise ValueError("not a page header") from error

    def _fields(self) -> Iterator[tuple[int, int]]:
        """The number and type of each field of a struct. The caller reads or skips its value."""
        field = 0
        while (head := self._take(1)[0]) != ThriftType.STOP:
            field = field + (head >> 4) if head >> 4 else self._integer()
            yield field, head & 15

    def _skip(self, kind: int, level: int) -> None:
        if level > LEVELS_MAX:
            raise ValueError("not a page header")
        match kind:
            case ThriftType.TRUE | ThriftType.FALSE:  # the type is the value
                pass
            case ThriftType.BYTE:
                self._take(1)
            case ThriftType.I16 | ThriftType.I32 | ThriftType.I64:
                self._varint()
            case ThriftType.DOUBLE:
                self._take(8)
            case ThriftType.BINARY:
                self._take(self._varint())
            case ThriftType.LIST | ThriftType.SET:
                head = self._take(1)[0]
                for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                    self._skip(
                        ThriftType.BYTE if head & 15 in (ThriftType.TRUE, ThriftType.FALSE) else head & 15, level + 1
                    )
            case ThriftType.STRUCT:
                for _, inner in self._fields():
                    self._skip(inner, level + 1)
            case _:  # page headers have no maps
                raise ValueError("not a page header")

    def _integer(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while shift < 64:
            byte = self._take(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise ValueError("not a page header")

    def _take(self, count: int) -> bytes:
        end = self._next + count
        if end > HEADER_BYTES_MAX:
            raise ValueError("a page header that does not end")
        while end > len(self._bytes):
            more = self._file.read(max(HEADER_BYTES, end - len(self._bytes)))
            if not more:
                raise ValueError("a page header that is cut")
            self._bytes += more
        taken = self._bytes[self._next : end]
        self._next = end
        return taken
