"""What sources had when they were listed only to compare."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TEXT = sa.Text()


def upgrade() -> None:
    op.create_table(
        "listing",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source_service", TEXT, nullable=False),
        sa.Column("entity", TEXT, nullable=False),
        sa.Column("project", TEXT, nullable=False),
        sa.Column("runs", sa.BigInteger()),
        sa.Column("known", sa.BigInteger()),
        sa.Column("new", sa.BigInteger(), nullable=False),
        sa.Column("new_examples", sa.JSON(), nullable=False),
        sa.Column("gone", sa.BigInteger(), nullable=False),
        sa.Column("gone_examples", sa.JSON(), nullable=False),
        sa.Column("problem", TEXT),
        sa.Column("listed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="listing_pk"),
    )
