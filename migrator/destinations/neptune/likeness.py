"""Whether Neptune has the points of an operation already, and with the same values.

Points that Neptune refuses because it has them are lost if its values are others. They are not lost if they are equal:
then an older copy of the state database has been restored, which knows less than Neptune does.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

from migrator.destinations.base import ReadFile, ReadSeries, SeriesRef
from migrator.destinations.neptune.readback import NeptuneReadBack
from migrator.destinations.neptune.wire_columns import Operation
from migrator.records import Histogram

MILLIONTHS = 1_000_000


def has_the_same(back: NeptuneReadBack, operation: Operation) -> bool:
    """Whether the run has some of the points that the operation appends, and none with another value.

    Raises `RunError` where Neptune cannot be asked.
    """
    message = operation if isinstance(operation, RunOperation) else operation.message()
    sent = _points(message)
    run = back.runs(message.project, [message.run_id]).get(message.run_id)
    if run is None or not sent:
        return False
    series = [SeriesRef(run, path) for path in sent if isinstance(run.values.get(path), ReadSeries)]
    steps = [step for points in sent.values() for step in points]
    span = min(steps) / MILLIONTHS, max(steps) / MILLIONTHS
    found = 0
    for page in back.pages(message.project, series, span) if series else ():
        wanted = sent[page.series.path]
        for step, value in zip(page.steps.tolist(), page.values, strict=True):
            if step in wanted:
                if wanted[step] != _comparable(value):
                    return False
                found += 1
    return found > 0


def _points(message: RunOperation) -> Mapping[str, dict[int, Any]]:
    """By path: comparable values by step in millionths."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    snapshots = message.update_batch.snapshots if message.HasField("update_batch") else [message.update]
    for snapshot in snapshots:
        step = snapshot.step.whole * MILLIONTHS + snapshot.step.micro
        for path, value in snapshot.append.items():
            found[path][step] = _sent(value)
    return found


def _sent(value: Any) -> Any:
    match value.WhichOneof("value"):
        case "float64":
            return _comparable(value.float64)
        case "histogram":
            bars = value.histogram.counts or value.histogram.densities
            return tuple(value.histogram.bin_edges), tuple(map(float, bars.values))
        case "file_ref":
            return value.file_ref.path
    return value.string


def _comparable(value: Any) -> Any:
    match value:
        case float() | np.floating():
            return struct.pack("<d", value) if value == value else "NaN"
        case Histogram(edges, values):
            return tuple(edges), tuple(map(float, values))
        case ReadFile():
            return value.address
    return value
