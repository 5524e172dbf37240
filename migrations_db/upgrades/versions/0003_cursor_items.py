"""Lists in cursors that only grow are kept item by item."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "cursor_item",
        sa.Column("run", ROW_NUMBER, nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", "part", "number", name="cursor_item_pk"),
        sa.ForeignKeyConstraint(["run"], ["run.id"], name="cursor_item_run_fk"),
    )
