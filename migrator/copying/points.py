"""Points of series as columns: to keep many of them, and to compare two series point by point. Pure, but for a file.

records of the source -> columns_of -> PointSpool --by path--> Column --differing(those read back)--> Differences
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from migrator.copying.digests import FLOATS, HASHES, HISTOGRAMS, TEXTS, Doubles, Longs, Words, bits_of, micro_steps
from migrator.copying.run_digests import KINDS
from migrator.copying.verify_words import SHOWN_CHARS, shortened
from migrator.records import Columns, Points, Record

HELD_POINTS = 1_000_000  # of a run, in memory; more go to its file
NAMED = 3  # differing points of a series that are named
APART_US = 1_000  # times are read back in milliseconds, cut or rounded


class Column(NamedTuple):
    """Points of one series: steps in millionths, times in microseconds, values as bits.

    The bits of numbers are those of a double, those of other values a hash (of files: the size), and `told` has these
    values in words.
    """

    steps: Longs
    times_us: Longs
    bits: Words
    told: Sequence[str] = ()

    def value(self, number: int) -> str:
        """The value of a point in words."""
        return self.told[number] if self.told else repr(float(self.bits[number : number + 1].view(np.float64)[0]))


NOTHING = Column(np.array([], np.int64), np.array([], np.int64), np.array([], np.uint64))


def column_of(kind: str, steps: Longs, times_us: Longs, values: Doubles | Sequence[Any]) -> Column:
    """A column of values of one kind, as they are sent or as they are read back."""
    if kind == FLOATS:
        return Column(steps, times_us, bits_of(np.asarray(values).astype(np.float64)))
    hashes = np.fromiter(map(HASHES[kind], values), np.uint64, len(values))
    return Column(steps, times_us, hashes, [_told(kind, value) for value in values])


def _told(kind: str, value: Any) -> str:
    if kind == TEXTS:
        return shortened(json.dumps(value[: 2 * SHOWN_CHARS], ensure_ascii=False))
    if kind == HISTOGRAMS:
        return shortened(f"histogram of {len(value.values)} bins: {', '.join(f'{x:.15g}' for x in value.values[:20])}")
    return f"{value.size_bytes:,} bytes"


def joined(columns: Sequence[Column]) -> Column:
    """Columns of one series, one after another."""
    if len(columns) == 1:
        return columns[0]
    if not columns:
        return NOTHING
    steps, times_us, bits = (np.concatenate([column[n] for column in columns]) for n in range(3))
    return Column(steps, times_us, bits, [told for column in columns for told in column.told])


def columns_of(records: Iterable[Record]) -> Iterator[tuple[str, Column]]:
    """(path, points) of all series in these records. A path may come several times."""
    rows: dict[tuple[str, str], list[tuple[float, int, Any]]] = {}
    for record in records:
        match record:
            case Columns():
                for path, steps, times_us, values in record.series():
                    if len(steps):
                        yield path, column_of(FLOATS, micro_steps(steps), times_us, values)
            case Points(step, time_us, by_path):
                for path, value in by_path.items():
                    rows.setdefault((path, KINDS.get(type(value), FLOATS)), []).append((step, time_us, value))
    for (path, kind), points in rows.items():
        steps, times, values = zip(*points, strict=True)
        yield path, column_of(kind, micro_steps(steps), np.array(times, np.int64), values)


class PointSpool:
    """The points of all series of a run, by path. If there are more than `held`, they are in `file`."""

    def __init__(self, file: Path, held: int = HELD_POINTS) -> None:
        self._path, self._most = file, held
        self._file: Any = None
        self._places: dict[str, list[tuple[int, int, int]]] = {}  # offset, points, bytes of `told`
        self._held: dict[str, list[Column]] = {}
        self._count = 0

    def add(self, path: str, column: Column) -> None:
        """Add points of a series."""
        self._held.setdefault(path, []).append(column)
        self._count += len(column.steps)
        if self._count >= self._most:
            self._spill()

    def column(self, path: str) -> Column:
        """All points of a series, in the order in which they came."""
        return joined([*map(self._read, self._places.get(path, ())), *self._held.get(path, ())])

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            with suppress(FileNotFoundError):
                self._path.unlink()

    def _spill(self) -> None:
        if self._file is None:
            self._file = self._path.open("w+b")
        at = self._file.seek(0, 2)
        for path, columns in self._held.items():
            column = joined(columns)
            told = json.dumps(column.told).encode() if column.told else b""
            for array in column[:3]:
                self._file.write(array.tobytes())
            self._file.write(told)
            self._places.setdefault(path, []).append((at, len(column.steps), len(told)))
            at += 24 * len(column.steps) + len(told)
        self._held, self._count = {}, 0

    def _read(self, place: tuple[int, int, int]) -> Column:
        at, count, told_bytes = place
        self._file.seek(at)
        steps = np.frombuffer(self._file.read(8 * count), np.int64)
        times_us = np.frombuffer(self._file.read(8 * count), np.int64)
        bits = np.frombuffer(self._file.read(8 * count), np.uint64)
        return Column(steps, times_us, bits, json.loads(self._file.read(told_bytes)) if told_bytes else ())


class Differences(NamedTuple):
    """How two series differ: numbers of points, and the first of them in words, as expected and as found."""

    missing: int
    others: int
    want: str
    got: str


def differing(want: Column, got: Column) -> Differences | None:
    """Compare series point by point, whatever their order. None: all points are equal, their times within 1 ms."""
    want, got = _sorted(want), _sorted(got)
    common, at_want, at_got = np.intersect1d(want.steps, got.steps, assume_unique=True, return_indices=True)
    values_differ = want.bits[at_want] != got.bits[at_got]
    times_differ = np.abs(want.times_us[at_want] - got.times_us[at_got]) > APART_US
    missing = np.setdiff1d(want.steps, common, assume_unique=True)
    foreign = np.setdiff1d(got.steps, common, assume_unique=True)
    changed = common[values_differ | times_differ]
    others = len(changed) + len(foreign)
    if not (len(missing) or others):
        return None
    first = sorted([*missing[:NAMED].tolist(), *foreign[:NAMED].tolist(), *changed[:NAMED].tolist()])[:NAMED]
    pairs = [_pair(want, got, step) for step in first]
    steps = [f"step {step / 1e6:.15g}" for step in first]
    told = [
        "; ".join(f"{step}: {pair[side]}" for step, pair in zip(steps, pairs, strict=True)) for side in (False, True)
    ]
    count = len(missing) + others
    more = f" ({count:,} points differ)" if count > len(first) else ""
    return Differences(len(missing), others, told[0], told[1] + more)


def _sorted(column: Column) -> Column:
    """By step. Of several points at one step, which no destination keeps, the last one stays."""
    steps = column.steps
    if (steps[1:] > steps[:-1]).all():
        return column
    unique, last = np.unique(steps[::-1], return_index=True)
    order = len(steps) - 1 - last
    told = [column.told[n] for n in order.tolist()] if column.told else ()
    return Column(unique, column.times_us[order], column.bits[order], told)


def _pair(want: Column, got: Column, step: int) -> tuple[str, str]:
    """What both have at a step, in words."""
    places = [_place(column, step) for column in (want, got)]
    told = ["missing" if at is None else c.value(at) for c, at in zip((want, got), places, strict=True)]
    if places[0] is None:
        told[0] = "nothing"
    if places[0] is not None and places[1] is not None and told[0] == told[1]:
        at_want, at_got = places
        if want.bits[at_want] != got.bits[at_got]:  # what differs is not in the words
            return f"{told[0]} #{int(want.bits[at_want]):016x}", f"{told[1]} #{int(got.bits[at_got]):016x}"
        return _time_told(want.times_us[at_want]), _time_told(got.times_us[at_got])
    return told[0], told[1]


def _place(column: Column, step: int) -> int | None:
    at = int(np.searchsorted(column.steps, step))
    return at if at < len(column.steps) and column.steps[at] == step else None


def _time_told(time_us: Any) -> str:
    return f"time {int(time_us) / 1e6:.3f} s since 1970"
