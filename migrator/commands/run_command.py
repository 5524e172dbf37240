"""What `migrate run` and `migrate sync` print."""

from __future__ import annotations

import json
from itertools import islice

from rich.console import Console

from migrations_db.states import Phase, RunStatus
from migrator.commands.run import RunResult, RunSettings, opened, run_job, selected_parts, to_do
from migrator.commands.text import add_row, new_table, say
from migrator.errors import ExitCode
from migrator.settings import Globals
from migrator.visible import tell


def run_command(settings: RunSettings, common: Globals) -> ExitCode:
    """Do the job and say how it ended."""
    result = run_job(settings, common)
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
        "bytes": progress.size_bytes,
    }


def _summary(settings: RunSettings, result: RunResult) -> str:
    runs = result.progress.runs
    if not result.progress.runs_total and not result.uncopied:
        return "There is nothing to do: `migrate inventory` lists runs, `migrate status` shows them."
    text = [f"{runs[RunStatus.DONE]} of {result.progress.runs_total} runs are done."]
    if settings.phase is Phase.COPY and settings.mode == "offline" and runs[RunStatus.DONE]:
        text.append(f"They are in {settings.offline_dir}; `migrate sync` uploads them to Neptune.")
    if runs[RunStatus.FAILED]:
        text.append(f"{runs[RunStatus.FAILED]} failed: `migrate status --failed` says why.")
    if result.skipped_values:
        text.append(f"{result.skipped_values:,} values could not be copied: `migrate status --skips` lists them.")
    if result.uncopied:
        text.append(f"{result.uncopied} must be copied first: `migrate run`, then `migrate sync` again.")
    if runs[RunStatus.PENDING]:
        text.append(f"{runs[RunStatus.PENDING]} are pending: run the same command again.")
    return "\n".join(text)


def dry_run_command(settings: RunSettings, common: Globals) -> ExitCode:
    """Say what `run` would copy, from the state database alone. Nothing is written anywhere."""
    parts = selected_parts(settings.include, settings.exclude)
    with opened(common.db) as store:
        only = store.select(settings.projects, settings.run_ids)
        plan: dict[str, dict[str, int | str]] = {}
        projects = {project.source: project.destination_name for project in store.inventory.projects()}
        for summary in islice(to_do(store, settings.asked, only), settings.limit):
            source = summary.ref.rsplit("/", 1)[0]
            entry = plan.setdefault(source, {"destination": f"{settings.workspace}/{projects[source]}", "runs": 0})
            entry["runs"] = int(entry["runs"]) + 1
    if common.json:
        print(json.dumps({"schema_version": 1, "mode": settings.mode, "parts": parts, "projects": plan}))
        return ExitCode.OK
    console = Console()
    table = new_table(console, "W&B project", "Neptune project", ">runs")
    for source, entry in plan.items():
        add_row(table, source, str(entry["destination"]), str(entry["runs"]))
    if plan:
        console.print(table)
        where = f"offline files in {settings.offline_dir}" if settings.mode == "offline" else "Neptune"
        say(console, f"would be copied to {where}, parts: {', '.join(parts)}. Nothing was written.")
    else:
        say(console, "No run is pending: nothing would be copied.")
    return ExitCode.OK
