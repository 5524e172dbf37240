"""Others who use the same destination as the job: the same source once more, and a stranger's run with the same id."""

from __future__ import annotations

import time
from pathlib import Path

from tests.flow.conftest import Ended, Migrate, Started
from tests.servers.offline_runs import StartLog

END_S = 300.0  # for all commands of one of them, when nothing fails


class Second:
    """A second state database, and a second directory of offline files, for the same runs.

    Its commands run beside those of the job, one at a time: both write the same points to the same Neptune runs.
    """

    def __init__(self, migrate: Migrate, *, offline: bool) -> None:
        self._migrate = migrate
        self._environment = {"MIGRATE_DB": "second.db", "MIGRATE_OFFLINE_DIR": "second-offline", "MIGRATE_WORKERS": "1"}
        self._offline = offline
        self._next = "inventory"
        self.running: Started | None = None

    def go_on(self) -> bool:
        """Start its next command, unless one is running."""
        if self.running is None:
            self.running = self._migrate.start(self._next, **self._environment)
            return True
        return False

    def tend(self) -> tuple[str, Ended] | None:
        """What has ended."""
        if self.running is None or self.running.is_running:
            return None
        command, end = self._next, self.running.wait()
        self.running = None
        match command, end.exit_code:
            case "run", 0:
                self._next = "sync" if self._offline else "inventory"
            case "sync", 0:
                self._next = "inventory"
            case (("run" | "sync"), 3):
                self._next = "retry-failed"
            case _, 0:
                self._next = "run"
        return command, end

    def finish(self) -> list[str]:
        """Copy all that is left; says what went wrong."""
        deadline = time.monotonic() + END_S
        while self.running:
            self.tend()
            time.sleep(0.05)
            if time.monotonic() > deadline:
                return [f"{self._next} of the second database does not end"]
        wrong = []
        for command in ("inventory", "retry-failed", "run", *(["sync"] if self._offline else [])):
            end = self._migrate.run(command, **self._environment)
            if end.exit_code:
                wrong.append(f"{command} of the second database ended with {end.exit_code}: {end.stderr[-2000:]}")
        return wrong


def intrude(migrate: Migrate, project: str, run_id: str, *, offline: bool) -> list[str]:
    """Copy a stranger's run, with the project and id of one that is copied, to the same place. It must be refused."""
    root = Path(migrate.directory, "stranger")
    StartLog(root, run_id, project=project).row(0, loss=-1.0).line(1, "mine").file("mine.txt", "mine").exit()
    environment = {"MIGRATE_DB": "stranger.db"}
    listed = migrate.run("inventory", "--local", root, **environment)
    end = migrate.run("run", **environment)
    if offline and end.exit_code == 0:  # the job's own file is uploaded, and gone
        end = migrate.run("sync", **environment)
    told = migrate.run("status", "--failed", "--json", **environment).stdout
    if (listed.exit_code, end.exit_code) != (0, 3) or "which is a copy of" not in told:
        return [f"a stranger's run was not refused: {listed.exit_code}, {end.exit_code}: {end.stderr[-1000:]} {told}"]
    return []
