"""Where a project begins: which URLs are taken, what a failed `init` leaves, and what its messages tell to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from revector.cli import run
from revector.config import load_project
from revector.database.urls import database_url
from revector.errors import ConfigError, MissingExtension, SourceError
from revector.sources.sql import read_sql
from worlds import World

Init = Callable[..., tuple[int, str]]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """Run `revector init` on a database, in a new folder; its exit code and message."""

    def go(url: str, *more: str) -> tuple[int, str]:
        monkeypatch.setenv("REVECTOR_DATABASE_URL", url)
        code = run(["init", "--project", str(tmp_path / "new" / "project"), *more])
        return code, capsys.readouterr().err

    return go


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_urls_are_taken_as_people_write_them(scheme: str, empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url.replace("postgresql+psycopg", scheme)
    world = World(tmp_path, url)
    world.put(3)
    query = "SELECT doc_id FROM revector.document ORDER BY 1"
    assert [dict(row)["doc_id"] for _, row in read_sql(url, query)] == ["d00000", "d00001", "d00002"]
    world.engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        "://",
        "postgresql://u:pa55@host:abc/db",
        "postgresql://u:pa55@host:99999/db",
        "postgresql://u:pa55@[::1/db",
        "postgresql://u:pa55@host/db?sslmod=require",
        "postgresql://u:pa55@127.0.0.1:9/db?sslmode=perhaps",
        "postgresql://u:pa55@host/db?connect_timeout=abc",
        "mysql://u:pa55@host/db",
        "postgresql+asyncpg://u:pa55@host/db",
        "sqlite:///x.db",
        "http://u:pa55@host/",
    ],
)
def test_a_malformed_url_is_a_wrong_setting_and_shows_no_password(url: str, init: Init, tmp_path: Path) -> None:
    code, said = init(url)
    assert code == 2, said
    assert "database_url" in said
    assert "pa55" not in said
    assert not list(tmp_path.iterdir())


def test_a_failed_init_leaves_no_files_and_claims_no_committed_work(init: Init, tmp_path: Path) -> None:
    code, said = init("postgresql://nobody@127.0.0.1:9/none")
    assert code == 3
    assert not list(tmp_path.iterdir())
    assert "were removed again" in said
    assert "No table was made or changed" in said
    assert "Committed work" not in said


def test_a_failed_init_keeps_what_was_there_before_and_names_what_it_left(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "new" / "project"
    (root / "migrations").mkdir(parents=True)
    (root / "migrations" / "mine.txt").write_text("mine")

    def fill(*_: object) -> bool:
        (root / "migrations" / "docs" / "late.py").write_text("by someone else")
        raise ConfigError("no.")

    monkeypatch.setattr("revector.config.upgrade_schema", fill)
    code, said = init("postgresql://nobody@127.0.0.1:9/none")
    assert code == 2
    assert f"Left behind: {root / 'migrations' / 'docs'}." in said
    assert [path.name for path in root.iterdir()] == ["migrations"]
    assert (root / "migrations" / "mine.txt").read_text() == "mine"


def test_an_init_that_failed_succeeds_when_run_again(init: Init, empty_database_url: str, tmp_path: Path) -> None:
    assert init("postgresql://nobody@127.0.0.1:9/none")[0] == 3
    assert init(empty_database_url)[0] == 0
    assert (tmp_path / "new" / "project" / "migrations" / "docs").is_dir()


def test_who_may_not_make_the_extension_is_told_who_may(
    tmp_path: Path, empty_database_url: str, admin: sa.Engine
) -> None:
    """The owner of a database may create an extension that is trusted, and only that."""
    role = f"owner_{os.getpid()}"
    name = sa.make_url(empty_database_url).database
    with admin.connect() as connection:
        trusted = connection.scalar(
            sa.text("SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = 'vector'")
        )
        if trusted:
            pytest.skip("this server's pgvector is trusted: the owner of a database needs nobody")
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO {role}")
    try:
        url = sa.make_url(empty_database_url).set(username=role, password="secret")
        (tmp_path / "revector.toml").write_text(
            f'database_url = "{url.render_as_string(hide_password=False)}"\n[collections.docs]\n'
        )
        project = load_project(tmp_path)
        with pytest.raises(
            MissingExtension, match=rf"in the database {name} as a superuser: it is not marked as trusted"
        ):
            project.init()
        project.raw_engine.dispose()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_a_url_keeps_its_parts() -> None:
    given: dict[str, Any] = {
        "postgres://u:p%40ss@h:5433/db?sslmode=require": "postgresql+psycopg://u:p%40ss@h:5433/db?sslmode=require",
        "postgresql:///db?host=/tmp&port=5432": "postgresql+psycopg:///db?host=%2Ftmp&port=5432",
    }
    assert {url: database_url(url) for url in given} == given


def test_a_source_of_another_database_is_left_to_its_driver() -> None:
    with pytest.raises(SourceError, match="no SQLAlchemy URL"):
        list(read_sql("not a url", "SELECT 1"))
    assert list(read_sql("sqlite://", "SELECT 1 AS a")) == [("row 1", {"a": 1})]
