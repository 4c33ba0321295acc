"""Searches and writes by functions, for applications in any language (0009_search.sql, 0009_write.sql)."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Run the statements beside this file."""
    for name in ("0009_search.sql", "0009_write.sql"):
        sql = Path(__file__).with_name(name).read_text(encoding="utf-8")
        op.get_bind().connection.cursor().connection.execute(sql)
