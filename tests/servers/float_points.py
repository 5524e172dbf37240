"""Points of float series as Neptune's server encodes them: many times as fast as a message per point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.servers.neptune_store import MICRO

VARINT_BYTES = 10
#: tags of `values` of ProtoFloatSeriesValuesDTO, and of the fields of a point
POINT, TIME, STEP, VALUE, RATIO = 0x12, 0x08, 0x11, 0x19, 0x2D
COMPLETE = np.frombuffer(np.array([1.0], "<f4").tobytes(), np.uint8)  # the ratio of a point that is not a preview


def float_points(steps: Sequence[int], times_us: Sequence[int], values: Sequence[float]) -> bytes:
    """The field `values` of ProtoFloatSeriesValuesDTO. Steps are micro-steps. As in proto3, zeros are left out."""
    count = len(steps)
    times = np.asarray(times_us, np.int64) // 1000
    sevens, used = _varints(times)
    fields = (
        (TIME, sevens, used),
        (STEP, *_doubles(_whole(steps))),
        (VALUE, *_doubles(np.asarray(values, np.float64))),
        (RATIO, np.broadcast_to(COMPLETE, (count, 4)), np.ones((count, 4), bool)),
    )
    table, kept = [], []
    for tag, content, keep in fields:
        table += [np.full((count, 1), tag, np.uint8), content]
        kept += [keep[:, :1], keep]
    lengths = np.hstack(kept).sum(1, dtype=np.uint8)[:, None]
    table = [np.full((count, 1), POINT, np.uint8), lengths, *table]
    kept = [np.ones((count, 2), bool), *kept]
    return np.hstack(table)[np.hstack(kept)].tobytes()


def _whole(steps: Sequence[int]) -> npt.NDArray[np.float64]:
    """Micro-steps as steps, rounded once."""
    exact = max(steps, default=0) < 2**53
    return np.asarray(steps, np.int64) / MICRO if exact else np.array([step / MICRO for step in steps])


def _varints(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The bytes of each number, and which of them are sent: none of a zero."""
    left = numbers.astype(np.uint64)[:, None] >> (7 * np.arange(VARINT_BYTES, dtype=np.uint64))
    more = np.hstack([left[:, 1:] != 0, np.zeros((len(left), 1), bool)])
    return (left & 0x7F).astype(np.uint8) | (more << 7).astype(np.uint8), left != 0


def _doubles(numbers: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    data = numbers.astype("<f8").view(np.uint8).reshape(len(numbers), 8)
    return data, np.broadcast_to(data.any(1)[:, None], data.shape)
