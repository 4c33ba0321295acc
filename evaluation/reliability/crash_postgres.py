"""Kills PostgreSQL itself with SIGKILL: the postmaster of a server of our own that syncs to disk, and single backends.

A killed process leaves the kernel's page cache whole, so this proves crash recovery and what clients make of it, not
what a disk keeps when the power fails.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import sqlalchemy as sa

from revector import embedded

BACKENDS = 0.25
"""Share of the kills that hit one backend, upon which PostgreSQL ends all others and recovers by itself."""

NOTICED_S = 10.0

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class Outages:
    """An embedded PostgreSQL that is killed and comes back."""

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
