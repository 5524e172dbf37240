"""How a job is told to stop, and what makes sure that it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from migrator.errors import ExitCode
from migrator.job.signals import ending

END_S = 15.0  # for a job that was told to stop; its workers may take half of it


class Signals:
    """Counts Ctrl-C, SIGTERM and SIGHUP while a job runs. A job that was told to stop ends within `end_s`.

    A state database that does not answer can hold up the main thread: before it looks at the signals, or when it has
    stopped the workers and records how the job ended. Then a thread calls `overdue` and ends the process.
    """

    def __init__(self, end_s: float = END_S) -> None:
        self.first: int | None = None
        self.count = 0
        self.pipe, self._writing = multiprocessing.Pipe(duplex=False)  # readable once a signal has come
        self.overdue: Callable[[], None] | None = None
        self._alarm = threading.Timer(end_s, self._end)
        self._alarm.daemon = True

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.INTERRUPTED if self.first == signal.SIGINT else ExitCode.TERMINATED

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block, signals are counted and do nothing else. It ends with the job's last words."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, *ending())}
        try:
            yield
        finally:
            self._alarm.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.count:
            self._alarm.start()
            self._writing.close()
        self.first = self.first or number
        self.count += 1

    def _end(self) -> None:
        try:
            if self.overdue:
                self.overdue()
        finally:
            os._exit(self.exit_code)
