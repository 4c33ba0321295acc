"""A database that takes no writes: a real hot standby, and a primary that was switched to read-only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from revector.cli import run
from revector.database.engine import make_engine
from revector.encoders.api.limits import Use
from revector.errors import DatabaseReadOnly
from revector.registry.spending import SpendingMeter, spent
from services import DOCUMENT, SEARCH, UPLOAD, key_for, refused, serve, until
from worlds import World

SAME = ("max_connections", "max_worker_processes", "max_wal_senders", "max_locks_per_transaction")
"""Settings of the primary that a standby needs at least."""


class Standby:
    """A world whose database is a hot standby of another's server, and what that server logged."""

    def __init__(self, primary: World, folder: Path, root: Path) -> None:
        data = Path(primary.value("SHOW data_directory"))
        if sys.platform != "linux" or not data.is_dir():
            pytest.skip("the server's binaries are found through /proc, on this machine")
        pid, owner = int((data / "postmaster.pid").read_text().split()[0]), data.stat()
        self._binaries = Path(f"/proc/{pid}/exe").resolve().parent
        if not (self._binaries / "pg_basebackup").is_file():
            pytest.skip("this PostgreSQL comes without pg_basebackup")
        self._as = {} if os.getuid() == owner.st_uid else {"user": owner.st_uid, "group": owner.st_gid}
        self._folder, self._log = folder, folder / "log"
        os.chown(folder, owner.st_uid, owner.st_gid)
        settings = {name: primary.value(f"SHOW {name}") for name in SAME}
        here = sa.make_url(primary.database_url)
        self._copy(here)
        self._process = self._start(settings)
        self.url = here.update_query_dict({"host": str(folder), "port": "5432"}).set(port=None)
        self._catch_up(primary)
        self.world = World(root, self.url.render_as_string(hide_password=False))

    def _copy(self, primary: sa.URL) -> None:
        query, port = primary.query, primary.query.get("port") or primary.port or 5432
        where = ["-h", str(query.get("host") or primary.host), "-p", str(port), "-U", str(primary.username)]
        command = [str(self._binaries / "pg_basebackup"), *where, "-D", str(self._folder / "data"), "-X", "stream"]
        subprocess.run([*command, "-R", "-c", "fast"], check=True, timeout=300, cwd="/", **self._as)  # type: ignore[call-overload]

    def _start(self, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        given = {**settings, "listen_addresses": "", "port": "5432", "unix_socket_directories": str(self._folder)}
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), *options]
        with self._log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)  # type: ignore[call-overload, no-any-return]

    def _catch_up(self, primary: World) -> None:
        wanted = primary.value("SELECT pg_current_wal_lsn()")
        question = "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= CAST(%s AS pg_lsn)"

        def there() -> bool:
            assert self._process.poll() is None, self.log
            try:
                plain = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
                with psycopg.connect(plain) as connection:
                    return bool(connection.execute(question, [wanted]).fetchone()[0])  # type: ignore[index]
            except psycopg.OperationalError:
                return False

        until(there, 120)

    @property
    def log(self) -> str:
        """What the standby's server said."""
        return self._log.read_text()

    def end(self) -> None:
        """Stop the server."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)


@pytest.fixture
def standby(served: World, tmp_path: Path) -> Iterator[Standby]:
    key_for(served, "read")
    folder = Path(tempfile.mkdtemp(prefix="revector-standby-", dir="/tmp"))
    found = None
    try:
        root = tmp_path / "standby"
        root.mkdir()
        found = Standby(served, folder, root)
        yield found
        found.world.engine.dispose()
    finally:
        if found is not None:
            found.end()
        shutil.rmtree(folder)


def test_a_hot_standby_is_ready_answers_all_that_reads_and_refuses_writes(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revector.service.state.BEAT_S", 0.05)
    with serve(standby.world.project) as client:
        until(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == {"status": "ready", "database": "standby", "writes": False}
        for asked in (
            {"query": "apple7 pear7"},
            {"query": "apple7 pear7", "where": {"n": {"gte": 5}}},
            {"like": "d00008"},
        ):
            assert len(client.post(SEARCH, json={**asked, "k": 3}).json()["hits"]) == 3
        for path in (DOCUMENT, "/collections/docs", "/metrics"):
            assert client.get(path).status_code == 200
        time.sleep(0.3)  # so that it would have been heard of
        assert "cannot execute" not in standby.log  # nothing that reads has tried to write
        for answer in (
            client.put(DOCUMENT, json={"text": "new"}),
            client.delete(DOCUMENT),
            client.post(UPLOAD, content=b'{"id": "a", "text": "a"}', headers={"content-type": "application/x-ndjson"}),
        ):
            assert "primary" in refused(answer, 503, "DatabaseReadOnly")
            assert answer.json()["retryable"]
    monkeypatch.chdir(standby.world.root)
    for command in (
        ["search", "apple7"],
        ["get", "d00007"],
        ["status"],
        ["history", "--check"],
        ["dlq", "list"],
        ["keys", "list"],
    ):
        assert run(command) == 0, command
    assert run(["document", "put", "d00007", "--text", "new"]) == 3
    assert run(["keys", "create", "x", "--scope", "read"]) == 3


@pytest.fixture
def fixed(served: World) -> World:
    """``served``, whose database was switched to read-only."""
    served.collection  # noqa: B018 - opens it before
    name = sa.make_url(served.database_url).database
    served.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    served.engine.dispose()
    return served


def test_a_database_that_was_switched_to_read_only_serves_reads_and_says_so(fixed: World) -> None:
    with serve(fixed.project) as client:
        until(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == {"status": "ready", "database": "read-only", "writes": False}
        assert client.post(SEARCH, json={"query": "apple7 pear7"}).json()["hits"][0]["id"] == "d00007"
        refused(client.put(DOCUMENT, json={"text": "new"}), 503, "DatabaseReadOnly")
    with pytest.raises(DatabaseReadOnly, match="Nothing was changed"):
        fixed.documents.put("d00007", "new")


def test_a_primary_is_said_to_be_one(served: World) -> None:
    with serve(served.project) as client:
        until(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == {"status": "ready", "database": "primary", "writes": True}


def test_what_queries_cost_beside_a_standby_is_counted_against_the_cap_and_written_later(fixed: World) -> None:
    meter = SpendingMeter(lambda: engine)
    engine = fixed.engine
    assert meter.charge("openai", Use(1, 10, 0.6), caps={"max_spend_usd": 1.0}) == (None, Use(1, 10, 0.6))
    assert meter.charge("openai", Use(1, 10, 0.6), caps={"max_spend_usd": 1.0}) == ("max_spend_usd", Use(1, 10, 0.6))
    assert meter.charge("openai", Use(1, 10, 0.3), caps={"max_spend_usd": 1.0})[0] is None
    engine = writable(fixed)
    assert meter.charge("openai", Use(1, 10, 0.05), caps={"max_spend_usd": 1.0})[0] is None
    with engine.connect() as connection:
        assert spent(connection)[0]["usd"] == pytest.approx(0.95)
        assert spent(connection)[0]["requests"] == 3
    engine.dispose()


def writable(world: World) -> sa.Engine:
    """An engine after the database was switched back."""
    name = sa.make_url(world.database_url).database
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    return make_engine(world.database_url)
