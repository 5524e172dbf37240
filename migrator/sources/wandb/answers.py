"""Reads W&B's answers and records: runs, states, types, times, and cursors of pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrator.errors import ErrorClass, Rejected
from migrator.json_text import parse_json
from migrator.listed import RunRef
from migrator.records import Fork
from migrator.sources.wandb_facts import branch_of_config

Json = dict[str, Any]

#: States of runs that may still log. Runs in other states log nothing more, unless they are resumed
LIVE = frozenset({"running", "pending", "preempting"})


def run_of(data: Mapping[str, Any], ref: RunRef) -> Json:
    """`project.run` of an answer. `Rejected` if it or the project is null: the run is gone."""
    run = (data.get("project") or {}).get("run")
    if run is None:
        raise Rejected(ErrorClass.NOT_FOUND, f"{ref} is not (or no longer) at W&B")
    return dict(run)


def nodes(page: Mapping[str, Any]) -> list[Json]:
    """The nodes on a page of a connection."""
    return [edge["node"] for edge in page.get("edges") or () if edge.get("node")]


def next_cursor(page: Mapping[str, Any], before: str | None) -> str | None:
    """The cursor of the next page. None after the last page, and if the server repeats a cursor."""
    info, edges = page.get("pageInfo") or {}, page.get("edges") or [{}]
    cursor: str | None = edges[-1].get("cursor") or info.get("endCursor")
    return cursor if info.get("hasNextPage") and cursor and cursor != before else None


def parsed(value: Any) -> Any:
    """A field of type JSON: text on some servers, the value itself on others. ValueError if text is not JSON."""
    return parse_json(value) if isinstance(value, str) else value


def fork_of(node: Json, run_id: str) -> Fork | None:
    """The run from which a run was forked, according to its config. Most configs need no parsing for that."""
    config = node.get("config")
    if isinstance(config, str):
        if '"branch_point"' not in config:
            return None
        try:
            config = parse_json(config)
        except ValueError:  # reported when the run is read
            return None
    return branch_of_config(run_id, config).fork


def step_metrics(defined: Any) -> dict[str, str]:
    """The x axis of each metric, as set with `define_metric`, by key or glob.

    `defined` is `m` of the config's `_wandb`: a list of MetricRecord, each a dict by field number (wandb 0.31,
    core/internal/runmetric): "1" name, "2" glob, "4" name of the x axis, or "5" its position in the list, from 1.
    In names, a dot that does not separate levels is written as `\\.`.
    """
    records = [one if isinstance(one, dict) else {} for one in defined] if isinstance(defined, list) else []
    axes: dict[str, str] = {}
    for record in records:
        key, axis, place = record.get("1") or record.get("2"), record.get("4"), number(record.get("5"))
        if not axis and place is not None and 0 < place <= len(records):
            axis = records[place - 1].get("1")
        if isinstance(key, str) and isinstance(axis, str) and axis:
            axes[key.replace("\\.", ".")] = axis.replace("\\.", ".")
    return axes


def fewer(what: str, given: int, counted: int | None) -> str | None:
    """A message if W&B returns less than it counts, otherwise None."""
    return f"W&B counts {counted} {what} but returns {given}" if counted is not None and given < counted else None


def number(value: Any) -> int | None:
    """Read a field of type Int or Int64: a number or a string of digits. None: it is something else."""
    try:
        return None if value is None else int(value)
    except (ValueError, TypeError):
        return None
