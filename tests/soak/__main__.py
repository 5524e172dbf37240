"""Migrates between loopback servers that fail, with commands that are killed, until the minutes are over.

    python -m tests.soak --minutes 10 --seed 7                                SQLite
    python -m tests.soak --minutes 10 --offline                               to offline files, which are then uploaded
    python -m tests.soak --minutes 10 --db postgresql+psycopg://user@host/db  a server on which databases may be made

When a job is done early, its world grows; after some growth, another migration begins. At the end of each migration
the faults stop, `migrate run` must end with 0, and everything is compared point by point. Exit code 1: it differs.
A second state database copies the same runs to the same place meanwhile; a stranger's run with the id of one that is
there must be refused.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from migrations_db import RunStatus, open_store
from tests.flow.conftest import WANDB_KEY, WORKSPACE, Ended, Migrate, Started
from tests.processes import forked
from tests.servers.http import Fault
from tests.soak.chaos import OUTAGE, REFUSAL, REFUSALS, Event, events, plan
from tests.soak.others import Second, intrude
from tests.soak.world import SMALL, World

LEASE_S = 15.0
GROWTHS = 2  # of a world, before another migration begins
FAULTS_AT_A_TIME = 2  # on each side
END_S = 400.0  # for what is left when the faults stop
#: 3: runs failed too often, they are tried again; -15: the signal came before Python ran any code of ours
GOOD_ENDS = {0, 3, 5, 130, 143, -signal.SIGKILL, -signal.SIGTERM}


@dataclass
class Tally:
    """What happened, over all migrations."""

    injected: Counter[str] = field(default_factory=Counter)
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)  # (signal, exit code of the command)
    attempts: Counter[str] = field(default_factory=Counter)  # of runs, by outcome and class of error
    figures: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Migration:
    """One world, from its inventory to the comparison."""

    def __init__(self, world: World, db: str, home: Path, tally: Tally, *, offline: bool) -> None:
        self.world, self.db, self.tally, self.offline = world, db, tally, offline
        self.migrate = Migrate(
            home,
            [WANDB_KEY, world.api_token],
            WANDB_API_KEY=WANDB_KEY,
            WANDB_BASE_URL=world.urls["wandb"],
            NEPTUNE_API_TOKEN=world.api_token,
            NEPTUNE_PROJECT=f"{WORKSPACE}/any",
            MIGRATE_WORKERS="2",
            MIGRATE_LEASE_S=str(LEASE_S),
            MIGRATE_DB=db,
            MIGRATE_MODE="offline" if offline else "online",
        )
        self.second = Second(self.migrate, offline=offline)
        self.running: list[tuple[str, Started]] = []
        self.next, self.growths = "inventory", 0
        self.last_signal = ""
        self.faults: dict[str, list[tuple[str, Fault]]] = {"wandb": [], "neptune": []}
        self.frozen: list[tuple[float, psutil.Process]] = []  # until when

    def endure(self, until: float, what_happens: Iterator[Event]) -> None:
        """Let things happen while commands run; when one has ended, the next is started."""
        while time.monotonic() < until and not (self.next == "grow" and self.growths == GROWTHS):
            event = next(what_happens)
            then = time.monotonic() + event.after_s
            while time.monotonic() < then:
                self.tend()
                if not self.running:
                    self.go_on()
                time.sleep(0.05)
            if event.side:
                self.disturb(event)
            else:
                self.signal(event)

    def go_on(self) -> None:
        if self.next == "grow":
            self.growths += 1
            self.world.grow()
            self.next = "inventory"
        self.start(self.next)

    def start(self, command: str) -> Started:
        self.running.append((command, self.migrate.start(command)))
        return self.running[-1][1]

    def tend(self) -> None:
        """Wake what was frozen for long enough; look at commands that have ended."""
        for resume_at, process in list(self.frozen):
            if time.monotonic() >= resume_at:
                self.frozen.remove((resume_at, process))
                send(process, signal.SIGCONT)
        for command, started in list(self.running):
            if not started.is_running:
                self.running.remove((command, started))
                self.ended(command, started)
        if (second := self.second.tend()) is not None:
            self.judge(f"{second[0]} of the second database", second[1])

    def judge(self, command: str, end: Ended) -> None:
        self.tally.figures["commands"] += 1
        if end.exit_code not in GOOD_ENDS or "Traceback" in end.stderr:
            self.tally.wrong.append(f"{command} ended with {end.exit_code}: {end.stderr[-2000:]}")

    def ended(self, command: str, started: Started) -> None:
        """Decide which command comes next."""
        end = started.wait()
        self.tally.exits[self.last_signal, end.exit_code] += 1
        self.last_signal = ""
        self.judge(command, end)
        match command, end.exit_code:
            case "run", 0:
                self.next = "sync" if self.offline else "grow"
            case "sync", 0:
                self.next = "grow"
            case (("run" | "sync"), 3):
                self.next = "retry-failed"
            case (("inventory" | "retry-failed"), 0):
                self.next = "run"

    # ------------------------------------------------------------ faults and signals

    def disturb(self, event: Event) -> None:
        if event.side == "neptune":
            self.world.tell("neptune", "rules", REFUSALS if event.name == REFUSAL else [])
        if event.name == REFUSAL:
            self.tally.injected[f"neptune: {REFUSAL}"] += 1
        else:
            kept = [one for one in self.faults[event.side] if one[0] != OUTAGE][: FAULTS_AT_A_TIME - 1]
            self.set_faults(event.side, [(event.name, plan(event)), *kept])

    def set_faults(self, side: str, faults: list[tuple[str, Fault]]) -> None:
        taken = self.world.set_faults(side, [fault for _, fault in faults])
        for (name, _), times in zip(self.faults[side], taken, strict=True):
            self.tally.injected[f"{side}: {name}"] += times
        self.faults[side] = faults

    def signal(self, event: Event) -> None:
        workers = self.workers()
        if not self.running or (not workers and "worker" in event.name):
            return
        command, started = self.running[0]
        worker = workers[int(event.roll * len(workers))] if workers else psutil.Process()
        match event.name:
            case "kill -9 a worker":
                send(worker, signal.SIGKILL)
            case "SIGTERM to a worker":
                send(worker, signal.SIGTERM)
            case "SIGSTOP a worker beyond its lease":
                send(worker, signal.SIGSTOP)
                self.frozen.append((time.monotonic() + LEASE_S + 3 + 10 * event.roll, worker))
            case "kill -9 the supervisor":
                started.send(signal.SIGKILL)
            case "kill -9 everything":
                for _, each in self.running:
                    each.kill_group()
            case "SIGTERM":
                started.send(signal.SIGTERM)
            case "Ctrl-C":
                started.interrupt_group()
            case "a second command" if command in ("run", "sync") and len(self.running) == 1:
                self.start(command)
            case "a second database" if self.second.go_on():
                pass
            case _:
                return
        if "worker" not in event.name and not event.name.startswith("a second"):
            self.last_signal = event.name
        self.tally.injected[event.name] += 1

    def workers(self) -> list[psutil.Process]:
        return sorted(forked(self.migrate.processes()), key=lambda process: process.pid)

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Stop the faults; all must be copied now, and nothing else be left."""
        for side in self.faults:
            self.set_faults(side, [])
        self.world.tell("neptune", "rules", [])
        self.frozen = [(0.0, process) for _, process in self.frozen]
        deadline = time.monotonic() + END_S
        for command in ("", "inventory", "retry-failed", "run", *(["sync"] if self.offline else [])):
            started = self.start(command) if command else None
            while self.running and time.monotonic() < deadline:
                self.tend()
                time.sleep(0.05)
            if self.running:
                self.tally.wrong.append(f"{self.running[0][0]} does not end: {self.migrate.status()}")
            elif started and (end := started.wait()).exit_code:
                self.tally.wrong.append(f"without faults, {command} ended with {end.exit_code}: {end.stderr[-2000:]}")
        self.tally.wrong += self.second.finish()
        self.tally.wrong += intrude(self.migrate, SMALL, self.world.copied_run(), offline=self.offline)
        self.compare()
        for process in self.migrate.processes():
            send(process, signal.SIGKILL)

    def compare(self) -> None:
        found = self.world.compare()
        status = self.migrate.status()
        told = {(group["part"], group["reason"]): group["count"] for group in status["skips"]}
        states = {"pending": 0, "running": 0, "done": found.runs, "failed": 0, "skipped": 0, "total": found.runs}
        facts: dict[str, object] = {
            "differs": found.differences[:20],
            "states of runs": status["runs"] != states and status["runs"],
            "skips": told != found.skips and (told, found.skips),
            "counts": [p for p in status["parts"].items() if p[1]["read"] != p[1]["written"] + p[1]["skipped"]],
            "workers that are left": status["workers"],
            "processes": [process.cmdline() for process in self.migrate.processes()],
            "temporary files": [str(path) for path in self.migrate.temporary.iterdir()],
            "secrets": self.migrate.leaks(),
        }
        self.tally.wrong += [f"{what}: {fact}" for what, fact in facts.items() if fact]
        store = open_store(self.db, create=False)
        for summary in store.reports.runs(RunStatus.DONE):
            detail = store.reports.run_detail(summary.run)
            for attempt in detail.attempts if detail else ():
                self.tally.attempts[f"{attempt.outcome} {attempt.error_class or ''}".strip()] += 1
                if attempt.error_class == "unknown":
                    self.tally.wrong.append(f"a bug, in {summary.ref}: {attempt.message}")
        store.close()
        figures = {"migrations": 1, "runs": found.runs, "points": found.points, "points sent twice": found.duplicates}
        self.tally.figures.update(figures)


def send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass  # it was faster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--runs", type=int, default=150, help="small runs of a world")
    parser.add_argument("--offline", action="store_true", help="copy to offline files and upload them")
    parser.add_argument("--db", help="URL of a PostgreSQL server (default: SQLite)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.db:
        os.environ["MIGRATE_TEST_POSTGRES"] = options.db
    from tests.contract.store_fixtures import fresh_database  # reads the variable

    began, tally, what_happens = time.monotonic(), Tally(), events(options.seed)
    until, number = began + 60 * options.minutes, 0
    while time.monotonic() < until and not tally.wrong:
        home = Path(tempfile.mkdtemp(prefix="soak-"))
        database = fresh_database() if options.db else nullcontext(str(Path(home, "work", "migration.db")))
        with ExitStack() as stack, database as db:
            world = World(options.seed + number, options.runs, stack)
            migration = Migration(world, db, home, tally, offline=options.offline)
            migration.endure(until, what_happens)
            migration.finish()
        if not tally.wrong:
            shutil.rmtree(home)
        number += 1
    report(tally, time.monotonic() - began, home)
    return 1 if tally.wrong else 0


def report(tally: Tally, seconds: float, home: Path) -> None:
    print(f"\n{'fault':<36} | {'times':>6} | outcome")
    for name, times in sorted(tally.injected.items()):
        ends = [f"exit {code} x{n}" for (after, code), n in sorted(tally.exits.items()) if after == name]
        print(f"{name:<36} | {times:>6} | {', '.join(ends) or 'the job went on'}")
    other = [f"exit {code} x{n}" for (after, code), n in sorted(tally.exits.items()) if not after]
    print(f"{'commands that nobody ended':<36} | {'':>6} | {', '.join(other)}")
    kills = sum(times for name, times in tally.injected.items() if "kill" in name)
    print(f"\nattempts of runs: {', '.join(f'{n} {what}' for what, n in tally.attempts.most_common())}")
    print(f"{', '.join(f'{what} {n:,}' for what, n in tally.figures.items())}, kills {kills}, {seconds:.0f} s")
    for line in tally.wrong:
        print(f"WRONG {line}")
    print(f"verdict: {f'WRONG, see {home}' if tally.wrong else 'everything arrived as it was'}")


if __name__ == "__main__":
    sys.exit(main())
