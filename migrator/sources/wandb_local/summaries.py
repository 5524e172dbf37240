"""Completes the summary of a start whose log does not have it, or may not have all of it.

SDKs before 0.18 write one summary record, at the end, so the log of a killed process has none. It is then in
`files/wandb-summary.json`, which W&B writes now and then; without that file, the last value of each history key stands
for it. If a killed process left both, the newer of file and log is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrator.errors import RunError
from migrator.json_text import parse_json
from migrator.records import Entry, Kind
from migrator.sources.base import Withheld
from migrator.sources.wandb_local.access import local_file
from migrator.sources.wandb_local.log import HISTORY, RUN, SUMMARY, WandbLog
from migrator.sources.wandb_local.values import (
    JsonTree,
    as_time_s,
    item_json,
    item_path,
    row_step,
    row_time_s,
)

if TYPE_CHECKING:
    from migrator.sources.wandb_local.scan import LogScan

FILE_NAME = "wandb-summary.json"
FILE_MAX_BYTES = 256 * 1024 * 1024
OF_FILE = f"no summary in the log: taken from files/{FILE_NAME}"
OF_FILE_AND_ROWS = f"no summary in the log: taken from files/{FILE_NAME} and the last values of later rows"
OF_ROWS = "no summary in the log: taken from the last value of each key of the history"
FILE_NEWER = f"the log has no end: files/{FILE_NAME} is newer than its summary"
LOG_NEWER = f"the log has no end: its summary is newer than files/{FILE_NAME}"


def complete_summary(tree: JsonTree, log: LogScan, keys: Set[bytes]) -> Entry | None:
    """Add to `tree` what `log` lacks. Returns a note for the ledger that says where it came from."""
    if log.has_summary and log.exit_code is not None:
        return None
    stored = _of_file(log.log.parent / "files" / FILE_NAME, keys)
    if log.has_summary:
        reason = _newer(tree, log, stored) if stored is not None else None
    elif stored is not None:
        tree.set_all(stored)
        reason = OF_FILE_AND_ROWS if _set_last_values(tree, log, stored) else OF_FILE
    else:
        reason = OF_ROWS if _set_last_values(tree, log, {}) else None
    return Entry(Kind.ESTIMATED, f"summary of {log.log.parent.name}/{log.log.name}", reason) if reason else None


def _newer(tree: JsonTree, log: LogScan, stored: Mapping[str, Any]) -> str | None:
    """Why the file or the log was chosen. None: their contents are equal."""
    own = JsonTree()
    for record, end in WandbLog(log.log).records(SUMMARY, RUN):
        if end > log.end:
            break
        if record.HasField("summary"):
            own.update(record.summary)
        elif record.HasField("run"):
            own.update(record.run.summary)
    values = own.values()
    if _public(values) == _public(stored):
        return None
    if _moment(values) >= _moment(stored):
        return LOG_NEWER
    tree.set_all(stored)
    return FILE_NEWER


def _public(values: Mapping[str, Any]) -> str:
    """The public values as JSON, for comparison (there, NaN equals itself)."""
    return json.dumps({key: value for key, value in values.items() if not key.startswith("_")}, sort_keys=True)


def _moment(summary: Mapping[str, Any]) -> tuple[float, float]:
    """When a summary was made: the time and the step of the last row in it."""
    step = summary.get("_step")
    return as_time_s(summary.get("_timestamp")) or 0.0, float(step) if isinstance(step, int | float) else -1.0


def _set_last_values(tree: JsonTree, log: LogScan, stored: Mapping[str, Any]) -> bool:
    """Set the last value of each key that was logged after `stored` was written. False: no key was.

    A key whose stored value is an object (from `define_metric`, for example its minimum) keeps it.
    """
    stored_s, stored_step = _moment(stored)
    if stored and not stored_s and stored_step < 0:
        return False  # the time of `stored` is unknown
    found = False
    logged, step = -1, log.first_before
    for record, end in WandbLog(log.log).records(HISTORY):
        if end > log.end:
            break
        if not record.HasField("history"):
            continue
        logged, step = row_step(record.history, logged), log.step_of(record.history, step)
        is_new = (row_time_s(record.history) or 0.0) > stored_s if stored_s else logged > stored_step
        if step > log.until or not is_new:
            continue
        found = True
        for item in record.history.item:
            path = item_path(item)
            if not isinstance(stored.get(path[0]), dict):
                tree.set(path, item_json(item))
    return found


def _of_file(path: Path, keys: Set[bytes]) -> dict[str, Any] | None:
    """The contents of the summary file. None: there is no readable one."""
    if path.parent.is_symlink():
        return None
    try:
        file = local_file(path, FILE_NAME, link_allowed=False, keys=keys)
        if file is None or file.size_bytes > FILE_MAX_BYTES:
            return None
        values = parse_json(file.path.read_text(encoding="utf-8"))
    except (Withheld, RunError, OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
