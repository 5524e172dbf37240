"""How long to wait for a silent state database.

A server may restart or close connections during a job that takes days. The interrupted transaction is lost, and its
work is done again. The job ends only if the server stays away.
"""

from __future__ import annotations

import threading
import time

from migrations_db import StateSilent


class Patience:
    """Shared by all threads of a process."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._silent_since: float | None = None

    def answered(self) -> None:
        self._silent_since = None

    def bear(self, error: StateSilent) -> bool:
        """Note that the database is silent. True: this has just begun. Raises `error` if it has lasted too long."""
        with self._lock:
            now, since = time.monotonic(), self._silent_since
            if since is None:
                self._silent_since = now
            elif now - since > self._limit_s:
                raise error
            return since is None
