"""Alembic's entry: runs the schema versions on the connection that ``database.engine`` hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_version", version_table_schema="revector")
with context.begin_transaction():
    context.run_migrations()
