"""Which URLs name a PostgreSQL, as people write them, and how long their connections wait for the server."""

from __future__ import annotations

import sqlalchemy as sa
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from revector.errors import ConfigError

DRIVER = "postgresql+psycopg"
NAMES = ("postgresql", "postgres", DRIVER)

LOST_S = 60
"""A connection whose other end has been silent for so long counts as lost."""

KEEPALIVES = {"keepalives_idle": LOST_S // 2, "keepalives_interval": LOST_S // 6, "keepalives_count": 3}
"""How TCP asks whether the other end is there: by default after 2 hours. Its kernel answers, however long a statement
takes."""


def database_url(text: str, *, what: str = "database_url") -> str:
    """Return ``text``, a URL of PostgreSQL, as SQLAlchemy takes it.

    Raises ``ConfigError`` where it is none; the message never holds a part of it that may be a password.
    """
    how = (
        "write postgresql://user:password@host:5432/database, with @, /, : and % in a password as %40, %2F, %3A and %25"
    )
    try:
        url = sa.make_url(text.strip())
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"{what} is no URL of a database. Nothing has run; {how}.") from None
    if url.drivername not in NAMES:
        raise ConfigError(
            f"{what} begins with {url.drivername}://, and revector works on PostgreSQL through psycopg. Nothing has "
            f"run; {how}."
        )
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ConfigError(f"{what} names port {url.port}; ports are 1 to 65535. Nothing has run; correct it.")
    options = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    try:
        conninfo_to_dict(make_conninfo(**options))
    except ProgrammingError as error:
        raise ConfigError(
            f"{what} has an option that PostgreSQL does not know: {str(error).strip()}. Nothing has run; correct it."
        ) from None
    if not options.get("connect_timeout", "0").isdigit():
        raise ConfigError(f"{what} has a connect_timeout that is no number of seconds. Nothing has run; correct it.")
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def waits(url: sa.URL) -> dict[str, int]:
    """Return how long a connection of ``url`` waits for its server, as libpq's parameters; what the URL says stays."""
    ours = {"connect_timeout": 10, **KEEPALIVES, "tcp_user_timeout": LOST_S * 1_000}
    return {name: value for name, value in ours.items() if name not in url.query}
