"""`migrate demo`: real W&B runs, real commands, a stop in the middle; no account, no network."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot
from neptune_scale.sync.operations_repository import OperationType

from migrations_db import Outcome, RunStatus, open_store
from migrator.commands.demo import run_demo
from migrator.errors import ExitCode, UserError
from tests.command import migrate_command

LONG_ROWS = 5_000
SHORT_ROWS = 200


def start_demo(directory: Path, **options: Any) -> subprocess.Popen[str]:
    """The command, with settings of a person that must not reach the demo's own commands."""
    private = {"WANDB_API_KEY": "x" * 40, "NEPTUNE_API_TOKEN": "secret", "MIGRATE_MODE": "nonsense", "WANDB_DIR": "/no"}
    environment = os.environ | private | {"COLUMNS": "100"}
    command = [*migrate_command(), "demo", "--dir", str(directory)]
    return subprocess.Popen(
        command,
        cwd=directory.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


class OfflineFile:
    """A run's offline file as Neptune's own client would read it."""

    def __init__(self, directory: Path) -> None:
        self.single: dict[str, Any] = {}
        self.points: dict[str, list[tuple[int, Any]]] = {}
        self.tags: dict[str, set[str]] = {}
        with closing(sqlite3.connect(directory / "run_operations.sqlite3")) as connection:
            rows = connection.execute("SELECT operation_type, operation FROM run_operations ORDER BY sequence_id")
            for kind, blob in rows:
                if kind == OperationType.UPDATE_SNAPSHOT:
                    self._add(UpdateRunSnapshot.FromString(blob))
            uploads = connection.execute("SELECT destination FROM file_upload_requests")
            self.uploads = [destination for (destination,) in uploads]

    def _add(self, snapshot: UpdateRunSnapshot) -> None:
        for path, value in snapshot.assign.items():
            self.single[path] = _value(value)
        for path, value in snapshot.append.items():
            self.points.setdefault(path, []).append((snapshot.step.whole, _value(value)))
        for path, change in snapshot.modify_sets.items():
            self.tags.setdefault(path, set()).update(change.string.values)

    def series(self, path: str) -> list[Any]:
        """Values of a series whose steps are 0, 1, 2 ... once each."""
        steps = [step for step, _ in self.points[path]]
        assert steps == list(range(len(steps)))
        return [value for _, value in self.points[path]]


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def losses(run_id: str, rows: int, learning_rate: float, first_row: int = 0) -> list[float]:
    """What `demo_runs.train` logged as train/loss."""
    noise = random.Random(run_id)
    return [math.exp(-learning_rate * i / 20) + noise.random() * 0.05 for i in range(first_row, first_row + rows)]


@pytest.mark.installed
def test_the_demo_does_the_whole_job_and_is_stopped_half_way(tmp_path: Path) -> None:
    directory = tmp_path / "a demo"
    process = start_demo(directory)
    output, _ = process.communicate()
    assert process.returncode == ExitCode.OK, output
    assert_the_story_is_told(output, directory)
    assert_runs_went_on_after_the_stop(directory)
    assert_offline_files_hold_what_was_logged(directory / "neptune-offline")


def assert_the_story_is_told(output: str, directory: Path) -> None:
    for number in range(1, 8):
        assert f"\n{number}. " in output
    assert "13 directories in runs/wandb" in output
    assert "of 12 runs are done: now the demo stops it (SIGTERM)" in output
    assert "it ended with exit code 143" in output
    assert "12 verified, 0 differ, 0 not verified" in output
    assert "12 runs: 12 done" in output
    assert (directory / "migration-report.html").stat().st_size > 10_000
    assert "missing_file" in output
    assert f"cd '{directory}'" in output
    assert "migrate sync --neptune-workspace" in output
    assert "Traceback" not in output


def assert_runs_went_on_after_the_stop(directory: Path) -> None:
    with closing(open_store(directory / "migration.db", create=False)) as store:
        done = [store.reports.run_detail(run.run) for run in store.reports.runs(RunStatus.DONE)]
    assert len(done) == 12
    attempts = {detail.ref: [attempt.outcome for attempt in detail.attempts] for detail in done if detail}
    assert [Outcome.RELEASED, Outcome.DONE] in attempts.values()
    for detail in done:
        assert detail
        assert detail.failures == 0
        for part in detail.parts.values():
            assert part.read == part.written + part.skipped


def assert_offline_files_hold_what_was_logged(offline: Path) -> None:
    files = {path.parent.name: OfflineFile(path.parent) for path in offline.rglob("run_operations.sqlite3")}
    assert len(files) == 12
    assert all(file.single["migration/complete"] is True for file in files.values())

    for run_id in ("long", "longer"):
        assert files[run_id].series("train/loss") == losses(run_id, LONG_ROWS, 0.001)
        assert files[run_id].series("epoch") == [i // 100 for i in range(LONG_ROWS)]
        assert len(files[run_id].series("gradients/layer 5")) == LONG_ROWS
    resumed = losses("resumed", SHORT_ROWS, 0.02) + losses("resumed", SHORT_ROWS, 0.02, SHORT_ROWS)
    assert files["resumed"].series("train/loss") == resumed
    crashed = files["crashed"].series("train/loss")
    assert crashed
    assert crashed == losses("crashed", len(crashed), 0.02)
    assert files["crashed"].single["wandb/state"] == "crashed"

    sweep = files["sweep-2"]
    assert sweep.single["config/optimizer/lr"] == 0.03
    assert sweep.single["config/optimizer/betas"] == "[0.9,0.999]"
    assert sweep.single["sys/description"] == "Learning rate 0.03"
    assert sweep.tags == {"sys/tags": {"sweep", "resnet"}, "sys/group_tags": {"learning-rate"}}

    diverged = files["diverged"]
    assert diverged.single["wandb/state"] == "failed"
    assert diverged.single["config/seed"] == str(2**70)
    assert [math.isnan(loss) for loss in diverged.series("loss")] == [i >= 100 for i in range(SHORT_ROWS)]
    assert diverged.series("grad")[91:] == [math.inf] * (SHORT_ROWS - 91)

    words = files["words"]
    assert words.series("sample")[49] == "Once upon a time 49"
    assert [step for step, _ in words.points["score"]] == [i for i in range(50) if i % 5]
    assert [step for step, _ in words.points["score/text"]] == list(range(0, 50, 5))
    assert words.series("tokens.in")[2] == 200

    talkative = files["talkative"]
    assert [text for _, text in talkative.points["runtime/stdout"]][99] == "epoch 99: loss 0.0100"
    assert len(talkative.points["runtime/stderr"]) == 4

    names = files["names"]
    assert len(names.series("metrics/config/lr")) == 20
    assert len(names.series("a/_/b")) == 20
    assert [step for step, _ in names.points["plots"]] == [step for step in range(20) if step != 7]

    media = files["media"]
    assert [list(histogram.bin_edges) for histogram in media.series("weights")] == [[j / 8 for j in range(9)]] * 5
    for path in ("predictions", "report", "sound"):
        assert len(media.series(path)) == 5
    assert len(media.uploads) >= 15


# ---------------------------------------------------------------- ends


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    process = start_demo(directory, start_new_session=True)
    assert process.stdout is not None
    wait_for(lambda: any(directory.glob("runs/wandb/offline-run-*/*.wandb")))
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, output
    assert f"What the demo made so far is in {directory}" in output
    wait_for(lambda: not any(processes_of(directory)))


def processes_of(directory: Path) -> Iterator[int]:
    """Processes that work in the directory, or were told of it; wandb's service process is one."""
    for process in psutil.process_iter():
        try:
            places = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(directory) in place for place in places):
                yield process.pid
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it has ended meanwhile, or is not ours


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_failing_command_ends_the_demo_with_its_exit_code(tmp_path: Path) -> None:
    told: list[str] = []
    command = [sys.executable, "-c", "import sys; sys.exit(4)"]
    exit_code = run_demo(tmp_path / "demo", told.append, command, processes=["crash"])
    assert exit_code == 4
    assert "`migrate inventory` ended with exit code 4" in told[-1]
    assert str(tmp_path / "demo") in told[-1]


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not an empty directory"):
        run_demo(tmp_path)
    with pytest.raises(UserError, match="not an empty directory"):
        run_demo(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
