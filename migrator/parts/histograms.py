"""W&B's histograms, converted to what Neptune accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import eq, ge
from typing import Any

from migrator.limits import HISTOGRAM_MAX_BINS
from migrator.parts.base import as_double
from migrator.records import Histogram

MERGED = f"histogram over {HISTOGRAM_MAX_BINS} bins: neighbours merged"
WIDENED = "histogram of zero width: its range is widened around the value"


def histogram_of(value: Mapping[str, Any]) -> tuple[Histogram | None, Sequence[str]]:
    """Convert a W&B histogram (`bins` and `values`, or `packedBins`). Returns it with notes of what was changed.

    None: not a valid histogram. Edges must be finite and strictly increasing (Neptune's rules). Edges that are all
    equal, as those of a parameter with one element, become a range around their value.
    """
    counts = value.get("values")
    edges = _finite_doubles(_edges_of(value))
    if edges is None or _finite_doubles(counts) is None or not counts or len(edges) != len(counts) + 1:
        return None, ()
    changes = []
    merge = -(-len(counts) // HISTOGRAM_MAX_BINS)
    if edges[0] == edges[-1] and min(edges) == max(edges):
        edges = _widened(edges[0], len(counts))
        changes.append(WIDENED)
    if any(map(ge, edges, edges[1:])):
        return None, ()
    if merge > 1:
        counts = [sum(counts[i : i + merge]) for i in range(0, len(counts), merge)]
        edges = [*edges[:-1:merge], edges[-1]]
        changes.append(MERGED)
    if min(counts) >= 0 and max(counts) < 2**64 and all(map(eq, map(int, counts), counts)):
        return Histogram(tuple(edges), tuple(map(int, counts))), changes
    densities = _finite_doubles(counts)
    if densities is None:  # merging has overflowed
        return None, ()
    return Histogram(tuple(edges), tuple(densities)), changes


def _widened(value: float, bins: int) -> list[float]:
    """The edges of `bins` equal bins around `value`, in total 1 wide: what numpy does for equal values."""
    width = max(1.0, abs(value) * 1e-9)  # wide enough for a double to tell the edges of a large value apart
    start = value - width / 2
    edges = [start + width * (i / bins) for i in range(bins + 1)]
    return edges if math.isfinite(edges[-1]) and math.isfinite(start) else [value] * (bins + 1)


def _edges_of(value: Mapping[str, Any]) -> Any:
    """The edges from W&B's data, not yet validated."""
    packed, counts = value.get("packedBins"), value.get("values")
    if not isinstance(packed, Mapping) or not isinstance(counts, list) or packed.get("count") != len(counts):
        return value.get("bins")
    bounds = _finite_doubles([packed.get("min"), packed.get("size")])
    return bounds and [bounds[0] + bounds[1] * i for i in range(len(counts) + 1)]


def _finite_doubles(numbers: Any) -> list[float] | None:
    """Convert a list of numbers to finite doubles. None: it is something else."""
    if not isinstance(numbers, list):
        return None
    if set(map(type, numbers)) <= {float}:
        return numbers if all(map(math.isfinite, numbers)) else None
    if not all(isinstance(number, int | float) for number in numbers):
        return None
    doubles = [double for number in numbers if (double := as_double(number)) is not None and math.isfinite(double)]
    return doubles if len(doubles) == len(numbers) else None
