"""Reads W&B's transaction log, the file `run-ID.wandb`.

The format is that of wandb 0.31 (its `core/internal/transactionlog`): LevelDB's log after a header of its own.

    file    header, then blocks of 32768 bytes counted from the start of the file: the header is in the first block
    header  ":W&B", 0xBEE1 little-endian, version 0
    block   chunks; if fewer than 7 bytes are left, zeros
    chunk   CRC-32 of type and payload (u32), length (u16), type (u8), payload; numbers little-endian
    record  one chunk FULL, or chunks FIRST, MIDDLE..., LAST: a serialized protobuf `Record`

W&B writes in blocks, so the log of a killed process may end anywhere, even right after the header. All complete records
are read. After a damaged chunk, reading continues with the first record that begins in a later block. Zeros in place of
a chunk, as a power loss leaves them, count as damage too.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from migrator.errors import ErrorClass, Rejected, Retryable

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

HEADER = b":W&B\xe1\xbe\x00"
BLOCK_BYTES = 32768
CHUNK_HEAD = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
#: the checksum covers the type, then the payload: CRC-32 continues from that of the type
CRC_SEED = {kind: zlib.crc32(bytes([kind])) for kind in (FULL, FIRST, MIDDLE, LAST)}
READ_AHEAD_BYTES = 1024 * 1024
PAGE_BYTES = 2 * 1024 * 1024
#: fields of a Record that say what it is (wandb_internal.proto)
HISTORY, SUMMARY, OUTPUT, STATS, OUTPUT_RAW, CONTROL, RUN = 2, 3, 4, 7, 13, 16, 17
UNKNOWN = 0
RECORD_BYTES_MAX = 64 * 1024 * 1024  # longer records are not read: parsed, one takes several times its size in memory

HOLES_SHOWN = 3  # in a message


@dataclass(frozen=True, slots=True)
class Tail:
    """What a pass over a log could not read.

    `torn_at` is the offset after the last complete record if anything but padding follows it, else None. `holes` are
    unreadable places before that: (first byte, byte after the last). `bytes_lost` is the total size of all of them.
    `too_long`: how many holes are records over RECORD_BYTES_MAX.
    """

    torn_at: int | None = None
    bytes_lost: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    too_long: int = 0

    def without_torn_end(self) -> Tail:
        """Only what was lost before the end."""
        return replace(self, torn_at=None, bytes_lost=sum(end - begin for begin, end in self.holes))

    def __str__(self) -> str:
        places = [f"bytes {begin} to {end}" for begin, end in self.holes[:HOLES_SHOWN]]
        if len(self.holes) > HOLES_SHOWN:
            places.append(f"{len(self.holes) - HOLES_SHOWN} more places")
        where = f" ({', '.join(places)})" if places else ""
        torn = "" if self.torn_at is None else f", the readable part ends at byte {self.torn_at}"
        long = f", {self.too_long} of these records over {RECORD_BYTES_MAX >> 20} MiB" if self.too_long else ""
        return f"{self.bytes_lost} bytes cannot be read{where}{torn}{long}"


def load_sdk() -> None:
    """Import the SDK in this process, before threads do.

    They import parts of it when they read their first logs, or log in at W&B. Who imports a part holds it and waits
    for the whole; who imports the whole waits for that part: then Python goes on with a half-imported `wandb`.
    """
    import wandb  # noqa: F401


class Page(NamedTuple):
    """Consecutive records in serialized form. A pass over the log from one of the `begins` on finds that one first."""

    payloads: list[bytes]
    begins: list[int]
    ends: list[int]


class WandbLog:
    """One pass over the complete records of the log at `path`.

    It begins at `offset`: 0, or the offset that an earlier pass returned with a record. `tail` is complete when the
    pass has reached the end of the file. Raises `Rejected` for a file that is gone, may not be read or is not a W&B
    log, and `Retryable` for other failures of the disk.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._offset = max(offset, len(HEADER))
        self._tail = Tail()
        self._undecoded: list[tuple[int, int]] = []

    @property
    def tail(self) -> Tail:
        if not self._undecoded:
            return self._tail
        lost = self._tail.bytes_lost + sum(end - begin for begin, end in self._undecoded)
        return replace(self._tail, bytes_lost=lost, holes=tuple(sorted((*self._tail.holes, *self._undecoded))))

    def records(self, *kinds: int) -> Iterator[tuple[Record, int]]:
        """Each complete record with the offset after it: all, or those of these kinds."""
        return ((record, end) for record, _, end in self.parse(self.payloads(), *kinds))

    def parse(self, payloads: Iterable[tuple[bytes, int]], *kinds: int) -> Iterator[tuple[Record, int, int]]:
        """The records of these kinds (none given: of all) among some payloads: (record, size, offset after it)."""
        for payload, end in payloads:
            if kinds and record_kind(payload) not in (*kinds, UNKNOWN):
                continue
            if (record := self.parsed(payload, end)) is not None:
                yield record, len(payload), end

    def pages(self, until: float = math.inf) -> Iterator[Page]:
        """All complete records that end at offset `until` or before, in pages of PAGE_BYTES."""
        payloads: list[bytes] = []
        ends, size = [self._offset], 0
        for payload, end in self.payloads():
            if end > until:
                break
            payloads.append(payload)
            ends.append(end)
            size += len(payload)
            if size >= PAGE_BYTES:
                yield Page(payloads, ends[:-1], ends[1:])
                payloads, ends, size = [], [end], 0
        if payloads:
            yield Page(payloads, ends[:-1], ends[1:])

    def parsed(self, payload: bytes, end: int) -> Record | None:
        """The record of a payload that ends at `end`. None: it cannot be decoded, which is noted in `tail`."""
        parse, decode_error = _parser()
        try:
            return parse(payload)
        except decode_error:  # right checksum, but unknown message: from another program or a newer format
            self._undecoded.append((end - CHUNK_HEAD.size - len(payload), end))
            return None

    def payloads(self) -> Iterator[tuple[bytes, int]]:
        """Each complete record in serialized form, with the offset after it."""
        unpack, crc32, full_seed = CHUNK_HEAD.unpack_from, zlib.crc32, CRC_SEED[FULL]
        begun: list[bytes] = []  # chunks of the record that is not complete yet; only the last one if it is too long
        begun_at = begun_bytes = too_long = 0
        good_end = file_end = self._offset  # after the last complete record, and after the last block
        damaged = False  # whether anything since then is unreadable
        holes: list[tuple[int, int]] = []
        for block, block_at, pos in self._blocks():
            size = len(block)
            while pos + 7 <= size:
                crc, length, kind = unpack(block, pos)
                stop = pos + 7 + length
                payload = block[pos + 7 : stop]
                if kind == FULL and not begun and stop <= size and crc32(payload, full_seed) == crc:
                    if damaged:
                        holes.append((_behind_padding(good_end), block_at + pos))
                    pos, good_end, damaged = stop, block_at + stop, False
                    yield payload, good_end
                    continue
                if stop > size or kind not in CRC_SEED or crc32(payload, CRC_SEED[kind]) != crc:
                    begun, damaged = [], True
                    break  # unreadable from here to the end of the block
                if (kind in (FULL, FIRST)) == bool(begun):  # its beginning, or its end, was in a damaged block
                    damaged = True
                    begun = []
                    if kind in (MIDDLE, LAST):
                        pos = stop
                        continue
                if not begun:
                    begun_at, begun_bytes = block_at + pos, 0
                pos = stop
                begun_bytes += length
                if begun_bytes > RECORD_BYTES_MAX:
                    begun.clear()
                begun.append(payload)
                if kind in (FULL, LAST):
                    if damaged:
                        holes.append((_behind_padding(good_end), begun_at))
                    whole, begun = b"".join(begun), []
                    good_end, damaged = block_at + stop, False
                    if begun_bytes > RECORD_BYTES_MAX:
                        holes.append((begun_at, good_end))
                        too_long += 1
                        continue
                    yield whole, good_end
            file_end = block_at + size
        torn_bytes = max(0, file_end - _behind_padding(good_end))
        lost = torn_bytes + sum(end - begin for begin, end in holes)
        self._tail = Tail(good_end if torn_bytes else None, lost, tuple(holes), too_long)

    def _blocks(self) -> Iterator[tuple[bytes, int, int]]:
        """Each block with its offset in the file and the position in it at which to start reading."""
        with opened(self.path) as file:
            head = file.read(len(HEADER))
            if not HEADER.startswith(head):
                raise Rejected(ErrorClass.BAD_DATA, f"{self.path} is not a W&B log: it begins with {head!r}")
            if len(head) < len(HEADER):  # the process died before it wrote anything
                return
            pos = self._offset % BLOCK_BYTES
            block_at = self._offset - pos
            file.seek(block_at)
            while block := file.read(BLOCK_BYTES):
                yield block, block_at, pos
                block_at += len(block)
                pos = 0


@cache
def _parser() -> tuple[Callable[[bytes], Record], type[Exception]]:
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    return Record.FromString, DecodeError


def record_kind(payload: bytes) -> int:
    """The field that says what a serialized record is, read without parsing it. UNKNOWN: only parsing can tell."""
    at = 0
    if payload[:1] == b"\x08":  # `num`, a varint
        at = 1
        while payload[at : at + 1] >= b"\x80":
            at += 1
        at += 1
    tag = payload[at : at + 2]
    if len(tag) < 2 or tag[0] & 7 != 2:  # not a message
        return UNKNOWN
    kind = tag[0] >> 3 if tag[0] < 0x80 else (tag[0] & 0x7F) >> 3 | tag[1] << 4
    return kind if kind < CONTROL or kind == RUN else UNKNOWN  # `control` and some later fields come beside others


def _behind_padding(end: int) -> int:
    """The offset at which the next chunk may begin after a record that ends at `end`."""
    left = BLOCK_BYTES - end % BLOCK_BYTES
    return end + left if left < CHUNK_HEAD.size else end


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of the source for reading. Translates errors. Pipes and devices are never opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Rejected(ErrorClass.BAD_DATA, f"{path} is not a regular file")
        with open(path, "rb", buffering=READ_AHEAD_BYTES, opener=_open_at_once) as file:
            yield file
    except FileNotFoundError as error:
        raise Rejected(ErrorClass.NOT_FOUND, f"{path} is gone") from error
    except PermissionError as error:
        raise Rejected(ErrorClass.PERMISSION, f"{path} may not be read by this user") from error
    except OSError as error:
        raise Retryable(ErrorClass.UNAVAILABLE, f"{path} cannot be read: {error.strerror or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without blocking, in case the file has meanwhile been replaced by a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
