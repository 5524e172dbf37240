"""Digests: a summary, about 300 bytes long, of what was written at each path, to compare with what is read back.

The digest of a series is a set of sums, so batches may come in any order and a resumed copy just adds to it. It is
saved in the same transaction as the cursor, so what is sent again after a crash is not counted twice. The digest of a
single value or file is replaced by what is written later at its path. See `run_digests` for how they are kept.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from migrations_db.types import DigestRow
from migrator.records import PointKind, Scalar

Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]

VALUE, FILE = "value", "file"  # kinds of digests besides the kinds of series
FLOATS, TEXTS, HISTOGRAMS, FILES = PointKind


_MASK = 2**64 - 1
_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NAN_BITS = np.uint64(0x7FF8000000000000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class SeriesDigest:
    """The digest of the points of one series. Steps are in millionths; times in ms, as they are read back.

    There are two sums of times, because it is not known whether a server cuts or rounds microseconds. `hash1` and
    `hash2` are sums (modulo 2^64) of hashes of (step, value). For files, the value is the size, and `content` is the
    sum of the md5s. `refused`: this many of `count` may have been refused; the destination did not say which.
    """

    count: int = 0
    first: int = 0
    last: int = 0
    cut_ms: int = 0
    rounded_ms: int = 0
    nan: int = 0
    infinite: int = 0
    low: float | None = None
    high: float | None = None
    hash1: int = 0
    hash2: int = 0
    content: int = 0
    refused: int = 0

    def add(self, other: SeriesDigest) -> None:
        """Add the points of another digest."""
        if not other.count:
            return
        self.first = min(self.first, other.first) if self.count else other.first
        self.last = max(self.last, other.last) if self.count else other.last
        self.low = min((x for x in (self.low, other.low) if x is not None), default=None)
        self.high = max((x for x in (self.high, other.high) if x is not None), default=None)
        for name in ("count", "cut_ms", "rounded_ms", "nan", "infinite", "refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("hash1", "hash2", "content"):
            setattr(self, name, (getattr(self, name) + getattr(other, name)) & _MASK)


@dataclass(frozen=True, slots=True)
class ValueDigest:
    """The digest of a single value: its type, and a text that only equal values share. Strings are hashed, tags listed.

    `uncertain`: the destination refused something and did not say whether it was this value.
    """

    type: str
    text: str
    uncertain: bool = False


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The digest of a file."""

    size_bytes: int
    md5: str
    uncertain: bool = False


AnyDigest = SeriesDigest | ValueDigest | FileDigest


# ---------------------------------------------------------------- single values


def of_value(value: Scalar | frozenset[str]) -> ValueDigest:
    """The digest of a single value. Times are microseconds since the epoch."""
    match value:
        case bool():
            return ValueDigest("bool", str(value))
        case int():
            return ValueDigest("int", str(value))
        case float():
            return ValueDigest("float", repr(value + 0.0))  # -0.0 is 0.0
        case str():
            return ValueDigest("string", f"{hash_of(value.encode()):016x} of {len(value)} characters")
        case datetime():
            return ValueDigest("datetime", str((value - _EPOCH) // timedelta(microseconds=1)))
        case frozenset():
            return ValueDigest("stringSet", json.dumps(sorted(value), ensure_ascii=False))


def hash_of(data: bytes) -> int:
    """Hash to 64 bits with blake2b."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def hash_of_histogram(edges: Sequence[float], values: Sequence[float]) -> int:
    """Hash a histogram. Equal counts and densities have equal hashes."""
    return hash_of(struct.pack(f"<I{len(edges)}d{len(values)}d", len(edges), *edges, *values))


# ---------------------------------------------------------------- series


def micro_steps(steps: npt.ArrayLike) -> Longs:
    """Convert steps to millionths. Both ways use the same arithmetic, because steps are read back as doubles."""
    return np.rint(np.asarray(steps, np.float64) * 1e6).astype(np.int64)


def bits_of(values: Doubles) -> Words:
    """The bits of doubles. All NaNs become the same, and -0.0 becomes 0.0."""
    values = values + 0.0  # -0.0 is 0.0
    bits = values.view(np.uint64)
    bits[np.isnan(values)] = _NAN_BITS
    return bits


def series_digest(
    steps: Longs, times_ms: Longs, values: Doubles | Words, contents: Words | None = None
) -> SeriesDigest:
    """The digest of points that were read back, in any order. `values`: doubles or hashes (for files, their sizes)."""
    if not len(steps):
        return SeriesDigest()
    order = np.argsort(steps, kind="stable")
    times = times_ms[order]
    [digest] = reduced(steps[order], times, times, values[order], np.array([0]))
    if contents is not None:
        digest.content = int(mixed(steps[order], contents[order])[0].sum(dtype=np.uint64))
    return digest


def _mix(x: Words) -> Words:
    """The final mixing step of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * _B
    x = (x ^ (x >> np.uint64(27))) * _C
    return x ^ (x >> np.uint64(31))


def mixed(steps: Longs, bits: Words) -> tuple[Words, Words]:
    """Two independent hashes of each (step, value)."""
    words = steps.view(np.uint64)
    return _mix(words * _A + bits), _mix(bits * _C ^ _mix(words + _B))


def reduced(
    steps: Longs, cut_ms: Longs, rounded_ms: Longs, values: Doubles | Words, starts: npt.NDArray[np.int64]
) -> list[SeriesDigest]:
    """The digests of several series, one after another in one array, each by rising step, beginning at `starts`."""
    ends = np.append(starts[1:], len(steps)) - 1
    is_float = values.dtype == np.float64
    hash1, hash2 = mixed(steps, bits_of(values) if is_float else values)  # type: ignore[arg-type]
    columns: list[Any] = [ends - starts + 1, steps[starts], steps[ends]]
    columns += [np.add.reduceat(ms, starts) for ms in (cut_ms, rounded_ms)]
    columns += [[0] * len(starts)] * 2 + [[None] * len(starts)] * 2 if not is_float else _extremes(values, starts)
    columns += [np.add.reduceat(sums, starts) for sums in (hash1, hash2)]
    rows = zip(*(column if isinstance(column, list) else column.tolist() for column in columns), strict=True)
    return [SeriesDigest(*row) for row in rows]


def _extremes(values: Any, starts: npt.NDArray[np.int64]) -> list[Any]:
    """The numbers of NaN and of infinities, and the lowest and highest finite values (None: no finite value)."""
    finite = np.isfinite(values)
    if finite.all():
        none = [0] * len(starts)
        return [none, none, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)]
    nan = np.isnan(values)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts).tolist()
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts).tolist()
    return [
        np.add.reduceat(nan.astype(np.int64), starts),
        np.add.reduceat((~finite & ~nan).astype(np.int64), starts),
        [None if x == np.inf else x for x in low],
        [None if x == -np.inf else x for x in high],
    ]


#: the number that represents a point's value if it is not a number; for a file its size, which is cheap to read back
HASHES: Mapping[str, Callable[[Any], int]] = {
    TEXTS: lambda text: hash_of(text.encode()),
    HISTOGRAMS: lambda histogram: hash_of_histogram(histogram.edges, histogram.values),
    FILES: lambda file: int(file.size_bytes),
}


# ---------------------------------------------------------------- as the state database keeps them

_DEFAULTS = {field.name: field.default for field in fields(SeriesDigest)}


def encode(kind: str, digest: AnyDigest) -> DigestRow:
    """Convert a digest to a row, leaving out all zeros."""
    names = digest.__slots__
    data = {name: value for name in names if (value := getattr(digest, name)) != _DEFAULTS.get(name, False)}
    return DigestRow(kind, json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def decode(row: DigestRow) -> tuple[str, AnyDigest]:
    """Return (kind, digest) of a saved row."""
    data = json.loads(row.data)
    match row.kind:
        case "value":
            return row.kind, ValueDigest(**data)
        case "file":
            return row.kind, FileDigest(**{"size_bytes": 0} | data)
    return row.kind, SeriesDigest(**data)
