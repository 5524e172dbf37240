"""Converts rows to types, for everything that reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from migrations_db.cursors import read_cursor
from migrations_db.models import Digest, Project, Run
from migrations_db.states import PartStatus
from migrations_db.types import Claim, DigestRow, PartProgress
from migrations_db.types import Project as ProjectData

AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]


def run_query() -> AnySelect:
    """All columns of a run, and those that identify its project."""
    return select(
        Run.__table__,
        Project.source_service,
        Project.entity,
        Project.name.label("project"),
        Project.url.label("project_url"),
        Project.destination_name,
        Project.name_note,
    ).join(Project, Project.id == Run.project_id)


@lru_cache
def claimed_run() -> AnySelect:
    """`run_query` for the run `_run`, built once."""
    return run_query().where(Run.id == bindparam("_run", type_=Run.id.type))


def to_claim(row: AnyRow) -> Claim:
    """The claim of a run, from a row of `run_query` that was just claimed."""
    return Claim(
        run=row.id,
        attempt=row.attempt,
        worker_id=row.claimed_by,
        phase=row.phase,
        project_id=row.project_id,
        source_service=row.source_service,
        entity=row.entity,
        project=row.project,
        project_url=row.project_url,
        destination_name=row.destination_name,
        run_id=row.run_id,
        name=row.name,
        source_state=row.source_state,
        created_at=row.created_at,
        fork_run_id=row.fork_run_id,
        fork_step=row.fork_step,
        location=row.location,
        history_rows=row.history_rows,
        size_hint=row.size_hint,
        fingerprint=row.copied_fingerprint,
        position=row.position,
        failures=row.failures,
        suspect=row.silent_attempts > 1,  # the attempt that begins now is counted too
        mapping=row.mapping,
    )


def to_project(row: AnyRow) -> ProjectData:
    """Convert a row of the table project."""
    return ProjectData(row.id, row.entity, row.name, row.source_service, row.url, row.destination_name, row.name_note)


def ref(row: AnyRow) -> str:
    """The name of a run for users, from a row with entity, project and run_id."""
    return f"{row.entity}/{row.project}/{row.run_id}"


def to_parts(connection: Connection, rows: Sequence[AnyRow], fingerprint: str | None) -> dict[str, PartProgress]:
    """Convert rows of the table part. Returns them by name."""
    return {
        row.name: PartProgress(
            status=PartStatus.DONE if is_done(row.done_fingerprint, fingerprint) else PartStatus.OPEN,
            cursor=None if row.cursor is None else read_cursor(connection, row.run, row.name, row.cursor),
            intent=row.intent,
            read=row.read,
            written=row.written,
            skipped=row.skipped,
            size_bytes=row.size_bytes,
        )
        for row in rows
    }


def read_digests(connection: Connection, run: int) -> dict[str, DigestRow]:
    """The digests of a run by path."""
    rows = connection.execute(select(Digest.path, Digest.kind, Digest.data).where(Digest.run == run))
    return {path: DigestRow(kind, data) for path, kind, data in rows}


def is_done(done_fingerprint: str | None, fingerprint: str | None) -> bool:
    """Whether a part that was done at `done_fingerprint` is done at `fingerprint`."""
    return done_fingerprint is not None and done_fingerprint == fingerprint
