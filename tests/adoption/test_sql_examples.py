"""The applications of docs/examples with SQL of their own search through a swap and back, and hold no model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa
from evaluation.reliability.wire import Proxy

from adoption.conftest import ViewedApplication
from services import listening

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUESTION = "apple7 pear7 some words"
WAYS = ("view", "function")
Asked = Callable[[str], list[str]]


@pytest.fixture
def served(viewed: ViewedApplication, monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewedApplication]:
    url = sa.make_url(viewed.project.engine.url).set(drivername="postgresql")
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    with listening(viewed.project) as address:
        monkeypatch.setenv("REVECTOR_URL", address)
        yield viewed


def through_a_swap_and_back(application: ViewedApplication, asks: list[Asked]) -> None:
    """Ask before a swap, after it, and after the rollback; every answer is right, and of the model that serves."""
    migrator = application.project.migrator("articles")
    for move in (lambda: None, lambda: migrator.run("swap"), lambda: migrator.rollback("a test")):
        move()
        for ask in asks:
            assert ask(QUESTION)[0] == "7 apple7"


def test_an_application_in_psycopg_searches_through_a_swap_and_back(
    served: ViewedApplication, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.spec_from_file_location("psycopg_app", EXAMPLES / "psycopg_app.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    embedded = list[str]()
    embed = module.embed
    module.embed = lambda question: embedded.append(question) or embed(question)
    with module.psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        searches = [module.Search(connection, way) for way in WAYS]
        through_a_swap_and_back(served, [printing(search) for search in searches])
    assert len(embedded) == 3 * len(WAYS), "each embeds once for each model that it meets"
    module.main("view", QUESTION)
    assert capsys.readouterr().out.startswith("7 apple7\n")


def printing(search: Any) -> Asked:
    return lambda question: [f"{number} {title}" for number, title in search.ask(question)]


def driver() -> Path | None:
    """The JDBC driver: what ``$REVECTOR_TEST_JDBC`` names, or what Maven has fetched before."""
    if given := os.environ.get("REVECTOR_TEST_JDBC"):
        return Path(given)
    return next(iter(sorted(Path.home().glob(".m2/repository/org/postgresql/postgresql/*/*.jar"))), None)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("javac") is None:
        pytest.skip("no javac is there")
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run(["javac", "-Werror", "-Xlint", "-d", folder, EXAMPLES / "JdbcApp.java"], check=True)
    return folder


def test_the_application_in_java_compiles(compiled: Path) -> None:
    assert (compiled / "JdbcApp.class").exists()


def test_an_application_in_java_searches_through_a_swap_and_back(
    served: ViewedApplication, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (jar := driver()) is None:
        pytest.skip("neither REVECTOR_TEST_JDBC nor ~/.m2 has a JDBC driver")
    with Proxy(os.environ["DATABASE_URL"]) as proxy:  # JDBC knows no socket of Unix
        at = sa.make_url(proxy.url)
        how = {"user": at.username, "password": at.password or "", "sslmode": "disable", "gssEncMode": "disable"}
        monkeypatch.setenv("JDBC_URL", f"jdbc:postgresql://{at.host}:{at.port}/{at.database}?{urlencode(how)}")
        with ExitStack() as stack:
            command = ["java", "-cp", f"{compiled}:{jar}", "JdbcApp"]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
            running = [stack.enter_context(subprocess.Popen([*command, way], **pipes)) for way in WAYS]
            through_a_swap_and_back(served, [asking(one) for one in running])
            for one in running:
                one.stdin.close()
                assert one.wait(30) == 0


def asking(process: Any) -> Asked:
    """Ask by a line, and read rows up to an empty one."""

    def ask(question: str) -> list[str]:
        process.stdin.write(f"{question}\n")
        return [row.rstrip("\n") for row in iter(process.stdout.readline, "\n") if row or pytest.fail("it ended")]

    return ask
