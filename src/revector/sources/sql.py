"""Records from a SQL query, or from a table of any database, read through a server-side cursor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SAWarning, SQLAlchemyError

from revector.database.urls import NAMES, database_url, waits
from revector.errors import SourceError
from revector.formats.strict_json import doubled
from revector.sources.files import Record

_ROWS = 256


def read_sql(url: str, query: str) -> Iterator[Record]:
    """Yield the rows of ``query``, which is sent as it stands (``:name`` and ``%`` have no meaning), never committed.

    ``url`` is a SQLAlchemy URL. Raises ``SourceError`` if the database or the query cannot be used; the message never
    holds the password.
    """
    place = shown(url)
    number = 0
    with _connecting(url) as engine:
        try:
            with engine.connect() as connection:
                options = {"stream_results": True, "yield_per": _ROWS, "no_parameters": True}
                result = connection.exec_driver_sql(query, execution_options=options)
                if not result.returns_rows:
                    raise SourceError(f"{place}: the query returns no rows; it must be a SELECT. It was rolled back.")
                if (twice := doubled(result.keys())) is not None:
                    raise SourceError(
                        f"{place}: the query returns two columns named {twice!r}. Nothing was read; give one of them "
                        'another name, such as "a.name AS a_name".'
                    )
                for row in result.mappings():
                    number += 1
                    yield f"row {number}", dict(row)
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            raise SourceError(
                f"{place}, after row {number}: the query failed ({str(reason).strip()}). Nothing was written there; "
                f"fix the query or the url and run this again."
            ) from error


@dataclass(frozen=True, slots=True)
class SqlTable:
    """A table or view of any database: its columns in order, and its primary key; empty where it has none."""

    url: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def query(self, columns: Sequence[str], where: str | None, limit: int | None = None) -> str:
        """Return the SELECT of some columns, by their names, of the rows that meet ``where``."""
        with _connecting(self.url) as engine:
            quote = engine.dialect.identifier_preparer.quote
        named = ", ".join(quote(name) for name in columns)
        table = ".".join(quote(part) for part in self.name.split("."))
        some = "" if limit is None else f" LIMIT {limit}"
        return f"SELECT {named} FROM {table}{'' if where is None else f' WHERE ({where})'}{some}"


def look_at_table(url: str, name: str) -> SqlTable:
    """Return what a database says of a table, ``NAME`` or ``SCHEMA.NAME``. Raises ``SourceError``."""
    schema, _, table = name.rpartition(".")
    with _connecting(url) as engine:
        try:
            with warnings.catch_warnings():  # of types that SQLAlchemy does not know, such as MariaDB's VECTOR
                warnings.simplefilter("ignore", SAWarning)
                seen = inspect(engine)
                columns = tuple(str(one["name"]) for one in seen.get_columns(table, schema or None))
                key = tuple(seen.get_pk_constraint(table, schema or None)["constrained_columns"])
        except NoSuchTableError as error:
            there = ", ".join(inspect(engine).get_table_names()[:20]) or "none"
            raise SourceError(f"{shown(url)} has no table {name}; there are: {there}. Nothing was read.") from error
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            raise SourceError(f"{shown(url)} cannot be read ({reason}). Nothing was read; check the URL.") from error
    return SqlTable(url, name, columns, key)


def shown(url: str) -> str:
    """Return a URL without its password. Raises ``SourceError`` for what is none, without quoting it."""
    return _made(url).render_as_string(hide_password=True)


def _made(url: str) -> URL:
    try:
        made = make_url(url)
        if made.drivername in NAMES:
            made = make_url(database_url(url, what="the URL of the SQL source"))
    except (ArgumentError, ValueError):
        raise SourceError(
            "the URL of the SQL source is no SQLAlchemy URL, such as postgresql://user@host/db. Nothing was read."
        ) from None
    if made.drivername in ("mysql", "mariadb") and find_spec("MySQLdb") is None:
        made = made.set(drivername=f"{made.drivername}+pymysql")
    return made


@contextmanager
def _connecting(url: str) -> Iterator[Engine]:
    """Yield an engine. Raises ``SourceError`` where its driver is missing, or it names a file that is not there."""
    made = _made(url)
    file = made.database if made.get_backend_name() == "sqlite" else None
    if file and file != ":memory:" and not file.startswith("file:") and not Path(file).is_file():
        raise SourceError(f"{shown(url)}: there is no file {file}. Nothing was read; correct the URL.")
    try:
        engine = create_engine(made, connect_args=waits(made) if made.get_backend_name() == "postgresql" else {})
    except (ImportError, NoSuchModuleError, ArgumentError) as error:
        way = (
            "pip install 'revector[mysql]'"
            if made.drivername.endswith("+pymysql")
            else "install it, or correct the URL"
        )
        raise SourceError(
            f"{shown(url)} needs a Python package that is not here ({error}). Nothing was read; {way}."
        ) from error
    try:
        yield engine
    finally:
        engine.dispose()
