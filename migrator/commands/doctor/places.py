"""Where runs come from and go to, and what is kept of them: the two services, local directories, the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from migrations_db import open_store
from migrator.commands.doctor.checks import Check, attempted, bad, ok, warn
from migrator.commands.left_out import grouped
from migrator.commands.remembered import Settled
from migrator.commands.run import neptune_binding
from migrator.commands.text import counted
from migrator.destinations.base import RunTarget
from migrator.errors import ExitCode, UserError
from migrator.figures import age_text
from migrator.job.address import COPIES, Address, Binding
from migrator.job.job import build_local_source, build_neptune, introduce_neptune, introduce_wandb
from migrator.records import Assign
from migrator.services import Introduction

REQUEST_TIMEOUT_S = 45  # of one request to W&B with all its tries: this is a look, not a job
SKEW_S = 30.0  # ours: what a Date header and a slow network may make of clocks that agree
PROBE_PROJECT, PROBE_RUN = "migrate-doctor", "doctor"


def destination(db: str, where: Settled, *, is_there: bool) -> Iterator[Check]:
    """Whether a state database that is there belongs to where the runs would go."""
    if where.mode == "offline":
        binding, told = (
            Binding(COPIES, Address.of_directory(where.offline_dir)),
            f"offline files in {where.offline_dir}",
        )
    else:
        try:
            binding, told = neptune_binding(COPIES, where.workspace), f"Neptune, workspace {where.workspace}"
        except UserError:  # of the token: the check of Neptune tells it
            return
    if is_there:
        with open_store(db, create=False) as store:
            binding.check(store)
    yield ok("destination", told)


def local_directories(paths: Sequence[Path]) -> Iterator[Check]:
    """Reads the head of every log, as an inventory does."""
    with closing(build_local_source(paths)) as source:
        projects = list(source.projects(None))
        runs = sum(source.count_runs(project) or 0 for project in projects)
        told = f"{counted(runs, 'run')} of {counted(len(projects), 'project')} in {', '.join(map(str, paths))}"
        if left_out := grouped(source.left_out):
            causes = ", ".join(f"{group.count:,} {group.cause}" for group in left_out)
            next_step = "`migrate inventory --local` lists them and says what helps"
            yield warn("local runs", f"{told}; left out or incomplete: {causes}", next_step)
        else:
            yield ok("local runs", told)


class Services:
    """W&B and Neptune, looked at in threads of their own; `clock` comes last."""

    def __init__(self) -> None:
        self._ahead_s: dict[str, float] = {}

    def wandb(self, entity: str | None, scratch: Path) -> Iterator[Check]:
        found = introduce_wandb(entity, scratch, REQUEST_TIMEOUT_S)
        self.note("W&B", found)
        told = [_logged_in(found, "sees entities")]
        shown = entity or (found.spaces[0] if found.spaces else "")
        told.append(f"{counted(found.projects, 'project')} of {shown}")
        if found.tried:
            told.append(f"can read {found.tried}")
        if found.version:
            told.append(f"server {found.version}")
        if found.lacks:
            told.append(f"an old server, copied without {', '.join(found.lacks)}")
        message = "; ".join(told)
        if found.trouble:
            yield warn("W&B", f"{message}; {found.trouble}", "Ask for access, or leave out the project that it is in")
        elif not found.projects:
            yield warn("W&B", message, "If that is not where your runs are: --wandb-entity NAME")
        else:
            yield ok("W&B", message)

    def neptune(self, workspace: str, visibility: str, *, write: bool) -> Iterator[Check]:
        found = introduce_neptune()
        self.note("Neptune", found)
        told = _logged_in(found, f"sees {counted(found.projects, 'project')} of")
        if write and workspace:
            yield ok("Neptune", told)
            yield from attempted("write", partial(_written, workspace, visibility))
        elif workspace and workspace not in found.spaces:
            next_step = "Check --neptune-workspace; `migrate doctor --write` tries to create a project there"
            yield warn("Neptune", f"{told}; no project of workspace {workspace}", next_step)
        else:
            yield ok("Neptune", f"{told}; --write tries whether you may write")

    def clock(self) -> Iterator[Check]:
        """By the Date headers of those that answered."""
        off = {name: ahead for name, ahead in self._ahead_s.items() if abs(ahead) > SKEW_S}
        if off:
            told = [f"{age_text(abs(s))} {'behind' if s > 0 else 'ahead of'} {name}'s" for name, s in off.items()]
            next_step = "Set the clock (`timedatectl`): a wrong one makes logins and certificates fail"
            yield warn("clock", f"this machine's clock is {' and '.join(told)}", next_step)
        elif self._ahead_s:
            yield ok("clock", f"agrees with {' and '.join(self._ahead_s)}")

    def note(self, name: str, found: Introduction) -> None:
        if found.ahead_s is not None:
            self._ahead_s[name] = found.ahead_s


def _logged_in(found: Introduction, sees: str) -> str:
    account = f" as {found.account}" if found.account else ""
    return f"{found.address}{account}" + (f", {sees} {', '.join(found.spaces)}" if found.spaces else "")


def _written(workspace: str, visibility: str) -> Iterator[Check]:
    """One run in a project of its own, the same one each time: Neptune's API deletes neither."""
    project, now = f"{workspace}/{PROBE_PROJECT}", datetime.now(UTC)
    with ThreadPoolExecutor(1) as uploads, closing(build_neptune(uploads, visibility, lambda: now)) as neptune:
        neptune.ensure_project(project, "Made by `migrate doctor --write`. Nothing needs it")
        with neptune.open_run(RunTarget(project, PROBE_RUN, "migrate doctor", now), None) as run:
            run.write([Assign({"doctor/tried_at": now})])
            refused = run.flush().wait()
    lost = [f"{one.path or 'the run'} ({one.reason})" for one in refused if one.count]
    if lost:
        yield bad("write", f"Neptune refused {', '.join(lost)} in {project}", exit_code=ExitCode.CREDENTIALS)
    else:
        yield ok(
            "write",
            f"wrote run {PROBE_RUN} in project {project}. Both stay, because Neptune's API cannot delete them: do so "
            "in Neptune when you like",
        )
