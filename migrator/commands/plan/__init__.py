"""`migrate plan`, and `migrate run --dry-run`: what would be copied, how much it is, how long it takes.

It comes from the state database and, for local runs, from the names and sizes of their files. Nothing is written, and
no service is asked.

    estimate   how much: pure arithmetic
    requests   how many requests that takes
    trouble    what will not arrive as it is
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from migrations_db import open_store
from migrations_db.report_types import LeftOutGroup, Measured
from migrations_db.states import Phase, RunStatus
from migrations_db.store import Store
from migrator.commands.left_out import left_out_json
from migrator.commands.plan.estimate import Estimator, OfflineSize, Sizes, offline_size, time_s
from migrator.commands.plan.trouble import Trouble
from migrator.commands.run import RunSettings, check_mapping, selected_parts, selection, to_do
from migrator.commands.text import add_row, counted, heading, new_table, print_table, say, shortened
from migrator.disk import existing, size_bytes
from migrator.errors import ExitCode
from migrator.figures import age_text, amount
from migrator.job.address import bound_address, is_same_directory
from migrator.job.job import local_file_sizes
from migrator.settings import OFFLINE_WORKSPACE, Globals

NAME_CHARS = 60  # of a name that is shown


@dataclass(slots=True)
class Plan:
    """What `migrate run` would do. `projects` by their W&B name: where they go, and how much it is."""

    parts: Sequence[str]
    measured: Measured
    projects: dict[str, tuple[str, Sizes]] = field(default_factory=dict)
    total: Sizes = field(default_factory=Sizes)
    unknown: Sequence[str] = ()
    trouble: Trouble = field(default_factory=Trouble)
    offline: OfflineSize | None = None
    free_bytes: int | None = None  # where offline files would go
    problems: Sequence[LeftOutGroup] = ()  # what inventories left out, whole or in part

    @property
    def time_s(self) -> float | None:
        return time_s(self.total, self.measured)


def make_plan(settings: RunSettings, store: Store) -> Plan:
    """From the state database; `UserError` as `migrate run` would have it."""
    parts = selected_parts(settings.include, settings.exclude)
    only = selection(store, settings)
    check_mapping(store, only, settings.given_options)
    plan = Plan(parts, store.reports.measured())
    whole, later = Estimator(plan.measured, parts), Estimator(plan.measured, settings.asked)
    projects = {project.id: project for project in store.inventory.projects()}
    for run in to_do(store, settings.asked, only):
        project = projects[run.project_id]
        is_local = project.source_service == "local"
        files = local_file_sizes(run.location) if run.location else None
        if run.status is RunStatus.DONE:  # copied without a part that is asked for now
            sizes = later.sizes(run.history_rows, 0, 0, files, is_local=is_local)
        elif run.phase is Phase.COPY:
            sizes = whole.sizes(run.history_rows, run.points_read, run.size_bytes, files, is_local=is_local)
        else:
            continue
        if project.source not in plan.projects:
            plan.projects[project.source] = f"{settings.workspace}/{project.destination_name}", Sizes()
            plan.trouble.of_projects([project])
        plan.projects[project.source][1].add(sizes)
        plan.total.add(sizes)
        plan.trouble.of_run(run, files, settings.options.max_file_bytes)
    plan.unknown, plan.problems = whole.unknown, store.reports.problems()
    plan.trouble.of_circles(store.reports.fork_circles(Phase.COPY, only))
    if settings.mode == "offline" and plan.projects:
        plan.offline = offline_size(plan.total, plan.measured, _on_disk(store, settings.offline_dir, plan.measured))
        plan.free_bytes = shutil.disk_usage(existing(settings.offline_dir)).free
    return plan


def _on_disk(store: Store, directory: Path, measured: Measured) -> int | None:
    """What the offline files of all runs that are done take; None: some are elsewhere, or uploaded and removed."""
    bound = bound_address(store)
    copied_to = bound.directory if bound else None
    if measured.uploads or copied_to is None or not is_same_directory(copied_to, directory):
        return None
    return size_bytes(directory)


def plan_command(settings: RunSettings, common: Globals) -> ExitCode:
    """Say what `run` would do."""
    with open_store(common.db, create=False) as store:
        plan = make_plan(settings, store)
    if common.json:
        print(json.dumps(_as_json(plan, settings)))
    else:
        _print(plan, settings)
    return ExitCode.OK


# ---------------------------------------------------------------- what it prints


def _as_json(plan: Plan, settings: RunSettings) -> dict[str, object]:
    speed, offline = plan.measured.speed, plan.offline
    return {
        "schema_version": 1,
        "mode": settings.mode,
        "parts": list(plan.parts),
        "projects": {
            source: {"destination": destination, **_sizes_json(sizes, offline=settings.mode == "offline")}
            for source, (destination, sizes) in plan.projects.items()
        },
        "total": _sizes_json(plan.total, offline=settings.mode == "offline"),
        "estimated_from_runs": plan.measured.runs,
        "not_known": list(plan.unknown),
        "time_s": _rounded(plan.time_s),
        "speed": speed
        and {
            "values_per_s": round(speed.values / speed.elapsed_s, 1),
            "bytes_per_s": round(speed.size_bytes / speed.elapsed_s, 1),
            "jobs": speed.jobs,
            "runs": speed.runs,
            "elapsed_s": round(speed.elapsed_s, 1),
        },
        "offline": {
            "directory": str(settings.offline_dir),
            "bytes": _rounded(offline.size_bytes if offline else None),
            "bytes_per_value": offline and round(offline.value_bytes, 1),
            "measured_runs": offline.measured_runs if offline else 0,
            "free_bytes": plan.free_bytes,
        }
        if settings.mode == "offline"
        else None,
        "renamed": [
            {"what": what, "reason": reason, "count": group.count, "examples": [list(one) for one in group.examples]}
            for (what, reason), group in plan.trouble.renamed.items()
        ],
        "will_not_fit": [
            {"reason": reason, "count": group.count, "examples": [list(one) for one in group.examples]}
            for reason, group in plan.trouble.unfit.items()
        ],
        "problems": left_out_json(plan.problems),
    }


def _sizes_json(sizes: Sizes, *, offline: bool) -> dict[str, object]:
    return {
        "runs": sizes.runs,
        "history_rows": sizes.rows,
        "runs_without_row_count": sizes.rows_unknown,
        "values": _rounded(sizes.values),
        "files": _rounded(sizes.files),
        "bytes": _rounded(sizes.size_bytes),
        "requests": {
            "wandb": _rounded(sizes.wandb_requests),
            "neptune": None if offline else _rounded(sizes.neptune_requests),
        },
    }


def _rounded(number: float | None) -> int | None:
    return None if number is None else round(number)


def _print(plan: Plan, settings: RunSettings) -> None:
    console = Console()
    if not plan.projects:
        say(console, "No run is pending: nothing would be copied.")
        return
    table = new_table(
        console, "W&B project", "Neptune project", ">runs", ">rows", ">values", ">files", ">size", ">requests"
    )
    for source, (destination, sizes) in plan.projects.items():
        if settings.mode == "offline":  # the real workspace is known when it is uploaded
            destination = destination.removeprefix(f"{OFFLINE_WORKSPACE}/")
        add_row(table, source, destination, *_cells(sizes, settings))
    if len(plan.projects) > 1:
        add_row(table, "all", "", *_cells(plan.total, settings))
    print_table(console, table)
    where = f"offline files in {settings.offline_dir}" if settings.mode == "offline" else "Neptune"
    say(console, f"would be copied to {where}, parts: {', '.join(plan.parts)}. Nothing was written.")
    for line in (*_size_lines(plan), *_request_lines(plan, settings), _time_line(plan), *_disk_lines(plan, settings)):
        say(console, line)
    _print_trouble(console, plan)


def _cells(sizes: Sizes, settings: RunSettings) -> tuple[str, ...]:
    requests = sizes.wandb_requests
    if settings.mode != "offline" and requests is not None:
        requests = None if sizes.neptune_requests is None else requests + sizes.neptune_requests
    rows = f"{sizes.rows:,}" if not sizes.rows_unknown else f"{sizes.rows:,}+" if sizes.rows else "?"
    return (
        f"{sizes.runs:,}",
        rows,
        "?" if sizes.values is None else amount(sizes.values),
        "?" if sizes.files is None else amount(sizes.files),
        "?" if sizes.size_bytes is None else decimal(round(sizes.size_bytes)),
        "?" if requests is None else amount(requests),
    )


def _size_lines(plan: Plan) -> list[str]:
    lines = []
    if plan.total.values is not None:
        lines.append(f"Values and sizes are estimates from {counted(plan.measured.runs, 'run')} that are done.")
    else:
        lines.append(
            "Values and sizes are not known before some runs are copied: after `migrate run --limit 3`, plan again."
        )
    if plan.total.rows_unknown:
        runs = counted(plan.total.rows_unknown, "run")
        lines.append(f"The source has not counted the rows of {runs}.")
    if "artifacts" in plan.parts and "artifacts" in plan.unknown:
        lines.append("Artifacts are not in these figures: they are not known before they are listed.")
    return lines


def _request_lines(plan: Plan, settings: RunSettings) -> list[str]:
    to_wandb, to_neptune = plan.total.wandb_requests, plan.total.neptune_requests
    if to_wandb is None or to_neptune is None:
        return []
    told = f"{amount(to_wandb)} to W&B" + ("" if settings.mode == "offline" else f", {amount(to_neptune)} to Neptune")
    return [
        f"Requests: about {told}, without those that are sent again and questions about what Neptune has processed."
    ]


def _time_line(plan: Plan) -> str:
    speed, seconds = plan.measured.speed, plan.time_s
    if seconds is None or speed is None:
        return "Time: not known before a `migrate run` has copied some of it."
    commands = "the last `migrate run`" if speed.jobs == 1 else f"the last {speed.jobs} `migrate run`"
    per_s = (
        f"{amount(speed.values / speed.elapsed_s)} values/s and {decimal(round(speed.size_bytes / speed.elapsed_s))}/s"
    )
    took = f"{counted(speed.runs, 'run')} in {age_text(speed.elapsed_s)}"
    return f"Time: about {age_text(seconds)}, at the speed of {commands} ({took}: {per_s})."


def _disk_lines(plan: Plan, settings: RunSettings) -> list[str]:
    if plan.free_bytes is None:
        return []
    free = f"{decimal(plan.free_bytes)} are free"
    if plan.offline is None:
        return [f"Disk space for offline files: not known before some runs are copied; {free}."]
    needed = round(plan.offline.size_bytes)
    runs = plan.offline.measured_runs
    source = f"measured with the {counted(runs, 'run')} there" if runs else "as usual with five metrics in a step"
    lines = [
        f"Offline files take about {decimal(needed)} in {settings.offline_dir}, where {free}: files as they are, and "
        f"{plan.offline.value_bytes:.0f} bytes per value ({source})."
    ]
    if needed > plan.free_bytes:
        lines.append("They will not fit: free some space, or choose another --offline-dir.")
    return lines


def _print_trouble(console: Console, plan: Plan) -> None:
    trouble = plan.trouble
    if trouble.renamed:
        heading(console, "Names that change")
    for (what, reason), group in trouble.renamed.items():
        say(console, f"{counted(group.count, what)}: {reason}", indent=2)
        for old, new in group.examples:
            say(console, f"{shortened(old, NAME_CHARS)} → {shortened(new, NAME_CHARS)}", indent=4)
    if trouble.unfit or plan.problems:
        heading(console, "Runs that will not fit, whole or in part")
    for reason, group in trouble.unfit.items():
        say(console, f"{counted(group.count, 'run')}: {reason}", indent=2)
        for ref, more in group.examples:
            say(console, f"{ref} ({more})", indent=4)
    if plan.problems:
        things = counted(sum(group.count for group in plan.problems), "thing")
        say(console, f"{things} that the inventory left out, or found damaged: `migrate status` lists them", indent=2)
