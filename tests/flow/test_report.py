"""`migrate status`: what it says of a state database filled by way of the store."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from migrations_db import Phase, RunStatus, Store, Unseen, open_store
from migrations_db.report_types import FindingRow, Overview, VerdictCounts
from migrations_db.states import Verdict
from migrations_db.types import (
    Claim,
    Failure,
    PartUpdate,
    Pause,
    ProjectRow,
    Retry,
    RunRow,
    WorkerInfo,
)
from migrator.commands.status import (
    bound_to,
    failed_json,
    find_run,
    overview_json,
    print_failed,
    print_overview,
    print_run,
    print_short,
    print_skips,
    run_json,
)
from migrator.commands.status.conclusions import ALIVE_S, NOT_BOUND, Bound, conclusion, next_step
from migrator.errors import ADVICE, ErrorClass, ExitCode, UserError
from migrator.parts import PARTS
from migrator.records import Entry
from migrator.redaction import without_secrets

WORKER = "host:17:abc"
LEASE_S = 60.0
SIGNED = "https://storage.invalid/media/a.png?X-Signature=0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "migration.db")
    yield store
    store.close()


class Filled:
    """A store, and its runs by their ids."""

    def __init__(self, store: Store) -> None:
        self.store = store
        store.workers.register(WorkerInfo(WORKER, "host", 17, 1.0))
        self.inventory_id = store.begin_invocation("inventory", "host", 1, "1.0")

    def project(self, name: str, destination: str, note: str | None, *runs: RunRow) -> None:
        row = ProjectRow("team", name, "wandb", f"https://wandb.ai/team/{name}", destination, note)
        [project_id] = self.store.inventory.save_projects([row])
        self.store.inventory.save_runs(project_id, runs, self.inventory_id)

    def claim(self, run_id: str) -> Claim:
        only = self.store.select(run_ids=[run_id])
        claim = self.store.claim(WORKER, Phase.COPY, LEASE_S, only)
        assert claim is not None
        return claim

    def done(self, run_id: str, *updates: PartUpdate) -> None:
        claim = self.claim(run_id)
        self.store.checkpoint(claim, updates, "7:0")
        self.store.complete(claim, [update.name for update in updates])


def run_row(run_id: str) -> RunRow:
    return RunRow(run_id, run_id, "finished", "f1")


@pytest.fixture
def filled(store: Store) -> Filled:
    """Runs in every state, in two projects."""
    filled = Filled(store)
    filled.project("vision", "vision", None, *(run_row(name) for name in ("good", "busy", "waits", "cut", "cut2")))
    filled.project("my_[red]text", "my--red-text", "not allowed in Neptune", run_row("[bold]odd"), run_row("good"))
    filled.done(
        "team/vision/good",
        PartUpdate("config", {}, done=True, read=3, written=3),
        PartUpdate(
            "history",
            {"step": 99},
            done=True,
            read=1_000,
            written=988,
            skipped=12,
            size_bytes=2_500_000,
            ledger=[
                Entry("skipped", "media/[red]a.png", "missing_file", 12),
                Entry("renamed", "config/lr", "first level is reserved", 2),
            ],
        ),
    )
    busy = filled.claim("busy")
    store.checkpoint(busy, [PartUpdate("history", {"step": 9}, read=10, written=10)], "1:0")
    for run_id in ("cut", "cut2"):
        store.fail(filled.claim(run_id), Failure("unavailable", f"GET {SIGNED}\nanswered 502"))
    store.fail(filled.claim("[bold]odd"), Failure("bad_data", "[red]3 of 4 rows"))
    project = filled.store.inventory.projects()[0]
    assert project.name == "my_[red]text"
    store.inventory.save_runs(project.id, [run_row("[bold]odd")], filled.inventory_id + 1)
    store.inventory.finish_inventory(project.id, filled.inventory_id + 1, Unseen.EXCLUDED)
    return filled


def text_of(width: int = 80, *, overview: Overview, terminal: bool = False, bound: Bound = NOT_BOUND) -> str:
    return printed(print_overview, overview, bound, width=width, terminal=terminal)


def printed(show: Callable[..., None], *things: Any, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width, force_terminal=terminal, legacy_windows=False, _environ={}), *things)
    return file.getvalue()


# ---------------------------------------------------------------- JSON


def test_the_overview_document_has_the_documented_shape(filled: Filled) -> None:
    document = overview_json(filled.store.reports.overview(), "acme")
    document = json.loads(json.dumps(document))
    [worker] = document.pop("workers")
    assert worker.pop("heartbeat_age_s") < ALIVE_S
    assert worker.pop("idle_s") < ALIVE_S
    assert worker == {"id": WORKER, "run": "team/vision/busy", "part": "history"}
    nothing = {"read": 0, "written": 0, "skipped": 0, "bytes": 0}
    no_runs: dict[str, int] = dict.fromkeys(RunStatus, 0)
    assert document == {
        "schema_version": 1,
        "runs": {"pending": 1, "running": 1, "done": 1, "failed": 3, "skipped": 1, "total": 7},
        "phases": {
            "copy": {"pending": 1, "running": 1, "done": 1, "failed": 3, "skipped": 1},
            "upload": no_runs,
        },
        "parts": {
            **{name: nothing for name in PARTS if name != "artifacts"},
            "config": {"read": 3, "written": 3, "skipped": 0, "bytes": 0},
            "history": {"read": 1010, "written": 998, "skipped": 12, "bytes": 2_500_000},
        },
        "projects": [
            {
                "source": "team/my_[red]text",
                "destination": "acme/my--red-text",
                "note": "not allowed in Neptune",
                "runs": {**no_runs, "failed": 1, "skipped": 1},
            },
            {
                "source": "team/vision",
                "destination": "acme/vision",
                "note": None,
                "runs": {"pending": 1, "running": 1, "done": 1, "failed": 2, "skipped": 0},
            },
        ],
        "verification": {"verified": 0, "differs": 0, "not_verified": 1},
        "failures": [
            {
                "class": "unavailable",
                "count": 2,
                "example": {
                    "run": "team/vision/cut",
                    "message": "GET https://storage.invalid/media/a.png?***\nanswered 502",
                },
                "advice": ADVICE[ErrorClass.UNAVAILABLE],
            },
            {
                "class": "bad_data",
                "count": 1,
                "example": {"run": "team/my_[red]text/[bold]odd", "message": "[red]3 of 4 rows"},
                "advice": ADVICE[ErrorClass.BAD_DATA],
            },
        ],
        "skips": [
            {
                "reason": "missing_file",
                "part": "history",
                "count": 12,
                "runs": 1,
                "example": {"run": "team/vision/good", "path": "media/[red]a.png"},
            }
        ],
        "notes": [
            {
                "kind": "renamed",
                "reason": "first level is reserved",
                "part": "history",
                "count": 2,
                "runs": 1,
                "example": {"run": "team/vision/good", "path": "config/lr"},
            }
        ],
        "reasons": [
            {
                "status": "skipped",
                "reason": "does not pass the filters of `inventory --only`",
                "count": 1,
                "example": {"run": "team/my_[red]text/good"},
            }
        ],
        "in_hand": ["team/vision/busy"],
        "job": None,
        "pauses": [],
        "problems": [],
        "left_out": {},
    }


def test_the_job_is_told_with_its_time_and_speed_and_in_short_with_the_next_step_first(filled: Filled) -> None:
    number = filled.store.begin_invocation("run", "host", 18, "1.0")
    filled.store.workers.register(WorkerInfo(WORKER, "host", 17, 1.0, number))
    overview = filled.store.reports.overview()
    job = overview_json(overview, None)["job"]
    assert (job["command"], job["running"], job["ended_at"]) == ("run", True, None)
    assert job["values_per_s"] >= 0
    lines = printed(print_short, overview).splitlines()
    assert lines[0] == "Next: nothing to do: it is running."
    assert any("`migrate run` began" in line for line in lines)
    assert "12 values skipped: `migrate status --skips`" in lines
    assert max(map(len, lines)) <= 80
    vision = overview_json(filled.store.reports.overview(filled.store.select(["vision"])), None)
    assert (vision["runs"]["total"], [one["source"] for one in vision["projects"]]) == (5, ["team/vision"])
    assert conclusion(overview) is ExitCode.UNFINISHED


def test_an_unknown_workspace_leaves_the_name_alone(filled: Filled) -> None:
    projects = overview_json(filled.store.reports.overview(), None)["projects"]
    assert [project["destination"] for project in projects] == ["my--red-text", "vision"]


def test_a_pause_is_in_the_document_and_in_the_text(filled: Filled) -> None:
    filled.store.throttle(filled.claim("waits"), "wandb", 300, Failure("rate_limited", f"429 at {SIGNED}"))
    overview = filled.store.reports.overview()
    [pause] = overview_json(overview, None)["pauses"]
    assert pause["service"] == "wandb"
    assert 200 < pause["seconds_left"] <= 300
    assert "0123456789abcdef" not in pause["reason"]
    assert "wandb asks to wait 5 min more: 429 at https://storage.invalid" in text_of(overview=overview)


def test_the_document_of_a_run_holds_everything(filled: Filled) -> None:
    store = filled.store
    detail = find_run(store, "vision/good")
    document = json.loads(json.dumps(run_json(detail, store.reports.ledger(detail.run), "acme")))
    assert document["ref"] == "team/vision/good"
    assert document["destination"] == "acme/vision"
    assert document["status"] == "done"
    assert document["parts"]["history"] == {
        "status": "done",
        "cursor": {"step": 99},
        "intent": None,
        "read": 1000,
        "written": 988,
        "skipped": 12,
        "bytes": 2_500_000,
    }
    [attempt] = document["attempts"]
    assert attempt["outcome"] == "done"
    assert attempt["started_at"].endswith("+00:00")
    line = {"part": "history", "kind": "skipped", "path": "media/[red]a.png", "reason": "missing_file", "count": 12}
    assert document["skips"] == [line]
    assert [note["kind"] for note in document["notes"]] == ["renamed"]


def test_the_messages_of_a_run_hold_no_secrets(filled: Filled) -> None:
    detail = find_run(filled.store, "cut")
    text = json.dumps(run_json(detail, ()))
    assert "answered 502" in text
    assert "0123456789abcdef" not in text


def test_the_document_of_failed_runs_lists_them_all(filled: Filled) -> None:
    failed = failed_json(filled.store.reports.runs(RunStatus.FAILED))["failed"]
    assert [(run["run"], run["class"]) for run in failed] == [
        ("team/vision/cut", "unavailable"),
        ("team/vision/cut2", "unavailable"),
        ("team/my_[red]text/[bold]odd", "bad_data"),
    ]
    assert all(run["advice"] for run in failed)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"GET {SIGNED}: 403", "0123456789abcdef"),
        ("postgresql://me:hunter22@host/db is down", "hunter22"),
        ("header Authorization: Bearer abcdefghijklmnopqrst", "abcdefghijklmnopqrst"),
        ("api_key=0123456789abcdef0123456789abcdef01234567 refused", "0123456789abcdef"),
    ],
)
def test_secrets_in_messages_are_not_shown(text: str, secret: str) -> None:
    shown = without_secrets(text)
    assert secret not in shown
    assert "***" in shown


# ---------------------------------------------------------------- find a run


def test_a_run_is_found_by_what_tells_it_apart(filled: Filled) -> None:
    assert find_run(filled.store, "busy").ref == "team/vision/busy"
    assert find_run(filled.store, "vision/good").ref == "team/vision/good"
    assert find_run(filled.store, "team/vision/good").ref == "team/vision/good"


def test_an_ambiguous_name_lists_the_candidates(filled: Filled) -> None:
    with pytest.raises(UserError, match="2 runs") as caught:
        find_run(filled.store, "good")
    assert "team/vision/good" in str(caught.value)
    assert "team/my_[red]text/good" in str(caught.value)


def test_an_unknown_run_is_an_error_that_helps(filled: Filled) -> None:
    with pytest.raises(UserError, match=r"no run 'nothing'.*migrate inventory"):
        find_run(filled.store, "nothing")


# ---------------------------------------------------------------- text


def test_the_overview_says_it_all_at_80_columns(filled: Filled) -> None:
    text = text_of(overview=filled.store.reports.overview(), bound=Bound("acme"))
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[0] == "7 runs: 1 pending, 1 running, 1 done, 3 failed, 1 left out"
    assert lines[1].startswith("Running: 1 worker, last sign of life ")
    assert lines[2] == "  team/vision/busy  history"
    words = [" ".join(line.split()) for line in lines]
    assert "source destination pending running done failed left out" in words
    assert "team/vision → acme/vision 1 1 1 2 0" in words
    assert "team/my_[red]text → acme/my--red-text 0 0 0 1 1" in words
    assert "history 1,010 998 12 2.5 MB" in words
    assert "unavailable: 2 runs" in words
    assert "bad_data: 1 run" in words
    assert ADVICE[ErrorClass.BAD_DATA] in " ".join(words)
    assert "12 1 history missing_file: the source names it, but does not have it" in words
    assert "team/vision/good: media/[red]a.png" in words
    assert "2 1 history renamed: first level is reserved" in words
    assert "1 run left out: does not pass the filters of `inventory --only`; for example" in " ".join(words)
    assert "reports, workspaces, custom panels" in text
    assert lines[-1] == "Next: nothing to do: it is running."


@pytest.mark.parametrize("width", [80, 120])
def test_names_are_shown_literally(filled: Filled, width: int) -> None:
    overview = filled.store.reports.overview()
    text = text_of(width, overview=overview)
    assert "team/my_[red]text" in text
    assert "[bold]odd" in text
    assert "media/[red]a.png" in text


def test_away_from_a_terminal_there_are_no_colours_and_no_boxes(filled: Filled) -> None:
    plain = text_of(overview=filled.store.reports.overview())
    assert "\x1b" not in plain
    assert not set("─│┃━┏╭") & set(plain)
    coloured = text_of(overview=filled.store.reports.overview(), terminal=True)
    assert "\x1b[" in coloured


def test_control_characters_in_names_do_nothing(store: Store) -> None:
    filled = Filled(store)
    filled.project("p", "p", None, run_row("r"))
    store.fail(filled.claim("r"), Failure("unknown", "clear \x1b[2J the screen"))
    text = text_of(overview=store.reports.overview())
    assert "\x1b" not in text
    assert "[2J the screen" in text


def test_an_empty_database_names_the_first_command(store: Store) -> None:
    text = text_of(overview=store.reports.overview())
    assert "holds no runs yet" in text
    assert text.splitlines()[-1] == "Next: `migrate inventory` lists the runs that there are to copy."


def test_failed_runs_are_listed_one_by_one(filled: Filled) -> None:
    text = printed(print_failed, filled.store.reports.runs(RunStatus.FAILED))
    assert "team/vision/cut  unavailable\n    GET https://storage.invalid/media/a.png?*** answered 502\n" in text
    assert "team/my_[red]text/[bold]odd  bad_data" in text
    assert "unavailable (2 runs)" in text
    assert printed(print_failed, []) == "No run has failed.\n"


def test_skips_show_every_reason(store: Store) -> None:
    filled = Filled(store)
    filled.project("p", "p", None, run_row("r"))
    entries = [Entry("skipped", f"metric{i}", f"reason {i}") for i in range(30)]
    filled.done("r", PartUpdate("history", {}, done=True, read=30, skipped=30, ledger=entries))
    overview = store.reports.overview()
    assert "... and 22 more: `migrate status --skips`" in text_of(overview=overview)
    assert all(f" reason {i}\n" in printed(print_skips, overview) for i in range(30))


def test_the_ledger_names_what_is_long_or_empty_in_few_lines(store: Store) -> None:
    filled = Filled(store)
    filled.project("p", "p", None, run_row("r"))
    key = "k" * 3_000
    entries = [
        Entry("renamed", f"summary/{key}a → summary/{key}~b", "path over 1024 bytes"),
        Entry("renamed", " → _", "empty level"),
        Entry("converted", "x", f"{key} as JSON text"),
    ]
    filled.done("r", PartUpdate("summary", {}, done=True, ledger=entries))
    overview, detail = store.reports.overview(), find_run(store, "r")
    for width in (80, 120, 200):
        for text in (
            printed(print_skips, overview, width=width),
            printed(print_run, detail, store.reports.ledger(detail.run), width=width),
        ):
            assert max(map(len, text.splitlines())) <= width
            assert text.count("k") < 4 * width
            words = " ".join(text.split())
            assert re.search(r"summary/k+…k+a → summary/k+…k+~b", words)
            assert '"" → _' in words


def test_no_line_ends_in_blanks(filled: Filled) -> None:
    detail = find_run(filled.store, "vision/good")
    for text in (
        text_of(overview=filled.store.reports.overview()),
        printed(print_run, detail, filled.store.reports.ledger(detail.run)),
    ):
        assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_artifacts_are_not_called_left_out_where_they_were_copied(store: Store) -> None:
    filled = Filled(store)
    filled.project("p", "p", None, run_row("r"))
    assert "Artifacts only with --include artifacts." in text_of(overview=store.reports.overview(), width=200)
    filled.done("r", PartUpdate("artifacts", {}, done=True))
    assert "--include" not in text_of(overview=store.reports.overview(), width=200)


def test_one_run_in_full(filled: Filled) -> None:
    store = filled.store
    detail = find_run(store, "vision/good")
    text = printed(print_run, detail, store.reports.ledger(detail.run), Bound("acme"))
    words = [" ".join(line.split()) for line in text.splitlines()]
    assert words[0] == "team/vision/good"
    assert "state done (copy)" in words
    assert "destination acme/vision" in words
    assert "history done 1,000 988 12 2.5 MB" in words
    assert words[words.index("Skipped values, by reason") + 1 :][:7] == [
        "count part what, and where",
        "history missing_file: the source names it, but does not have it",
        "12 media/[red]a.png",
        "",
        "Written, but changed",
        "count part what, and where",
        "history renamed: first level is reserved",
    ]
    assert any(line.startswith("1. copy 2") and line.endswith(": done") for line in words)
    assert words[-1] == "Next: nothing to do for this run."
    assert max(map(len, text.splitlines())) <= 80


def test_the_ledger_of_a_run_has_skips_first_and_parts_as_they_are_copied(store: Store) -> None:
    filled = Filled(store)
    filled.project("p", "p", None, run_row("r"))
    ledger = [Entry("renamed", "a → b", "empty level"), Entry("skipped", "c", "too_large")]
    filled.done("r", *(PartUpdate(part, {}, done=True, read=1, skipped=1, ledger=ledger) for part in sorted(PARTS)))
    detail = find_run(store, "r")
    text = printed(print_run, detail, store.reports.ledger(detail.run))
    skips, notes = text.split("Skipped values, by reason")[1].split("Written, but changed")
    for section, word in ((skips, "too_large"), (notes, "renamed")):
        assert [line.split()[0] for line in section.splitlines() if word in line] == [*PARTS]


def test_a_failed_run_says_why_and_what_next(filled: Filled) -> None:
    text = printed(print_run, find_run(filled.store, "cut"), ())
    words = " ".join(text.split())
    assert "unavailable: GET https://storage.invalid/media/a.png?*** answered 502" in words
    assert "Next: `migrate retry-failed --run-id team/vision/cut`, then `migrate run`." in words


# ---------------------------------------------------------------- what next


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("https://app.neptune.ai workspace acme", Bound("acme")),
        ("offline:/data/neptune workspace files", Bound(offline=True)),
    ],
)
def test_the_first_run_decides_where_runs_go(store: Store, address: str, bound: Bound) -> None:
    assert bound_to(store) == Bound()
    store.claim_setting("destination", address)
    assert bound_to(store) == bound


def test_silent_workers_are_not_called_running(filled: Filled) -> None:
    overview = filled.store.reports.overview()
    silent = replace(overview, workers=[replace(worker, heartbeat_age_s=600.0) for worker in overview.workers])
    text = text_of(overview=silent)
    assert "Not running: 1 worker silent for 10 min. `migrate run` takes their runs over." in text
    assert text.splitlines()[-1] == "Next: `migrate run` copies 2 runs."


def test_the_next_command_follows_from_the_states(store: Store) -> None:
    filled = Filled(store)

    def next_command(*, offline: bool) -> str:
        return next_step(store.reports.overview(), Bound(offline=offline))

    assert next_command(offline=False).startswith("`migrate inventory`")
    filled.project("p", "p", None, run_row("r"))
    assert next_command(offline=True) == "`migrate run` copies 1 run."
    claim = filled.claim("r")
    assert next_command(offline=True) == "nothing to do: it is running."
    store.fail(claim, Failure("timeout", "slow"), Retry(max_failures=1))
    assert next_command(offline=True) == "`migrate retry-failed` puts back 1 run, then `migrate run`."
    store.retry_failed()
    filled.done("r", PartUpdate("config", {}, done=True))
    left_out = next_step(store.reports.overview(wanted_parts=["config", "history"]), Bound())
    assert left_out == "1 run is done without history: `migrate run --include history` copies the rest."
    assert next_command(offline=False) == "`migrate verify` reads 1 run back and compares."
    verified = replace(store.reports.overview(), verdicts=VerdictCounts(1, 0, 0))
    assert next_step(verified, Bound()).startswith("nothing left to do")
    assert next_command(offline=True) == "`migrate sync` uploads 1 run to Neptune."
    store.start_upload()
    assert next_command(offline=True) == "`migrate sync` uploads 1 run."
    assert "Of these in upload (`migrate sync`): 1 pending" in text_of(overview=store.reports.overview())
    upload = store.claim(WORKER, Phase.UPLOAD, LEASE_S)
    assert upload is not None
    store.fail(upload, Failure("auth", "refused"))
    assert next_command(offline=True) == "`migrate retry-failed` puts back 1 run, then `migrate sync`."


def test_a_pause_without_end_does_not_break_the_text(filled: Filled) -> None:
    overview = replace(filled.store.reports.overview(), pauses=[Pause("neptune", 1e6, "")])
    assert "neptune asks to wait 11.6 days more: no message" in text_of(overview=overview)


def test_a_run_that_differs_is_not_told_to_be_right(filled: Filled) -> None:
    only = filled.store.select(run_ids=["team/vision/good"])
    [run] = filled.store.verification.claim(WORKER, 1, only)
    finding = FindingRow("val/loss", Verdict.DIFFERS, "floats: 988 points", "missing")
    assert filled.store.verification.save(run, WORKER, Verdict.DIFFERS, "digests", [finding])
    lines = printed(print_run, find_run(filled.store, "vision/good"), [], width=200).splitlines()
    assert lines[-1].startswith("Next: `migrate retry-failed --class differs --run-id team/vision/good`, then")
