"""What an inventory of local directories left out."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TEXT = sa.Text()


def upgrade() -> None:
    op.create_table(
        "left_out",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source_service", TEXT, nullable=False),
        sa.Column("cause", TEXT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="left_out_pk"),
    )
    op.create_index("left_out_cause", "left_out", ["cause", "path"])
