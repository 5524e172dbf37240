"""The run record of a log: what a start says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from migrator.records import Fork
from migrator.sources.wandb_facts import Branch, branch


@dataclass(frozen=True, slots=True)
class RunHead:
    """The run record of a log. Empty texts mean that the run was started without that value.

    `started_ns` (since the epoch, None: unknown) distinguishes starts. `resume`: W&B was asked to continue the run.
    `shared`: this is one of several processes that write one run (`mode="shared"`).
    """

    run_id: str
    entity: str
    project: str
    name: str
    notes: str
    tags: tuple[str, ...]
    group: str
    job_type: str
    sweep_id: str
    host: str
    commit: str
    started_at: datetime | None
    started_ns: int | None
    fork: Fork | None
    rewound_to: float | None
    offline: bool
    resume: bool
    shared: bool

    @classmethod
    def of(cls, run: Any) -> RunHead:
        point = run.branch_point
        branched = branch(run.run_id, point.run, point.value) if point.metric in ("", "_step") else Branch()
        started = run.start_time if run.HasField("start_time") else None
        return cls(
            run_id=run.run_id,
            entity=run.entity,
            project=run.project,
            name=run.display_name,
            notes=run.notes,
            tags=tuple(run.tags),
            group=run.run_group,
            job_type=run.job_type,
            sweep_id=run.sweep_id,
            host=run.host,
            commit=run.git.commit,
            started_at=(
                datetime.fromtimestamp(started.seconds, UTC).replace(microsecond=started.nanos // 1000)
                if started is not None
                else None
            ),
            started_ns=started.seconds * 1_000_000_000 + started.nanos if started is not None else None,
            fork=branched.fork,
            rewound_to=branched.rewound_to,
            offline=run.telemetry.feature.offline,
            resume=run.resume or run.resumed,
            shared=run.telemetry.feature.shared_mode,
        )


def latest(run: Any, before: Any) -> Any:
    """Combine the run record `run` with the earlier one `before` (None: `run` is the first).

    Entity, project and start time stay those of the first record: the SDK sometimes repeats the record with the values
    of the server.
    """
    if before is not None:
        run.entity, run.project = before.entity or run.entity, before.project or run.project
        if before.HasField("start_time"):
            run.start_time.CopyFrom(before.start_time)
    return run


def merged(heads: Sequence[RunHead]) -> RunHead:
    """Combine the heads of a run's starts: the first start, with the values that later starts set again."""
    result = heads[0]
    for head in heads[1:]:
        result = replace(
            result,
            name=head.name or result.name,
            notes=head.notes or result.notes,
            tags=head.tags or result.tags,
            group=head.group or result.group,
            job_type=head.job_type or result.job_type,
            sweep_id=head.sweep_id or result.sweep_id,
            host=head.host or result.host,
            commit=head.commit or result.commit,
        )
    return result
