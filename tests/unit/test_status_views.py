"""`migrate status --workers`, `--all`, and where the log of a run is."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from migrations_db import Phase
from migrations_db.types import WorkerInfo
from migrator.__main__ import exit_code_of
from tests.report_job import Job, fill, row

LOG = "/data/migration-logs/20240501T120000-run-7.jsonl"
NODES = ("node-1:42:abc", "node-2:43:def")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    job = Job(tmp_path / "migration.db")
    job.store.workers.stop("w")
    return job


def at_work(job: Job) -> None:
    """Two machines copy runs, one of them silently."""
    job.project("vision", row("a"), row("b"), row("c"))
    number = job.store.begin_invocation("run", "node-1", 41, "1.0", LOG)
    for node in NODES:
        host, pid, _ = node.split(":")
        job.store.workers.register(WorkerInfo(node, f"id of {host}", int(pid), 1.0, number))
    for node in (NODES[0], NODES[0], NODES[1]):
        assert job.store.claim(node, Phase.COPY, 60.0) is not None


def silence(job: Job, worker: str, seconds: int) -> None:
    with job.store._database.write() as connection:
        past = f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{seconds} seconds')"
        connection.exec_driver_sql(f"UPDATE worker SET heartbeat_at = {past} WHERE id = '{worker}'")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert exit_code_of([*arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_workers_are_listed_with_what_they_do(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "status", "--workers") == "Nothing is running.\n"
    at_work(job)
    silence(job, NODES[1], 47)
    told = said(capsys, "status", "--workers")
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0] == "2 workers on 2 hosts"
    assert [line.rpartition(" start ")[0] for line in lines[2:5]] == [
        "node-1 42 run team/vision/a",
        "team/vision/b",
        "node-2 43 run team/vision/c",
    ]
    assert lines[-1].startswith("node-2, process 43: not heard of for 4")
    document = json.loads(said(capsys, "status", "--workers", "--json"))
    assert document["hosts"] == [
        {"host": "node-1", "id": "id of node-1", "workers": 1},
        {"host": "node-2", "id": "id of node-2", "workers": 1},
    ]
    first, second = document["workers"]
    assert [run["run"] for run in first["runs"]] == ["team/vision/a", "team/vision/b"]
    assert (first["host"], first["pid"], first["command"], first["late"], second["late"]) == (
        *("node-1", 42, "run", False),
        True,
    )
    assert first["runs"][0]["since"].endswith("+00:00")


def test_a_verification_says_how_many_runs_it_reads(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.store.workers.register(WorkerInfo("w", "host", 1, 1.0))
    job.project("vision", row("a"), row("b"), row("c"))
    for run_id in ("a", "b"):
        job.done(run_id)
    job.store.workers.stop("w")
    number = job.store.begin_invocation("verify", "node-1", 41, "1.0", LOG)
    job.store.workers.register(WorkerInfo(NODES[0], "node-1", 42, 1.0, number))
    assert len(job.store.verification.claim(NODES[0], 50)) == 2
    assert "node-1 42 verify reads 2 runs back" in " ".join(said(capsys, "status", "--workers").split())
    [worker] = json.loads(said(capsys, "status", "--workers", "--json"))["workers"]
    assert (worker["command"], worker["reading"], worker["runs"]) == ("verify", 2, [])


def test_a_run_says_which_machine_has_its_log(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    at_work(job)
    told = " ".join(said(capsys, "status", "c").split())
    assert "worker node-2, process 43" in told
    assert f"log {LOG}: search it for 'run team/vision/c:'" in told
    assert json.loads(said(capsys, "status", "c", "--json"))["attempts"][0]["log"] == LOG


def test_all_runs_are_told_in_full_one_per_line(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.store.workers.register(WorkerInfo("w", "host", 1, 1.0))
    fill(job)
    at_work(job)
    lines = [json.loads(line) for line in said(capsys, "status", "--all", "--json-lines").splitlines()]
    refs = [line["ref"] for line in lines]
    assert (len(refs), len(set(refs))) == (10, 10)
    for line in lines:
        assert line == json.loads(said(capsys, "status", line["ref"], "--json"))
    told = said(capsys, "status", "--all", "--csv")
    rows = [*csv.DictReader(io.StringIO(told))]
    assert [row["ref"] for row in rows] == refs
    assert [_of_csv(row) for row in rows] == [_of_json(line) for line in lines]
    few = said(capsys, "status", "--all", "--json-lines", "--projects", "bad*").splitlines()
    assert [json.loads(line)["run_id"] for line in few] == ["<i>"]


def _of_csv(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if value != ""}


def _of_json(document: dict[str, Any]) -> dict[str, str]:
    plain = (str, int, float)
    return {
        name: str(value) if isinstance(value, plain) and not isinstance(value, bool) else json.dumps(value)
        for name, value in document.items()
        if value is not None and value != ""
    }


def test_an_empty_state_database_has_no_lines(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "status", "--all", "--json-lines") == ""
    [header] = said(capsys, "status", "--all", "--csv").splitlines()
    assert header.startswith("schema_version,ref,destination,run,")
