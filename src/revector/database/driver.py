"""What registry and stores share of a PostgreSQL connection: the driver's errors as ours, COPY, and binary vectors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from pgvector.psycopg import register_vector
from psycopg.rows import TupleRow
from psycopg.types.array import ListBinaryDumper

from revector.errors import (
    ConfigError,
    DatabaseReadOnly,
    DatabaseUnavailable,
    GateBusy,
    IndexGone,
    NotAllowed,
    RevectorError,
    StateError,
)

KEPT = "Committed work is kept"
"""What is said of the state of the world where the database went away."""


def translated(cause: BaseException, *, disconnected: bool) -> RevectorError | None:
    """Return what the driver raised as an error of our tree, where people or schedulers must act on it, or None."""
    if not isinstance(cause, Exception):  # Ctrl-C during a statement closes the connection, and stays Ctrl-C
        return None
    state = getattr(cause, "sqlstate", None) or ""
    said = first_line(cause)
    if state == "53100":
        return DatabaseUnavailable(
            f"the database's disk is full: {said}. The transaction was undone; free space and run it again."
        )
    if state == "57014":
        return DatabaseUnavailable(
            f"the database cancelled a statement: {said}. The transaction was undone; run it again, or raise the "
            "statement_timeout of its role."
        )
    if state == "RV010":
        return StateError(f"{said}. Write the row, or end the adoption with `revector unadopt`.")
    if state == "25006":
        return DatabaseReadOnly(
            f"the database takes no writes: {said}. Nothing was changed, and searches are answered; send writes to the "
            "primary, or end what made this server read-only."
        )
    if state == "40001" and "conflict with recovery" in said:
        return DatabaseUnavailable(
            f"the standby ended a statement that held up its recovery: {said}. Nothing was changed; ask again, or "
            "raise its max_standby_streaming_delay."
        )
    if state == "55P03":
        busy = said if "did not end in time" in said else "the collection's gate was not free in time"
        return GateBusy(f"{busy}. Nothing was changed; run it again.")
    if state == "42501":
        return NotAllowed(
            f"the database refused it to this role: {said}. The transaction was undone; run it as the owner of the "
            "tables, or give the role what `revector db grants ROLE` prints."
        )
    missing = re.search(r'"(?:revector\.)?((?:idx|ledger)_\w*g\d+\w*)"', said) if state == "42P01" else None
    if missing or (state == "23514" and "no partition" in said):
        return IndexGone(
            f"the table {missing[1] if missing else 'of a ledger'} is not there: its generation was retired meanwhile, "
            "or someone dropped it by hand. The transaction was undone; `revector doctor` says which and what to do."
        )
    if disconnected or isinstance(cause, psycopg.errors.ConnectionTimeout) or state[:2] in ("08", "53"):
        return _unreachable(said)
    if state[:3] == "57P" or (isinstance(cause, psycopg.OperationalError) and not state):
        return _unreachable(said)
    return None


def _unreachable(said: str) -> RevectorError:
    if said.startswith("connection is bad: invalid "):  # libpq could not even begin
        return ConfigError(f"database_url cannot be used: {said}. Nothing has run; correct it in revector.toml.")
    return DatabaseUnavailable(
        f"the database cannot be reached: {said}. {KEPT}; start the database, or correct database_url in "
        "revector.toml, and run it again."
    )


def first_line(cause: BaseException) -> str:
    """Return the first line of an error's message, without its full stop."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")


class BinaryArray(list[object]):
    """A list of pgvector's values that travels in PostgreSQL's binary form, twenty times as fast as text."""


def bind_vectors(connection: sa.Connection) -> None:
    """Let ``BinaryArray`` be a parameter on this connection; the numbers of pgvector's types differ by database."""
    if "vectors" not in connection.info:
        with _driver(connection, "register vector") as driver:
            register_vector(driver)
            driver.adapters.register_dumper(BinaryArray, ListBinaryDumper)
        connection.info["vectors"] = True


def analyze(engine: sa.Engine, tables: Iterable[str], *, skip_locked: bool = False) -> None:
    """Tell the planner how large ``tables`` are, each in a transaction of its own.

    A table of another owner is analyzed by the owner's function: PostgreSQL itself would pass it over with a warning.
    ``skip_locked``: one that someone else is analyzing or vacuuming is left to them.
    """
    for name in tables:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a role's own may be meant for queries
            own = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = CAST(:name AS regclass)"
            if connection.scalar(sa.text(own), {"name": name}):
                connection.exec_driver_sql(f"ANALYZE (SKIP_LOCKED {skip_locked}) {name}")
            else:
                values = {"name": name, "skip": skip_locked}
                connection.execute(sa.text("SELECT analyze_table(CAST(:name AS regclass), :skip)"), values)


def run_script(connection: sa.Connection, sql: str) -> None:
    """Run statements as they stand, percent signs, colons and all, in the connection's transaction."""
    with _driver(connection, sql) as driver:
        driver.execute(sql.encode())


@contextmanager
def copy_into(connection: sa.Connection, statement: str) -> Iterator[psycopg.Copy]:
    """Run a ``COPY … FROM STDIN`` in the connection's transaction; give each row to ``write_row``."""
    with _driver(connection, statement) as driver, driver.cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


@contextmanager
def _driver(connection: sa.Connection, what: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """Yield psycopg's connection. SQLAlchemy does not see what happens inside, so errors are told apart here too."""
    driver: Any = connection.connection.driver_connection
    try:
        yield driver
    except psycopg.Error as error:
        ours = translated(error, disconnected=bool(driver.closed))
        if driver.closed:
            connection.invalidate(error)
        if ours is not None:
            raise ours from error
        raise sa.exc.DBAPIError.instance(what, None, error, psycopg.Error, dialect=connection.dialect) from error
