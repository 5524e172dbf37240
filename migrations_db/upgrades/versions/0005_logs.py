"""Where each command logs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("invocation", sa.Column("log", sa.Text()))
