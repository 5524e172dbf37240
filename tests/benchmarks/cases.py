"""One function per promise. `scale` shrinks the sizes; two sizes each show that cost grows linearly."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.harness import Figure, Measured, Services, directory, migrate, run, services

#: what most runs are like
SMALL = "sample:{runs},steps=50,metrics=5,files=6,events=60,console=5"
LATENCY_S = 0.03


def help_text(scale: float) -> Iterator[Figure]:
    """`migrate --help`."""
    with directory() as cwd:
        walls = [run(migrate("--help"), cwd, {}).wall_s for _ in range(5)]
    yield Figure("migrate --help", median(walls), "s", "goal: 0.3")


def start(scale: float) -> Iterator[Figure]:
    """`migrate run` of one run, from its start to its exit."""
    with services("sample:1", LATENCY_S) as at, directory() as cwd:
        measured = copied(at, cwd, workers=1)
    yield Figure("one run, from start to exit", measured.wall_s, "s", "goal: 1.5", measured)


def inventory(scale: float) -> Iterator[Figure]:
    """20,000 runs at 30 ms latency."""
    for runs in (int(10_000 * scale), int(20_000 * scale)):
        with services(f"list:{runs}", LATENCY_S) as at, directory() as cwd:
            measured = run(migrate("inventory", "--wandb-entity", "team"), cwd, at.environment)
        note = f"peak {measured.peak_bytes / 1e6:.0f} MB; goal: 20,000 in 30 s, 200 MB"
        yield Figure(f"inventory of {runs:,} runs", measured.wall_s, "s", note, measured)


def claims(scale: float) -> Iterator[Figure]:
    """Claims per second with 8 processes on SQLite, while the table is full and when it is nearly empty."""
    rows = int(1_000_000 * scale)
    with directory() as cwd:
        path = cwd / "claims.db"
        _fill(path, rows)
        at_first = _claim_rate(path, 2000)
        _drain(path, keep=4000)
        at_last = _claim_rate(path, 2000)
    yield Figure(f"claims, {rows:,} pending, 8 workers", at_first, "/s", "goal: 200")
    yield Figure("claims, 4,000 of them left", at_last, "/s", "goal: no slower")


def small_runs(scale: float) -> Iterator[Figure]:
    """Many small runs with latency and processing delay: what pipelining is for."""
    sizes = [("aws", int(100 * scale)), *((provider, int(200 * scale)) for provider in ("gcp", "azure", "aws"))]
    for provider, runs in sizes:
        with services(SMALL.format(runs=runs), LATENCY_S, "0.2:0.6", provider=provider) as at, directory() as cwd:
            measured = copied(at, cwd, workers=4)
        note = f"{measured.cpu_s / runs:.3f} CPU-s/run; goal: {18 if provider == 'aws' else 17}"
        yield Figure(f"{runs} small runs, {provider}, 4 workers", runs / measured.wall_s, "runs/s", note, measured)
    with services(SMALL.format(runs=runs), LATENCY_S, "0.2:0.6") as at, directory() as cwd:
        yield from _small_references(at, cwd, runs)


def long_runs(scale: float) -> Iterator[Figure]:
    """Two long runs from exports, no latency."""
    for steps in (int(500_000 * scale), int(1_000_000 * scale)):
        with services(f"big:runs=2,steps={steps},metrics=10") as at, directory() as cwd:
            measured = copied(at, cwd, workers=2)
            note = f"peak {measured.peak_bytes / 1e6:.0f} MB; goal: 2,000,000, 350 MB"
            name = f"2 runs x {steps:,} steps x 10 metrics"
            yield Figure(name, 2 * steps * 10 / measured.wall_s, "points/s", note, measured)
            if steps == int(1_000_000 * scale):
                yield from _long_references(at, cwd)


def shapes(scale: float) -> Iterator[Figure]:
    """Runs that are not numbers in full columns, by what they hold; values of text and histograms count as points."""
    steps, histograms, files = int(250_000 * scale), int(20_000 * scale), int(10_000 * scale)
    for name, spec, values, goal in (
        ("2 runs, every second value missing", f"big:runs=2,steps={steps},metrics=20,gaps=2", steps * 20, 1_000_000),
        ("2 runs, a column of text beside", f"big:runs=2,steps={steps},metrics=10,texts=1", steps * 22, 500_000),
        ("2 runs, live pages only", f"big:runs=2,steps={steps},metrics=10,mode=live", steps * 20, 500_000),
        ("1 run, histograms of 64 bins", f"big:runs=1,steps={histograms},metrics=1,histograms=1", histograms, 0),
        ("1 run, files of 1 kB, half", f"sample:1,files={files // 2}", files // 2, 0),
        ("1 run, files of 1 kB", f"sample:1,files={files}", files, 0),
    ):
        with services(spec) as at, directory() as cwd:
            measured = copied(at, cwd, workers=2)
        note = f"{values:,} in all" + (f"; goal: {goal:,}" if goal else "")
        yield Figure(name, values / measured.wall_s, "values/s", note, measured)


def memory(scale: float) -> Iterator[Figure]:
    """A worker's memory must not grow with the length of a run, nor with the number of runs."""
    for steps in (int(1_000_000 * scale), int(2_000_000 * scale)):
        with services(f"big:runs=1,steps={steps},metrics=10") as at, directory() as cwd:
            measured = copied(at, cwd, workers=1)
        note = f"{steps * 10 / measured.wall_s:,.0f} points/s; goal: 350, flat"
        yield Figure(f"peak, API run of {steps * 10:,} points", measured.peak_bytes / 1e6, "MB", note, measured)
    for runs in (int(500 * scale), int(2_000 * scale)):
        with services(SMALL.format(runs=runs), provider="gcp") as at, directory() as cwd:
            measured = copied(at, cwd, workers=2)
        note = f"{runs / measured.wall_s:.1f} runs/s; goal: 250, flat"
        yield Figure(f"peak, {runs:,} small runs, gcp", measured.peak_bytes / 1e6, "MB", note, measured)


def local_run(scale: float) -> Iterator[Figure]:
    """One run from a local directory into an offline file."""
    for rows in (int(250_000 * scale), int(500_000 * scale)):
        with directory() as cwd:
            points = _write_local_run(cwd / "wandb", rows, 20)
            listed = run(migrate("inventory", "--local", "wandb"), cwd, {})
            measured = run(migrate("run", "--mode", "offline", "--workers", "1"), cwd, {})
        note = f"peak {measured.peak_bytes / 1e6:.0f} MB, inventory {listed.wall_s:.1f} s; goal: 600,000"
        yield Figure(f"local run of {points:,} points, offline", points / measured.wall_s, "points/s", note, measured)


def copied(at: Services, cwd: Path, workers: int) -> Measured:
    """What `migrate run` of everything at the API costs, its inventory not counted."""
    run(migrate("inventory", "--wandb-entity", "team"), cwd, at.environment)
    return run(migrate("run", "--workers", str(workers)), cwd, at.environment)


# ---------------------------------------------------------------- references


def _small_references(at: Services, cwd: Path, runs: int) -> Iterator[Figure]:
    public, bare = min(5, runs), min(40, runs)
    rate = public / _reference("public_small", public, at, cwd)
    yield Figure("reference: public API, small runs", rate, "runs/s", f"{public} runs, one after the other")
    rate = bare / _reference("bare_small", bare, at, cwd)
    yield Figure("reference: bare limit, small runs", rate, "runs/s", f"{bare} runs, 32 at a time, nothing checked")


def _long_references(at: Services, cwd: Path) -> Iterator[Figure]:
    steps, points = 4000, 1_000_000
    rate = steps * 10 / _reference("public_long", steps, at, cwd)
    yield Figure("reference: public API, long run", rate, "points/s", f"{steps} steps, one log_metrics each")
    rate = points / _reference("bare_long", points, at, cwd)
    yield Figure("reference: bare limit, long run", rate, "points/s", "one process, nothing converted or checked")


def _reference(name: str, size: int, at: Services, cwd: Path) -> float:
    """The seconds that a reference took, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.references", name, str(size)]
    return float(run(command, cwd, at.environment).output.splitlines()[-1])


# ---------------------------------------------------------------- data


def _fill(path: Path, rows: int) -> None:
    from migrations_db import open_store
    from migrations_db.types import ProjectRow, RunRow

    store = open_store(str(path))
    [project] = store.inventory.save_projects([ProjectRow("team", "p", "wandb", "https://example.invalid/p", "p")])
    page = 10_000
    for first in range(0, rows, page):
        listing = (
            RunRow(f"run{n}", f"run {n}", "finished", "f", size_hint=n % 977) for n in range(first, first + page)
        )
        store.inventory.save_runs(project, listing, 1)
    store.close()


def _drain(path: Path, keep: int) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE run SET status = 'done' WHERE status = 'pending' AND id NOT IN "
            "(SELECT id FROM run WHERE status = 'pending' ORDER BY size_hint LIMIT ?)",
            (keep,),
        )
    connection.close()


def _claim_rate(path: Path, claims: int) -> float:
    context = multiprocessing.get_context("spawn")
    go, counts = context.Event(), context.Queue()
    each = claims // 8
    workers = [context.Process(target=_claimer, args=(str(path), n, each, go, counts)) for n in range(8)]
    for worker in workers:
        worker.start()
    for _ in workers:
        counts.get()
    started = time.perf_counter()
    go.set()
    for _ in workers:
        counts.get()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return each * 8 / seconds


def _claimer(path: str, number: int, claims: int, go: object, counts: object) -> None:
    from migrations_db import Phase, open_store
    from migrations_db.types import WorkerInfo

    store = open_store(path)
    worker = WorkerInfo(f"bench:{number}:{time.time_ns()}", "bench", number + 1, 0.0)
    store.workers.register(worker)
    counts.put("ready")  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for _ in range(claims):
        assert store.claim(worker.id, Phase.COPY, 60.0) is not None
    counts.put("done")  # type: ignore[attr-defined]
    store.close()


def _write_local_run(directory: Path, rows: int, metrics: int) -> int:
    """A `.wandb` log as the SDK writes it; returns how many points it has."""
    from tests.benchmarks.local_log import write_log

    write_log(directory, rows, metrics)
    return rows * metrics
