"""Run by Alembic. The connection, with its transaction, comes from `engine.open_store`."""

from alembic import context

from migrations_db.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
