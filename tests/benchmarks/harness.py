"""Runs a command as a whole and measures it from outside: wall time, CPU time of all its processes, peak memory."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.command import VARIABLE, migrate_command
from tests.servers.http import control, spawned
from tests.servers.neptune_server import api_token
from tests.servers.wandb_server import API_KEY

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measured:
    """`cpu_s` is user and system time of the command and all processes it waited for; `peak_bytes` of the largest.

    `load` is the machine's load average when the command began.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str
    load: float


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def busy_percent() -> float:
    """How busy the processors are with something else: to be asked before anything is measured."""
    return psutil.cpu_percent(interval=2.0)


def run(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command to its end; a non-zero exit ends the benchmark with the command's output."""
    load, started = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **_this_tree(command), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch = _Watch(process.pid)
    output, _ = process.communicate()
    wall_s = time.perf_counter() - started
    watch.stop()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {process.returncode}:\n{output[-3000:]}")
    return Measured(wall_s, watch.cpu_s, watch.peak_bytes, output, load)


def _this_tree(command: Sequence[str]) -> dict[str, str]:
    """What lets a command of Python find this tree, installed or not. A `migrate` that is named runs its own code."""
    return {} if command[0] == os.environ.get(VARIABLE) else {"PYTHONPATH": str(ROOT)}


class _Watch(threading.Thread):
    """Samples a process and its descendants 20 times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._seen: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self.peak_bytes = 0
        self.start()

    @property
    def cpu_s(self) -> float:
        return sum(self._seen.values())

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    times, memory = process.cpu_times(), process.memory_info()
                    self._seen[process.pid, process.create_time()] = times.user + times.system
                    self.peak_bytes = max(self.peak_bytes, memory.rss)
                except psutil.NoSuchProcess:
                    continue


@dataclass(frozen=True)
class Services:
    """Loopback servers in processes of their own, and the environment in which a command finds them."""

    wandb: str
    neptune: str
    environment: dict[str, str]

    def points_stored(self) -> int:
        return int(control(self.neptune, "stats")["points_stored"])


@contextmanager
def services(
    data: str, latency_s: float = 0.0, processing_s: str = "0:0", apply: str = "lazy", provider: str = "aws"
) -> Iterator[Services]:
    wandb_arguments = ("--data", data, "--latency-s", str(latency_s))
    neptune_arguments = ("--latency", str(latency_s), "--processing-delay", processing_s, "--apply", apply)
    neptune_arguments += ("--provider", provider)
    with (
        spawned("tests.servers.wandb_server", *wandb_arguments) as wandb,
        spawned("tests.servers.neptune_server", *neptune_arguments) as neptune,
    ):
        environment = {
            "WANDB_BASE_URL": wandb,
            "WANDB_API_KEY": API_KEY,
            "NEPTUNE_API_TOKEN": api_token(neptune),
            "NEPTUNE_PROJECT": "team/unused",
            "WANDB_ERROR_REPORTING": "false",
        }
        yield Services(wandb, neptune, environment)


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        yield Path(name)


def migrate(*arguments: str) -> list[str]:
    return [*migrate_command(), *arguments]


@dataclass(frozen=True)
class Figure:
    """A measured value. `note`: what else was seen, and what was promised. `measured`: the command that it is of."""

    name: str
    value: float
    unit: str
    note: str = ""
    measured: Measured | None = None

    @property
    def number(self) -> str:
        digits = max(0, 2 - int(math.log10(max(self.value, 1))))
        return f"{self.value:,.{digits}f}"

    @property
    def use(self) -> str:
        """The command's CPU time, its share of one processor, and the load of the machine before it."""
        if self.measured is None:
            return ""
        share = self.measured.cpu_s / self.measured.wall_s
        return f"{self.measured.cpu_s:.1f} CPU-s, {share:.0%} of a core, load {self.measured.load:.1f}"

    def __str__(self) -> str:
        return f"{self.name:<44} {self.number:>14} {self.unit:<9} {self.use:<44} {self.note}".rstrip()
