"""Group, sweep and mapping options of a run, digests of what was written, and what verifications found."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text()
WORD = sa.String(16)


def upgrade() -> None:
    for column in (
        sa.Column("run_group", TEXT),
        sa.Column("sweep", TEXT),
        sa.Column("mapping", sa.JSON()),
        sa.Column("verdict", WORD),
        sa.Column("verified_at", sa.DateTime(timezone=True)),
        sa.Column("verified_by", TEXT),
        sa.Column("verifier", TEXT),
    ):
        op.add_column("run", column)
    _partial_index("run_unverified", ["project_id", "phase", "id"], "status = 'done' AND verdict IS NULL")
    _partial_index("run_verdict", ["verdict", "id"], "verdict IS NOT NULL")
    op.create_table(
        "digest",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("data", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("run", "path", name="digest_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="digest_run_fk"),
    )
    op.create_table(
        "finding",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("verdict", WORD, nullable=False),
        sa.Column("want", TEXT, nullable=False),
        sa.Column("got", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("run", "path", name="finding_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="finding_run_fk"),
    )


def _partial_index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "run", columns, sqlite_where=condition, postgresql_where=condition)
