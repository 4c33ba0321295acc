"""The first schema: tables, triggers and invariant views of the protocol, from the SQL file beside this one."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything; the schema ``revector`` itself exists already, for Alembic's own table lies in it."""
    sql = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Through the driver: without parameters it sends the text as it is, percent signs and all.
    op.get_bind().connection.cursor().connection.execute(sql)
