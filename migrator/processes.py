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


def worker_id_of(process: psutil.Process) -> str:
    """Names a process of this host for ever, "host:pid:token": pids are used again, start times tell them apart."""
    return f"{socket.gethostname()}:{process.pid}:{host_id()}{int(process.create_time() * 1000):x}"


def is_alive(pid: int, started: float) -> bool:
    """Whether that very process still runs; pids are used again, start times tell. A zombie does nothing any more."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
