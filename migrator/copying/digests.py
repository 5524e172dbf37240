"""Digests: what was written at each path, in some 300 bytes, to be recognized when it is read back.

The digest of a series is a set of sums, so batches may come in any order and a resumed copy goes on where it was. It
is saved in the transaction of the cursor: what is sent again after a crash was never added. Single values and files
are replaced by what is written later at their path.

    records of a group -> measure -> Measured --(minus what was refused)--> Digests.add -> take -> checkpoint
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from migrations_db.types import DigestRow
from migrator.destinations.base import Refused
from migrator.records import (
    AddTags,
    Assign,
    AssignFile,
    Columns,
    Histogram,
    LocalFile,
    Points,
    Record,
    Scalar,
    SeriesKind,
)

Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]

VALUE, FILE = "value", "file"  # kinds of digests besides the kinds of series
FLOATS, TEXTS, HISTOGRAMS, FILES = SeriesKind
TAGS, GROUP_TAGS = "sys/tags", "sys/group_tags"

TABLE_VALUES = 512  # so many numbers at the same paths are measured as a table; fewer with all others, one by one

_MASK = 2**64 - 1
_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NAN_BITS = np.uint64(0x7FF8000000000000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class SeriesDigest:
    """Of the points of one series. Steps are in millionths; times in ms, as they are read back.

    Whether a server cuts or rounds microseconds is not known, so there are two sums of times. `hash1` and `hash2` are
    sums (modulo 2^64) of mixed (step, value); of files the value is the size, and `content` sums up the md5s.
    `refused`: as many of `count` may have been refused, the destination did not tell which.
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
        """Take up more points."""
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
    """Of a single value: its type and a text that only equal values share; of texts a hash, of tags all of them.

    `uncertain`: the destination refused something, and did not tell whether it was this.
    """

    type: str
    text: str
    uncertain: bool = False


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Of a file."""

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
    """64 bits of blake2b."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def hash_of_histogram(edges: Sequence[float], values: Sequence[float]) -> int:
    """Counts and densities of equal value are equal."""
    return hash_of(struct.pack(f"<I{len(edges)}d{len(values)}d", len(edges), *edges, *values))


# ---------------------------------------------------------------- series


def micro_steps(steps: npt.ArrayLike) -> Longs:
    """Steps in millionths, by the same arithmetic on the way out and back: they come back as doubles."""
    return np.rint(np.asarray(steps, np.float64) * 1e6).astype(np.int64)


def bits_of(values: Doubles) -> Words:
    """The bits of doubles: one NaN, one zero."""
    values = values + 0.0  # -0.0 is 0.0
    bits = values.view(np.uint64)
    bits[np.isnan(values)] = _NAN_BITS
    return bits


def series_digest(
    steps: Longs, times_ms: Longs, values: Doubles | Words, contents: Words | None = None
) -> SeriesDigest:
    """Of points that were read back, in any order: doubles, or hashes of other values (sizes of files)."""
    if not len(steps):
        return SeriesDigest()
    order = np.argsort(steps, kind="stable")
    times = times_ms[order]
    [digest] = _reduced(steps[order], times, times, values[order], np.array([0]))
    if contents is not None:
        digest.content = int(_mixed(steps[order], contents[order])[0].sum(dtype=np.uint64))
    return digest


def _mix(x: Words) -> Words:
    """The end of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * _B
    x = (x ^ (x >> np.uint64(27))) * _C
    return x ^ (x >> np.uint64(31))


def _mixed(steps: Longs, bits: Words) -> tuple[Words, Words]:
    """Two independent hashes of each (step, value)."""
    words = steps.view(np.uint64)
    return _mix(words * _A + bits), _mix(bits * _C ^ _mix(words + _B))


def _reduced(
    steps: Longs, cut_ms: Longs, rounded_ms: Longs, values: Doubles | Words, starts: npt.NDArray[np.int64]
) -> list[SeriesDigest]:
    """The digests of several series that lie one behind the other, each by rising step; `starts`: where they begin."""
    ends = np.append(starts[1:], len(steps)) - 1
    is_float = values.dtype == np.float64
    hash1, hash2 = _mixed(steps, bits_of(values) if is_float else values)  # type: ignore[arg-type]
    columns: list[Any] = [ends - starts + 1, steps[starts], steps[ends]]
    columns += [np.add.reduceat(ms, starts) for ms in (cut_ms, rounded_ms)]
    columns += [[0] * len(starts)] * 2 + [[None] * len(starts)] * 2 if not is_float else _extremes(values, starts)
    columns += [np.add.reduceat(sums, starts) for sums in (hash1, hash2)]
    rows = zip(*(column if isinstance(column, list) else column.tolist() for column in columns), strict=True)
    return [SeriesDigest(*row) for row in rows]


def _extremes(values: Any, starts: npt.NDArray[np.int64]) -> list[Any]:
    """Counts of NaN and of infinities, and the least and greatest finite values (None: there is none)."""
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


# ---------------------------------------------------------------- what a group of records adds


@dataclass(frozen=True, slots=True)
class Measured:
    """The digests of a group of records: what they add to series, and single values, files and tags in their order."""

    series: Mapping[str, tuple[str, SeriesDigest]]
    singles: Sequence[tuple[str, ValueDigest | FileDigest | AddTags]]


def measure(records: Iterable[Record]) -> Measured:
    """The digests of records, which are in the order in which they are written."""
    tables: dict[tuple[str, ...], list[Points]] = {}
    singles: list[tuple[str, ValueDigest | FileDigest | AddTags]] = []
    series: dict[str, tuple[str, SeriesDigest]] = {}
    for record in records:
        match record:
            case Points(_, _, values):
                tables.setdefault(tuple(values), []).append(record)
            case Columns():
                _add(series, _of_columns(record))
            case Assign(values):
                singles += [(path, of_value(value)) for path, value in values.items()]
            case AssignFile(path, file):
                singles.append((path, FileDigest(file.size_bytes, file.md5)))
            case AddTags(_, group):
                singles.append((GROUP_TAGS if group else TAGS, record))
    scattered: list[Points] = []
    for paths, points in tables.items():
        table = _table(points) if len(points) * len(paths) >= TABLE_VALUES else None
        if table is not None:
            _add(series, _of_table(paths, points, table))
        else:
            scattered += points
    _add(series, _of_scattered(scattered))
    return Measured(series, singles)


def _add(series: dict[str, tuple[str, SeriesDigest]], more: Iterable[tuple[str, str, SeriesDigest]]) -> None:
    for path, kind, digest in more:
        if path in series:
            series[path][1].add(digest)
        else:
            series[path] = (kind, digest)


def _of_columns(columns: Columns) -> Iterable[tuple[str, str, SeriesDigest]]:
    """Of numbers that are columns already."""
    for path, steps, times_us, values in columns.series():
        if len(steps):
            cut_ms, rounded_ms = times_us // 1000, (times_us + 500) // 1000
            [digest] = _reduced(micro_steps(steps), cut_ms, rounded_ms, values, np.array([0]))
            yield path, FLOATS, digest


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)


def _table(points: Sequence[Points]) -> Doubles | None:
    """A row for each point, which all have the same paths; None: not all are numbers."""
    if not all(_is_number(value) for value in points[0].values.values()):
        return None
    table = np.array([tuple(point.values.values()) for point in points])
    return table.astype(np.float64) if table.dtype.kind in "biuf" else None


def _of_table(
    paths: Sequence[str], points: Sequence[Points], table: Doubles
) -> Iterable[tuple[str, str, SeriesDigest]]:
    """Of points that all have numbers at the same paths."""
    steps = micro_steps([point.step for point in points])
    times_us = np.array([point.time_us for point in points], np.int64)
    if len(steps) > 1 and (np.diff(steps) < 0).any():
        order = np.argsort(steps, kind="stable")
        table, steps, times_us = table[order], steps[order], times_us[order]
    width, height = len(paths), len(points)
    cut, rounded = (np.tile(ms, width) for ms in (times_us // 1000, (times_us + 500) // 1000))
    starts = np.arange(width, dtype=np.int64) * height
    digests = _reduced(np.tile(steps, width), cut, rounded, table.T.ravel(), starts)
    return zip(paths, [FLOATS] * width, digests, strict=True)


def _of_scattered(points: Sequence[Points]) -> Iterable[tuple[str, str, SeriesDigest]]:
    """Of points of all kinds, at whatever paths."""
    by_kind: dict[str, list[tuple[str, float, int, Any]]] = {}
    for point in points:
        step, time_us = point.step, point.time_us
        for path, value in point.values.items():
            by_kind.setdefault(_KINDS.get(type(value), FLOATS), []).append((path, step, time_us, value))
    return chain.from_iterable(_of_column(kind, *zip(*rows, strict=True)) for kind, rows in by_kind.items())


def _of_column(
    kind: str, paths: Sequence[str], steps: Sequence[float], times_us: Sequence[int], values: Sequence[Any]
) -> Iterable[tuple[str, str, SeriesDigest]]:
    """Of points of one kind, one value each."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    owners = np.fromiter(map(numbers.__getitem__, paths), np.int64, len(paths))
    micros, times = micro_steps(steps), np.array(times_us, np.int64)
    order = np.lexsort((micros, owners))
    owners, micros, times = owners[order], micros[order], times[order]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    bits = np.array(values).astype(np.float64) if kind == FLOATS else _words(map(HASHES[kind], values))
    digests = _reduced(micros, times // 1000, (times + 500) // 1000, bits[order], starts)
    if kind == FILES:
        contents = _words(hash_of(file.md5.encode()) for file in values)[order]
        for digest, content in zip(digests, np.add.reduceat(_mixed(micros, contents)[0], starts).tolist(), strict=True):
            digest.content = content
    return zip(numbers, [kind] * len(numbers), digests, strict=True)


def _words(hashes: Iterable[int]) -> Words:
    return np.fromiter(hashes, np.uint64)


_KINDS = {str: TEXTS, Histogram: HISTOGRAMS, LocalFile: FILES}

#: what stands for the value of a point that is not a number; for a file its size, for no more can be asked cheaply
HASHES: Mapping[str, Callable[[Any], int]] = {
    TEXTS: lambda text: hash_of(text.encode()),
    HISTOGRAMS: lambda histogram: hash_of_histogram(histogram.edges, histogram.values),
    FILES: lambda file: int(file.size_bytes),
}


# ---------------------------------------------------------------- of a run


class Digests:
    """All digests of one run, and which of them have changed since the last `take`."""

    def __init__(self, saved: Mapping[str, DigestRow]) -> None:
        self._known: dict[str, tuple[str, AnyDigest]] = {path: decode(row) for path, row in saved.items()}
        self._changed: set[str] = set()

    @classmethod
    def begun(cls, values: Mapping[str, Scalar]) -> Self:
        """Of a run that is copied from its start, with what is known of it before anything is read."""
        digests = cls({})
        digests.add(measure([Assign(values)]))
        return digests

    def add(self, measured: Measured, refused: Sequence[Refused] = ()) -> None:
        """Take up a group that is durable now, without what was refused of it."""
        lost, unknown = _lost({*measured.series, *(path for path, _ in measured.singles)}, refused)
        for path, (kind, more) in measured.series.items():
            if lost.get(path, 0) < more.count:
                more.refused = min(more.count, lost.get(path, 0) + unknown)
                self._add_points(path, kind, more)
        for path, single in measured.singles:
            if path not in lost:
                self._set(path, single, uncertain=unknown > 0)

    def refuse(self, refused: Sequence[Refused]) -> None:
        """Some of what was added before was refused later: when an offline file was uploaded."""
        lost, unknown = _lost(self._known, refused)
        for path, (kind, known) in self._known.items():
            if not (count := lost.get(path, 0) + unknown):
                continue
            if isinstance(known, SeriesDigest):
                known.refused = min(known.count, known.refused + count)
            else:
                self._known[path] = kind, replace(known, uncertain=True)
            self._changed.add(path)

    def take(self) -> dict[str, DigestRow]:
        """What has changed since the last call, to be saved."""
        rows = {path: encode(*self._known[path]) for path in self._changed}
        self._changed.clear()
        return rows

    def _add_points(self, path: str, kind: str, more: SeriesDigest) -> None:
        known_kind, known = self._known.get(path, (kind, None))
        if isinstance(known, SeriesDigest) and known_kind == kind:
            known.add(more)
        elif known is None:
            self._known[path] = kind, more
        self._changed.add(path)

    def _set(self, path: str, single: ValueDigest | FileDigest | AddTags, *, uncertain: bool) -> None:
        match single:
            case AddTags(tags, _, gone):
                _, known = self._known.get(path, (VALUE, None))
                before = set(json.loads(known.text)) if isinstance(known, ValueDigest) else set()
                digest: ValueDigest | FileDigest = of_value(frozenset((before | tags) - gone))
            case _:
                digest = single
        if uncertain:
            digest = replace(digest, uncertain=True)
        self._known[path] = (FILE if isinstance(digest, FileDigest) else VALUE), digest
        self._changed.add(path)


def _lost(paths: Container[str], refused: Sequence[Refused]) -> tuple[dict[str, int], int]:
    """(refused by path, refused without a path that is known here)."""
    lost: dict[str, int] = {}
    unknown = 0
    for one in refused:
        if one.path in paths and one.count:
            lost[one.path] = lost.get(one.path, 0) + one.count
        else:
            unknown += one.count
    return lost, unknown


# ---------------------------------------------------------------- as the state database keeps them

_DEFAULTS = {field.name: field.default for field in fields(SeriesDigest)}


def encode(kind: str, digest: AnyDigest) -> DigestRow:
    """Without what is nought."""
    names = digest.__slots__
    data = {name: value for name in names if (value := getattr(digest, name)) != _DEFAULTS.get(name, False)}
    return DigestRow(kind, json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def decode(row: DigestRow) -> tuple[str, AnyDigest]:
    """(kind, digest) of a saved row."""
    data = json.loads(row.data)
    match row.kind:
        case "value":
            return row.kind, ValueDigest(**data)
        case "file":
            return row.kind, FileDigest(**{"size_bytes": 0} | data)
    return row.kind, SeriesDigest(**data)
