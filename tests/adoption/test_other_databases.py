"""A table of another database becomes a collection: SQLite by its file, MySQL where a server is named."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from adoption.conftest import Application
from adoption.test_copies import COUNT, texts, vectors
from revector.adoption.presets import AdoptionRequest
from revector.cli import run
from revector.errors import ConfigError, SourceError
from revector.migration.adoption_plan import AdoptionPlan


def as_npy(vector: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, vector)
    return file.getvalue()


WRITTEN: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "float32": ("BLOB", lambda v: v.astype("<f4").tobytes(), "float32 in bytes"),
    "float64": ("BLOB", lambda v: v.astype("<f8").tobytes(), "float64 in bytes"),
    "float16": ("BLOB", lambda v: v.astype("<f2").tobytes(), "float16 in bytes"),
    "float32, big-endian": ("BLOB", lambda v: v.astype(">f4").tobytes(), "float32, big-endian in bytes"),
    "npy": ("BLOB", as_npy, ".npy files in bytes"),
    "json": ("TEXT", lambda v: json.dumps(v.tolist()), "text, such as [1,2]"),
    "json in bytes": ("BLOB", lambda v: json.dumps(v.tolist()).encode(), "text in bytes"),
    "pgvector's text": ("TEXT", lambda v: f"[{','.join(f'{x:.8g}' for x in v)}]", "text, such as [1,2]"),
    "numpy's text": ("TEXT", lambda v: np.array2string(v, threshold=10_000), "text, such as [1,2]"),
}


class Shop:
    """An application with a SQLite of its own."""

    def __init__(self, root: Path, kind: str = "float32") -> None:
        self.path, self.url = root / "shop.db", f"sqlite:///{root / 'shop.db'}"
        column, self._written, self.form = WRITTEN[kind]
        self.sql(
            f"CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT, lang TEXT, embedding {column})"
        )
        for n, vector in enumerate(vectors(texts())):
            title, body = texts()[n].split(" ", 1)
            row = (n, title, body, "de" if n % 4 == 0 else "en", self._written(vector))
            self.sql("INSERT INTO articles VALUES (?, ?, ?, ?, ?)", *row)

    def sql(self, statement: str, *values: Any) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(statement, values)

    def request(self, **changes: Any) -> AdoptionRequest:
        given = {"source": self.url, "table": "articles", "model": "hashing", "text": ("title", "body")}
        return AdoptionRequest(**{**given, **changes})


def plan(application: Application, request: AdoptionRequest) -> AdoptionPlan:
    return application.project.adopter("articles").plan(request)


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_vectors_of_a_column_are_read_however_they_are_written(
    application: Application, tmp_path: Path, kind: str
) -> None:
    shop = Shop(tmp_path, kind)
    found = plan(application, shop.request())
    assert (found.proof.verdict, found.embeds, found.look.terms.id) == ("same", 0, ("id",))
    assert (found.as_data()["vector_form"], found.look.terms.vector) == (shop.form, "embedding")


def test_a_table_of_another_database_is_adopted_by_one_command(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop(tmp_path)
    shop.sql("UPDATE articles SET embedding = NULL WHERE id = 1")
    monkeypatch.chdir(application.root)
    command = ("adopt", shop.url, "--table", "articles", "--text", "title,body", "--meta", "lang", "--model", "hashing")
    assert run((*command, "--where", "lang = 'en'", "--yes", "--json")) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["collection"], done["documents"], done["reused"]) == ("articles", 30, 29)
    assert application.documents()["7"] == ("apple7\npear7 some words here", {"lang": "en"})
    assert application.search("apple1 pear1", 1) == ["1"]
    assert application.project.verify("articles").passed


def test_a_password_is_kept_nowhere_and_asked_for_again(application: Application, tmp_path: Path) -> None:
    """SQLite takes no password; the project's own PostgreSQL stands for any server."""
    application.create(5)
    role = application.sql("SELECT current_user")[0][0]
    url = application.engine.url.set(drivername="postgresql", username=role, password="hidden")  # any will do
    request = AdoptionRequest(
        source=url.render_as_string(hide_password=False), table="public.articles", model="hashing",
        text=("title", "body"), vector="embedding",
    )  # fmt: skip
    adopter = application.project.adopter("articles")
    adopter.begin(adopter.plan(request))
    kept = "SELECT CAST(jsonb_agg(a) AS text) || (SELECT CAST(jsonb_agg(e) AS text) FROM revector.event e)"
    stored = application.sql(f"{kept} FROM revector.adoption a")[0][0]
    assert "***" in stored
    assert "hidden" not in stored
    with pytest.raises(ConfigError, match="is not kept"):
        adopter.resume()
    assert adopter.resume(request).reused == 5


def test_a_composite_key_names_rows(application: Application, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.sql("CREATE TABLE pages (site TEXT, n INTEGER, body TEXT, PRIMARY KEY (site, n))")
    shop.sql("INSERT INTO pages VALUES ('a/b', 1, 'quince'), ('a', 2, 'pear')")
    adopter = application.project.adopter("articles")
    report = adopter.run(adopter.plan(shop.request(table="pages", text=("body",))))
    assert (report.documents, report.reused) == (2, 0)
    assert set(application.documents()) == {"a%2Fb/1", "a/2"}


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no such table": ({"table": "absent"}, SourceError, "has no table absent; there are: articles"),
    "no such column": ({"text": ("absent",)}, ConfigError, "has no column 'absent'; it has 'id', 'title'"),
    "no such file": ({"source": "sqlite:////nowhere/shop.db"}, SourceError, "there is no file /nowhere/shop.db"),
    "no table named": ({"table": ""}, ConfigError, "name it with --table"),
    "no text": ({"text": ()}, ConfigError, "pear"),
    "a driver that is missing": ({"source": "oracle+nothing://h/x"}, SourceError, "needs a Python package"),
    "no URL": ({"source": "://"}, SourceError, "is no SQLAlchemy URL"),
    "a condition that is none": ({"where": "lang ="}, SourceError, "the query failed"),
    "a condition that nothing meets": ({"where": "lang = 'xx'"}, ConfigError, "holds no rows"),
    "a vector that is text": ({"vector": "lang"}, ConfigError, "and no vectors"),
    "a framework's name": ({"like": "django"}, ConfigError, "--like is for tables"),
    "texts elsewhere": ({"texts": "a.csv"}, ConfigError, "--texts is for files of arrays"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_adopted_is_refused_before_anything_changes(
    application: Application, tmp_path: Path, name: str
) -> None:
    changes, kind, said = BAD[name]
    shop = Shop(tmp_path)
    if name == "no text":
        shop.sql("ALTER TABLE articles RENAME COLUMN body TO pear")
    with pytest.raises(kind) as caught:
        plan(application, shop.request(**changes))
    assert said in str(caught.value)
    assert "Nothing was" in str(caught.value)
    assert not Path("/nowhere").exists()


def test_without_its_driver_a_database_is_refused_with_the_package_that_is_missing(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)  # as where it is not installed
    with pytest.raises(SourceError, match=r"pip install 'revector\[mysql\]'"):
        plan(application, Shop(tmp_path).request(source="mysql://root@127.0.0.1/shop"))


@pytest.mark.skipif("REVECTOR_TEST_MYSQL_URL" not in os.environ, reason="no $REVECTOR_TEST_MYSQL_URL")
@pytest.mark.parametrize("kind", ["float32", "json"])
def test_a_table_of_mysql_is_adopted(application: Application, kind: str) -> None:
    url, (_, written, form) = os.environ["REVECTOR_TEST_MYSQL_URL"], WRITTEN[kind]
    engine = sa.create_engine(url.replace("mysql://", "mysql+pymysql://"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS articles"))
        column = "JSON" if kind == "json" else "BLOB"
        connection.execute(
            sa.text(
                f"CREATE TABLE articles (id INT PRIMARY KEY, `text` TEXT CHARACTER SET utf8mb4, embedding {column})"
            )
        )
        every = [f"{text} Größe 名" for text in texts()]
        for n, vector in enumerate(vectors(every)):
            row = {"n": n, "text": every[n], "v": written(vector)}
            connection.execute(sa.text("INSERT INTO articles VALUES (:n, :text, :v)"), row)
    request = AdoptionRequest(source=url, table="articles", model="hashing")
    adopter = application.project.adopter("articles")
    found = adopter.plan(request)
    adopter.begin(found)
    report = adopter.resume(request)
    assert (report.documents, found.as_data()["vector_form"]) == (COUNT, form)
    assert application.documents()["7"][0] == every[7]
    engine.dispose()
