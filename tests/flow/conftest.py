"""The real command in a process of its own, between two loopback servers; every call is searched for both keys."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.command import migrate_command
from tests.flow.expected import Options, arrived, content_of, differences, project_names
from tests.servers.http import Server
from tests.servers.neptune_server import NeptuneServer, api_token
from tests.servers.wandb_data import Entity, Project, Run
from tests.servers.wandb_server import WandbServer

WANDB_KEY = "5ec2e7" + "w" * 34  # as long as W&B's keys are, and found nowhere by chance
NEPTUNE_KEY = "5ec2e7-neptune-key"
WORKSPACE = "team"
DEADLINE_S = 90.0  # for anything waited for: far more than a loaded machine needs
NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there: nothing but loopback is reached


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> None:
    """A suite that was started in the background ignores Ctrl-C and hang-ups, and so would its commands."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True)
class Ended:
    """What a command said, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Started:
    """A command that goes on while the test looks at it; it and all its processes are one process group."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process, self._output = process, output
        self.pid = process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """A signal to the command alone, as service managers and `kill` send it."""
        self._process.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL to the command and all its workers: what a reboot leaves."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def interrupt_group(self) -> None:
        """What Ctrl-C in a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self) -> Ended:
        exit_code = self._process.wait(DEADLINE_S)
        return Ended(exit_code, *(self._output.with_suffix(end).read_text() for end in (".out", ".err")))


class Migrate:
    """Runs `migrate` in a directory of its own, with a private HOME and TMPDIR and nothing of our environment."""

    def __init__(self, home: Path, secrets: list[str], **environment: str) -> None:
        self.directory = home / "work"
        self.temporary = home / "tmp"
        self.secrets = secrets
        self.prefix: list[str] = []  # what starts the command
        for directory in (self.directory, self.temporary):
            directory.mkdir(parents=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
            "MIGRATE_WORKERS": "1",  # a worker costs a second of start; where several matter, the test says so
            "HTTP_PROXY": NOWHERE,
            "HTTPS_PROXY": NOWHERE,
            "NO_PROXY": "127.0.0.1",
            **environment,
        }

    def start(self, *arguments: str | Path, **environment: str | None) -> Started:
        """Start a command. Variables given as None are left out of its environment."""
        output = self.temporary.parent / f"output-{time.monotonic_ns()}"
        variables = {name: value for name, value in (self.environment | environment).items() if value is not None}
        with output.with_suffix(".out").open("w") as stdout, output.with_suffix(".err").open("w") as stderr:
            process = subprocess.Popen(
                [*self.prefix, *migrate_command(), *map(str, arguments)],
                cwd=self.directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        return Started(process, output)

    def run(self, *arguments: str | Path, **environment: str | None) -> Ended:
        """Run a command to its end. Whatever it is, it shows no traceback and no key."""
        ended = self.start(*arguments, **environment).wait()
        for text in (ended.stdout, ended.stderr):
            assert "Traceback" not in text, text
            assert not [secret for secret in self.secrets if secret in text], text
        return ended

    def succeed(self, *arguments: str | Path, **environment: str | None) -> Ended:
        """Run a command that must end with 0."""
        ended = self.run(*arguments, **environment)
        assert ended.exit_code == 0, f"{arguments} ended with {ended.exit_code}: {ended.stdout}\n{ended.stderr}"
        return ended

    def status(self, *arguments: str) -> Any:
        return self.succeed("status", *arguments, "--json").json

    def files(self) -> dict[str, bytes]:
        """Everything in the working directory, by name; what SQLite keeps beside a database is not looked at."""
        found = (path for path in sorted(self.directory.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in found
            if not path.name.endswith(("-shm", "-wal"))
        }

    def leaks(self) -> list[str]:
        """Files that hold a key, in the working directory, HOME, and the place for temporary files."""
        home = self.temporary.parent
        return [
            str(path.relative_to(home))
            for path in home.rglob("*")
            if path.is_file() and any(secret.encode() in path.read_bytes() for secret in self.secrets)
        ]

    def processes(self) -> list[psutil.Process]:
        """Processes that work in the directory, so were started by a command of this test."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                pass  # gone, or not ours
        return found


def wait_until(condition: Callable[[], Any], what: str, running: Started | None = None) -> None:
    """Wait for `condition`; `running` must not end before."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        assert running is None or running.is_running, f"the command ended before: {what}: {running.wait()}"
        time.sleep(0.02)


@dataclass
class Scene:
    """W&B, Neptune, and the command between them."""

    wandb: WandbServer
    neptune: NeptuneServer
    migrate: Migrate

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """SQL about the state database."""
        with closing(sqlite3.connect(self.migrate.directory / "migration.db")) as database:
            return database.execute(question, values).fetchall()

    def runs_done(self) -> int:
        return int(self.ask("SELECT count(*) FROM run WHERE status = 'done'")[0][0])

    def submissions(self) -> int:
        """How often anything was sent to Neptune."""
        return self.neptune.log.count("^(submit|create_project|sign|PUT)")

    def differences(self, options: Options | None = None) -> list[str]:
        """What is not in Neptune as the mapping wants it, a line each; runs that should not be there among them."""
        told = []
        found = {(run.project, run.run_id): arrived(run) for run in self.neptune.store.runs()}
        for entity in self.wandb.entities.values():
            names = project_names(project.name for project in entity.projects)
            for project in entity.projects:
                for run in project.runs:
                    there = found.pop((f"{WORKSPACE}/{names[project.name]}", run.id), None)
                    wanted = content_of(run, project, self.wandb.url, options)
                    lines = differences(wanted, there) if there else ["is not there"]
                    told += [f"{project.name}/{run.id}: {line}" for line in lines]
        return told + [f"{project}/{run_id}: is not expected" for project, run_id in found]


SetScene = Callable[..., Scene]


@pytest.fixture
def set_scene(tmp_path: Path) -> Iterator[SetScene]:
    """Makes a `Scene` of projects of W&B's entity "team" (or of whole entities), and looks after it at the end.

    Then no server has failed, or was asked for what it does not know; nothing was written to W&B; no process, scratch
    directory or key is left anywhere.
    """
    scenes: list[Scene] = []
    with ExitStack() as stack:

        def make(*given: Entity | Project | list[Run], **neptune_options: Any) -> Scene:
            projects = [Project("demo", one) if isinstance(one, list) else one for one in given]
            entities = [one for one in projects if isinstance(one, Entity)]
            if not entities:
                entities = [Entity("team", [one for one in projects if isinstance(one, Project)])]
            wandb = stack.enter_context(WandbServer(*entities, api_key=WANDB_KEY))
            neptune = stack.enter_context(NeptuneServer(**neptune_options))
            neptune.api_token = api_token(neptune.url, NEPTUNE_KEY)
            migrate = Migrate(
                tmp_path / f"scene-{len(scenes)}",
                [WANDB_KEY, NEPTUNE_KEY, neptune.api_token],
                WANDB_API_KEY=WANDB_KEY,
                WANDB_BASE_URL=wandb.url,
                NEPTUNE_API_TOKEN=neptune.api_token,
                NEPTUNE_PROJECT=f"{WORKSPACE}/any",
            )
            scenes.append(Scene(wandb, neptune, migrate))
            return scenes[-1]

        yield make
        for scene in scenes:
            wait_until(lambda scene=scene: not scene.migrate.processes(), "all processes of the command to end")
            for server in (scene.wandb, scene.neptune):
                assert_unharmed(server)
            assert scene.wandb.mutations == []
            assert list(scene.migrate.temporary.iterdir()) == []
            assert scene.migrate.leaks() == []


def assert_unharmed(server: Server) -> None:
    assert server.errors == []
    assert server.unknown == []
