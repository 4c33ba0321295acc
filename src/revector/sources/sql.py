"""Records from a SQL query, read through a server-side cursor."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

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
    try:
        made = make_url(url)
        patience = dict[str, int]()
        if made.drivername in NAMES:
            url = database_url(url, what="the URL of the SQL source")
            patience = waits(made)
    except (ArgumentError, ValueError):
        raise SourceError(
            "the URL of the SQL source is no SQLAlchemy URL, such as postgresql://user@host/db. Nothing was read."
        ) from None
    place = made.render_as_string(hide_password=True)
    number = 0
    try:
        engine = create_engine(url, connect_args=patience)
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
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = getattr(error, "orig", None) or error
        raise SourceError(
            f"{place}, after row {number}: the query failed ({str(reason).strip()}). Nothing was written there; "
            f"fix the query or the url and run this again."
        ) from error
