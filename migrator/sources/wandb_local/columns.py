"""Columns of numbers from the rows of a log. What must be examined value by value stays in rows.

Raises `OneByOne` if something about the rows is not as usual.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from migrator.limits import STEP_MAX
from migrator.records import HistoryColumns
from migrator.sources.row_columns import SPARSE, may_meet
from migrator.sources.wandb_local.bulk import OneByOne
from migrator.sources.wandb_local.items import Items, Mask, Numbers, Path
from migrator.sources.wandb_local.values import json_or_text, put

STEP, TIME = "_step", ("_timestamp",)
#: JSON numbers that a double holds exactly or, if they have a fraction or an exponent, as Python reads them
NUMBER = r"^(?:-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|NaN|-?Infinity)$"


def numbered(items: Items, floor: int | None, before: int) -> Numbers:
    """Do `LogScan.step_of` for rows in order. `before` is the step of the row before them."""
    if items.steps is None:
        raise OneByOne
    if floor is None:
        return items.steps
    order = np.arange(len(items.steps))
    return np.asarray(order + np.maximum(np.maximum.accumulate(items.steps - order), before + 1))


def history_columns(items: Items, steps: Numbers) -> HistoryColumns:
    """Convert rows with these steps to columns."""
    if (steps < 0).any() or (steps >= STEP_MAX).any() or (steps[1:] <= steps[:-1]).any():
        raise OneByOne
    texts = items.texts()
    is_number = pc.match_substring_regex(texts, NUMBER).to_numpy(zero_copy_only=False)
    names = _columns(items, is_number)
    if TIME not in names or len(names) == 1:
        raise OneByOne
    if len(names) * len(steps) > SPARSE * len(items.codes):
        raise OneByOne
    numbers = {path: number for number, path in enumerate(names)}
    columns = np.array([numbers.get(path, -1) for path in items.paths])[items.codes]
    chosen = columns >= 0
    values, present = np.zeros((len(names), len(steps))), np.zeros((len(names), len(steps)), np.bool_)
    at = columns[chosen], items.records[chosen]  # of equal keys in one row, the last one stays
    values[at], present[at] = texts.filter(pa.array(chosen)).cast(pa.float64()).to_numpy(), True
    by_name = {name: (values[number], present[number]) for number, name in enumerate(names.values())}
    times, all_timed = by_name.pop(names[TIME])
    others = _others(items, ~chosen, len(steps))
    if not all_timed.all() or may_meet(by_name, others):
        raise OneByOne
    gaps = {name: where for name, (_, where) in by_name.items() if not where.all()}
    return HistoryColumns(steps, times, {name: column for name, (column, _) in by_name.items()}, gaps, others)


def _columns(items: Items, is_number: Mask) -> dict[Path, str]:
    """Names by path of those values that are always numbers, and alone under their name.

    The values of one dict are together: all of them become columns, or none.
    """
    names = {path: ".".join(path) for path in items.paths if path[0] != STEP}
    times = Counter(names.values())
    tops = {path[0] for path in names if len(path) == 1}
    apart = {items.paths[code][0] for code in np.unique(items.codes[~is_number]).tolist()}
    apart |= {path[0] for path, name in names.items() if times[name] > 1 or (len(path) > 1 and path[0] in tops)}
    return {path: name for path, name in names.items() if path[0] not in apart}


def _others(items: Items, which: Mask, count: int) -> list[dict[str, Any]]:
    """These values as rows. Empty: there are none."""
    found = [item for item in items.in_order(which) if item[1][0] != STEP]
    rows: list[dict[str, Any]] = [{} for _ in range(count)] if found else []
    for record, path, text in sorted(found, key=lambda item: len(item[1]) > 1):  # dicts last, as in a row
        put(rows[record], path, json_or_text(text))
    return rows
