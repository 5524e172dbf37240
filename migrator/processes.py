"""Whether a process that left something behind, a claim or a scratch directory, still runs."""

from __future__ import annotations

import psutil


def is_alive(pid: int, started: float) -> bool:
    """Whether that very process still runs; pids are used again, start times tell. A zombie does nothing any more."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
