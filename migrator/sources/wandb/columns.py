"""Converts plain numbers of W&B's history exports to numpy columns, with a twentieth of the work for rows.

Everything that must be examined value by value (text, histograms, media, booleans, large integers) stays in rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from migrator.limits import FLOAT_EXACT_INT, STEP_MAX
from migrator.records import HistoryColumns
from migrator.sources.wandb.exports import STEP, TIME, columns_to_rows


def history_columns(batch: pa.RecordBatch) -> HistoryColumns | None:
    """Convert a batch (not empty, steps strictly ascending) to columns. None: something in it needs rows."""
    names = batch.schema.names
    if len(set(names)) < len(names) or TIME not in names:
        return None
    steps, times = _whole_steps(batch.column(STEP)), _times(batch.column(TIME))
    if steps is None or times is None:
        return None
    numbers, present, others = {}, {}, []
    for name, column in zip(names, batch.columns, strict=True):
        if name in (STEP, TIME) or column.null_count == len(column):
            continue
        values = _numbers(column)
        if values is None:
            others.append(name)
            continue
        numbers[name] = values
        if column.null_count:
            present[name] = column.is_valid().to_numpy(zero_copy_only=False)
    nested = [f"{name}." for name in others if _may_be_nested(batch.column(name))]
    if not numbers or any(name.startswith(prefix) for name in numbers for prefix in nested):
        return None
    rows = columns_to_rows(batch.select(others), ())[-1] if others else ()
    return HistoryColumns(steps, times, numbers, present, rows)


def _whole_steps(column: pa.Array) -> np.ndarray | None:
    """The steps as integers. None: not all of them are steps that Neptune accepts."""
    steps = column.to_numpy(zero_copy_only=False)
    if not ((steps >= 0) & (steps < STEP_MAX)).all():  # also false for NaN
        return None
    whole = steps.astype(np.int64)
    return np.asarray(whole) if (whole == steps).all() else None


def _times(column: pa.Array) -> np.ndarray | None:
    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _numbers(column: pa.Array) -> np.ndarray | None:
    """The column as doubles, 0 for missing values. None: not numbers, or not all of them are exact as doubles."""
    is_integer = pa.types.is_integer(column.type)
    if not is_integer and not pa.types.is_floating(column.type):
        return None
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    if is_integer and ((values > FLOAT_EXACT_INT) | (values < -FLOAT_EXACT_INT)).any():
        return None
    return np.ascontiguousarray(values, dtype=np.float64)


def _may_be_nested(column: pa.Array) -> bool:
    """Whether values of the column may be dicts, whose keys could lead to the names of other columns."""
    return bool(pa.types.is_struct(column.type) or pa.types.is_map(column.type))
