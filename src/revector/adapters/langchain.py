"""LangChain over a collection: a vector store, a retriever and embeddings that follow the swap (extra `langchain`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field

from revector.adapters.collection import OpenCollection, no_more
from revector.adapters.serving import guard, opened
from revector.config import Project
from revector.errors import ConfigError, StateError
from revector.interfaces import Document as Stored
from revector.serving.asked import MinScore
from revector.serving.embedding import embed
from revector.serving.searcher import Answer
from revector.stores.metrics import cosine_of


class RevectorEmbeddings(Embeddings):
    """The model that serves a collection at the time of each call, as LangChain's embeddings."""

    def __init__(self, collection: str = "docs", *, project: Project | Path | str | None = None) -> None:
        self._searcher = opened(project).searcher(collection)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as documents; raises as ``serving.embedding.embed``."""
        return [row.tolist() for row in embed(self._searcher, texts, "document").vectors]

    def embed_query(self, text: str) -> list[float]:
        """Embed a query; raises as ``serving.embedding.embed``."""
        vector: list[float] = embed(self._searcher, [text], "query").vectors[0].tolist()
        return vector


class RevectorStore(VectorStore):
    """A collection as LangChain's vector store. Texts go in; which model embeds them is the migration files' business.

    ``content``: what a hit's ``page_content`` is, the whole document as it was put, or the chunk that was found.
    ``wait_s``: how long adding waits until searches show the texts (`revector worker` embeds them), None: not at all;
    then ``NotCaughtUp`` is raised, and the texts are stored. ``embedding``: a model that the application still has
    configured; it is only proved to be the one that serves, see ``guard``, and allows searches by its vectors until a
    swap. Filters and ``min_score``, a number or the name of a cut-off, are those of ``Searcher.search``.
    """

    def __init__(
        self,
        collection: str = "docs",
        *,
        project: Project | Path | str | None = None,
        embedding: Embeddings | None = None,
        content: Literal["document", "chunk"] = "document",
        wait_s: float | None = 60.0,
    ) -> None:
        self._opened, self._content = OpenCollection(collection, project, wait_s), content
        self.project, self.collection = self._opened.project, collection
        self._proved = None
        if embedding is not None:
            self._proved = guard(collection, embedding.embed_documents, project=self.project).encoder_fp

    @property
    def embeddings(self) -> RevectorEmbeddings:
        """The model that serves, whichever that is when it is called."""
        return RevectorEmbeddings(self.collection, project=self.project)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Put texts, each under its id or a new one, and return the ids.

        The same id again replaces the text. Raises ``DocumentError`` for what cannot be stored, and stores nothing of
        its batch of 500; ``ValueError`` where the lists are not of one length.
        """
        no_more(kwargs)
        texts = list(texts)
        metas: Sequence[Mapping[str, Any]] = [{}] * len(texts) if metadatas is None else metadatas
        named = [given or str(uuid4()) for given in ([None] * len(texts) if ids is None else ids)]
        self._opened.put([Stored(*one) for one in zip(named, texts, metas, strict=True)])
        return named

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents; ids that do not exist are left alone. Raises ``ConfigError`` without ids."""
        no_more(kwargs)
        if ids is None:
            raise ConfigError("delete() of everything is not offered. Nothing was deleted; name the ids.")
        self._opened.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return those of the documents that exist, whole, in the order of ``ids``."""
        return [Document(id=one.id, page_content=one.text, metadata=dict(one.meta)) for one in self._opened.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents that are most like a query; ``filter``: conditions on their metadata."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,
        min_score: MinScore = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """Return documents with their score by the index's metric, best first: the cosine, unless it is another."""
        no_more(kwargs)
        return self._shown(self._opened.searcher.search(query, k, where=filter, min_score=min_score))

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Mapping[str, Any] | None = None,
        encoder_fp: str | None = None,
        min_score: MinScore = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return what is most like a vector of the model that serves.

        ``encoder_fp`` names the vector's model; else it is that of ``embedding``, as it was proved. Raises
        ``ConfigError`` where neither is known, ``StateError`` where another model serves by now.
        """
        no_more(kwargs)
        made_by = encoder_fp or self._proved
        if made_by is None:
            raise ConfigError(
                "a vector alone does not say which model made it. Nothing was searched; give its encoder_fp, open the "
                "store with embedding=, or search by text."
            )
        answer = self._opened.searcher.search_given(embedding, made_by, k, where=filter, min_score=min_score)
        return [one for one, _ in self._shown(answer)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        serving = self._opened.searcher.resolve().spec
        metric = serving.index.metric
        if serving.lengths_count:
            raise StateError(
                f"a relevance is 0 to 1, and scores by {metric} of vectors of any length have no bounds. Nothing was "
                "searched; use similarity_search_with_score."
            )
        return lambda score: max(0.0, min(1.0, cosine_of(score, metric)))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> RevectorStore:
        """Open a store by ``kwargs`` and put texts. ``embedding`` is proved to be the model that serves."""
        store = cls(embedding=embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def _shown(self, answer: Answer) -> list[tuple[Document, float]]:
        whole = self._content == "document"
        found = self._opened.whole(answer) if whole else [(hit, hit.text) for hit in answer.hits]
        return [(Document(id=hit.id, page_content=text, metadata=dict(hit.meta)), hit.score) for hit, text in found]


class RevectorRetriever(BaseRetriever):
    """The ``k`` documents of a collection that are most like a query, under conditions on their metadata."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: RevectorStore
    k: int = 4
    where: dict[str, Any] | None = Field(default=None)
    min_score: MinScore = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        del run_manager
        asked = {"filter": kwargs.get("where", self.where), "min_score": kwargs.get("min_score", self.min_score)}
        return self.store.similarity_search(query, kwargs.get("k", self.k), **asked)
