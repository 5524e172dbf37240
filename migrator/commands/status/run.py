"""What `migrate status RUN` prints for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime
from heapq import nsmallest
from itertools import groupby

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from migrations_db.accounts import RunAccount
from migrations_db.report_types import AttemptRow, LedgerRow, RunDetail
from migrations_db.states import Phase, RunStatus, Verdict
from migrator.commands.status.conclusions import NOT_BOUND, Bound, advice, destination_of
from migrator.commands.status.workers import worker_name
from migrator.commands.text import (
    add_row,
    heading,
    message_text,
    new_table,
    path_text,
    print_table,
    say,
    shortened,
    status_word,
    what_text,
)
from migrator.figures import age_text
from migrator.parts import PARTS
from migrator.records import Kind

LEDGER_LINES = 40  # --json has all


def print_run(console: Console, detail: RunDetail, ledger: Iterable[LedgerRow], bound: Bound = NOT_BOUND) -> None:
    """`migrate status RUN`. Only those lines of `ledger` that are shown are held in memory."""
    say(console, detail.ref, "bold")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for fact in _facts(detail, bound.workspace, console.width):
        add_row(facts, *fact)
    print_table(console, facts)
    if detail.parts:
        _print_parts(console, detail)
    if detail.attempts:
        _print_attempts(console, detail)
    _print_ledger(console, ledger)
    _print_findings(console, detail)
    console.print()
    say(console, f"Next: {next_for(detail, offline=bound.offline)}", "bold")


def _print_parts(console: Console, detail: RunDetail) -> None:
    heading(console, "Parts")
    table = new_table(console, "part", "state", ">read", ">written", ">skipped", ">size")
    for name in sorted(detail.parts, key=_copy_order):
        part = detail.parts[name]
        numbers = [f"{part.read:,}", f"{part.written:,}", f"{part.skipped:,}", decimal(part.size_bytes)]
        add_row(table, name, part.status.value, *numbers)
    print_table(console, table)


def _print_attempts(console: Console, detail: RunDetail) -> None:
    heading(console, "Attempts")
    for attempt in detail.attempts:
        say(console, f"  {attempt_text(attempt)}")
        if attempt.message:
            say(console, f"{attempt.error_class}: {message_text(attempt.message)}", indent=5)


def attempt_text(attempt: AttemptRow) -> str:
    """When it was, how long it took and how it ended, without its message."""
    took = age_text((attempt.ended_at - attempt.started_at).total_seconds()) if attempt.ended_at else "until now"
    outcome = attempt.outcome.value if attempt.outcome else "goes on"
    return f"{attempt.number}. {attempt.phase.value} {time_text(attempt.started_at)}, {took}: {outcome}"


def _facts(detail: RunDetail, workspace: str | None, width: int) -> Iterator[tuple[str, str]]:
    yield "name", shortened(detail.name, width)
    reason = f": {detail.reason}" if detail.reason else ""
    yield "state", f"{status_word(detail.status)} ({detail.phase.value}){reason}"
    if detail.error_message:
        yield "error", f"{detail.error_class}: {message_text(detail.error_message)}"
        yield "advice", advice(detail.error_class)
    yield "destination", destination_of(detail.project, workspace) or "not decided"
    yield "at source", f"{detail.source_state}, created {time_text(detail.created_at)}"
    if detail.fork_run_id is not None:
        yield "fork of", f"{detail.fork_run_id} after step {detail.fork_step}"
    for directory in detail.location or ():
        yield "directory", directory
    if detail.claimed_by:
        yield "claimed by", f"{detail.claimed_by} until {time_text(detail.lease_until)}"
    if detail.not_before and detail.status is RunStatus.PENDING:
        yield "not before", time_text(detail.not_before)
    if detail.finished_at:
        yield "ended", time_text(detail.finished_at)
    if detail.attempts:
        last = detail.attempts[-1]
        yield "worker", worker_name(last.worker_id)
        if last.log:
            yield "log", f"{last.log}: search it for 'run {detail.ref}:'"
    if detail.verdict:
        word = detail.verdict.value.replace("_", " ")
        yield "read back", f"{word} ({detail.verified_by}), {time_text(detail.verified_at)}"


def _print_ledger(console: Console, ledger: Iterable[LedgerRow]) -> None:
    rows = nsmallest(LEDGER_LINES + 1, ledger, key=_reason_of)
    for title, is_skip in (("Skipped values, by reason", True), ("Written, but changed", False)):
        shown = [row for row in rows[:LEDGER_LINES] if (row.kind == Kind.SKIPPED) is is_skip]
        if shown:
            heading(console, title)
            _print_paths(console, shown)
    if len(rows) > LEDGER_LINES:
        say(console, "... and more: `--json` has all of them", indent=2)


def _print_findings(console: Console, detail: RunDetail) -> None:
    if detail.findings:
        heading(console, f"Not as it was sent ({detail.verified_by})")
    for finding in detail.findings[:LEDGER_LINES]:
        say(console, f"{finding.path or '(the run)'}: {finding.verdict.value.replace('_', ' ')}", indent=2)
        say(console, f"sent  {message_text(finding.want)}", indent=4)
        say(console, f"found {message_text(finding.got)}", indent=4)
    if len(detail.findings) > LEDGER_LINES:
        say(console, "... and more: `--json` has all of them", indent=2)


def _reason_of(row: LedgerRow) -> tuple[bool, int, str, str]:
    """The key by which rows are grouped and sorted: skips first, then parts in copy order."""
    return row.kind != Kind.SKIPPED, _copy_order(row.part), row.kind, row.reason


def _print_paths(console: Console, rows: Iterable[LedgerRow]) -> None:
    table = new_table(console, ">count", "part", "what, and where")
    for _, same in groupby(rows, _reason_of):
        first, *others = same
        add_row(table, "", first.part, what_text(first.kind, first.reason, console.width))
        for row in (first, *others):
            add_row(table, f"{row.count:,}", "", path_text(row.path, console.width), indent=2)
    print_table(console, table)


def next_for(detail: RunDetail | RunAccount, *, offline: bool) -> str:
    """The one thing to do now about a run."""
    command = "migrate run" if detail.phase is Phase.COPY else "migrate sync"
    match detail.status:
        case RunStatus.DONE if detail.verdict is Verdict.DIFFERS:
            chosen = f"--class differs --run-id {shlex.quote(detail.ref)}"
            return f"`migrate retry-failed {chosen}`, then `migrate run` sends what differs again."
        case RunStatus.DONE if offline and detail.phase is Phase.COPY:
            return "`migrate sync` uploads it to Neptune."
        case RunStatus.DONE:
            return "nothing to do for this run."
        case RunStatus.RUNNING:
            return "nothing to do: it is running (or its claim ends soon)."
        case RunStatus.FAILED:
            return f"`migrate retry-failed --run-id {shlex.quote(detail.ref)}`, then `{command}`."
        case RunStatus.SKIPPED:
            return "`migrate inventory` with filters that let it in."
        case _:
            return f"`{command}` copies it." if detail.phase is Phase.COPY else f"`{command}` uploads it."


def _copy_order(name: str) -> int:
    return list(PARTS).index(name) if name in PARTS else len(PARTS)


def time_text(time: datetime | None) -> str:
    """To the second, in UTC."""
    return "unknown" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
