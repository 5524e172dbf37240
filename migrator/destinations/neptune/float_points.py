"""Reads the points of a series of numbers out of Neptune's answer: several times as fast as one by one.

Points are protobuf messages of a few dozen bytes. Consecutive points nearly always have the same layout: the same
fields, and times that take the same number of bytes. Such points are read as columns of one table of bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

POINTS = 0x12  # the tag of a point within a ProtoFloatSeriesValuesDTO
TIME, STEP, VALUE = 0x08, 0x11, 0x19  # tags within a point; fields that are zero are left out
UNUSED = {0x20: 1, 0x2D: 4}  # tags of fields that are not needed (whether it is a preview), and their lengths
MORE = 0x80  # a byte of a time that is not its last
ROWS = 8_192  # at a time, so that a change of the layout costs little
ROWS_MIN = 64  # if the layout changes more often than this on average, points are read one by one


class _Layout(NamedTuple):
    """How long a point is, and where its fields begin (0: it is left out). `tags` are bytes that all points share."""

    length: int
    time: int
    time_bytes: int
    step: int
    value: int
    tags: tuple[tuple[int, int], ...]


def float_points(series: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(steps, times in ms, values) of a ProtoFloatSeriesValuesDTO, in its order."""
    count = len(series.values)
    steps, times, values = np.zeros(count), np.zeros(count, np.int64), np.zeros(count)
    data = np.frombuffer(series.SerializeToString(), np.uint8)
    at, done, changes = _first(data, count), 0, 0
    while done < count:
        layout = layout_of(data, at)
        rows = _alike(data, at, layout, count - done) if layout else 0
        changes += 1
        if not (layout and rows) or changes * ROWS_MIN > done + ROWS_MIN * 8:
            return one_by_one(series.values)
        table = data[at : at + rows * layout.length].reshape(rows, layout.length)
        part = slice(done, done + rows)
        if layout.time:
            for number in range(layout.time_bytes):
                times[part] |= (table[:, layout.time + number] & (MORE - 1)).astype(np.int64) << (7 * number)
        for place, column in ((layout.step, steps), (layout.value, values)):
            if place:
                column[part] = table[:, place : place + 8].copy().view("<f8")[:, 0]
        at, done = at + rows * layout.length, done + rows
    return steps, times, values


def one_by_one(points: Any) -> tuple[Any, Any, Any]:
    """The same from the points themselves, one after another."""
    count = len(points)
    return (
        np.fromiter((point.step for point in points), np.float64, count),
        np.fromiter((point.timestamp_millis for point in points), np.int64, count),
        np.fromiter((point.value for point in points), np.float64, count),
    )


def _first(data: Bytes, count: int) -> int:
    """Where the first point begins: behind the number of points, if that is there."""
    at = 0
    if count and data[0] == TIME:  # the same tag: a number in as many bytes as it takes
        at = 1
        while data[at] & MORE:
            at += 1
        at += 1
    return at


def layout_of(data: Bytes, at: int) -> _Layout | None:
    """The layout of the point at `at`. None: it has other fields than expected."""
    if at + 2 > len(data) or data[at] != POINTS or data[at + 1] & MORE:
        return None
    length = 2 + int(data[at + 1])
    point = bytes(data[at : at + length])
    fields, tags = {TIME: 0, STEP: 0, VALUE: 0}, [(0, POINTS), (1, length - 2)]
    place, time_bytes = 2, 0
    while place < len(point):
        tag = point[place]
        tags.append((place, tag))
        if tag in UNUSED:
            place += 1 + UNUSED[tag]
            continue
        if tag not in fields or fields[tag]:
            return None
        fields[tag] = place + 1
        if tag == TIME:
            while place + 1 + time_bytes < len(point) and point[place + 1 + time_bytes] & MORE:
                time_bytes += 1
            time_bytes += 1
            place += 1 + time_bytes
        else:
            place += 9
    if place != length or time_bytes > 9:
        return None
    return _Layout(length, fields[TIME], time_bytes, fields[STEP], fields[VALUE], tuple(tags))


def _alike(data: Bytes, at: int, layout: _Layout, most: int) -> int:
    """How many points from `at` on have this layout."""
    rows = min(most, ROWS, (len(data) - at) // layout.length)
    table = data[at : at + rows * layout.length].reshape(rows, layout.length)
    alike = np.ones(rows, np.bool_)
    for place, tag in layout.tags:
        alike &= table[:, place] == tag
    for number in range(layout.time_bytes):
        is_last = number == layout.time_bytes - 1
        alike &= (table[:, layout.time + number] < MORE) == is_last
    return rows if alike.all() else int(alike.argmin())
