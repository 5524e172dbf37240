"""Reader of W&B's transaction log, the file `run-ID.wandb`.

The format is that of wandb 0.31 (its `core/internal/transactionlog`): LevelDB's log behind a header of its own.

    file    header, then blocks of 32768 bytes counted from the start of the file: the header lies in the first
    header  ":W&B", 0xBEE1 little-endian, version 0
    block   chunks; where fewer than 7 bytes are left, zeros
    chunk   CRC-32 of type and payload (u32), length (u16), type (u8), payload; numbers little-endian
    record  one chunk FULL, or chunks FIRST, MIDDLE..., LAST: a serialized protobuf `Record`

W&B writes in blocks, so the log of a process that was killed ends anywhere, even right behind the header. Everything
whole is read; where a chunk is damaged, reading goes on with the first record that begins in a later block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from migrator.errors import ErrorClass, Rejected, Retryable

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

HEADER = b":W&B\xe1\xbe\x00"
BLOCK_BYTES = 32768
CHUNK_HEAD = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
#: the checksum covers the type, then the payload: CRC-32 goes on from that of the type alone
CRC_SEED = {kind: zlib.crc32(bytes([kind])) for kind in (FULL, FIRST, MIDDLE, LAST)}
READ_AHEAD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tail:
    """What a pass over a log could not read.

    `torn_at` is the offset behind the last whole record if something unreadable follows it, else None. `bytes_lost`
    counts all bytes that belong to no whole record, there and elsewhere, zeros apart.
    """

    torn_at: int | None = None
    bytes_lost: int = 0

    def __str__(self) -> str:
        where = "" if self.torn_at is None else f", its whole part ends at byte {self.torn_at}"
        return f"{self.bytes_lost} bytes cannot be read{where}"


class WandbLog:
    """One pass over the whole records of the log at `path`.

    It begins at `offset`: 0, or the offset that an earlier pass gave with a record. `tail` is set when the pass has
    come to the end of the file. Raises `Rejected` for a file that is gone, may not be read or is no W&B log, and
    `Retryable` for other failures of the disk.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.tail = Tail()
        self._offset = max(offset, len(HEADER))

    def records(self) -> Iterator[tuple[Record, int]]:
        """Each whole record with the offset behind it."""
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record

        parse = Record.FromString
        undecoded_bytes = 0
        for payload, end in self.payloads():
            try:
                record = parse(payload)
            except DecodeError:  # right checksum, but no such message: another program's, or a newer format's
                undecoded_bytes += len(payload)
                continue
            yield record, end
        self.tail = Tail(self.tail.torn_at, self.tail.bytes_lost + undecoded_bytes)

    def payloads(self) -> Iterator[tuple[bytes, int]]:
        """Each whole record in its serialized form, with the offset behind it."""
        unpack, crc32, full_seed = CHUNK_HEAD.unpack_from, zlib.crc32, CRC_SEED[FULL]
        begun: list[bytes] = []  # chunks of the record that is not whole yet
        good_end = self._offset  # behind the last whole record
        damaged = False  # anything unreadable since then?
        lost = 0
        for block, block_at, pos in self._blocks():
            size = len(block)
            while pos + 7 <= size:
                crc, length, kind = unpack(block, pos)
                stop = pos + 7 + length
                payload = block[pos + 7 : stop]
                if kind == FULL and not begun and stop <= size and crc32(payload, full_seed) == crc:
                    pos, good_end, damaged = stop, block_at + stop, False
                    yield payload, good_end
                    continue
                if stop > size or kind not in CRC_SEED or crc32(payload, CRC_SEED[kind]) != crc:
                    break  # unreadable from here to the end of the block
                pos = stop
                if (kind in (FULL, FIRST)) == bool(begun):
                    if not begun:  # its beginning was in a damaged block
                        lost, damaged = lost + 7 + length, True
                        continue
                    lost, damaged = lost + _chunk_bytes(begun), True  # its end is missing
                    begun = []
                begun.append(payload)
                if kind in (FULL, LAST):
                    whole, begun = b"".join(begun), []
                    good_end, damaged = block_at + stop, False
                    yield whole, good_end
            if pos < size and any(memoryview(block)[pos:]):
                lost, damaged = lost + size - pos, True
            if pos + 7 <= size and begun:  # the record cannot go on behind the gap
                lost, damaged = lost + _chunk_bytes(begun), True
                begun = []
        lost += _chunk_bytes(begun)
        self.tail = Tail(good_end if damaged or begun else None, lost)

    def _blocks(self) -> Iterator[tuple[bytes, int, int]]:
        """Each block with its offset in the file and the position in it to read from."""
        with opened(self.path) as file:
            head = file.read(len(HEADER))
            if not HEADER.startswith(head):
                raise Rejected(ErrorClass.BAD_DATA, f"{self.path} is no W&B log: it begins with {head!r}")
            if len(head) < len(HEADER):  # the process died before it wrote anything
                return
            pos = self._offset % BLOCK_BYTES
            block_at = self._offset - pos
            file.seek(block_at)
            while block := file.read(BLOCK_BYTES):
                yield block, block_at, pos
                block_at += len(block)
                pos = 0


def _chunk_bytes(chunks: list[bytes]) -> int:
    return sum(len(chunk) + 7 for chunk in chunks)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file of the source for reading; its errors are ours."""
    try:
        with open(path, "rb", buffering=READ_AHEAD_BYTES) as file:
            yield file
    except FileNotFoundError as error:
        raise Rejected(ErrorClass.NOT_FOUND, f"{path} is gone") from error
    except PermissionError as error:
        raise Rejected(ErrorClass.PERMISSION, f"{path} may not be read by this user") from error
    except OSError as error:
        raise Retryable(ErrorClass.UNAVAILABLE, f"{path} cannot be read: {error.strerror or error}") from error
