"""The documents of `migrate status --json`.

Scripts may rely on their keys: keys may be added, but none is ever removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from migrations_db.report_types import Example, LedgerGroup, LedgerRow, Overview, RunDetail, RunSummary
from migrations_db.states import RunStatus
from migrator.commands.left_out import left_out_json
from migrator.commands.status.conclusions import (
    advice,
    average_speed,
    destination_of,
    is_running,
    part_sums,
    skips_and_notes,
)
from migrator.records import Kind
from migrator.redaction import without_secrets

SCHEMA_VERSION = 1
PLAIN = frozenset({str, int, float, bool, type(None)})


def overview_json(overview: Overview, workspace: str | None) -> dict[str, Any]:
    """The document of `migrate status --json`. Parts count values; `workspace` is Neptune's, None while unknown."""
    skips, notes = skips_and_notes(overview)
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": {**_by_status(overview.runs), "total": sum(overview.runs.values())},
        "phases": {phase.value: _by_status(runs) for phase, runs in overview.phases.items()},
        "parts": {
            part.name: {
                "read": part.read,
                "written": part.written,
                "skipped": part.skipped,
                "bytes": part.size_bytes,
            }
            for part in part_sums(overview)
        },
        "projects": [
            {
                "source": counts.project.source,
                "destination": destination_of(counts.project, workspace),
                "note": counts.project.name_note,
                "runs": _by_status(counts.runs),
            }
            for counts in overview.projects
        ],
        "verification": asdict(overview.verdicts),
        "failures": [
            {
                "class": group.error_class,
                "count": group.count,
                "example": _example(group.example, "message"),
                "advice": advice(group.error_class),
            }
            for group in overview.failures
        ],
        "left_out": dict(overview.left_out),
        "skips": [_ledger_group(group) for group in skips],
        "notes": [{"kind": group.kind, **_ledger_group(group)} for group in notes],
        "reasons": [
            {
                "status": group.status.value,
                "reason": group.reason,
                "count": group.count,
                "example": {"run": group.example_ref},
            }
            for group in overview.reasons
        ],
        "problems": left_out_json(overview.problems),
        "workers": [
            {
                "id": worker.id,
                "run": worker.ref,
                "part": worker.part,
                "heartbeat_age_s": round(worker.heartbeat_age_s, 1),
                "idle_s": None if worker.idle_s is None else round(worker.idle_s, 1),
            }
            for worker in overview.workers
        ],
        "in_hand": [worker.ref for worker in overview.workers if worker.ref],
        "job": _job(overview),
        "pauses": [
            {
                "service": pause.service,
                "seconds_left": round(pause.seconds_left, 1),
                "reason": without_secrets(pause.reason),
            }
            for pause in overview.pauses
        ],
    }


def _job(overview: Overview) -> dict[str, Any] | None:
    """The running command, or the last one. Speed and time left are null unless it is copying now."""
    job, speed = overview.job, average_speed(overview)
    if job is None:
        return None
    return {
        "command": job.command,
        "running": is_running(overview),
        "started_at": job.started_at.isoformat(),
        "ended_at": job.ended_at and job.ended_at.isoformat(),
        "exit_code": job.exit_code,
        "elapsed_s": round(job.elapsed_s, 1),
        "values_per_s": speed and round(speed.values, 1),
        "bytes_per_s": speed and round(speed.size_bytes, 1),
        "seconds_left": None if speed is None or speed.left_s is None else round(speed.left_s, 1),
    }


def run_json(detail: RunDetail, ledger: Iterable[LedgerRow], workspace: str | None = None) -> dict[str, Any]:
    """The document of `migrate status RUN --json`: everything that is known. `ledger` is the run's whole ledger."""
    everything = _json_data(detail)
    entries = [_json_data(row) for row in ledger]
    for told in (everything, *everything["attempts"]):
        for key in {"message", "error_message"} & told.keys():
            told[key] = told[key] and without_secrets(told[key])
    for part in everything["parts"].values():
        part["bytes"] = part.pop("size_bytes")
    return {
        "schema_version": SCHEMA_VERSION,
        "ref": detail.ref,
        "destination": destination_of(detail.project, workspace),
        **everything,
        "skips": [entry for entry in entries if entry["kind"] == Kind.SKIPPED],
        "notes": [entry for entry in entries if entry["kind"] != Kind.SKIPPED],
    }


def failed_json(runs: Iterable[RunSummary]) -> dict[str, Any]:
    """The document of `migrate status --failed --json`."""
    failed = [
        {
            "run": run.ref,
            "name": run.name,
            "phase": run.phase.value,
            "class": run.error_class,
            "message": without_secrets(run.error_message or ""),
            "advice": advice(run.error_class),
        }
        for run in runs
    ]
    return {"schema_version": SCHEMA_VERSION, "failed": failed}


def _by_status(runs: Mapping[RunStatus, int]) -> dict[str, int]:
    return {status.value: runs[status] for status in RunStatus}


def _example(example: Example, text_key: str) -> dict[str, str]:
    return {"run": example.ref, text_key: without_secrets(example.text)}


def _ledger_group(group: LedgerGroup) -> dict[str, Any]:
    return {
        "reason": group.reason,
        "part": group.part,
        "count": group.count,
        "runs": group.runs,
        "example": {"run": group.example.ref, "path": group.example.text},
    }


def _json_data(value: Any) -> Any:
    """Convert a value for JSON. Times are in ISO form, dataclasses are objects."""
    kind: Any = type(value)
    if kind in PLAIN:  # most are, and there are hundreds for each of all runs
        return value
    match value:
        case StrEnum():
            return value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {key: _json_data(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_data(item) for item in value]
    return {name: _json_data(getattr(value, name)) for name in _fields(kind)}


@cache
def _fields(kind: type) -> tuple[str, ...]:
    """The names of a dataclass's fields. `dataclasses.asdict` copies everything twice: too slow for all runs."""
    return tuple(field.name for field in fields(kind))
