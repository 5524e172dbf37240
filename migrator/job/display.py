"""Progress on stderr: bars on a terminal, a plain line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from migrations_db.report_types import Progress, RunningRun
from migrations_db.states import RunStatus
from migrator.figures import age_text, amount
from migrator.job.pace import Pace, Speed
from migrator.visible import tell, visible

LINE_EVERY_S = 30.0
NAMED = 2  # runs in progress shown by name: those that take longest
SLOW_S = 60.0  # runs that take longer are named in the plain lines
NAME_CHARS = 24


class Bars:
    """A bar for runs and one for values, each with its figures, and a line for the runs that take longest.

    They disappear at the end: tqdm would leave several bars one over the other, and the result has all figures.
    """

    def __init__(self) -> None:
        self._bars: list[Any] = []
        self._pace = Pace()

    def update(self, progress: Progress) -> None:
        if not self._bars:
            shape = "{desc} {percentage:3.0f}% |{bar:20}| {unit}"
            lines = [("runs  ", 1, shape), ("values", 1, shape), ("", 0, "{desc}")]
            self._bars = [
                tqdm(total=total, desc=desc, unit="", bar_format=form, dynamic_ncols=True, position=n, leave=False)
                for n, (desc, total, form) in enumerate(lines)
            ]
        runs, values, now = self._bars
        done, failed = progress.runs[RunStatus.DONE], progress.runs[RunStatus.FAILED]
        ended = f"{done:,} of {progress.runs_total:,}" + (f", {failed:,} failed" if failed else "")
        _move(runs, done + failed, progress.runs_total, ended)
        expected = max(progress.points_expected, progress.points_read)
        _move(values, progress.points_read, expected, speed_text(progress, self._pace.note(progress, time.monotonic())))
        now.set_description_str(running_text(progress.running))

    def say(self, message: str) -> None:
        tqdm.write(visible(message, lines=True), file=sys.stderr)

    def close(self) -> None:
        for bar in reversed(self._bars):
            bar.close()


def speed_text(progress: Progress, speed: Speed) -> str:
    """ "1.2M, 12.3k/s, 3 min left": values, and bytes if they matter."""
    size = f", {amount(speed.size_bytes)}B/s" if speed.size_bytes >= 1e6 else ""
    left = "estimating" if speed.left_s is None else f"{age_text(speed.left_s)} left"
    return f"{amount(progress.points_read)}, {amount(speed.values)}/s{size}, {left}"


def running_text(running: Sequence[RunningRun]) -> str:
    """The runs that take longest, with their part and time."""
    slowest = sorted(running, key=lambda run: -run.elapsed_s)
    named = [
        f"{visible(run.ref.rpartition('/')[2][:NAME_CHARS])} {run.part or 'start'} {age_text(run.elapsed_s)}"
        for run in slowest[:NAMED]
    ]
    more = len(slowest) - len(named)
    return "now    " + ", ".join([*named, *([f"+{more}"] if more > 0 else [])]) if named else ""


def _move(bar: Any, value: int, total: int, text: str) -> None:
    bar.total = max(total, 1)
    bar.unit = text  # a postfix would begin with a comma
    bar.update(value - bar.n)
    bar.refresh()


class Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._began_at = time.monotonic()
        self._next_at = self._began_at + every_s
        self._pace = Pace()

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        speed = self._pace.note(progress, now)
        if now < self._next_at:
            return
        self._next_at = now + self._every_s
        runs = progress.runs
        left = "time left: estimating" if speed.left_s is None else f"{age_text(speed.left_s)} left"
        slow = [run for run in progress.running if run.elapsed_s >= SLOW_S]
        self.say(
            f"{runs[RunStatus.DONE]} of {progress.runs_total} runs done, {runs[RunStatus.RUNNING]} running, "
            f"{runs[RunStatus.FAILED]} failed; {progress.points_written:,} values written, {amount(speed.values)}/s; "
            f"{age_text(now - self._began_at)} so far, {left}" + (f"; {running_text(slow)}" if slow else "")
        )

    def say(self, message: str) -> None:
        try:
            tell(message)
        except OSError:
            pass  # the reader is gone, which is no reason to stop

    def close(self) -> None:
        """Nothing to close."""


class Silent(Lines):
    """Shows only messages, no progress."""

    def update(self, progress: Progress) -> None:
        """Nothing."""


def display_for(*, quiet: bool) -> Bars | Lines:
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
