"""`migrate verify`: settings become a scope, the verifier does it, results are printed from the state database."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from migrations_db import open_store
from migrations_db.relistings import ListedProject
from migrations_db.report_types import FindingRow, ProjectVerdicts, VerdictCounts
from migrations_db.selecting import Wanted
from migrations_db.states import Verdict
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.choosing import chosen
from migrator.commands.relist import NEXT, is_news, list_again, listed_json, listed_lines
from migrator.commands.run import neptune_binding
from migrator.commands.status.conclusions import bound_to, verdicts_text
from migrator.commands.text import add_row, counted, message_text, new_table, print_table, say
from migrator.copying.copy import CopyPlan
from migrator.copying.findings import Files, How, Level
from migrator.errors import ExitCode, UserError
from migrator.job.address import COPIES, UPLOADS, bound_address
from migrator.job.log import log_path, start_log
from migrator.job.rereading import Sources
from migrator.job.scratch import scratch_directory
from migrator.job.verifier import Verifier, VerifyCounts, VerifyScope
from migrator.parts.base import MappingOptions
from migrator.redaction import own_keys
from migrator.settings import OFFLINE_WORKSPACE, Globals, tool_version, work_directory
from migrator.visible import tell

LINE_EVERY_S = 30.0
FINDINGS_SHOWN = 20  # --json has all
FILES_AT_A_TIME = 16
BLIND = "Level counts does not compare the points of text, histograms and files (except the last step), nor the files."


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """The user's choices. `sample`: a share of the runs, 0 to 1; `again`: also those that have a verdict.

    `work_dir` is where what is read of the sources is kept meanwhile.
    """

    how: How
    workers: int
    wanted: Wanted = field(default_factory=Wanted)
    sample: float = 1.0
    seed: int = 0
    again: bool = False
    work_dir: Path = field(default_factory=lambda: work_directory(None))
    follow_links: bool = True
    list_again: bool = False


def verify_command(settings: VerifySettings, common: Globals) -> ExitCode:
    """Read runs back and print what was found."""
    with open_store(common.db, create=False) as store:
        only = sampled(store, chosen(store, settings.wanted), settings)
        listed = _listed(store, settings) if settings.list_again else None
        compared = _verified(store, only, settings, common)
        counts = store.verification.counts(only)
        exit_code = ExitCode.SOME_FAILED if counts.differs or counts.not_verified else ExitCode.OK
        projects = store.verification.by_project(only)
        findings = store.verification.findings(only)
        if common.json:
            document = _document(settings.how, exit_code, counts, compared, findings)
            document |= {
                "projects": _projects_json(projects),
                "listed": None if listed is None else listed_json(listed),
            }
            print(json.dumps(document))
        elif not common.quiet:
            _print(settings.how, counts, compared, findings)
            _print_projects(projects)
            _print_listed(listed)
    return exit_code


def sampled(store: Store, only: Selection, settings: VerifySettings) -> Selection:
    """A sample of the runs, at least one. The same seed gives the same runs."""
    if settings.sample >= 1.0:
        return only
    runs = store.verification.done(only)
    runs.sort(key=lambda run: sha256(f"{settings.seed}:{run}".encode()).digest())
    return Selection(runs=tuple(sorted(runs[: math.ceil(settings.sample * len(runs))])))


def _listed(store: Store, settings: VerifySettings) -> Sequence[ListedProject]:
    """The projects as their sources have them now: first of all, so that a source that does not answer says so."""
    with scratch_directory(settings.work_dir) as scratch:
        return list_again(store, store.select(settings.wanted.projects), scratch)


def _verified(store: Store, only: Selection, settings: VerifySettings, common: Globals) -> VerifyCounts:
    bound, copies = bound_to(store), bound_address(store)
    if not bound.offline or bound_address(store, UPLOADS):
        _check_binding(store, bound.workspace, offline=bound.offline)
    if settings.again:
        store.verification.begin_again(only)
    log_file = log_path("verify")
    start_log(log_file, common.verbose)
    invocation_id = store.begin_invocation("verify", socket.gethostname(), os.getpid(), tool_version(), str(log_file))
    exit_code = ExitCode.UNEXPECTED
    try:
        with ExitStack() as stack:
            sources = None
            if settings.how.level is Level.VALUES:
                sources = _sources(settings, bound.workspace, stack.enter_context(scratch_directory(settings.work_dir)))
            scope = VerifyScope(
                only=only,
                workspace=bound.workspace or OFFLINE_WORKSPACE,
                offline_dir=copies.directory if copies else None,
                how=settings.how,
                threads=settings.workers,
                invocation_id=invocation_id,
                sources=sources,
            )
            downloads = stack.enter_context(ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="files"))
            verifier = Verifier(scope, store, downloads)
            verifier.run(_Lines(common.quiet).update)
        exit_code = ExitCode.OK
    finally:
        store.end_invocation(invocation_id, exit_code)
    return verifier.compared


def _sources(settings: VerifySettings, workspace: str | None, scratch: Path) -> Sources:
    """How sources are read again: by all parts that a run's copy had, with the options of its copy."""
    keys = [os.fsdecode(key) for key in own_keys()]
    plan = CopyPlan(workspace or OFFLINE_WORKSPACE, (), MappingOptions(), tool_version(), keys)
    return Sources(plan, scratch, settings.follow_links)


def _check_binding(store: Store, workspace: str | None, *, offline: bool) -> None:
    """`UserError` unless the token is for the server to which the runs were copied."""
    if workspace is None:
        raise UserError("nothing has been copied yet: `migrate run` first")
    neptune_binding(UPLOADS if offline else COPIES, workspace).check(store)


class _Lines:
    """Prints a line from time to time."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._next_at = quiet, time.monotonic() + LINE_EVERY_S

    def update(self, compared: VerifyCounts) -> None:
        if not self._quiet and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + LINE_EVERY_S
            done = sum(compared.runs.values())
            tell(f"{counted(done, 'run')} read back, {compared.runs[Verdict.DIFFERS]} differ")


def _document(
    how: How,
    exit_code: ExitCode,
    counts: VerdictCounts,
    compared: VerifyCounts,
    findings: Iterator[tuple[str, FindingRow]],
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "exit_code": int(exit_code),
        "level": how.level.value,
        "files": how.files.value,
        "runs": {"verified": counts.verified, "differs": counts.differs, "not_verified": counts.not_verified},
        "compared": {
            "runs": sum(compared.runs.values()),
            "values": compared.values,
            "series": compared.series,
            "points": compared.points,
            "files": compared.files,
        },
        "findings": [
            {"run": ref, "path": row.path, "verdict": row.verdict.value, "want": row.want, "got": row.got}
            for ref, row in findings
        ],
    }


def _print(how: How, counts: VerdictCounts, compared: VerifyCounts, findings: Iterator[tuple[str, FindingRow]]) -> None:
    console = Console()
    for ref, row in islice(findings, FINDINGS_SHOWN):
        word = "differs" if row.verdict is Verdict.DIFFERS else "not verified"
        say(console, f"{ref}  {row.path or '(the run)'}: {word}")
        say(console, f"sent  {message_text(row.want)}", indent=4)
        say(console, f"found {message_text(row.got)}", indent=4)
    if more := sum(1 for _ in findings):
        say(console, f"... and {more:,} more: `migrate verify --json` has all, `migrate status RUN` those of a run")
    runs = sum(compared.runs.values())
    if runs:
        say(
            console,
            f"Read back {counted(runs, 'run')} ({how}): {compared.values:,} single values, {compared.series:,} series "
            f"with {compared.points:,} points, {compared.files:,} files.",
        )
    if how.level is Level.COUNTS:
        say(console, BLIND)
    say(console, verdicts_text(counts) + ".")
    if counts.differs:
        say(console, "Next: `migrate retry-failed --class differs`, then `migrate run` sends what differs again.")


def _projects_json(projects: Sequence[ProjectVerdicts]) -> dict[str, dict[str, int]]:
    names = ("equal", "explained", "differs", "not_verified", "not_copied")
    return {one.project.source: {name: getattr(one, name) for name in names} for one in projects}


def _print_projects(projects: Sequence[ProjectVerdicts]) -> None:
    """What is proved, by project if there are several, and what "explained" means."""
    console = Console()
    if len(projects) > 1:
        table = new_table(console, "W&B project", ">equal", ">explained", ">differ", ">not verified", ">not copied")
        for one in projects:
            counts = (one.equal, one.explained, one.differs, one.not_verified, one.not_copied)
            add_row(table, one.project.source, *(f"{count:,}" for count in counts))
        print_table(console, table)
    if explained := sum(one.explained for one in projects):
        say(
            console,
            f"{counted(explained, 'verified run')} explained: what was skipped or changed on the way, and why, is in "
            "`migrate status --skips`.",
        )


def _print_listed(listed: Sequence[ListedProject] | None) -> None:
    console = Console()
    for line in () if listed is None else listed_lines(listed):
        say(console, line)
    if listed and is_news(listed):
        say(console, NEXT)


def how_of(level: str, files: str) -> How:
    """Parse the options, or raise `UserError`."""
    if level not in Level.__members__.values():
        raise UserError(f"--level is {' or '.join(Level)}, not '{level}'")
    if files not in Files.__members__.values():
        raise UserError(f"--files is {' or '.join(Files)}, not '{files}'")
    return How(Level(level), Files(files))


def share_of(text: str) -> float:
    """Parse a share such as "5%" or "0.05". Empty: all."""
    if not text:
        return 1.0
    try:
        share = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UserError(f"--sample takes a share of the runs such as 5% or 0.05, not '{text}'")
    return share
