"""Alembic versions of the tables; `engine.open_store` runs them."""
