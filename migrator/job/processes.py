"""Processes that leave something behind, a claim or a scratch directory: who they are, and whether they still run."""

from __future__ import annotations

import os
import socket
from hashlib import sha256
from pathlib import Path

import psutil


def host_id() -> str:
    """Where a pid means one process: a boot of a machine and, in containers, their PID namespace.

    The name of the host is not enough: containers on one database may share it.
    """
    facts = [socket.gethostname()]
    try:
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        pass  # not Linux: there the name has to do
    return sha256(repr(facts).encode()).hexdigest()[:12]


def started_s(pid: int) -> float:
    """When the process started, in seconds since the boot: unlike psutil's time, no correction of the clock moves it.

    Raises `psutil.NoSuchProcess`.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # behind the name, which may be odd
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return float(psutil.Process(pid).create_time())  # gone, or not Linux


def worker_id_of(pid: int) -> str:
    """Names a process of this host for ever, "host:pid:token": pids are used again, start times tell them apart."""
    return f"{socket.gethostname()}:{pid}:{host_id()}{int(started_s(pid) * 1000):x}"


def is_alive(pid: int, started: float) -> bool:
    """Whether that very process still runs; pids are used again, start times tell. A zombie does nothing any more."""
    try:
        return abs(started_s(pid) - started) < 1.0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
