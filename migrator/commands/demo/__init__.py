"""`migrate demo`: the whole job with made-up runs. No account, no network.

    make runs (demo_runs, several processes) -> inventory -> run, stopped half-way -> run again
        -> verify -> status -> report

Everything is in one directory, and all commands are the real ones, started in that directory as a user would do it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrations_db import open_store
from migrations_db.report_types import Progress
from migrations_db.states import Phase, RunStatus
from migrations_db.store import Store
from migrator.commands.demo.processes import running
from migrator.errors import ExitCode, UserError
from migrator.settings import DEFAULT_DB, LOG_DIR, OFFLINE_DIR, REPORT

RUNS_DIR = "runs"  # where the W&B SDK writes
SDK_DIR = "wandb-sdk"  # its home, caches and settings, so that yours are not touched
PROCESSES = ("vision", "text", "crash")  # of demo_runs, all at once
WORKERS = 2
LOOK_EVERY_S = 0.05
HALF_WAY_POINTS = 6_000  # read of a run in progress: only the long ones have this many
OWN_SETTINGS = ("WANDB_", "NEPTUNE_", "MIGRATE_")  # the user's own settings, which the demo ignores
COMMAND = (sys.executable, "-P", "-m", "migrator")

Echo = Callable[[str], None]


def say(text: str) -> None:
    print(text, flush=True)  # before the next command prints something


def run_demo(
    directory: Path | None = None,
    echo: Echo = say,
    command: Sequence[str] = COMMAND,
    processes: Sequence[str] = PROCESSES,
) -> int:
    """Run the demo. Returns the exit code. `directory` must be new or empty; None: a temporary one, which stays.

    `command` is run in place of `migrate`; `processes` make the runs. Raises `UserError` if the directory is not empty.
    However it ends, no process is left behind.
    """
    demo = _Demo(_prepared(directory), echo, command, processes)
    started_at = time.monotonic()
    try:
        demo.tell()
    except _StepFailed as failed:
        echo(f"\nThe demo ends here: {failed}. What it made so far is in {demo.directory}")
        return failed.exit_code
    except (KeyboardInterrupt, SystemExit):
        echo(f"\nInterrupted. What the demo made so far is in {demo.directory}")
        raise
    echo(demo.ending(time.monotonic() - started_at))
    return ExitCode.OK


def _prepared(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="migrate-demo-"))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not an empty directory: give --dir a new one, or none for a temporary one")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be made: {error.strerror}. Give --dir another place") from error
    return directory.resolve()


class _StepFailed(Exception):
    """A command of the demo did not succeed."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(f"{what} ended with exit code {exit_code}")
        self.exit_code = exit_code if exit_code >= 0 else 128 - exit_code  # for a signal, as in shells


@dataclass(frozen=True, slots=True)
class _Demo:
    directory: Path
    echo: Echo
    command: Sequence[str]
    processes: Sequence[str]

    def tell(self) -> None:
        self.echo(f"The whole job with made-up runs, in {self.directory}")
        self.echo("No account, no network, under a minute on most machines.")
        self._heading("1. Twelve W&B runs, made by the real W&B SDK in offline mode")
        self._make_runs()
        self._heading("2. Inventory: which runs are there?")
        self._migrate("inventory", "--local", RUNS_DIR)
        run = ("run", "--mode", "offline", "--workers", str(WORKERS))
        self._heading("3. Copy them to Neptune's offline files. The demo will stop this half-way")
        self._migrate_and_stop(*run)
        self._heading("4. The same command again continues where it was stopped")
        self._migrate(*run)
        self._say_who_went_on()
        self._heading("5. Read the offline files back: is everything there as it was sent?")
        self._migrate("verify", "--files", "md5")
        self._heading("6. What has become of the runs?")
        self._migrate("status")
        self._heading("7. A report to keep, or to give to others")
        self._migrate("report")

    def ending(self, took_s: float) -> str:
        return f"""
The demo took {took_s:.0f} s. Everything is in {self.directory}:
  {RUNS_DIR + "/":<23} the W&B runs
  {f"{OFFLINE_DIR}/":<23} the same runs as Neptune's offline files
  {REPORT!s:<23} the report
  {DEFAULT_DB:<23} the state database
  {f"{LOG_DIR}/":<23} what each command did

Look around:  cd {shlex.quote(str(self.directory))}
              migrate status demo/vision/long
              migrate status --skips
Upload it:    NEPTUNE_API_TOKEN=... migrate sync --neptune-workspace YOUR-WORKSPACE
Your own:     migrate inventory, then migrate run
When you have seen enough, delete the directory; there is nothing of the demo elsewhere."""

    # ------------------------------------------------------------ steps

    def _make_runs(self) -> None:
        """Run all processes at once. Their output goes to a file, because it is the console output of the runs."""
        sdk = self._made(SDK_DIR)
        environment = self._environment() | {
            "WANDB_DIR": str(self._made(RUNS_DIR)),
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
            "HOME": str(sdk),
            **{f"WANDB_{name}_DIR": str(sdk / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")},
        }
        started_at = time.monotonic()
        with (sdk / "output.txt").open("wb") as output, ExitStack() as stack:
            commands = [[sys.executable, "-P", "-m", "migrator.commands.demo.runs", name] for name in self.processes]
            places = [running(command, self.directory, environment, output) for command in commands]
            makers = [stack.enter_context(place) for place in places]
            if any(maker.wait() for maker in makers):
                raise _StepFailed(f"making runs (see {SDK_DIR}/output.txt)", ExitCode.UNEXPECTED)
        starts = len(list((self.directory / RUNS_DIR).glob("wandb/offline-run-*")))
        took_s = time.monotonic() - started_at
        self.echo(
            f"{starts} directories in {RUNS_DIR}/wandb after {took_s:.0f} s: one run was started twice, one lost its\n"
            "end in a crash, two are long; with histograms, tables, sounds, NaNs and console output."
        )

    def _migrate(self, *arguments: str) -> None:
        with self._migrate_started(*arguments) as process:
            if exit_code := process.wait():
                raise _StepFailed(f"`migrate {arguments[0]}`", exit_code)

    def _store(self) -> Store:
        return open_store(self.directory / DEFAULT_DB, create=False)

    def _migrate_and_stop(self, *arguments: str) -> None:
        """Start the command, and send SIGTERM as soon as some runs are done and another is half-way."""
        with self._migrate_started(*arguments) as process, self._store() as store:
            while process.poll() is None:
                progress = store.reports.progress(Phase.COPY)
                if _is_half_way(progress):
                    done = progress.runs[RunStatus.DONE]
                    self.echo(f"-- {done} of {progress.runs_total} runs are done: now the demo stops it (SIGTERM) --")
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(LOOK_EVERY_S)
            exit_code = process.wait()
        if exit_code == ExitCode.TERMINATED:
            self.echo(f"-- it ended with exit code {exit_code}: stopped, nothing lost --")
        elif exit_code == ExitCode.OK:
            self.echo("-- it was done before it could be stopped --")
        else:
            raise _StepFailed(f"`migrate {arguments[0]}`", exit_code)

    def _say_who_went_on(self) -> None:
        with self._store() as store:
            for run in store.reports.runs(RunStatus.DONE):
                detail = store.reports.run_detail(run.run)
                if detail and len(detail.attempts) > 1:
                    counts = f"{detail.points_read:,} values read, {detail.points_written:,} written"
                    self.echo(f"-- {run.ref}: {len(detail.attempts)} attempts, together {counts} --")

    # ------------------------------------------------------------ processes

    def _heading(self, text: str) -> None:
        self.echo(f"\n{text}\n{'-' * len(text)}")

    def _made(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir()
        return path

    def _environment(self) -> dict[str, str]:
        """Our environment without keys and settings. Commands can import everything that this process can."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_SETTINGS)}
        return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}

    @contextmanager
    def _migrate_started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        self.echo(f"$ migrate {' '.join(arguments)}")
        with running([*self.command, *arguments], self.directory, self._environment()) as process:
            yield process


def _is_half_way(progress: Progress) -> bool:
    """Whether some runs are done and one is half-way."""
    return progress.runs[RunStatus.DONE] > 0 and any(run.points_read > HALF_WAY_POINTS for run in progress.running)
