"""Scratch schemas: the protocol's tables once more, empty, made by the same SQL as the real ones, removed whole."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa

from revector.database.engine import SCHEMA_FOLDER, make_engine
from revector.database.sessions import holder, try_hold
from revector.errors import DatabaseError, StoreUnavailable
from revector.spec import PGVECTOR, IndexSpec
from revector.stores.opening import attach, stores_of

PREFIX = "revector_rehearsal_"
ALIVE_LOCK = 1919252073
"""First key of the lock that a schema's maker holds: without it, the maker has ended, however it ended."""

_ABOUT = "revector rehearsal of "
_KEPT = ", kept"
_OUR_NAMES = re.compile(r"\brevector\.")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A scratch schema that no process holds: left behind by one that died, or ``kept`` on purpose."""

    schema: str
    collection: str
    kept: bool


class Scratch:
    """A scratch schema, and the session that holds it; ``engine`` sees its tables under their usual names.

    Numbers of its collections start high, so that no advisory lock of the real ones is ever met.
    """

    def __init__(self, engine: sa.Engine, collection: str) -> None:
        number = secrets.randbits(30)
        self.name = f"rehearsal_{number:08x}"
        self.schema = f"revector_{self.name}"
        self._about = _ABOUT + collection
        self._maker, self._holder = engine, holder(engine)
        try:
            try_hold(self._holder, ALIVE_LOCK, self.schema)
            with engine.begin() as connection:
                vector = self._create(connection, first_cid=(1 << 30) + number)
        except BaseException:
            self._holder.close()
            raise
        # Without the schema of the real tables: what is not found here is an error, never a real row.
        self.engine = make_engine(
            engine.url.render_as_string(hide_password=False), search_path=f'{self.schema}, "{vector}"'
        )
        attach(self.engine, stores_of(engine))

    def _create(self, connection: sa.Connection, *, first_cid: int) -> str:
        """Make the tables; return the schema that holds pgvector's types."""
        if not connection.scalar(sa.text("SELECT has_database_privilege(current_database(), 'CREATE')")):
            user, database = connection.execute(sa.text("SELECT current_user, current_database()")).one()
            raise DatabaseError(
                f"a rehearsal runs in a schema of its own, and role {user} may not create one in database {database}. "
                f'Nothing was changed; run `GRANT CREATE ON DATABASE "{database}" TO "{user}";` as its owner.'
            )
        connection.exec_driver_sql(f"CREATE SCHEMA {self.schema}")
        connection.exec_driver_sql(f"COMMENT ON SCHEMA {self.schema} IS '{self._about}'")
        for path in sorted((SCHEMA_FOLDER / "versions").glob("*.sql")):
            sql = _OUR_NAMES.sub(f"{self.schema}.", path.read_text(encoding="utf-8"))
            driver: Any = connection.connection.driver_connection
            driver.execute(sql)  # as the schema's own versions do it: without parameters, percent signs and all
        connection.exec_driver_sql(f"ALTER TABLE {self.schema}.collection ALTER COLUMN cid RESTART WITH {first_cid}")
        return str(
            connection.scalar(
                sa.text(
                    "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = "
                    "'vector'"
                )
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the sessions; the schema stays until ``drop`` or ``remove``."""
        self.engine.dispose()
        self._holder.close()

    def keep(self) -> None:
        """Mark the schema as kept on purpose."""
        with self._maker.begin() as connection:
            connection.exec_driver_sql(f"COMMENT ON SCHEMA {self.schema} IS '{self._about}{_KEPT}'")

    def drop(self) -> None:
        """Remove the schema with everything in it, and its indexes in other stores. Raises ``StoreUnavailable``."""
        self.engine.dispose()
        with self._maker.begin() as connection:
            _drop_outside(connection, self.schema)
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE")


def leftovers(engine: sa.Engine) -> list[Leftover]:
    """Return the scratch schemas of this role that no process holds, oldest name first."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT nspname AS schema, obj_description(oid, 'pg_namespace') AS about, "
                "pg_try_advisory_xact_lock(:key, hashtext(nspname)) AS free FROM pg_namespace "
                "WHERE starts_with(nspname, :prefix) AND pg_has_role(nspowner, 'USAGE') "
                "AND starts_with(obj_description(oid, 'pg_namespace'), :about) ORDER BY nspname"
            ),
            {"key": ALIVE_LOCK, "prefix": PREFIX, "about": _ABOUT},
        ).all()
    return [
        Leftover(row.schema, row.about.removeprefix(_ABOUT).removesuffix(_KEPT), row.about.endswith(_KEPT))
        for row in rows
        if row.free
    ]


def remove(engine: sa.Engine, schema: str) -> bool:
    """Remove a leftover with everything in it; return whether it was free to be removed."""
    with engine.begin() as connection:
        free = connection.scalar(
            sa.text("SELECT pg_try_advisory_xact_lock(:key, hashtext(:schema))"), {"key": ALIVE_LOCK, "schema": schema}
        )
        if free:
            try:
                _drop_outside(connection, schema)
            except StoreUnavailable:  # the schema alone names what is there, so it stays until the store answers
                return False
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    return bool(free)


def _drop_outside(connection: sa.Connection, schema: str) -> None:
    """Drop the indexes that a rehearsal made in stores outside of PostgreSQL."""
    if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": f"{schema}.generation"}) is None:
        return
    rows = connection.execute(
        sa.text(
            "SELECT physical_name, CAST(spec #>> '{model,dim}' AS int) AS dim, spec->'index' AS spec FROM "
            f"{schema}.generation WHERE NOT dropped AND spec #>> '{{index,store}}' <> :here"
        ),
        {"here": PGVECTOR},
    )
    for row in rows:
        index = IndexSpec(**row.spec)
        stores_of(connection).open_index(index.store, row.physical_name, row.dim, index).drop()
