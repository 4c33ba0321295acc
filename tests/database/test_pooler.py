"""Behind PgBouncer, where each transaction may run in another session of the server, everything works as direct."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import OperationalError, connect

from revector.cli.doctor import examine
from revector.database import sessions
from revector.database.engine import make_engine
from revector.history.news import only_teller
from revector.interfaces import Document
from revector.rehearsal.scratch import leftovers
from revector.upkeep.rereading import reread_source
from worlds import World

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (Debian: apt install pgbouncer)")

ROLE = "somebody_else"
"""Not ``revector``: with that name PostgreSQL's own search_path would find our schema by luck."""


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


REFUSES, DROPS = "", "ignore_startup_parameters = options"
dropping = pytest.mark.parametrize("through", [pytest.param(DROPS, id="drops")], indirect=True)
"""A connection that was refused is made again without our settings: from then on, all is the same."""


@pytest.fixture(scope="module", params=[REFUSES, DROPS], ids=["refuses", "drops"])
def through(
    request: pytest.FixtureRequest, server: sa.URL, admin: sa.Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """Turns a URL into one that goes through PgBouncer, which refuses or drops our settings at the start."""
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP ROLE IF EXISTS {ROLE}")
        connection.exec_driver_sql(f"CREATE ROLE {ROLE} SUPERUSER LOGIN PASSWORD 'x'")
    folder, port = tmp_path_factory.mktemp("pooler"), _free_port()
    place = server.query.get("host", server.host)
    owner = Path(str(place)).stat().st_uid if str(place).startswith("/") else os.geteuid()
    settings = folder / "pgbouncer.ini"
    # Another session of the server for each transaction, if there is one: what is kept in a session is lost at once.
    settings.write_text(
        f"[databases]\n* = host={place} port={server.query.get('port') or server.port or 5432} user={ROLE} password=x\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 3\ndefault_pool_size = 12\n{request.param}\n"
    )
    folder.chmod(0o755)
    for parent in folder.parents[:3]:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o755)
    assert PGBOUNCER is not None
    run_as: dict[str, Any] = {"user": owner} if os.geteuid() == 0 else {}
    process = subprocess.Popen([PGBOUNCER, "-q", str(settings)], **run_as)
    try:
        _wait_for(port)

        def turned(url: str) -> str:
            made = sa.make_url(url)
            pooled = sa.URL.create(made.drivername, ROLE, "x", "127.0.0.1", port, made.database)
            return pooled.render_as_string(hide_password=False)

        yield turned
    finally:
        process.terminate()
        process.wait(20)
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP ROLE {ROLE}")


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            connect(f"host=127.0.0.1 port={port} user={ROLE} dbname=postgres", connect_timeout=5).close()
            return
        except OperationalError:
            assert time.monotonic() < deadline, "PgBouncer did not answer"
            time.sleep(0.05)


@pytest.fixture
def pooled(tmp_path: Path, databases: Any, template: str, through: Callable[[str], str]) -> Iterator[World]:
    name = databases.create(template)
    world = World(tmp_path, through(databases.url(name)))
    with ExitStack() as stack:  # at once, so that PgBouncer has several sessions of the server to lend
        for _ in range(4):
            stack.enter_context(world.engine.connect()).execute(sa.text("SELECT 1"))
    yield world
    world.engine.dispose()
    with databases._admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
    databases.drop(name)


def test_every_transaction_has_its_settings_and_leaves_none_behind(pooled: World) -> None:
    seen = set()
    for _ in range(12):
        with pooled.engine.connect() as connection:
            assert sessions.is_pooled(connection)
            seen.add(connection.scalar(sa.text("SELECT pg_backend_pid()")))
            for name, value in {
                "search_path": "revector,public,extensions",
                "plan_cache_mode": "force_custom_plan",
                "idle_in_transaction_session_timeout": "30s",
            }.items():
                assert connection.scalar(sa.text("SELECT current_setting(:name)"), {"name": name}) == value
    assert len(seen) > 1, "PgBouncer lent one session only, and the test shows nothing"
    url = sa.make_url(pooled.database_url)
    for _ in range(12):
        with connect(host=url.host, port=url.port, user=ROLE, dbname=url.database) as other:
            assert other.execute("SHOW search_path").fetchone() == ('"$user", public',)
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_a_direct_connection_pays_nothing_for_it(world: World) -> None:
    said: list[str] = []
    sa.event.listen(world.engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    with world.engine.connect() as connection:
        assert not sessions.is_pooled(connection)
        assert connection.scalar(sa.text("SHOW search_path")) == "revector,public,extensions"
    assert said == ["SHOW search_path"]


@dropping
@pytest.mark.slow
def test_everyday_work_does_the_same_through_a_pooler(pooled: World, webhook: Any) -> None:
    url, heard = webhook
    pooled.project.settings.alerts.webhook = url
    pooled.documents.ingest(_Lines(120), actor="tester")
    pooled.revision(
        "c300", "b200", 'model = ModelSpec(name="hashing:seed2", dim=64)', 'index = IndexSpec(storage="halfvec")'
    )
    pooled.revision(
        "d400",
        "c300",
        'model = ModelSpec(name="hashing:seed2", dim=64)',
        'index = IndexSpec(quantize="bit")',
        "gate = Gate(max_drop=0.5, min_overlap=0)",
    )
    pooled.upgrade("a100")
    pooled.put(30, 200, colour="red")
    pooled.documents.delete("d00003")
    pooled.settle()
    assert pooled.search("apple200 pear200", 1, where={"colour": "red"}) == ["d00200"]
    assert pooled.project.rehearsal("docs").run("b200", size=100) is not None
    assert leftovers(pooled.engine) == []
    pooled.upgrade("b200")
    assert {one["event"]["kind"] for one in heard} >= {"gate", "swap"}
    pooled.migrator.rollback("try")
    assert pooled.search("apple7 pear7", 1) == ["d00007"]
    pooled.upgrade("b200")
    pooled.migrator.retire("done", now=True)
    for revision in ("c300", "d400"):
        pooled.upgrade(revision)
        pooled.migrator.retire("done", now=True)
        assert pooled.search("apple7 pear7", 1) == ["d00007"]
    assert pooled.project.verify("docs").passed
    pooled.project.canary("docs")
    pooled.project.status("docs", recount=True)


@dropping
def test_a_source_is_read_again_through_a_pooler_and_its_index_follows(pooled: World) -> None:
    pooled.put(70)
    pooled.documents.delete("d00003")
    pooled.upgrade("a100")
    found = reread_source(pooled.engine, pooled.collection.cid, pooled.documents, _Lines(100), actor="tester")
    assert (found.read, found.changed, found.unchanged) == (100, 31, 69)
    pooled.settle()
    assert pooled.differences(pooled.generation()) == []
    tables = pooled.sql("SELECT relname FROM pg_class WHERE relname ~ '^(idx_|ledger_g)' AND relkind = 'r'")
    assert len(tables) == 2, "what was retired is gone"
    assert list(pooled.project.metrics().collect())


class _Lines:
    """A source of so many documents."""

    def __init__(self, count: int) -> None:
        self.name, self._count = "lines", count

    def __iter__(self) -> Iterator[Document]:
        for n in range(self._count):
            yield Document(f"d{n:05d}", f"apple{n} pear{n} some words here number {n}", {"n": n})


def test_a_lock_is_held_through_a_pooler_until_its_holder_goes(pooled: World) -> None:
    with only_teller(pooled.engine, 1) as first:
        assert first is not None
        for _ in range(12):
            with only_teller(pooled.engine, 1) as second:
                assert second is None
    with only_teller(pooled.engine, 1) as third:
        assert third is not None


def test_an_ingestion_that_fails_through_a_pooler_leaves_nothing(pooled: World) -> None:
    class Torn(_Lines):
        def __iter__(self) -> Iterator[Document]:
            yield from super().__iter__()
            raise RuntimeError("the disk went away")

    with pytest.raises(RuntimeError, match="the disk went away"):
        pooled.documents.ingest(Torn(50), actor="tester")
    assert pooled.value("SELECT count(*) FROM document") == 0
    assert pooled.documents.ingest(_Lines(50), actor="tester").written == 50


def test_doctor_says_that_a_pooler_is_between(pooled: World) -> None:
    said = next(check.detail for check in examine(pooled.project) if check.name == "database")
    assert "through a pooler" in said
    assert "maintenance_work_mem" in said


def test_settings_of_the_url_are_kept_beside_ours(world: World) -> None:
    url = sa.make_url(world.database_url).update_query_dict({"options": "-cwork_mem=7MB"})
    engine = make_engine(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW work_mem")) == "7MB"
        assert connection.scalar(sa.text("SHOW search_path")) == "revector,public,extensions"
    engine.dispose()
