"""What it costs to look: `migrate status`, `migrate verify` at each level, and `migrate report`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from migrator.parts import STANDARD_PARTS
from tests.benchmarks.cases import LATENCY_S, SMALL, copied
from tests.benchmarks.harness import Figure, directory, migrate, run, services

PROJECTS = 20


def verifying(scale: float) -> Iterator[Figure]:
    """Two long runs by their digests and point by point, without latency; many small runs with it."""
    steps = int(250_000 * scale)
    with services(f"big:runs=2,steps={steps},metrics=10", apply="eager") as at, directory() as cwd:
        copied(at, cwd, workers=2)
        for level in ("digests", "values"):
            measured = run(migrate("verify", "--again", "--level", level), cwd, at.environment)
            note = f"peak {measured.peak_bytes / 1e6:.0f} MB" + ("; goal: 500,000" if level == "digests" else "")
            name = f"verify 2 runs x {steps * 10:,} points, {level}"
            yield Figure(name, 2 * steps * 10 / measured.wall_s, "points/s", note, measured)
    runs = int(200 * scale)
    with services(SMALL.format(runs=runs), LATENCY_S, apply="eager") as at, directory() as cwd:
        copied(at, cwd, workers=4)
        for level in ("counts", "digests", "values"):
            measured = run(migrate("verify", "--again", "--level", level), cwd, at.environment)
            note = "goal: 20" if level == "digests" else ""
            yield Figure(f"verify {runs} small runs, {level}", runs / measured.wall_s, "runs/s", note, measured)


def reporting(scale: float) -> Iterator[Figure]:
    """A report of 10,000 runs, a third of which has something to tell."""
    runs = int(10_000 * scale)
    with directory() as cwd:
        _fill(cwd / "migration.db", runs, every=3, lines=3)
        measured = run(migrate("report", "--charts", "0"), cwd, {})
        size_bytes = (cwd / "migration-report.html").stat().st_size
    note = f"peak {measured.peak_bytes / 1e6:.0f} MB; goal: 10,000 runs in 20 s, 20 MB"
    yield Figure(f"report of {runs:,} runs", measured.wall_s, "s", note, measured)
    yield Figure(f"report of {runs:,} runs, size", size_bytes / 1e6, "MB", "")


def looking(scale: float) -> Iterator[Figure]:
    """`migrate status` of a large job with a million lines in its ledger."""
    for runs in (int(50_000 * scale), int(100_000 * scale)):
        with directory() as cwd:
            _fill(cwd / "migration.db", runs, every=1, lines=10)
            for arguments in (["status"], ["status", "--short"]):
                measured = run(migrate(*arguments), cwd, {})
                yield Figure(f"{' '.join(arguments)} of {runs:,} runs", measured.wall_s, "s", "goal: 0.5", measured)


def _fill(path: Path, runs: int, every: int, lines: int) -> None:
    """Runs that are done and verified, as their copies leave them; some have this many lines in the ledger."""
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
        database.executemany(
            "INSERT INTO part (run, name, done_fingerprint, read, written, skipped, size_bytes, updated_at) "
            "VALUES (?, ?, 'f', 1000, 1000, 0, 16000, ?)",
            ((run, name, now) for run in range(1, runs + 1) for name in STANDARD_PARTS),
        )
        database.executemany(
            "INSERT INTO ledger VALUES (?, ?, 'files', 'skipped', ?, 'missing_file', 4)",
            (
                (run, bytes([number]) * 16, f"media/images/image_{number}_{run}.png")
                for run in range(1, runs + 1, every)
                for number in range(lines)
            ),
        )
        database.commit()
