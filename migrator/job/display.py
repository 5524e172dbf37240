"""Progress on stderr: bars on a terminal, a plain line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from migrations_db.report_types import Progress
from migrations_db.states import RunStatus
from migrator.visible import tell, visible

LINE_EVERY_S = 30.0


class Bars:
    """One bar for runs, one for points, with rate and time left."""

    def __init__(self) -> None:
        self._runs: Any = None
        self._points: Any = None

    def update(self, progress: Progress) -> None:
        done, failed = progress.runs[RunStatus.DONE], progress.runs[RunStatus.FAILED]
        if self._runs is None:
            self._runs = tqdm(total=0, initial=done + failed, desc="runs  ", unit="run", dynamic_ncols=True, position=0)
            self._points = tqdm(
                total=0,
                initial=progress.points_read,
                desc="points",
                unit="pt",
                unit_scale=True,
                dynamic_ncols=True,
                position=1,
            )
        _move(self._runs, done + failed, progress.runs_total)
        _move(self._points, progress.points_read, max(progress.points_expected, progress.points_read))
        now = [f"{visible(run.ref.rsplit('/', 1)[-1][:20])} ({run.part or 'start'})" for run in progress.running[:2]]
        more = len(progress.running) - len(now)
        self._runs.set_postfix_str(
            ", ".join([*([f"{failed} failed"] if failed else []), *now, *([f"+{more}"] if more > 0 else [])])
        )

    def say(self, message: str) -> None:
        tqdm.write(visible(message, lines=True), file=sys.stderr)

    def close(self) -> None:
        for bar in (self._points, self._runs):
            if bar is not None:
                bar.close()


def _move(bar: Any, value: int, total: int) -> None:
    bar.total = total
    bar.update(value - bar.n)
    bar.refresh()


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._next_at = time.monotonic() + every_s

    def update(self, progress: Progress) -> None:
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._every_s
        runs = progress.runs
        self.say(
            f"{runs[RunStatus.DONE]} of {progress.runs_total} runs done, {runs[RunStatus.RUNNING]} running, "
            f"{runs[RunStatus.FAILED]} failed; {progress.points_written:,} points written"
        )

    def say(self, message: str) -> None:
        try:
            tell(message)
        except OSError:
            pass  # nobody reads any more: no reason to stop

    def close(self) -> None:
        """Nothing open."""


class Silent(Lines):
    """Only what must be said."""

    def update(self, progress: Progress) -> None:
        """Nothing."""


def display_for(*, quiet: bool) -> Bars | Lines:
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
