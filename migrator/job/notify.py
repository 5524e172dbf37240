"""`--notify CMD`: reports important events of a long job to somebody, by mail, chat or any other way.

The command gets one JSON document on its standard input:

    event     "end": the job has ended   "failed": runs have failed   "paused": a service lets nothing through for long
    ...       facts about the event; `schema_version` 1

It runs in a shell, without the keys of W&B and Neptune in its environment. It cannot harm the job: if it fails or takes
too long, a message says so.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Collection
from typing import Any

from migrations_db.report_types import Progress
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrator.job.supervisor import Display
from migrator.redaction import without_keys

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0  # for the command
PAUSED_S = 300.0  # a service that lets nothing through for this long is reported
EVERY_S = 60.0  # failed runs are reported at most this often
LOOK_S = 5.0  # between two checks for pauses
KEYS = ("WANDB_API_KEY", "NEPTUNE_API_TOKEN", "MIGRATE_DB")  # a database's URL may contain a password


def notify(command: str, event: str, **facts: Any) -> str | None:
    """Run the command. Returns what went wrong with it (None: nothing)."""
    document = json.dumps({"schema_version": 1, "event": event, **facts})
    environment = {name: value for name, value in os.environ.items() if name not in KEYS}
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=document,
            text=True,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"--notify: the command did not end within {TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"--notify: {error}"
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return f"--notify: the command ended with {done.returncode}" + (f": {said[-1][:200]}" if said else "")
    return None


class Notifying:
    """A `Display` that also reports, with `send`, failed runs and long pauses of a service."""

    def __init__(
        self,
        display: Display,
        send: Callable[..., str | None],
        store: Store,
        services: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display, self._send, self._store = display, send, store
        self._services, self._clock = services, clock
        self._failed: int | None = None  # failed runs that were reported, or had failed before the job
        self._told_at = self._looked_at = float("-inf")
        self._moved: object = None
        self._moved_at = clock()
        self._paused = False

    def update(self, progress: Progress) -> None:
        self._display.update(progress)
        now = self._clock()
        failed = progress.runs[RunStatus.FAILED]
        if self._failed is None:
            self._failed = failed
        if failed > self._failed and now - self._told_at >= EVERY_S:
            self._tell("failed", new=failed - self._failed, failed=failed, total=progress.runs_total)
            self._failed, self._told_at = failed, now
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look_for_pauses(progress, now)

    def _look_for_pauses(self, progress: Progress, now: float) -> None:
        moved = (progress.points_read, progress.size_bytes, progress.runs[RunStatus.DONE])
        if moved != self._moved:
            self._moved, self._moved_at, self._paused = moved, now, False
        if self._paused or now - self._moved_at < PAUSED_S:
            return
        for service in self._services:
            if pause := self._store.paused(service):
                self._paused = True
                self._tell(
                    "paused",
                    service=service,
                    reason=without_keys(pause.reason),
                    seconds_left=round(pause.seconds_left),
                    since_s=round(now - self._moved_at),
                )

    def _tell(self, event: str, **facts: Any) -> None:
        if problem := self._send(event, **facts):
            log.warning(problem)
            self._display.say(problem)

    def say(self, message: str) -> None:
        self._display.say(message)

    def close(self) -> None:
        self._display.close()
