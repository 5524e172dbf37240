"""What `migrate status`, `--failed` and `--skips` print for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from migrations_db.report_types import LedgerGroup, Overview, RunSummary, WorkerRow
from migrations_db.states import Phase, RunStatus
from migrator.commands.left_out import print_left_out
from migrator.commands.status.conclusions import (
    ALIVE_S,
    NEVER_COPIED,
    NOT_BOUND,
    Bound,
    advice,
    average_speed,
    destination_of,
    is_running,
    next_step,
    part_sums,
    skips_and_notes,
    verdicts_text,
)
from migrator.commands.text import (
    STATUS_STYLES,
    add_row,
    counted,
    heading,
    message_text,
    new_table,
    path_text,
    print_table,
    say,
    status_word,
    what_text,
)
from migrator.figures import age_text, amount
from migrator.job.pace import Speed
from migrator.parts import OPTIONAL_PARTS

TOP_GROUPS = 8  # skips and notes shown without --skips
TOP_WORKERS = 8  # runs in progress shown by name


def print_short(console: Console, overview: Overview, bound: Bound = NOT_BOUND, speed: Speed | None = None) -> None:
    """`migrate status --short`: what to do next, and a short summary of the job."""
    say(console, f"Next: {next_step(overview, bound)}", "bold")
    _print_runs(console, overview)
    _print_workers(console, overview, named=3)
    _print_job(console, overview, speed)
    for group in overview.failures:
        say(console, f"{counted(group.count, 'run')} failed as {group.error_class}: `migrate status --failed`")
    if skipped := sum(part.skipped for part in overview.parts):
        say(console, f"{counted(skipped, 'value')} skipped: `migrate status --skips`")


def print_overview(console: Console, overview: Overview, bound: Bound = NOT_BOUND, speed: Speed | None = None) -> None:
    """`migrate status`. `bound`: where the runs go. `speed`: that of the last minute, if known."""
    total = sum(overview.runs.values())
    if not total:
        say(console, "The state database holds no runs yet.")
    else:
        _print_runs(console, overview)
        _print_workers(console, overview)
        _print_job(console, overview, speed)
        _print_projects(console, overview, bound.workspace)
        _print_parts(console, overview)
        _print_failures(console, overview)
        skips, notes = skips_and_notes(overview)
        _print_groups(console, "Skipped values, by reason", skips, TOP_GROUPS)
        _print_groups(console, "Written, but changed", notes, TOP_GROUPS)
        _print_reasons(console, overview)
    print_left_out(console, overview.problems)
    heading(console, "Never copied")
    optional = sorted(OPTIONAL_PARTS.difference(part.name for part in overview.parts))
    only = [f" {part.capitalize()} only with --include {part}." for part in optional]
    say(console, f"{', '.join(NEVER_COPIED)}.{''.join(only)}", indent=2)
    console.print()
    say(console, f"Next: {next_step(overview, bound)}", "bold")


def print_skips(console: Console, overview: Overview) -> None:
    """`migrate status --skips`: all reasons why something was skipped or changed."""
    skips, notes = skips_and_notes(overview)
    _print_groups(console, "Skipped values, by reason", skips, None)
    _print_groups(console, "Written, but changed", notes, None)
    _print_reasons(console, overview)
    print_left_out(console, overview.problems)
    if not overview.ledger:
        say(console, "Nothing was skipped or changed so far.")
    else:
        console.print()
        say(console, "Next: `migrate status RUN` lists those of one run, one by one.", "bold")


def print_failed(console: Console, runs: Iterable[RunSummary]) -> None:
    """`migrate status --failed`: run by run, then what to do about each class."""
    classes: dict[str, int] = {}
    for run in runs:
        word = run.error_class or "unknown"
        classes[word] = classes.get(word, 0) + 1
        say(console, f"{run.ref}  {word}", STATUS_STYLES[RunStatus.FAILED])
        say(console, message_text(run.error_message), indent=4)
    if not classes:
        say(console, "No run has failed.")
    for word, count in sorted(classes.items(), key=lambda item: (-item[1], item[0])):
        heading(console, f"{word} ({counted(count, 'run')})")
        say(console, advice(word), indent=2)


# ---------------------------------------------------------------- sections of the overview


def _print_runs(console: Console, overview: Overview) -> None:
    line = Text(f"{counted(sum(overview.runs.values()), 'run')}: ", style="bold")
    shown = [status for status in RunStatus if overview.runs[status]]
    for i, status in enumerate(shown):
        line.append(", " if i else "", "not bold")
        line.append(f"{overview.runs[status]:,} {status_word(status)}", STATUS_STYLES[status])
    console.print(line)
    if overview.verdicts.verified or overview.verdicts.differs:
        say(console, f"Read back (`migrate verify`): {verdicts_text(overview.verdicts)}")
    uploads = overview.phases[Phase.UPLOAD]
    if sum(uploads.values()):
        states = ", ".join(f"{count:,} {status_word(status)}" for status, count in uploads.items() if count)
        say(console, f"Of these in upload (`migrate sync`): {states}")


def _print_job(console: Console, overview: Overview, speed: Speed | None) -> None:
    """Print when the job began, how fast it is, and how long it will take; for a job that ended, how long it took."""
    job = overview.job
    if job is None:
        return
    began = f"`migrate {job.command}` began {job.started_at:%Y-%m-%d %H:%M} UTC"
    if not is_running(overview):
        if job.ended_at:
            say(console, f"{began}, took {age_text(job.elapsed_s)} and ended with exit code {job.exit_code}.")
        return
    speed = speed or average_speed(overview)
    told = f"{began}, {age_text(job.elapsed_s)} ago"
    if speed:
        left = "estimating the time left" if speed.left_s is None else f"about {age_text(speed.left_s)} left"
        told += f": {amount(speed.values)} values/s, {decimal(round(speed.size_bytes))}/s, {left}"
    say(console, f"{told}.")


def _print_workers(console: Console, overview: Overview, named: int = TOP_WORKERS) -> None:
    workers = {worker.id: worker for worker in overview.workers}
    alive = [worker for worker in workers.values() if worker.heartbeat_age_s < ALIVE_S]
    if alive:
        age = age_text(min(worker.heartbeat_age_s for worker in alive))
        say(console, f"Running: {counted(len(alive), 'worker')}, last sign of life {age} ago")
        busy = [worker for worker in overview.workers if worker.run is not None and worker.heartbeat_age_s < ALIVE_S]
        for worker in busy[:named]:
            say(console, _worker_line(worker), indent=2)
        if len(busy) > named:
            say(console, f"... and {counted(len(busy) - named, 'run')} more", indent=2)
    elif silent := [worker.heartbeat_age_s for worker in workers.values()]:
        say(
            console,
            f"Not running: {counted(len(silent), 'worker')} silent for {age_text(min(silent))}. "
            "`migrate run` takes their runs over.",
            "yellow",
        )
    else:
        say(console, "Nothing is running.")
    for pause in overview.pauses:
        reason = message_text(pause.reason)
        say(console, f"{pause.service} asks to wait {age_text(pause.seconds_left)} more: {reason}", "yellow")


def _worker_line(worker: WorkerRow) -> str:
    idle = f", no progress for {age_text(worker.idle_s)}" if worker.idle_s and worker.idle_s >= ALIVE_S else ""
    return f"{worker.ref}  {worker.part or 'start'}{idle}"


def _print_projects(console: Console, overview: Overview, workspace: str | None) -> None:
    heading(console, "Projects")
    statuses = [status for status in RunStatus if overview.runs[status]]
    table = new_table(console, "source", "destination", *(f">{status_word(status)}" for status in statuses))
    for counts in overview.projects:
        destination = destination_of(counts.project, workspace) or "not decided"
        add_row(table, counts.project.source, f"→ {destination}", *(f"{counts.runs[status]:,}" for status in statuses))
    print_table(console, table)
    for counts in overview.projects:
        if counts.project.name_note:
            say(console, f"{counts.project.source} is renamed: {counts.project.name_note}", indent=2)


def _print_parts(console: Console, overview: Overview) -> None:
    heading(console, "Values, by part")
    table = new_table(console, "part", ">read", ">written", ">skipped", ">size")
    for part in part_sums(overview):
        add_row(table, part.name, f"{part.read:,}", f"{part.written:,}", f"{part.skipped:,}", decimal(part.size_bytes))
    print_table(console, table)
    for name, runs in overview.left_out.items():
        told = f"{name} was left out of {counted(runs, 'run')}: `migrate run --include {name}`"
        say(console, told, "yellow", indent=2)


def _print_failures(console: Console, overview: Overview) -> None:
    if overview.failures:
        heading(console, "Failed runs, by class")
    for group in overview.failures:
        say(console, f"{group.error_class}: {counted(group.count, 'run')}", STATUS_STYLES[RunStatus.FAILED], indent=2)
        say(console, f"{group.example.ref}: {message_text(group.example.text)}", indent=4)
        say(console, advice(group.error_class), indent=4)
    if overview.failures:
        say(console, "All of them: `migrate status --failed`", indent=2)


def _print_groups(console: Console, title: str, groups: Sequence[LedgerGroup], limit: int | None) -> None:
    if not groups:
        return
    heading(console, title)
    table = new_table(console, ">count", ">runs", "part", "what, and an example")
    for group in groups[:limit]:
        what = what_text(group.kind, group.reason, console.width)
        add_row(table, f"{group.count:,}", f"{group.runs:,}", group.part, what)
        example = f"{group.example.ref}: {path_text(group.example.text, console.width)}"
        add_row(table, "", "", "", example, indent=2)
    print_table(console, table)
    if limit is not None and len(groups) > limit:
        say(console, f"... and {len(groups) - limit:,} more: `migrate status --skips`", indent=2)


def _print_reasons(console: Console, overview: Overview) -> None:
    if overview.reasons:
        heading(console, "Runs with a remark")
    for group in overview.reasons:
        example = f"for example {group.example_ref}"
        say(console, f"{counted(group.count, 'run')} {status_word(group.status)}: {group.reason}; {example}", indent=2)
