"""Applications on tables that their framework's own package makes and writes, as its guide says.

Each embeds by the hashing encoder, through its framework's own interface for models. Import it where all are installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import django
import sqlalchemy as sa
from django.conf import settings
from langchain_core.embeddings import Embeddings
from langchain_postgres import Column, PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.vector_stores.postgres import PGVectorStore as LlamaIndexStore

from adoption.conftest import MODEL, Application
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import whole_texts

DIM = MODEL.dim


def text_of(n: int) -> str:
    return f"apple{n} pear{n} some words here"


def lang_of(n: int) -> str:
    return "de" if n % 4 == 0 else "en"


def embed(texts: Iterable[str]) -> list[list[float]]:
    return [row.tolist() for row in HashingEncoder(MODEL).encode("document", whole_texts(list(texts)))]


class LangChainModel(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:
        return embed([text])[0]


class LlamaIndexModel(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]


class Framework(ABC):
    """One application: the table that it has, and what it does with it. ``words``: of the command line, if any."""

    like: ClassVar[str]
    table: ClassVar[str]
    words: tuple[str, ...] = ()

    def __init__(self, application: Application) -> None:
        self.application = application
        self.url = sa.make_url(application.project.database_url)

    def address(self, driver: str) -> str:
        return self.url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)

    @abstractmethod
    def fill(self, numbers: Sequence[int]) -> None:
        """Write ``text_of`` of each, with its language as metadata."""

    @abstractmethod
    def update(self, n: int, text: str) -> None:
        """Write another text in place of ``text_of(n)``."""

    @abstractmethod
    def delete(self, n: int) -> None:
        """Delete what has ``text_of(n)``."""

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        """Return text and metadata of the document that ``n`` must have become; of the latter, what is looked at."""
        return text_of(n), {"lang": lang_of(n)}

    def close(self) -> None:  # noqa: B027
        """Let go of connections, where it holds any."""


class LangChainPGVector(Framework):
    """``PGVector``: one table for all collections."""

    like, table = "langchain", "langchain_pg_embedding"

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        self.store = PGVector(LangChainModel(), connection=self.address("psycopg"), collection_name="docs")

    def fill(self, numbers: Sequence[int]) -> None:
        metas = [{"lang": lang_of(n)} for n in numbers]
        self.store.add_texts([text_of(n) for n in numbers], metas, ids=[f"doc-{n}" for n in numbers])

    def update(self, n: int, text: str) -> None:
        self.store.add_texts([text], [{"lang": "en"}], ids=[f"doc-{n}"])

    def delete(self, n: int) -> None:
        self.store.delete([f"doc-{n}"])

    def close(self) -> None:
        self.store._engine.dispose()


class LangChainPGVectorStore(Framework):
    """``PGVectorStore``: a table of its own, with columns of metadata beside that for the rest."""

    like, table = "langchain", "articles_v2"
    options: ClassVar[dict[str, Any]] = {}
    hybrid: HybridSearchConfig | None = None

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        self.engine = PGEngine.from_connection_string(self.address("psycopg"))
        columns: list[Any] = [Column("lang", "TEXT"), Column("views", "INTEGER")]
        self.engine.init_vectorstore_table(
            self.table, DIM, metadata_columns=columns, hybrid_search_config=self.hybrid, **self.options
        )
        self.store = PGVectorStore.create_sync(
            self.engine,
            LangChainModel(),
            self.table,
            metadata_columns=["lang", "views"],
            hybrid_search_config=self.hybrid,
        )

    @staticmethod
    def _id(n: int) -> str:
        return f"6f1c0c2e-0000-4000-8000-{n:012}"

    def fill(self, numbers: Sequence[int]) -> None:
        metas = [{"lang": lang_of(n), "views": n, "source": f"file{n}"} for n in numbers]
        self.store.add_texts([text_of(n) for n in numbers], metas, ids=[self._id(n) for n in numbers])

    def update(self, n: int, text: str) -> None:
        self.store.add_texts([text], [{"lang": "en"}], ids=[self._id(n)])

    def delete(self, n: int) -> None:
        self.store.delete([self._id(n)])

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        return text_of(n), {"lang": lang_of(n), "views": n, "source": f"file{n}"}

    def close(self) -> None:
        self.engine._run_as_sync(self.engine.close())


class LangChainHybrid(LangChainPGVectorStore):
    """The same for hybrid search, which adds a column, and without a column for the rest of the metadata."""

    table = "articles_hybrid"
    options: ClassVar[dict[str, Any]] = {"store_metadata": False}

    def __init__(self, application: Application) -> None:
        self.hybrid = HybridSearchConfig()
        super().__init__(application)

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        return text_of(n), {"lang": lang_of(n), "views": n}


class LlamaIndexPlain(Framework):
    """``PGVectorStore`` of LlamaIndex, which embeds a node's metadata with its text."""

    like, table = "llamaindex", "data_articles"
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        self.store = LlamaIndexStore(
            connection_string=self.address("psycopg2"),
            async_connection_string=self.address("asyncpg"),
            table_name="articles",
            embed_dim=DIM,
            **self.options,
        )
        context = StorageContext.from_defaults(vector_store=self.store)
        self.index = VectorStoreIndex([], storage_context=context, embed_model=LlamaIndexModel())

    def document(self, n: int, text: str) -> Document:
        """As readers of files make them: some of the metadata is not for the model."""
        meta = {"file_path": f"/docs/{n}.md", "lang": lang_of(n), "draft": n % 2 == 0, "tags": ["a", "b"], "size": n}
        return Document(
            doc_id=f"doc-{n}", text=text, metadata={**meta, "note": None}, excluded_embed_metadata_keys=["size"]
        )

    def fill(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            self.index.insert(self.document(n, text_of(n)))

    def update(self, n: int, text: str) -> None:
        self.index.update_ref_doc(self.document(n, text))

    def delete(self, n: int) -> None:
        self.index.delete_ref_doc(f"doc-{n}")

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        said = f"file_path: /docs/{n}.md\nlang: {lang_of(n)}\ndraft: {n % 2 == 0}\ntags: ['a', 'b']\nnote: None"
        return f"{said}\n\n{text_of(n)}", {"lang": lang_of(n), "ref_doc_id": f"doc-{n}"}

    def close(self) -> None:
        if self.store._engine is not None:
            self.store._engine.dispose()


class LlamaIndexHybrid(LlamaIndexPlain):
    """The same for hybrid search, with metadata as jsonb and vectors in half precision."""

    table = "data_articles"
    options: ClassVar[dict[str, Any]] = {"hybrid_search": True, "use_jsonb": True, "use_halfvec": True}


class DjangoApplication(Framework):
    """A model with pgvector's field, whose vectors are of its title and body."""

    like, table = "django", "blog_post"

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        host = self.url.host or str(self.url.query["host"])
        database = {
            "ENGINE": "django.db.backends.postgresql", "NAME": self.url.database, "USER": self.url.username or "",
            "PASSWORD": self.url.password or "", "HOST": host, "PORT": str(self.url.port or ""),
        }  # fmt: skip
        if not settings.configured:
            settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
            django.setup()
        from django.db import connections

        connections["default"].close()
        connections["default"].settings_dict.update(database)
        self.model = _post()
        with connections["default"].schema_editor() as editor:
            editor.create_model(self.model)

    def fill(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            title, body = text_of(n).split(" ", 1)
            self.model.objects.create(
                title=title, slug=f"s-{n}", body=body, lang=lang_of(n), embedding=embed([f"{title}\n{body}"])[0]
            )

    def update(self, n: int, text: str) -> None:
        post = self.model.objects.get(slug=f"s-{n}")
        post.title, post.body = text.split(" ", 1)
        post.save()

    def delete(self, n: int) -> None:
        self.model.objects.filter(slug=f"s-{n}").delete()

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        return text_of(n).replace(" ", "\n", 1), {"lang": lang_of(n), "slug": f"s-{n}"}

    def close(self) -> None:
        from django.db import connections

        connections["default"].close()


def _post() -> Any:
    from django.db import models
    from pgvector.django import VectorField

    if "post" not in _MODELS:

        class Post(models.Model):  # noqa: DJ008
            title = models.CharField(max_length=200)
            slug = models.SlugField(unique=True)
            body = models.TextField()
            lang = models.CharField(max_length=8)
            created = models.DateTimeField(auto_now_add=True)
            embedding = VectorField(dimensions=DIM)

            class Meta:
                app_label = "blog"

        _MODELS["post"] = Post
    return _MODELS["post"]


_MODELS: dict[str, Any] = {}


class Pgai(Framework):
    """The table that pgai's ``create_vectorizer`` makes; its worker's statements are written as it writes them."""

    like, table = "pgai", "blog_embedding_store"

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        plain = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        subprocess.run([sys.executable, "-m", "pgai", "install", "-d", plain], check=True, capture_output=True)
        application.sql("CREATE TABLE public.blog (id int PRIMARY KEY, lang text, body text)")
        application.sql(
            "SELECT ai.create_vectorizer('public.blog', loading => ai.loading_column('body'), embedding => "
            "ai.embedding_ollama('hashing', :dim), destination => ai.destination_table('blog_embedding'))",
            dim=DIM,
        )

    def fill(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            self.application.sql("INSERT INTO public.blog VALUES (:n, :lang, '')", n=n, lang=lang_of(n))
            self._embedded(n, text_of(n))

    def _embedded(self, n: int, text: str) -> None:
        """Do as the worker: what there was of a row is deleted, its chunks are written."""
        vector = self.application.vector(text)
        self.application.sql(f"DELETE FROM {self.table} WHERE id = :n", n=n)
        self.application.sql(
            f"INSERT INTO {self.table} (id, chunk_seq, chunk, embedding) VALUES (:n, 0, :text, CAST(:v AS vector))",
            n=n, text=text, v=vector,
        )  # fmt: skip

    def update(self, n: int, text: str) -> None:
        self._embedded(n, text)

    def delete(self, n: int) -> None:
        self.application.sql(f"DELETE FROM {self.table} WHERE id = :n", n=n)

    def expected(self, n: int) -> tuple[str, dict[str, Any]]:
        return text_of(n), {"id": n, "chunk_seq": 0}


class VecShift(Framework):
    """A table that VecShift is migrating: beside the column that is searched is one that it filled."""

    like, table = "vecshift", "documents"

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        application.sql(
            "CREATE TABLE public.documents (id bigint PRIMARY KEY, content text, metadata jsonb, "
            f"embedding vector({DIM}))"
        )
        self.applied = False

    def vecshift(self, *words: str) -> None:
        """Run it as its guide says."""
        root = self.application.root
        (root / "vecshift.yaml").write_text(
            "version: 1\nname: test\nsource:\n  type: pgvector\n  table: public.documents\n"
            '  vector_column: embedding\ntarget:\n  column: embedding_v2\nmodel: "hash/48"\n'
        )
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        command = [sys.executable, "-c", "from vecshift.cli import app; app()", *words, "--yes"]
        done = subprocess.run(
            command, cwd=root, env=os.environ | {"VECSHIFT_DSN": dsn}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def fill(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            meta, vector = json.dumps({"lang": lang_of(n)}), self.application.vector(text_of(n))
            self.application.sql(
                "INSERT INTO public.documents (id, content, metadata, embedding) VALUES (:n, :text, "
                "CAST(:meta AS jsonb), CAST(:v AS vector))", n=n, text=text_of(n), meta=meta, v=vector,
            )  # fmt: skip
        if not self.applied:
            self.vecshift("apply")
            self.applied = True

    def update(self, n: int, text: str) -> None:
        self.application.sql("UPDATE public.documents SET content = :text WHERE id = :n", n=n, text=text)

    def delete(self, n: int) -> None:
        self.application.sql("DELETE FROM public.documents WHERE id = :n", n=n)


FRAMEWORKS: tuple[type[Framework], ...] = (
    LangChainPGVector, LangChainPGVectorStore, LangChainHybrid, LlamaIndexPlain, LlamaIndexHybrid, DjangoApplication,
    Pgai, VecShift,
)  # fmt: skip
