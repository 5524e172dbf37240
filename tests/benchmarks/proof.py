"""What it costs to prove that everything arrived: `migrate verify` at each level, and `migrate report`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.cases import copied
from tests.benchmarks.harness import Figure, directory, migrate, run, services

PROJECTS = 20
LEDGER_LINES = 3  # of each run


def verifying(scale: float) -> Iterator[Figure]:
    """Two long runs by their digests and point by point, without latency; many small runs with it."""
    steps = int(250_000 * scale)
    with services(f"big:runs=2,steps={steps},metrics=10", apply="eager") as at, directory() as cwd:
        copied(at, cwd, workers=2)
        for level in ("digests", "values"):
            measured = run(migrate("verify", "--again", "--level", level), cwd, at.environment)
            note = f"peak {measured.peak_bytes / 1e6:.0f} MB" + ("; promised: 500,000" if level == "digests" else "")
            name = f"verify 2 runs x {steps * 10:,} points, {level}"
            yield Figure(name, 2 * steps * 10 / measured.wall_s, "points/s", note, measured)
    runs = int(200 * scale)
    spec = f"sample:{runs},steps=50,metrics=5,files=6,events=60,console=5"
    with services(spec, latency_s=0.03, apply="eager") as at, directory() as cwd:
        copied(at, cwd, workers=4)
        for level in ("counts", "digests", "values"):
            measured = run(migrate("verify", "--again", "--level", level), cwd, at.environment)
            note = "promised: 20" if level == "digests" else ""
            yield Figure(f"verify {runs} small runs, {level}", runs / measured.wall_s, "runs/s", note, measured)


def reporting(scale: float) -> Iterator[Figure]:
    """A report of 10,000 runs, a third of which has something to tell."""
    runs = int(10_000 * scale)
    with directory() as cwd:
        _fill(cwd / "migration.db", runs)
        measured = run(migrate("report", "--charts", "0"), cwd, {})
        size_bytes = (cwd / "migration-report.html").stat().st_size
    note = f"peak {measured.peak_bytes / 1e6:.0f} MB; promised: 10,000 runs under 20 s, 20 MB"
    yield Figure(f"report of {runs:,} runs", measured.wall_s, "s", note, measured)
    yield Figure(f"report of {runs:,} runs, size", size_bytes / 1e6, "MB", "")


def _fill(path: Path, runs: int) -> None:
    """Runs that are done and verified, as their copies leave them; of every third, something was skipped or changed."""
    from migrations_db import open_store
    from migrations_db.types import ProjectRow, RunRow, WorkerInfo

    with open_store(str(path)) as store:
        store.workers.register(WorkerInfo("w", "host", 1, 1.0))
        names = [f"project-{number}" for number in range(PROJECTS)]
        projects = store.inventory.save_projects([ProjectRow("team", n, "wandb", "https://w/" + n, n) for n in names])
        for number, project in enumerate(projects):
            ids = range(number, runs, PROJECTS)
            rows = [RunRow(f"run{n:05}", f"a run called {n}", "finished", "f", history_rows=1_000) for n in ids]
            store.inventory.save_runs(project, rows, 1)
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "UPDATE run SET status = 'done', copied_fingerprint = 'f', points_read = 10000, points_written = 10000, "
            "size_bytes = 160000, verdict = 'verified', verified_by = 'digests', verified_at = ?, finished_at = ?",
            (now, now),
        )
        database.execute(
            "INSERT INTO attempt (run, number, phase, worker, started_at, ended_at, outcome) "
            "SELECT id, 1, 'copy', 'w', ?, ?, 'done' FROM run",
            (now, now),
        )
        lines = [
            (run, bytes([number]) * 16, "files", "skipped", f"media/images/image_{number}_{run}.png", "missing_file", 4)
            for run in range(1, runs + 1, 3)
            for number in range(LEDGER_LINES)
        ]
        database.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", lines)
        database.commit()
