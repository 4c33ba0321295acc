"""A throw-away database for a proof: PostgreSQL with pgvector and this version's tables, gone at the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import sqlalchemy as sa
from evaluation.temporary import owned

from revector import embedded
from revector.database.engine import make_engine, upgrade_schema

QUICK = {"fsync": "off", "synchronous_commit": "off"}


@contextmanager
def server(**own: str) -> Iterator[sa.URL]:
    """Run an embedded PostgreSQL without fsync, or use the one that ``$REVECTOR_TEST_DATABASE_URL`` names.

    ``own`` are settings of PostgreSQL's, which need a server of our own.
    """
    given = os.environ.get("REVECTOR_TEST_DATABASE_URL")
    if given and not own:
        yield sa.make_url(given)
        return
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-proof-", dir="/tmp")))
    folder.chmod(0o755)
    try:
        with settings(**QUICK | own):
            yield sa.make_url(embedded.ensure_running(folder / "state"))
    finally:
        embedded.remove(folder / "state")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def settings(**changed: str) -> Iterator[None]:
    """Let embedded servers that are made meanwhile have these settings of PostgreSQL's."""
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS |= changed
    try:
        yield
    finally:
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)


@contextmanager
def database(at: sa.URL) -> Iterator[str]:
    """Make a database with our tables on a server; yield its URL."""
    admin = sa.create_engine(at, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)  # the server may be killed
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


BACKENDS = 0.25
"""Share of the kills that hit one backend, upon which PostgreSQL ends all others and recovers by itself."""

NOTICED_S = 10.0

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class Outages:
    """An embedded PostgreSQL that is killed, with SIGKILL, and comes back: its postmaster, or a single backend.

    A killed process leaves the kernel's page cache whole, so this proves crash recovery and what clients make of it,
    not what a disk keeps when the power fails.
    """

    def __init__(self, url: sa.URL) -> None:
        self._url, self._state = url, Path(str(url.query["host"])).parents[1]

    def __call__(self, draw: random.Random) -> str:
        """Kill it, wait until it answers again, and return what was killed."""
        what = (draw.random() < BACKENDS and self._backend(draw)) or self.postmaster()
        embedded.ensure_running(self._state)
        return what

    def postmaster(self) -> str:
        """Kill the postmaster and start another one."""
        embedded.ensure_running(self._state)
        pid = embedded.status(self._state).pid
        assert pid is not None, f"no PostgreSQL runs in {self._state}"
        os.kill(pid, signal.SIGKILL)
        embedded.ensure_running(self._state)
        return "postmaster"

    def _backend(self, draw: random.Random) -> str | None:
        """Kill one backend and wait for what PostgreSQL does then: it ends all others, this one's client among them."""
        where = self._url
        address = {"host": str(where.query["host"]), "port": int(str(where.query["port"]))}
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(user=where.username, dbname=where.database, autocommit=True, **address) as connection,
        ):
            pids = sorted(pid for (pid,) in connection.execute(_BACKENDS))
            if not pids:
                return None
            os.kill(draw.choice(pids), signal.SIGKILL)
            deadline = time.monotonic() + NOTICED_S
            while time.monotonic() < deadline:
                connection.execute("SELECT pg_sleep(0.01)")
        return "backend"
