"""What a role that owns no table needs, as SQL for the owner to run: for everyday work, or for the functions alone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import sqlalchemy as sa

from revector.database.driver import run_script
from revector.errors import ConfigError

MAX_ROLE_BYTES = 63
"""Of a name in PostgreSQL."""

READS, WRITES = ("search", "active", "expect"), ("put", "delete")
"""Functions of the schema ``revector`` for applications that speak SQL: they need no right on any table."""

_SQL = Path(__file__).parent / "schema" / "grants.sql"

_VIEWS = """\
-- Views of adopted tables. They read with the rights of who asks: SELECT on the table itself is its owner's to grant.
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT unnest(ARRAY[v.oid::regclass::text, format('revector.vectors_%s', a.cid)])
      FROM revector.adoption a JOIN pg_class v ON v.oid = a.view::oid LOOP
    EXECUTE format('GRANT SELECT ON %s TO %s', name, {role_text});
  END LOOP;
END $$;
"""


def grants_for(role: str, *, read: bool = False, write: bool = False) -> str:
    """Return the statements that let ``role`` do all but what belongs to the owner.

    With ``read`` or ``write`` they let it call the functions for searches or for writes, with ``read`` also read the
    views of adopted tables that are there, and nothing else. Raises ``ConfigError`` for what is no name of a role.
    """
    if not role or "\0" in role or len(role.encode("utf-8", "surrogatepass")) > MAX_ROLE_BYTES:
        raise ConfigError(
            f"{role[:80]!r} is no name of a role: 1 to {MAX_ROLE_BYTES} bytes are allowed. Nothing was granted."
        )
    quoted = '"' + role.replace('"', '""') + '"'
    text = "'" + quoted.replace("'", "''") + "'"
    if read or write:
        named = ", ".join(f"revector.{name}" for name in (*READS * read, *WRITES * write))
        functions = f"GRANT USAGE ON SCHEMA revector TO {quoted};\nGRANT EXECUTE ON FUNCTION {named} TO {quoted};\n"
        return functions + (_VIEWS.replace("{role_text}", text) if read else "")
    return _SQL.read_text(encoding="utf-8").replace("{role_text}", text).replace("{role}", quoted)


def apply_grants(engine: sa.Engine, sql: str) -> None:
    """Run what ``grants_for`` returned in one transaction, as the owner of the tables. Raises ``ConfigError``."""
    with engine.begin() as connection:
        try:
            run_script(connection, sql)
        except sa.exc.DBAPIError as error:
            if not isinstance(error.orig, psycopg.errors.UndefinedObject):
                raise
            raise ConfigError(f"{error.orig}. Nothing was granted; make the role first, with createuser.") from error
