"""Alembic versions of the tables, applied by `engine.open_store`."""
