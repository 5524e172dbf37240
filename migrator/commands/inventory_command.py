"""What `migrate inventory` prints: a bar while it lists, a table at the end."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from migrations_db import open_store
from migrator.commands.inventory import ProjectResult, Scope, find_projects, take_inventory
from migrator.commands.status.conclusions import counted
from migrator.commands.text import add_row, new_table, print_table, say
from migrator.errors import ExitCode
from migrator.job.job import build_api_source, build_local_source
from migrator.job.log import log_path, start_log
from migrator.job.scratch import scratch_directory
from migrator.naming import NOT_ALLOWED
from migrator.settings import Globals, tool_version
from migrator.sources.base import RunFilter
from migrator.visible import tell, visible


def inventory_command(scope: Scope, local: Sequence[Path], work_dir: Path, common: Globals) -> None:
    """List, save, report."""
    start_log(log_path("inventory"), common.verbose)
    with scratch_directory(work_dir) as scratch:
        source = build_local_source(local) if local else build_api_source(scratch / "wandb")
        with ExitStack() as stack:
            stack.enter_context(closing(source))
            found = find_projects(source, scope)  # first: a wrong key or name must not leave an empty database behind
            store = stack.enter_context(closing(open_store(common.db)))
            inventory_id = store.begin_invocation("inventory", socket.gethostname(), os.getpid(), tool_version())
            exit_code = ExitCode.UNEXPECTED
            bar = _Bar(hidden=common.quiet or not sys.stderr.isatty())
            try:
                results = []
                for result in take_inventory(source, found, store, scope, inventory_id, bar.tick):
                    results.append(result)
                exit_code = ExitCode.OK
            finally:
                bar.close()
                store.end_invocation(inventory_id, exit_code)
        for problem in source.problems:
            tell(f"Warning: {problem}")
    if common.json:
        print(json.dumps({"schema_version": 1, "projects": [_as_json(result) for result in results]}))
    else:
        _print(results, filtered=scope.only != RunFilter(), quiet=common.quiet)


class _Bar:
    """Runs listed, over all projects."""

    def __init__(self, *, hidden: bool) -> None:
        self._bar: Any = tqdm(desc="inventory", unit="run", total=0, dynamic_ncols=True, disable=hidden)
        self._earlier = 0
        self._listed = 0

    def tick(self, project: str, listed: int, total: int | None) -> None:
        if listed == 0:
            self._earlier += self._listed
            self._bar.total = (self._bar.total or 0) + (total or 0) or None
        self._listed = listed
        self._bar.set_postfix_str(visible(project[:30]), refresh=False)
        self._bar.update(self._earlier + listed - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _as_json(result: ProjectResult) -> dict[str, Any]:
    return {
        "source": result.project.source,
        "destination": result.project.destination_name,
        "name_note": result.project.name_note,
        "listed": result.listed,
        "new": result.counts.new,
        "changed": result.counts.changed,
        "unchanged": result.counts.unchanged,
        "left_out": result.unseen,
        "history_rows": result.history_rows,
        "states": dict(result.states),
    }


def _print(results: Sequence[ProjectResult], *, filtered: bool, quiet: bool) -> None:
    console = Console()
    table = new_table(console, "W&B project", "Neptune project", ">runs", "states", ">rows", ">new", ">changed")
    for result in results:
        states = ", ".join(f"{count} {state}" for state, count in sorted(result.states.items()))
        add_row(
            table,
            result.project.source,
            result.project.destination_name or "",
            str(result.listed),
            states,
            f"{result.history_rows:,}",
            str(result.counts.new),
            str(result.counts.changed),
        )
    print_table(console, table)
    for result in results:
        if result.project.name_note and result.project.name_note != NOT_ALLOWED:
            name = f"{result.project.source} → {result.project.destination_name}"
            say(console, f"{name}: {result.project.name_note}")
    unseen = sum(result.unseen for result in results)
    if unseen:
        why = "left out by the filters" if filtered else "gone from W&B"
        say(console, f"{counted(unseen, 'run')} of earlier inventories {why}: skipped")
    if not quiet:
        total = sum(result.listed for result in results)
        found = f"{counted(total, 'run')} in {counted(len(results), 'project')}"
        print(f"{found}. Next: `migrate run`", file=sys.stderr)
