"""What the tests of the W&B API source share: servers, sources on them, and comparing rows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from migrator.errors import RunError
from migrator.listed import SourceProject
from migrator.records import HistoryRow
from migrator.sources.wandb.listing import WandbApiSource
from migrator.sources.wandb.run import WandbRun
from tests.servers.wandb_data import (
    Run,
    finite,
)
from tests.servers.wandb_server import API_KEY, WandbServer

MODES = ("parquet", "live", "mixed")
P = SourceProject("team", "p", "")
Make = Callable[..., tuple[WandbServer, WandbApiSource]]
Opened = Callable[..., WandbRun]


def rows_of(run: WandbRun, after_step: float | None = None) -> list[HistoryRow]:
    return [row for page in run.history(after_step) for row in page]


def as_logged(run: Run) -> list[HistoryRow]:
    return [
        HistoryRow(
            row["_step"], row.get("_timestamp"), {k: v for k, v in row.items() if k not in ("_step", "_timestamp")}
        )
        for row in run.rows()
    ]


def same(found: Any, logged: Any) -> bool:
    """Equal but for what the two forms of history cannot keep apart: 1 and 1.0, NaN and "NaN", None and absent."""
    found, logged = finite(found), finite(logged)
    if isinstance(logged, dict) and isinstance(found, dict):
        logged = {key: value for key, value in logged.items() if value is not None}
        return found.keys() == logged.keys() and all(same(found[key], logged[key]) for key in logged)
    if isinstance(logged, list) and isinstance(found, list):
        return len(found) == len(logged) and all(map(same, found, logged))
    if isinstance(found, str) and not isinstance(logged, str):
        return bool(json.loads(found) == logged)  # the server exports what fits no column as JSON text
    if isinstance(found, bool) or isinstance(logged, bool):
        return found is logged
    if isinstance(found, (int, float)) and isinstance(logged, (int, float)):
        return found == logged or float(found) == float(logged)
    return bool(found == logged)


def assert_same_rows(found: list[HistoryRow], expected: list[HistoryRow]) -> None:
    assert [row.step for row in found] == [row.step for row in expected]
    assert [row.time for row in found] == [row.time for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert same(dict(one.values), dict(other.values)), (one, other)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def error_of(error: type[RunError], action: Callable[[], object]) -> RunError:
    with pytest.raises(error) as caught:
        action()
    assert API_KEY not in str(caught.value)
    return caught.value


def run_python(script: str, directory: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", script, str(directory)]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
