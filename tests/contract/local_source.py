"""What the tests of the local source share: reading all of a run, and directories of logs made by hand."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrator.listed import RunListing, RunRef
from migrator.records import HistoryRow
from migrator.sources.base import RunFilter
from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.run import LocalRun
from tests.servers.offline_runs import write_log

START_S = 1_700_000_000


def listings(source: LocalSource) -> dict[str, RunListing]:
    found = [listing for project in source.projects(None) for listing in source.runs(project, RunFilter())]
    assert len({listing.run_id for listing in found}) == len(found)
    return {listing.run_id: listing for listing in found}


def opened(source: LocalSource, run_id: str) -> LocalRun:
    for project in source.projects(None):
        for listing in source.runs(project, RunFilter(run_ids=(run_id,))):
            return source.open_run(RunRef(project.entity, project.name, run_id, listing.location), Path())
    raise AssertionError(f"no run {run_id}")


def rows_of(run: LocalRun, after_step: float | None = None) -> list[HistoryRow]:
    return [row for page in run.history(after_step) for row in page]


def same(one: Any, other: Any) -> bool:
    """Equal, with NaN equal to NaN; a bool is no number."""
    match one, other:
        case float(), float() if math.isnan(one):
            return math.isnan(other)
        case dict(), dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(same, one, other))
        case _:
            return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


# ---------------------------------------------------------------- records made by hand


def record(**fields: Any) -> Any:
    from google.protobuf.json_format import ParseDict
    from wandb.proto.wandb_internal_pb2 import Record

    return ParseDict(fields, Record())


def items(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"nested_key": [key], "value_json": json.dumps(value)} for key, value in values.items()]


def row(step: int, **values: Any) -> Any:
    logged = items(values | {"_step": step, "_timestamp": START_S + step})
    return record(history={"item": logged, "step": {"num": step}})


def start(second: int = 0, run_id: str = "r", **fields: Any) -> Any:
    started = datetime.fromtimestamp(START_S + second, UTC).isoformat()
    return record(run={"run_id": run_id, "project": "p", "start_time": started} | fields)


OFFLINE_RESUME = {"resume": True, "telemetry": {"feature": {"offline": True}}}
EXIT = {"exit": {"exit_code": 0}}


def stats(second: int, **values: float) -> Any:
    at = datetime.fromtimestamp(START_S + second, UTC).isoformat()
    return record(
        stats={"timestamp": at, "item": [{"key": key, "value_json": json.dumps(v)} for key, v in values.items()]}
    )


class Directories:
    """Run directories below one `wandb` directory, in order of their names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def add(self, *records: Any, run_id: str = "r", syncstate: dict[str, Any] | None = None) -> Path:
        place = self.root / "wandb" / f"run-20260101_00000{self._count}-{run_id}"
        self._count += 1
        write_log(place / f"run-{run_id}.wandb", records)
        if syncstate is not None:
            (place / f"run-{run_id}.wandb.syncstate").write_text(json.dumps(syncstate))
        return place

    def run(self, run_id: str = "r") -> LocalRun:
        return opened(LocalSource([self.root]), run_id)

    def steps(self) -> list[float]:
        return [row.step for row in rows_of(self.run())]
