"""A state database that is filled as commands fill it, for `migrate report`, and the command in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from migrations_db import Phase, open_store
from migrations_db.report_types import FindingRow
from migrations_db.states import Verdict
from migrations_db.types import Failure, LeftOutRow, PartUpdate, ProjectRow, RunRow, WorkerInfo
from migrator.__main__ import global_options_first
from migrator.cli import app
from migrator.records import Entry

KEY = "5ec2e7" + "k" * 34
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e & \"q\" {{ 7 * 7 }}"


class Job:
    """A store that is filled as commands fill it."""

    def __init__(self, path: Path) -> None:
        self.path, self.store = path, open_store(path)
        self.inventory = self.store.begin_invocation("inventory", "host", 1, "1.0")
        self.store.end_invocation(self.inventory, 0)
        self.store.workers.register(WorkerInfo("w", "host", 1, 1.0))

    def project(self, name: str, *runs: RunRow, url: str = "") -> None:
        row = ProjectRow("team", name, "wandb", url or f"https://wandb.invalid/team/{name}", name.replace("_", "-"))
        [project] = self.store.inventory.save_projects([row])
        self.store.inventory.save_runs(project, runs, self.inventory)

    def claim(self, run_id: str) -> Any:
        claim = self.store.claim("w", Phase.COPY, 60.0, self.store.select(run_ids=[run_id]))
        assert claim is not None
        return claim

    def done(self, run_id: str, *ledger: Entry, written: int = 100) -> None:
        skipped = sum(entry.count for entry in ledger if entry.kind == "skipped")
        update = PartUpdate("history", {}, True, written + skipped, written, skipped, written * 8, ledger=ledger)
        claim = self.claim(run_id)
        self.store.checkpoint(claim, [update])
        self.store.complete(claim, ["history"])

    def verified(self, run_id: str, *findings: FindingRow) -> None:
        [run] = self.store.verification.claim("w", 1, self.store.select(run_ids=[run_id]))
        verdict = Verdict.DIFFERS if findings else Verdict.VERIFIED
        assert self.store.verification.save(run, "w", verdict, "counts", findings)


def row(run_id: str, name: str = "") -> RunRow:
    return RunRow(run_id, name or run_id, "finished", "f")


def fill(job: Job) -> None:
    """Runs of every class, in two projects, with names that mean harm."""
    names = ("equal", "explained", "differs", "unread", "failed", "waits")
    job.project("vision", *(row(name) for name in names))
    job.project("bad_<b>", row("<i>", HOSTILE), url=f"javascript:alert('{KEY}')")
    job.done("equal")
    job.done(
        "explained",
        Entry("skipped", f"media/{HOSTILE}.png", "missing_file", 12),
        Entry("renamed", f"config/lr → metrics/config/lr {KEY}", "first level is reserved", 2),
    )
    for name in ("differs", "unread", "<i>"):
        job.done(name)
    for name in ("equal", "explained"):
        job.verified(name)
    job.verified("differs", FindingRow("val/<loss>", Verdict.DIFFERS, "floats: 100 points, steps 0 to 99", "missing"))
    job.store.fail(job.claim("failed"), Failure("unavailable", f"GET https://s.invalid/a?X-Signature={KEY} said 502"))
    left_out = [LeftOutRow("crlf", "/data/<run>/run-1.wandb")]
    job.store.inventory.save_left_out("local", ["/data"], left_out, job.inventory)


def report(database: Path, *arguments: str | Path, exit_code: int = 0, **environment: str) -> Result:
    words = global_options_first(["report", "--db", str(database), *map(str, arguments)])
    result = CliRunner().invoke(app, words, env={"WANDB_API_KEY": KEY, "NEPTUNE_API_TOKEN": None, **environment})
    if exit_code == 0:
        assert result.exit_code == 0, (result.output, result.exception)
    return result
