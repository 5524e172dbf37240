"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger()
ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text()
TIME = sa.DateTime(timezone=True)
WORD = sa.String(16)


def upgrade() -> None:
    op.create_table(
        "setting",
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="setting_pk"),
    )
    op.create_table(
        "invocation",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("command", TEXT, nullable=False),
        sa.Column("host", TEXT, nullable=False),
        sa.Column("pid", NUMBER, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("exit_code", NUMBER),
        sa.PrimaryKeyConstraint("id", name="invocation_pk"),
    )
    op.create_table(
        "worker",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("host", TEXT, nullable=False),
        sa.Column("pid", NUMBER, nullable=False),
        sa.Column("pid_started", sa.Double(), nullable=False),
        sa.Column("invocation_id", ROW_NUMBER),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("heartbeat_at", TIME, nullable=False),
        sa.Column("stopped_at", TIME),
        sa.PrimaryKeyConstraint("id", name="worker_pk"),
        sa.ForeignKeyConstraint(["invocation_id"], ["invocation.id"], name="worker_invocation_id_fk"),
    )
    _partial_index("worker_alive", "worker", ["host"], "stopped_at IS NULL")
    op.create_table(
        "service",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="service_pk"),
    )
    op.create_table(
        "project",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("entity", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("source_service", TEXT, nullable=False),
        sa.Column("url", TEXT, nullable=False),
        sa.Column("destination_name", TEXT),
        sa.Column("name_note", TEXT),
        sa.PrimaryKeyConstraint("id", name="project_pk"),
        sa.UniqueConstraint("source_service", "entity", "name", name="project_source"),
    )
    op.create_table(
        "run",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("project_id", ROW_NUMBER, nullable=False),
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("source_state", TEXT, nullable=False),
        sa.Column("created_at", TIME),
        sa.Column("heartbeat_at", TIME),
        sa.Column("history_rows", NUMBER),
        sa.Column("size_hint", NUMBER, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("copied_fingerprint", TEXT),
        sa.Column("location", sa.JSON()),
        sa.Column("fork_run_id", TEXT),
        sa.Column("fork_step", sa.Double()),
        sa.Column("tags", sa.JSON()),
        sa.Column("seen", NUMBER, nullable=False),
        sa.Column("phase", WORD, nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("reason", TEXT),
        sa.Column("claimed_by", TEXT),
        sa.Column("lease_until", TIME),
        sa.Column("attempt", NUMBER, nullable=False),
        sa.Column("failures", NUMBER, nullable=False),
        sa.Column("silent_attempts", NUMBER, nullable=False),
        sa.Column("not_before", TIME),
        sa.Column("position", TEXT),
        sa.Column("error_class", TEXT),
        sa.Column("error_message", TEXT),
        sa.Column("points_read", NUMBER, nullable=False),
        sa.Column("points_written", NUMBER, nullable=False),
        sa.Column("size_bytes", NUMBER, nullable=False),
        sa.Column("part", TEXT),
        sa.Column("active_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("id", name="run_pk"),
        sa.UniqueConstraint("project_id", "run_id", name="run_source"),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="run_project_id_fk"),
        sa.ForeignKeyConstraint(["claimed_by"], ["worker.id"], name="run_claimed_by_fk"),
    )
    order: list[str | sa.TextClause] = ["phase", "silent_attempts", sa.text("size_hint DESC"), "id"]
    op.create_index("run_by_run_id", "run", ["run_id"])
    _partial_index("run_pending", "run", order, "status = 'pending'")
    _partial_index("run_pending_project", "run", ["project_id", *order], "status = 'pending'")
    _partial_index("run_running", "run", ["phase", "lease_until"], "status = 'running'")
    _partial_index("run_claimed_by", "run", ["claimed_by"], "claimed_by IS NOT NULL")
    _partial_index("run_failed", "run", ["error_class", "id"], "status = 'failed'")
    _partial_index("run_reason", "run", ["status"], "reason IS NOT NULL")
    counters = ["size_hint", "points_read", "points_written", "size_bytes"]
    op.create_index("run_progress", "run", ["project_id", "phase", "status", *counters])
    op.create_table(
        "part",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("done_fingerprint", TEXT),
        sa.Column("cursor", TEXT),
        sa.Column("intent", sa.Double()),
        sa.Column("read", NUMBER, nullable=False),
        sa.Column("written", NUMBER, nullable=False),
        sa.Column("skipped", NUMBER, nullable=False),
        sa.Column("size_bytes", NUMBER, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="part_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="part_run_fk"),
    )
    op.create_table(
        "ledger",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("part", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("count", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("run", "digest", name="ledger_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="ledger_run_fk"),
    )
    op.create_table(
        "attempt",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("phase", WORD, nullable=False),
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("outcome", WORD),
        sa.Column("error_class", TEXT),
        sa.Column("message", TEXT),
        sa.PrimaryKeyConstraint("run", "number", name="attempt_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="attempt_run_fk"),
    )


def _partial_index(name: str, table: str, columns: list[str | sa.TextClause], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
