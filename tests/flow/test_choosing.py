"""The installed command: what matches nothing changes nothing, and what was chosen once is remembered."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.contract.local_source import EXIT, Directories, record, row, start
from tests.flow.conftest import Migrate, SetScene
from tests.servers.wandb_data import sample_runs


@pytest.fixture
def migrate(tmp_path: Path) -> Migrate:
    return Migrate(tmp_path, [])


def write(migrate: Migrate, run_id: str, rows: int) -> None:
    records = [row(step, loss=step / 2) for step in range(rows)]
    Directories(migrate.directory).add(start(run_id=run_id), *records, record(**EXIT), run_id=run_id)


def test_what_is_chosen_once_is_remembered_and_what_matches_nothing_changes_nothing(migrate: Migrate) -> None:
    write(migrate, "first000", rows=3)
    write(migrate, "second00", rows=3)
    told = migrate.run("inventory", "--local", ".", "--state", "finnished")
    assert (told.exit_code, "did you mean finished?" in told.stderr) == (2, True)
    assert "migration.db" not in migrate.files()
    migrate.succeed("inventory", "--local", ".")
    assert migrate.run("status", "--exit-code").exit_code == 6
    for command in ("run --mode offline", "retry-failed", "runs"):
        told = migrate.run(*command.split(), "--run-id", "first00")
        assert (told.exit_code, "did you mean first000?" in told.stderr) == (2, True), command

    notify = "cat > told.json"
    migrate.succeed("run", "--mode", "offline", "--offline-dir", "kept", "--metrics-namespace", "m", "--notify", notify)
    ended = json.loads((migrate.directory / "told.json").read_text())
    assert (ended["event"], ended["exit_code"], ended["runs"]["done"]) == ("end", 0, 2)
    assert migrate.run("status", "--exit-code").exit_code == 0
    [first, second] = csv.DictReader(io.StringIO(migrate.succeed("runs", "--csv", "--sort", "run").stdout))
    assert (first["run"].rpartition("/")[2], first["status"], second["history_rows"]) == ("first000", "done", "3")

    refused = migrate.run("run", "--metrics-namespace", "n")
    assert refused.exit_code == 2
    assert "the copy of 2 runs began with --metrics-namespace m" in refused.stderr
    write(migrate, "first000", rows=9)  # it went on: its copy goes on, too
    migrate.succeed("inventory", "--local", ".", "--run-id", "first000")
    refused = migrate.run("run", "--metrics-namespace", "n")
    assert refused.exit_code == 2
    for words in ("began with --metrics-namespace m", "With --metrics-namespace n", "first000", "Leave the option out"):
        assert words in refused.stderr
    told = migrate.succeed("run", MIGRATE_OFFLINE_DIR=None)
    assert f"As before: --offline-dir {migrate.directory / 'kept'} --metrics-namespace m" in told.stderr
    status = migrate.status("first000")
    assert (status["mapping"]["metrics_namespace"], status["status"]) == ("m", "done")

    lines = [json.loads(line)["message"] for line in Path(status["attempts"][-1]["log"]).read_text().splitlines()]
    told = [line.removeprefix(f"run {status['ref']}: ") for line in lines if line.startswith(f"run {status['ref']}: ")]
    assert told[0] == "attempt 2 begins"
    assert re.fullmatch(r"attempt 2 ends: done, in \d+\.\d s", told[-1])
    assert any(re.fullmatch(r"history: 6 read, 6 written, 0 skipped, \d+ bytes in \d.\d s", one) for one in told)


def test_wandb_applies_its_own_filters(set_scene: SetScene) -> None:
    runs = sample_runs(4, steps=2, files=1)
    for number, run in enumerate(runs):
        run.config = {"lr": number / 10}
    scene = set_scene(runs)
    migrate = scene.migrate
    for wanted, words in {
        '{"config.lr": {"$gt": 7}}': "--filter: W&B has no such run. Without filters there are 4 runs",
        '{"summary.loss": 1}': "--filter: W&B refuses it: runs of team/demo: HTTP 400: unknown run field: summary.loss",
    }.items():
        told = migrate.run("inventory", "--filter", wanted)
        assert (told.exit_code, words in told.stderr) == (2, True), told.stderr
    assert "migration.db" not in migrate.files()
    scene.wandb.unknown.clear()
    (migrate.directory / "filter.json").write_text('{"config.lr": {"$gt": 0.15}}')
    migrate.succeed("inventory", "--filter", "@filter.json")
    migrate.succeed("inventory", MIGRATE_FILTER='{"config.lr": 0}')
    listed = migrate.succeed("runs", "--json").json["runs"]
    assert sorted(run["run"].rpartition("/")[2] for run in listed) == [runs[0].id, runs[2].id, runs[3].id]
