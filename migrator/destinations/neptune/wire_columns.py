"""Encodes columns of numbers as Neptune's protobuf messages, many rows at once.

The snapshots of rows with the same paths differ only in their numbers: step, time, values. So they are laid out as a
matrix of bytes with one row per snapshot. The constant bytes are written once, the numbers column by column. Numbers of
variable length (varints) are padded to a fixed width, which every protobuf parser accepts. If a row lacks a point, the
bytes of its entry are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot, UpdateRunSnapshots
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

from migrator.limits import STEP_MAX
from migrator.records import Columns

VARINT, DOUBLE, MESSAGE = 0, 1, 2  # protobuf: types of fields
STEP_WIDTH, SECONDS_WIDTH, NANOS_WIDTH, LENGTH_WIDTH = 6, 5, 5, 4  # bytes of padded varints, 7 bits each
SECONDS_MAX = 2 ** (7 * SECONDS_WIDTH)

assert STEP_MAX <= 2 ** (7 * STEP_WIDTH)
assert 2 ** (7 * NANOS_WIDTH) >= 10**9


@dataclass
class Encoded:
    """A `RunOperation` whose snapshots are partly encoded already: first those of `wire`, then those of `more`."""

    project: str
    run_id: str
    wire: Sequence[bytes] = ()
    more: UpdateRunSnapshots = field(default_factory=UpdateRunSnapshots)

    @classmethod
    def following(cls, before: RunOperation | Encoded, snapshots: bytes) -> Encoded:
        """The operation `before`, followed by more snapshots."""
        if isinstance(before, RunOperation):
            return cls(before.project, before.run_id, [before.update_batch.SerializeToString(), snapshots])
        return cls(before.project, before.run_id, [*before.wire, before.more.SerializeToString(), snapshots])

    def SerializeToString(self) -> bytes:
        """The encoded message."""
        snapshots = b"".join([*self.wire, self.more.SerializeToString()])
        head = RunOperation(project=self.project, run_id=self.run_id).SerializeToString()
        return b"".join([head, _tag(_BATCH.number, MESSAGE), _varint(len(snapshots)), snapshots])

    def message(self) -> RunOperation:
        """The same message as an object."""
        return RunOperation.FromString(self.SerializeToString())

    def snapshots(self) -> Iterator[bytes]:
        """The encoded snapshots one by one."""
        for encoded in (*self.wire, self.more.SerializeToString()):
            at = 0
            while at < len(encoded):
                size, begin = _varint_at(encoded, at + 1)  # behind a tag of one byte
                at = begin + size
                yield encoded[begin:at]


Operation = RunOperation | Encoded


def fits_in_rows(columns: Columns, room_bytes: int) -> bool:
    """Whether each row fits in one snapshot of at most `room_bytes`, with no time before 1970."""
    size_bytes = sum(len(_entry(path)) + 8 for path in columns.values)
    return size_bytes <= room_bytes and bool(columns.times_us[0] >= 0)


def encoded_snapshots(columns: Columns, size_bytes: int) -> Iterator[bytes]:
    """Encode the rows that have points as `snapshots` of an `UpdateRunSnapshots`, in pieces of about `size_bytes`."""
    layout = _Layout(columns)
    each = max(1, size_bytes // layout.width)
    for start in range(0, len(columns.steps), each):
        if piece := layout.encode(columns.rows(start, start + each)):
            yield piece


class _Layout:
    """What all rows have in common: the bytes of a row in which every path has a point."""

    def __init__(self, columns: Columns) -> None:
        row = bytearray(_tag(_SNAPSHOTS.number, MESSAGE))
        self._length = len(row)
        row += bytes(LENGTH_WIDTH)
        self._head = len(row)
        row += _tag(_FIELDS["step"].number, MESSAGE) + _varint(1 + STEP_WIDTH + 2) + _tag(_WHOLE.number, VARINT)
        self._step = len(row)
        row += bytes(STEP_WIDTH) + _tag(_MICRO.number, VARINT) + b"\0"  # marks the step as present
        row += _tag(_FIELDS["timestamp"].number, MESSAGE) + _varint(2 + SECONDS_WIDTH + NANOS_WIDTH)
        row += _tag(_SECONDS.number, VARINT)
        self._seconds = len(row)
        row += bytes(SECONDS_WIDTH) + _tag(_NANOS.number, VARINT)
        self._nanos = len(row)
        row += bytes(NANOS_WIDTH)
        self._entries: dict[str, slice] = {}
        for path in columns.values:
            start = len(row)
            row += _entry(path) + bytes(8)
            self._entries[path] = slice(start, len(row))
        self._row = np.frombuffer(bytes(row), np.uint8)
        self.width = len(row)

    def encode(self, columns: Columns) -> bytes:
        count = len(columns.steps)
        matrix = np.empty((count, self.width), np.uint8)
        matrix[:] = self._row
        seconds = columns.times_us // 1_000_000
        _write(matrix, self._step, STEP_WIDTH, columns.steps)
        _write(matrix, self._seconds, SECONDS_WIDTH, seconds)
        _write(matrix, self._nanos, NANOS_WIDTH, (columns.times_us - seconds * 1_000_000) * 1000)
        for path, values in columns.values.items():
            doubles = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(count, 8)
            matrix[:, self._entries[path].stop - 8 : self._entries[path].stop] = doubles
        lengths = np.full(count, self.width - self._head, np.int64)
        if not columns.present:
            _write(matrix, self._length, LENGTH_WIDTH, lengths)
            return matrix.tobytes()
        kept = np.ones((count, self.width), np.bool_)
        points = np.full(count, len(columns.values) - len(columns.present))
        for path, where in columns.present.items():
            entry = self._entries[path]
            kept[:, entry] = where[:, None]
            lengths -= (entry.stop - entry.start) * ~where
            points += where
        kept[points == 0] = False
        _write(matrix, self._length, LENGTH_WIDTH, lengths)
        return matrix[kept].tobytes()


def _write(matrix: Any, at: int, width: int, numbers: Any) -> None:
    """Write a column of numbers as varints of `width` bytes. All bytes but the last have the continuation bit."""
    for i in range(width):
        matrix[:, at + i] = (numbers >> 7 * i) & 127 | (128 if i < width - 1 else 0)


@lru_cache(4096)
def _entry(path: str) -> bytes:
    """The entry of `append` for a number at `path`, up to the eight bytes of the number."""
    name = path.encode()
    double = _tag(_FLOAT64.number, DOUBLE)
    entry = _tag(1, MESSAGE) + _varint(len(name)) + name + _tag(2, MESSAGE) + _varint(len(double) + 8) + double
    return _tag(_FIELDS["append"].number, MESSAGE) + _varint(len(entry) + 8) + entry


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _varint_at(encoded: bytes, at: int) -> tuple[int, int]:
    """A varint, which may be padded, and the position behind it."""
    number = shift = 0
    while encoded[at] > 127:
        number |= (encoded[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | encoded[at] << shift, at + 1


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


_FIELDS = UpdateRunSnapshot.DESCRIPTOR.fields_by_name
_WHOLE, _MICRO = (_FIELDS["step"].message_type.fields_by_name[name] for name in ("whole", "micro"))
_SECONDS, _NANOS = (_FIELDS["timestamp"].message_type.fields_by_name[name] for name in ("seconds", "nanos"))
_FLOAT64 = _FIELDS["append"].message_type.fields_by_name["value"].message_type.fields_by_name["float64"]
_SNAPSHOTS = UpdateRunSnapshots.DESCRIPTOR.fields_by_name["snapshots"]
_BATCH = RunOperation.DESCRIPTOR.fields_by_name["update_batch"]
