"""`migrate run` and `migrate sync`: settings become a job, the supervisor does it, the figures come from the store."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

from rich.filesize import decimal

from migrations_db import StateError, open_store
from migrations_db.report_types import Progress, RunSummary
from migrations_db.selecting import Wanted
from migrations_db.states import Phase, RunStatus
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.choosing import chosen, did_you_mean
from migrator.commands.remembered import mapping_text
from migrator.commands.text import counted, left_out_text
from migrator.destinations.base import UPLOADED
from migrator.errors import ErrorClass, ExitCode, UserError
from migrator.figures import age_text, amount
from migrator.job.address import COPIES, UPLOADS, Address, Binding, bound_address, is_same_directory
from migrator.job.display import display_for
from migrator.job.job import Job, neptune_api_token
from migrator.job.log import log_path, start_log
from migrator.job.notify import Notifying, notify
from migrator.job.scratch import scratch_directory
from migrator.job.stopping import Signals
from migrator.job.supervisor import Display, Supervision, Supervisor
from migrator.parts import OPTIONAL_PARTS, PARTS, STANDARD_PARTS
from migrator.parts.base import MappingOptions
from migrator.settings import Globals, Mode, lease_s, tool_version
from migrator.visible import tell

SAFE_LANES = 2  # per worker with the safe client: each has its own process, which keeps a core busy


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the user chose for `migrate run` (phase copy) or `migrate sync` (phase upload)."""

    phase: Phase
    mode: Mode
    workspace: str
    offline_dir: Path
    work_dir: Path
    supervision: Supervision
    options: MappingOptions
    given_options: Mapping[str, object] = field(default_factory=dict)  # mapping options that the user has given
    wanted: Wanted = field(default_factory=Wanted)
    limit: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    visibility: str = "priv"
    strict: bool = False
    safe_client: bool = False
    no_follow_links: bool = False
    notify: str = ""  # a command that receives events of the job; empty: none

    @property
    def asked(self) -> Sequence[str]:
        """Parts requested by name: runs that are done without them are copied further."""
        return [part for part in self.include if part not in self.exclude]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a job ended, and figures from the state database at that time."""

    exit_code: ExitCode
    progress: Progress
    skipped_values: int
    left_out: Mapping[str, int]  # by part, how many runs are done without it
    uncopied: int = 0  # runs that could not be uploaded because they are still to be copied
    elapsed_s: float = 0.0
    values: int = 0  # written by this command
    size_bytes: int = 0  # written by this command
    problems: int = 0  # what the inventory found and left out, completely or in part


def selected_parts(include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Parts in copy order: all except the optional ones, plus `include`, minus `exclude`."""
    for option, names in (("--include", include), ("--exclude", exclude)):
        for name in names:
            if name not in PARTS:
                close = did_you_mean([name], PARTS)
                raise UserError(f"{option} {name}: there is no such part{close}. Parts are {', '.join(PARTS)}")
    parts = [name for name in PARTS if (name not in OPTIONAL_PARTS or name in include) and name not in exclude]
    if not parts:
        raise UserError("nothing is left to copy: --exclude names every part")
    return parts


def run_job(settings: RunSettings, common: Globals) -> RunResult:
    """Copy (or upload) all selected pending runs. Returns when none is left, or when the job had to stop."""
    parts = selected_parts(settings.include, settings.exclude)
    with open_store(common.db, create=False) as store, scratch_directory(settings.work_dir) as scratch:
        if settings.mode == "online":
            neptune_api_token()  # checked before anything starts
        binding = binding_of(settings)
        binding.check(store)
        check_offline(store, settings)
        only = selection(store, settings)
        command = "run" if settings.phase is Phase.COPY else "sync"
        log_file = log_path(command)
        start_log(log_file, common.verbose)
        invocation_id = store.begin_invocation(
            command, socket.gethostname(), os.getpid(), tool_version(), str(log_file)
        )
        job = Job(
            database=common.db,
            phase=settings.phase,
            mode=settings.mode,
            workspace=settings.workspace,
            parts=parts,
            options=settings.options,
            offline_dir=settings.offline_dir.absolute(),
            work_dir=scratch,
            tool_version=tool_version(),
            log_file=log_file,
            invocation_id=invocation_id,
            binding=binding,
            only=only,
            services=services(store, settings.phase),
            visibility=settings.visibility,
            follow_links=not settings.no_follow_links,
            lease_s=lease_s(),
            pause_max_s=settings.supervision.give_up_s / 2,  # so that it is asked again before the job gives up
            verbose=common.verbose,
        )
        if settings.safe_client:
            job = replace(job, safe_client=True, lanes=SAFE_LANES)
        display: Display = display_for(quiet=common.quiet)
        if settings.notify:
            display = Notifying(display, partial(notify, settings.notify), store, job.awaited)
        exit_code = ExitCode.UNEXPECTED
        began_at, before = time.monotonic(), store.reports.progress(settings.phase, only)
        signals = Signals()
        with signals.caught():
            try:
                exit_code = _finish(job, settings, store, display, signals)
                progress = store.reports.progress(settings.phase, only)
                skipped = store.reports.skipped(only)
                problems = sum(group.count for group in store.reports.problems())
                lossy = skipped or problems
                if exit_code is ExitCode.OK and (progress.runs[RunStatus.FAILED] or (settings.strict and lossy)):
                    exit_code = ExitCode.SOME_FAILED
            finally:
                display.close()
                store.end_invocation(invocation_id, exit_code)
            uncopied = waiting(store, Phase.COPY, only) if settings.phase is Phase.UPLOAD else 0
            return RunResult(
                exit_code,
                progress,
                skipped,
                store.reports.left_out(STANDARD_PARTS, only),
                uncopied,
                time.monotonic() - began_at,
                max(0, progress.points_written - before.points_written),
                max(0, progress.size_bytes - before.size_bytes),
                problems,
            )


def _finish(job: Job, settings: RunSettings, store: Store, display: Display, signals: Signals) -> ExitCode:
    """Let workers do the job. If another command has meanwhile finished runs without the requested parts, repeat."""
    while True:
        again = store.start_copy(settings.asked, job.only) if settings.asked else 0
        if again:
            display.say(f"{counted(again, 'run')} done without {' and '.join(settings.asked)}: copied further")
        for name in store.fail_fork_cycles(settings.phase, job.only, ErrorClass.BAD_DATA):
            display.say(f"{name} cannot be copied: it and its parent are forks of each other")
        left = waiting(store, settings.phase, job.only)
        if not left:
            return ExitCode.OK
        supervision = replace(settings.supervision, workers=min(settings.supervision.workers, left))
        exit_code = Supervisor(job, supervision, store, display, signals).run()
        if exit_code is not ExitCode.OK or not settings.asked:
            return exit_code


def binding_of(settings: RunSettings) -> Binding:
    """The destination to which the database must belong."""
    if settings.mode == "offline":
        return Binding(COPIES, Address.of_directory(settings.offline_dir))
    return neptune_binding(COPIES if settings.phase is Phase.COPY else UPLOADS, settings.workspace)


def neptune_binding(setting: str, workspace: str) -> Binding:
    """The binding to a workspace on the token's Neptune server."""
    from migrator.destinations.neptune.token import address_of

    return Binding(setting, Address(server=address_of(neptune_api_token()), workspace=workspace))


def check_offline(store: Store, settings: RunSettings) -> None:
    """`UserError` unless the directory is the one to which this state database's runs were copied, with files in it.

    Otherwise files would seem lost only because they were looked for in the wrong place.
    """
    bound, directory = bound_address(store), settings.offline_dir.absolute()
    copied_to = bound.directory if bound else None
    if settings.phase is Phase.UPLOAD and bound and not copied_to:
        raise UserError(f"there is nothing to upload: the runs of this state database go straight to {bound.text}")
    if not copied_to:
        return
    if not is_same_directory(copied_to, directory):
        raise UserError(
            f"the offline files of this state database are in {copied_to}, not in {directory}: "
            f"`migrate sync --offline-dir {shlex.quote(str(copied_to))}`. If you have moved them, make the old path a "
            f"symbolic link to {directory}"
        )
    if _holds_files(directory):
        return
    chosen = store.find(settings.wanted).selection
    if count := store.reports.awaited_files(settings.phase, chosen, UPLOADED):
        raise UserError(
            f"{directory}, which should hold the offline files of {counted(count, 'run')}, is not there or is empty: "
            "mount it or put it back first. If it is lost, `migrate forget --projects '*'` has all runs copied again"
        )


def _holds_files(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{directory}, which holds the offline files, cannot be read: {error.strerror}") from error


def check_mapping(store: Store, only: Selection, given: Mapping[str, object]) -> None:
    """`UserError` if the copy of a run, ended or not, began with other options than those given.

    Otherwise a metric could continue at another path, or runs of one job would not look alike, and nobody were told.
    """
    if not given:
        return
    wanted = MappingOptions.from_json(given).as_json()
    differ: dict[str, Mapping[str, object]] = {}
    for ref, mapping in store.listing.mappings(only):
        began_with = MappingOptions.from_json(mapping).as_json()
        if any(began_with[name] != wanted[name] for name in given):
            differ[ref] = began_with
    if not differ:
        return
    ref, mapping = next(iter(differ.items()))
    names = [name for name in given if mapping[name] != wanted[name]]
    began = " ".join(mapping_text(name, mapping[name]) for name in names)
    now = " ".join(mapping_text(name, wanted[name]) for name in names)
    raise UserError(
        f"the copy of {counted(len(differ), 'run')} began with {began}, such as {ref}. With {now} the rest would not "
        "fit what is copied already. Leave the option out, and all go on as they began; choose other runs, with "
        f"--projects or --run-id; or start over with these: `migrate forget {shlex.quote(ref)}`"
    )


def selection(store: Store, settings: RunSettings) -> Selection:
    """The runs that this command concerns."""
    only = chosen(store, settings.wanted)
    check_mapping(store, only, settings.given_options)
    if settings.phase is Phase.UPLOAD:
        store.start_upload(only)
    if settings.limit is not None:
        found = islice(to_do(store, settings.asked, only), settings.limit)
        only = store.select((), [summary.ref for summary in found])
    return only


def to_do(store: Store, include: Sequence[str], only: Selection) -> Iterator[RunSummary]:
    """Pending runs, and runs that are done without a part that is requested by name."""
    yield from store.reports.runs(RunStatus.PENDING, only)
    if include:
        yield from store.reports.lacking(include, only)


def services(store: Store, phase: Phase) -> frozenset[str]:
    """The services from which the runs come. None for uploads, which read only offline files."""
    if phase is Phase.UPLOAD:
        return frozenset()
    return frozenset(project.source_service for project in store.inventory.projects())


def waiting(store: Store, phase: Phase, only: Selection) -> int:
    """The number of runs that have not ended yet."""
    runs = store.reports.progress(phase, only).runs
    return runs[RunStatus.PENDING] + runs[RunStatus.RUNNING]


# ---------------------------------------------------------------- what it prints


def run_command(settings: RunSettings, common: Globals) -> ExitCode:
    """Do the job and say how it ended."""
    try:
        result = run_job(settings, common)
    except StateError as error:
        if settings.notify:
            notify(settings.notify, "end", exit_code=int(ExitCode.STATE), error=str(error))
        raise
    if settings.notify and (problem := notify(settings.notify, "end", **_as_json(result))):
        tell(problem)
    if common.json:
        print(json.dumps(_as_json(result)))
    elif not common.quiet:
        tell(_summary(settings, result))
    return result.exit_code


def _as_json(result: RunResult) -> dict[str, object]:
    progress = result.progress
    return {
        "schema_version": 1,
        "exit_code": int(result.exit_code),
        "runs": {
            **{str(status): count for status, count in progress.runs.items()},
            "total": sum(progress.runs.values()),
        },
        "read": progress.points_read,
        "written": progress.points_written,
        "skipped": result.skipped_values,
        "left_out": dict(result.left_out),
        "bytes": progress.size_bytes,
        "elapsed_s": round(result.elapsed_s, 1),
        "written_now": result.values,
        "bytes_now": result.size_bytes,
        "problems": result.problems,
    }


def _summary(settings: RunSettings, result: RunResult) -> str:
    runs = result.progress.runs
    if not result.progress.runs_total and not result.uncopied:
        return "There is nothing to do: `migrate inventory` lists runs, `migrate status` shows them."
    text = [f"{runs[RunStatus.DONE]} of {result.progress.runs_total} runs are done."]
    if result.values:
        values, per_s = counted(result.values, "value"), amount(result.values / max(result.elapsed_s, 0.1))
        took, size = age_text(result.elapsed_s), decimal(result.size_bytes)
        text.append(f"Written in {took}: {values}, {size}; {per_s} values/s.")
    if settings.phase is Phase.COPY and settings.mode == "offline" and runs[RunStatus.DONE]:
        text.append(f"They are in {settings.offline_dir}; `migrate sync` uploads them to Neptune.")
    if runs[RunStatus.FAILED]:
        text.append(f"{runs[RunStatus.FAILED]} failed: `migrate status --failed` says why.")
    if result.skipped_values:
        skipped = counted(result.skipped_values, "value")
        text.append(f"{skipped} could not be copied (skipped): `migrate status --skips` lists them.")
    if told := left_out_text(result.left_out):
        text.append(f"{told}.")
    if result.problems:
        things = counted(result.problems, "thing")
        text.append(f"The inventory left out {things}, completely or in part: `migrate status` lists them.")
    if result.uncopied:
        text.append(f"{result.uncopied} must be copied first: `migrate run`, then `migrate sync` again.")
    if runs[RunStatus.PENDING]:
        correct = result.exit_code in (ExitCode.USAGE, ExitCode.CREDENTIALS)
        what_next = "correct the setting above, then run the command again" if correct else "run the same command again"
        text.append(f"{runs[RunStatus.PENDING]} are pending: {what_next}.")
    elif settings.mode == "online" and result.values and not (result.uncopied or runs[RunStatus.FAILED]):
        text.append("Next: `migrate verify` reads them back and compares.")
    return "\n".join(text)
