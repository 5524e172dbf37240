"""Identifies processes that own a claim or a scratch directory, and says whether they still run."""

from __future__ import annotations

import os
import socket
from hashlib import sha256
from pathlib import Path

import psutil


def host_id() -> str:
    """Identifies where a pid is unique: a boot of a machine and, in containers, their PID namespace.

    The host name is not enough: containers that use one database may have the same name.
    """
    facts = [socket.gethostname()]
    try:
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        pass  # not Linux: use the host name
    return sha256(repr(facts).encode()).hexdigest()[:12]


def started_s(pid: int) -> float:
    """When the process started, in seconds since boot. Unlike psutil's time, it does not change with the clock.

    Raises `psutil.NoSuchProcess`.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name may contain anything
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float(psutil.Process(pid).create_time())  # gone, or not Linux


def worker_id_of(pid: int) -> str:
    """A unique name for a process, "host:pid:token". The token contains the start time, because pids are reused."""
    return f"{socket.gethostname()}:{pid}:{host_id()}{int(started_s(pid) * 1000):x}"


def runs_since(pid: int, at_s: float) -> bool:
    """Whether the process that had this pid at `at_s` (s since 1970) still runs. Zombies do not count."""
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() <= at_s) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive(pid: int, started: float) -> bool:
    """Whether this process still runs. The start time identifies it, because pids are reused. Zombies do not count."""
    try:
        return abs(started_s(pid) - started) < 1.0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
