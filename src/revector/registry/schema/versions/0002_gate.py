"""Writers lock the collection's row only where their snapshot is older than the gate; see the SQL beside this file."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Replace the trigger's function."""
    sql = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().connection.cursor().connection.execute(sql)
