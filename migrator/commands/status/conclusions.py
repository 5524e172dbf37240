"""Conclusions from the state database that the documents and the text of `migrate status` share."""

from __future__ import annotations

from typing import NamedTuple

from migrations_db.report_types import LedgerGroup, Overview, PartSums, RunDetail, VerdictCounts
from migrations_db.states import Phase, RunStatus
from migrations_db.store import Store
from migrations_db.types import Project
from migrator.commands.choosing import COMPARED, did_you_mean
from migrator.commands.text import counted, left_out_text
from migrator.errors import ADVICE, ErrorClass, ExitCode, UserError
from migrator.job.address import UPLOADS, bound_address
from migrator.job.pace import Speed, time_left_s
from migrator.parts import OPTIONAL_PARTS, PARTS
from migrator.records import Kind

ALIVE_S = 60.0  # the length of a lease: a worker that is silent for longer has lost its runs
MAX_CANDIDATES = 20  # runs listed if a text matches several

#: the mapping's "Not copied"
NEVER_COPIED = (
    "reports",
    "workspaces",
    "custom panels",
    "registry links",
    "launch queues",
    "permissions",
    "comments",
    "alerts",
)


class Bound(NamedTuple):
    """Where the runs of a state database go: Neptune's workspace (None: not known yet), `offline` files or not."""

    workspace: str | None = None
    offline: bool = False


NOT_BOUND = Bound()


def bound_to(store: Store) -> Bound:
    """Read what the first `migrate run` and, for offline files, the first `migrate sync` have stored."""
    address = bound_address(store)
    offline = address is not None and address.directory is not None
    to = bound_address(store, UPLOADS) if offline else address
    return Bound(to.workspace if to else None, offline)


def find_run(store: Store, text: str) -> RunDetail:
    """The run that a user means by "run id", "project/run id" or "entity/project/run id"."""
    found = store.reports.find_runs(text, limit=MAX_CANDIDATES + 1)
    if len(found) > 1:
        named = "\n".join(f"  {run.ref}" for run in found[:MAX_CANDIDATES])
        more = "\n  ..." if len(found) > MAX_CANDIDATES else ""
        raise UserError(f"{len(found)} runs or more are called '{text}'. Say which one:\n{named}{more}")
    detail = store.reports.run_detail(found[0].run) if found else None
    if detail is None:
        close = did_you_mean([text], store.listing.values("run_ids", COMPARED))
        raise UserError(
            f"There is no run '{text}' in {store.address}{close}. Runs are found by run id, project/run id or "
            "entity/project/run id: `migrate runs` lists them, `migrate inventory` adds new ones."
        )
    return detail


def advice(error_class: str | None) -> str:
    """What to do about failures of a class. For a class of another version: the general advice."""
    known = {word.value: text for word, text in ADVICE.items()}
    return known.get(error_class or "", ADVICE[ErrorClass.UNKNOWN])


def destination_of(project: Project, workspace: str | None) -> str | None:
    """ "workspace/name", or only the name while the workspace is unknown. None: not decided."""
    if project.destination_name is None or workspace is None:
        return project.destination_name
    return f"{workspace}/{project.destination_name}"


def part_sums(overview: Overview) -> list[PartSums]:
    """Sums by part, in copy order. Parts that are always copied are included even if nothing was read yet."""
    seen = {part.name: part for part in overview.parts}
    expected = [name for name in PARTS if name in seen or name not in OPTIONAL_PARTS]
    others = [name for name in seen if name not in PARTS]
    return [seen.get(name, PartSums(name, 0, 0, 0, 0)) for name in expected + others]


def skips_and_notes(overview: Overview) -> tuple[list[LedgerGroup], list[LedgerGroup]]:
    """(what was not written, what was written but changed), most frequent first."""
    skips = [group for group in overview.ledger if group.kind == Kind.SKIPPED]
    return skips, [group for group in overview.ledger if group.kind != Kind.SKIPPED]


def conclusion(overview: Overview) -> ExitCode:
    """Whether the job is done (OK), has more to do (UNFINISHED), or has failed runs and nothing else to do."""
    if overview.runs[RunStatus.PENDING] + overview.runs[RunStatus.RUNNING]:
        return ExitCode.UNFINISHED
    return ExitCode.SOME_FAILED if overview.runs[RunStatus.FAILED] else ExitCode.OK


def is_running(overview: Overview) -> bool:
    """Whether a worker has given a sign of life recently."""
    return any(worker.heartbeat_age_s < ALIVE_S for worker in overview.workers)


def average_speed(overview: Overview) -> Speed | None:
    """The speed since the running command started. None: no command is copying."""
    job, progress = overview.job, overview.progress
    if job is None or progress is None or job.command != "run" or job.elapsed_s <= 0 or not is_running(overview):
        return None
    values, size = job.values_read / job.elapsed_s, job.size_bytes / job.elapsed_s
    return Speed(values, size, time_left_s(progress, values, size))


def next_step(overview: Overview, bound: Bound) -> str:
    """The one thing to do now."""
    copy, upload = overview.phases[Phase.COPY], overview.phases[Phase.UPLOAD]
    if not sum(overview.runs.values()):
        return "`migrate inventory` lists the runs that there are to copy."
    if any(worker.run is not None and worker.heartbeat_age_s < ALIVE_S for worker in overview.workers):
        return "nothing to do: it is running."
    if waiting := copy[RunStatus.PENDING] + copy[RunStatus.RUNNING]:
        return f"`migrate run` copies {counted(waiting, 'run')}."
    if waiting := upload[RunStatus.PENDING] + upload[RunStatus.RUNNING]:
        return f"`migrate sync` uploads {counted(waiting, 'run')}."
    if failed := copy[RunStatus.FAILED]:
        return f"`migrate retry-failed` puts back {counted(failed, 'run')}, then `migrate run`."
    if failed := upload[RunStatus.FAILED]:
        return f"`migrate retry-failed` puts back {counted(failed, 'run')}, then `migrate sync`."
    if differs := overview.verdicts.differs:
        return f"`migrate retry-failed --class differs` puts back {counted(differs, 'run')}, then `migrate run`."
    if bound.offline and copy[RunStatus.DONE]:
        return f"`migrate sync` uploads {counted(copy[RunStatus.DONE], 'run')} to Neptune."
    if told := left_out_text(overview.left_out):
        return f"{told}."
    if not overview.verdicts.verified and copy[RunStatus.DONE]:
        return f"`migrate verify` reads {counted(copy[RunStatus.DONE], 'run')} back and compares."
    return "nothing left to do. `migrate inventory` looks for new runs."


def verdicts_text(counts: VerdictCounts) -> str:
    """ "10 verified, 2 differ, 0 not verified": counts of done runs."""
    differ = "differs" if counts.differs == 1 else "differ"
    return f"{counts.verified:,} verified, {counts.differs:,} {differ}, {counts.not_verified:,} not verified"
