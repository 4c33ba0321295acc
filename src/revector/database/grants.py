"""What a role that does not own the tables needs for everyday work, as SQL for the owner to run."""

from __future__ import annotations

from pathlib import Path

from revector.errors import ConfigError

MAX_ROLE_BYTES = 63
"""Of a name in PostgreSQL."""

_SQL = Path(__file__).parent / "schema" / "grants.sql"


def grants_for(role: str) -> str:
    """Return the statements that let ``role`` do all but what belongs to the owner. Raises ``ConfigError``."""
    if not role or "\0" in role or len(role.encode("utf-8", "surrogatepass")) > MAX_ROLE_BYTES:
        raise ConfigError(
            f"{role[:80]!r} is no name of a role: 1 to {MAX_ROLE_BYTES} bytes are allowed. Nothing was printed."
        )
    quoted = '"' + role.replace('"', '""') + '"'
    text = "'" + quoted.replace("'", "''") + "'"
    return _SQL.read_text(encoding="utf-8").replace("{role_text}", text).replace("{role}", quoted)
