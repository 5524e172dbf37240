"""The digests of a run while it is copied: what each group of records adds, minus what was refused.

records of a group -> measure -> RecordSums --(minus what was refused)--> Digests.add -> take -> checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

import numpy as np

from migrations_db.types import DigestRow
from migrator.copying.digests import (
    FILE,
    FILES,
    FLOATS,
    HASHES,
    HISTOGRAMS,
    TEXTS,
    VALUE,
    AnyDigest,
    Doubles,
    FileDigest,
    SeriesDigest,
    ValueDigest,
    Words,
    decode,
    encode,
    hash_of,
    micro_steps,
    mixed,
    of_value,
    reduced,
)
from migrator.destinations.base import Refused
from migrator.records import AddTags, Assign, AssignFile, Columns, Histogram, LocalFile, Points, Record, Scalar

TAGS, GROUP_TAGS = "sys/tags", "sys/group_tags"
TABLE_VALUES = 512  # this many numbers at the same paths are measured as a table; fewer are measured one by one
#: the kind of a series by the type of its values; all others are numbers
KINDS: Mapping[type, str] = {str: TEXTS, Histogram: HISTOGRAMS, LocalFile: FILES}


# ---------------------------------------------------------------- what a group of records adds


@dataclass(frozen=True, slots=True)
class RecordSums:
    """The digests of a group of records: what it adds to series; its single values, files and tags in order."""

    series: Mapping[str, tuple[str, SeriesDigest]]
    singles: Sequence[tuple[str, ValueDigest | FileDigest | AddTags]]


def measure(records: Iterable[Record]) -> RecordSums:
    """Compute the digests of records, which must be in the order in which they are written."""
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
    return RecordSums(series, singles)


def _add(series: dict[str, tuple[str, SeriesDigest]], more: Iterable[tuple[str, str, SeriesDigest]]) -> None:
    for path, kind, digest in more:
        if path in series:
            series[path][1].add(digest)
        else:
            series[path] = (kind, digest)


def _of_columns(columns: Columns) -> Iterable[tuple[str, str, SeriesDigest]]:
    """The digests of numbers that come as columns."""
    for path, steps, times_us, values in columns.series():
        if len(steps):
            cut_ms, rounded_ms = times_us // 1000, (times_us + 500) // 1000
            [digest] = reduced(micro_steps(steps), cut_ms, rounded_ms, values, np.array([0]))
            yield path, FLOATS, digest


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)


def _table(points: Sequence[Points]) -> Doubles | None:
    """A table with one row per point; all points have the same paths. None: not all values are numbers."""
    if not all(_is_number(value) for value in points[0].values.values()):
        return None
    table = np.array([tuple(point.values.values()) for point in points])
    return table.astype(np.float64) if table.dtype.kind in "biuf" else None


def _of_table(
    paths: Sequence[str], points: Sequence[Points], table: Doubles
) -> Iterable[tuple[str, str, SeriesDigest]]:
    """The digests of points that all have numbers at the same paths."""
    steps = micro_steps([point.step for point in points])
    times_us = np.array([point.time_us for point in points], np.int64)
    if len(steps) > 1 and (np.diff(steps) < 0).any():
        order = np.argsort(steps, kind="stable")
        table, steps, times_us = table[order], steps[order], times_us[order]
    width, height = len(paths), len(points)
    cut, rounded = (np.tile(ms, width) for ms in (times_us // 1000, (times_us + 500) // 1000))
    starts = np.arange(width, dtype=np.int64) * height
    digests = reduced(np.tile(steps, width), cut, rounded, table.T.ravel(), starts)
    return zip(paths, [FLOATS] * width, digests, strict=True)


def _of_scattered(points: Sequence[Points]) -> Iterable[tuple[str, str, SeriesDigest]]:
    """The digests of points of any kind at any paths."""
    by_kind: dict[str, list[tuple[str, float, int, Any]]] = {}
    for point in points:
        step, time_us = point.step, point.time_us
        for path, value in point.values.items():
            by_kind.setdefault(KINDS.get(type(value), FLOATS), []).append((path, step, time_us, value))
    return chain.from_iterable(_of_column(kind, *zip(*rows, strict=True)) for kind, rows in by_kind.items())


def _of_column(
    kind: str, paths: Sequence[str], steps: Sequence[float], times_us: Sequence[int], values: Sequence[Any]
) -> Iterable[tuple[str, str, SeriesDigest]]:
    """The digests of points of one kind, each with one value."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    owners = np.fromiter(map(numbers.__getitem__, paths), np.int64, len(paths))
    micros, times = micro_steps(steps), np.array(times_us, np.int64)
    order = np.lexsort((micros, owners))
    owners, micros, times = owners[order], micros[order], times[order]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    bits = np.array(values).astype(np.float64) if kind == FLOATS else _words(map(HASHES[kind], values))
    digests = reduced(micros, times // 1000, (times + 500) // 1000, bits[order], starts)
    if kind == FILES:
        contents = _words(hash_of(file.md5.encode()) for file in values)[order]
        for digest, content in zip(digests, np.add.reduceat(mixed(micros, contents)[0], starts).tolist(), strict=True):
            digest.content = content
    return zip(numbers, [kind] * len(numbers), digests, strict=True)


def _words(hashes: Iterable[int]) -> Words:
    return np.fromiter(hashes, np.uint64)


# ---------------------------------------------------------------- of a run


class Digests:
    """All digests of one run. Keeps track of which have changed since the last `take`."""

    def __init__(self, saved: Mapping[str, DigestRow]) -> None:
        self._known: dict[str, tuple[str, AnyDigest]] = {path: decode(row) for path, row in saved.items()}
        self._changed: set[str] = set()

    @classmethod
    def begun(cls, values: Mapping[str, Scalar]) -> Self:
        """The digests of a run whose copy begins, with the values that are known before anything is read."""
        digests = cls({})
        digests.add(measure([Assign(values)]))
        return digests

    @property
    def known(self) -> Mapping[str, tuple[str, AnyDigest]]:
        """(kind, digest) by path."""
        return self._known

    def add(self, measured: RecordSums, refused: Sequence[Refused] = ()) -> None:
        """Add a group that is durable now, without what was refused."""
        lost, unknown = _lost({*measured.series, *(path for path, _ in measured.singles)}, refused)
        for path, (kind, more) in measured.series.items():
            if lost.get(path, 0) < more.count:
                more.refused = min(more.count, lost.get(path, 0) + unknown)
                self._add_points(path, kind, more)
        for path, single in measured.singles:
            if path not in lost:
                self._set(path, single, uncertain=unknown > 0)

    def refuse(self, refused: Sequence[Refused]) -> None:
        """Remove what was added earlier and refused later, when the offline file was uploaded."""
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
        """Return what has changed since the last call, to be saved."""
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
    """Return (number refused by path, number refused whose path is not one of `paths`)."""
    lost: dict[str, int] = {}
    unknown = 0
    for one in refused:
        if one.path in paths and one.count:
            lost[one.path] = lost.get(one.path, 0) + one.count
        else:
            unknown += one.count
    return lost, unknown
