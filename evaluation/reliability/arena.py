"""A throw-away database for a proof: PostgreSQL with pgvector and this version's tables, gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from evaluation.temporary import owned

from revector import embedded
from revector.database.engine import make_engine, upgrade_schema


@contextmanager
def server(**settings: str) -> Iterator[sa.URL]:
    """Run an embedded PostgreSQL without fsync, or use the one that ``$REVECTOR_TEST_DATABASE_URL`` names.

    ``settings`` are PostgreSQL's own; they need a server of our own.
    """
    given = os.environ.get("REVECTOR_TEST_DATABASE_URL")
    if given and not settings:
        yield sa.make_url(given)
        return
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-proof-", dir="/tmp")))
    folder.chmod(0o755)
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS |= {"fsync": "off", "synchronous_commit": "off", **settings}
    try:
        yield sa.make_url(embedded.ensure_running(folder / "state"))
    finally:
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)
        embedded.remove(folder / "state")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database(at: sa.URL) -> Iterator[str]:
    """Make a database with our tables on a server; yield its URL."""
    admin = sa.create_engine(at, isolation_level="AUTOCOMMIT")
    name = f"proof_{uuid.uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template0")
    url = at.set(database=name).render_as_string(hide_password=False)
    try:
        engine = make_engine(url)
        upgrade_schema(engine)
        engine.dispose()
        yield url
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.dispose()
