"""The source of local run directories, against logs of old SDKs: what they say of resumed and killed runs.

Old SDKs need environments of their own: `OLD_WANDB_PYTHONS` names their interpreters, separated by `:`. For example:

    for v in 0.17.9 0.24.2; do python -m venv $v && $v/bin/pip install wandb==$v setuptools; done
    OLD_WANDB_PYTHONS=0.17.9/bin/python:0.24.2/bin/python pytest -m heavy tests/contract/test_source_local_old_sdks.py
"""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.run import NO_ENTITY
from migrator.sources.wandb_local.starts import ASSUMED
from migrator.sources.wandb_local.summaries import OF_ROWS
from tests.contract.local_source import opened, rows_of

PYTHONS = [Path(name).absolute() for name in os.environ.get("OLD_WANDB_PYTHONS", "").split(":") if name]
LOGS = """
import os, signal, sys, time
import wandb
from pathlib import Path

what = sys.argv[1]
run = wandb.init(project="p", id="killed" if what == "killed" else "resumed", resume="allow")
if what != "killed":
    for i in range(3):
        run.log({"loss": 10 * int(what) + i})
    run.finish()
else:
    for i in range(3000):
        run.log({"loss": i, "text": "x" * 50})
    log = Path(run.dir).parent / "run-killed.wandb"
    while not log.exists() or log.stat().st_size < 3 * 32768:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
"""

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHONS, reason="OLD_WANDB_PYTHONS names no old SDK"),
]


def log(python: Path, directory: Path, what: str) -> int:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "WANDB_DIR": str(directory),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    done = subprocess.run(
        [str(python), "-c", LOGS, what],
        cwd=directory,
        env=environment,
        timeout=200,
        check=False,
        stdout=subprocess.DEVNULL,  # a pipe would wait for the service that outlives a killed process
        stderr=subprocess.DEVNULL,
    )
    return done.returncode


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_resumed_and_killed_runs_of_old_sdks_are_whole(python: Path, tmp_path: Path) -> None:
    assert [log(python, tmp_path, what) for what in ("0", "1", "2", "killed")] == [0, 0, 0, -signal.SIGKILL]
    source = LocalSource([tmp_path], now=lambda: datetime.now(UTC) + timedelta(hours=1))
    resumed = opened(source, "resumed")
    values = [10 * part + i for part in range(3) for i in range(3)]
    assert [(row.step, row.values["loss"]) for row in rows_of(resumed)] == [*enumerate(values)]
    assert resumed.summary().values["loss"] == 22
    assert {entry.reason for entry in resumed.findings()} <= {ASSUMED, NO_ENTITY}
    killed = opened(source, "killed")
    steps = [row.step for row in rows_of(killed)]
    assert steps == [*range(len(steps))]
    assert len(steps) > 1000
    assert killed.attributes().wandb["state"] == "crashed"
    summary, notes = killed.summary().values["loss"], {entry.reason for entry in killed.findings()}
    assert summary == steps[-1] if OF_ROWS in notes else summary - steps[-1] in (0, 1)
