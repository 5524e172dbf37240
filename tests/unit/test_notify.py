"""`--notify`: what the command is told, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrations_db import Phase, open_store
from migrations_db.report_types import Progress
from migrations_db.states import RunStatus
from migrations_db.types import Failure, ProjectRow, RunRow, WorkerInfo
from migrator.job.display import Silent
from migrator.job.notify import EVERY_S, LOOK_S, PAUSED_S, Notifying, notify


def progress(failed: int, done: int = 0) -> Progress:
    return Progress(dict.fromkeys(RunStatus, 0) | {RunStatus.FAILED: failed, RunStatus.DONE: done}, 0, 0, 0, 0)


def test_the_command_reads_a_document_and_has_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "NEPTUNE_API_TOKEN"):
        monkeypatch.setenv(name, "secret")
    assert notify("cat > told.json; env > environment", "end", exit_code=3) is None
    assert json.loads((tmp_path / "told.json").read_text()) == {"schema_version": 1, "event": "end", "exit_code": 3}
    assert "secret" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize(
    ("command", "problem"), [("nosuchcommand", "ended with 127"), ("echo no mail >&2; exit 2", "ended with 2: no mail")]
)
def test_a_command_that_fails_harms_nothing_and_is_told(command: str, problem: str) -> None:
    assert problem in (notify(command, "end") or "")


def test_failures_and_long_pauses_are_told_once(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    now = [0.0]
    with open_store(tmp_path / "migration.db") as store:
        [project] = store.inventory.save_projects([ProjectRow("team", "p", "wandb", "http://w", "p")])
        store.inventory.save_runs(project, [RunRow("a", "a", "finished", "f")], 1)
        store.workers.register(WorkerInfo("w", "here", 1, 1.0))
        claim = store.claim("w", Phase.COPY, 60)
        assert claim is not None

        def send(event: str, **facts: Any) -> None:
            told.append((event, facts))

        display = Notifying(Silent(), send, store, {"neptune"}, lambda: now[0])

        def look(at_s: float, failed: int, done: int = 0) -> None:
            now[0] = at_s
            display.update(progress(failed, done))

        look(0, failed=2)  # of an earlier command
        look(1, failed=3)
        look(2, failed=5)
        assert told == [("failed", {"new": 1, "failed": 3, "total": 3})]
        look(2 + EVERY_S, failed=5)
        assert told.pop() == ("failed", {"new": 2, "failed": 5, "total": 5})
        store.throttle(claim, "neptune", 900.0, Failure("rate_limited", "429"))
        for at_s in (PAUSED_S / 2, PAUSED_S + 70, PAUSED_S + 80, PAUSED_S + 90):
            look(at_s, failed=5)
        assert [(event, facts["service"], facts["reason"]) for event, facts in told[1:]] == [
            ("paused", "neptune", "429")
        ]
        look(PAUSED_S + 100, failed=5, done=1)  # it moves on, then stops again
        look(2 * PAUSED_S + 100 + LOOK_S, failed=5, done=1)
        assert [event for event, _ in told] == ["failed", "paused", "paused"]
