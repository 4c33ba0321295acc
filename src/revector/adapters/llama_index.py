"""LlamaIndex over a collection: a vector store that is asked by text and follows the swap (extra `llama-index`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from pydantic import PrivateAttr

from revector.adapters.collection import OpenCollection, no_more
from revector.adapters.matching import ids_where, joined
from revector.config import Project
from revector.errors import ConfigError
from revector.interfaces import Document
from revector.serving.asked import MinScore

_RANGES = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}
_EQUAL = (FilterOperator.EQ, FilterOperator.IN, FilterOperator.ANY, FilterOperator.CONTAINS)


class NoEmbedding(BaseEmbedding):
    """The `embed_model` of an index over a ``RevectorVectorStore``: no vectors, for the store makes its own."""

    def _get_text_embedding(self, text: str) -> list[float]:
        del text
        return [0.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        del query
        return [0.0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class RevectorVectorStore(BasePydanticVectorStore):
    """A collection as LlamaIndex's vector store. Nodes are documents; vectors that they bring are not looked at.

    It is asked by text (``is_embedding_query`` is false). Give the index ``embed_model=NoEmbedding()``. ``wait_s``: how
    long adding waits until searches show the nodes (`revector worker` embeds them), None: not at all.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    collection: str = "docs"
    wait_s: float | None = 60.0

    _opened: OpenCollection = PrivateAttr()

    def __init__(
        self, collection: str = "docs", *, project: Project | Path | str | None = None, wait_s: float | None = 60.0
    ) -> None:
        super().__init__(collection=collection, wait_s=wait_s)
        self._opened = OpenCollection(collection, project, wait_s)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex lists it."""
        return "RevectorVectorStore"

    @property
    def client(self) -> Project:
        """The project."""
        return self._opened.project

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Put nodes, each under its id, and return the ids. Raises ``DocumentError`` for what cannot be stored."""
        no_more(kwargs)
        found = [
            Document(
                node.node_id,
                node.get_content(metadata_mode=MetadataMode.NONE),
                node_to_metadata_dict(node, remove_text=True, flat_metadata=False),
            )
            for node in nodes
        ]
        self._opened.put(found)
        return [one.id for one in found]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        no_more(delete_kwargs)
        self._delete_where({"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, or by conditions on their metadata. Raises ``ConfigError`` for both, and for neither."""
        no_more(delete_kwargs)
        if (node_ids is None) == (filters is None):
            raise ConfigError("delete_nodes takes either ids or filters. Nothing was deleted; name one.")
        if node_ids is None:
            self._delete_where(_where(filters))
        else:
            self._opened.delete(node_ids)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return nodes by id, or those that meet conditions on their metadata."""
        ids = node_ids
        if ids is None:
            pages = ids_where(self._opened.project, self.collection, _where(filters))
            ids = [doc_id for page in pages for doc_id in page]
        return [_node(one.id, one.meta, one.text) for one in self._opened.get(ids)]

    def query(self, query: VectorStoreQuery, *, min_score: MinScore = None, **kwargs: Any) -> VectorStoreQueryResult:
        """Search by text; ``min_score`` (an index's ``vector_store_kwargs``) is that of ``Searcher.search``.

        Raises ``ConfigError`` for a query without text, and for modes other than the default.
        """
        no_more(kwargs)
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise ConfigError(f"mode {query.mode.value!r} is not offered. Nothing was searched; leave it out.")
        if query.query_str is None:
            raise ConfigError(
                "a vector alone does not say which model made it. Nothing was searched; ask by text, through an index "
                "with embed_model=NoEmbedding()."
            )
        where = _where(query.filters)
        if query.doc_ids:
            where = joined(where, "ref_doc_id", list(query.doc_ids))
        if query.node_ids:
            raise ConfigError("node_ids cannot restrict a search. Nothing was searched; use filters.")
        searcher, k = self._opened.searcher, query.similarity_top_k
        found = self._opened.whole(searcher.search(query.query_str, k, where=where, min_score=min_score))
        nodes = [_node(hit.id, hit.meta, text) for hit, text in found]
        scores = [hit.score for hit, _ in found]
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])

    def _delete_where(self, where: dict[str, Any]) -> None:
        if not where:
            raise ConfigError("no condition was given. Nothing was deleted; name the nodes.")
        for page in ids_where(self._opened.project, self.collection, where):
            self._opened.delete(page)


def _node(doc_id: str, meta: Mapping[str, Any], text: str) -> BaseNode:
    """Return a document as the node that it was put as; one that came another way is a plain node."""
    if "_node_content" not in meta:
        return TextNode(id_=doc_id, text=text, metadata=dict(meta))
    node = metadata_dict_to_node(dict(meta))
    node.set_content(_without_metadata(node, text))
    return node


def _without_metadata(node: BaseNode, text: str) -> str:
    """Return the node's own text, where ``text`` is of an adopted table: as LlamaIndex embedded it, with metadata."""
    said = node.get_metadata_str(MetadataMode.EMBED).strip()
    if not said or not isinstance(node, TextNode):
        return text
    before, _, after = node.text_template.format(metadata_str=said, content="\0").strip().partition("\0")
    embedded = text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if embedded else text


def _where(filters: MetadataFilters | None) -> dict[str, Any]:
    """Return LlamaIndex's filters as ours. Raises ``ConfigError`` for what is no conjunction of our conditions."""
    where: dict[str, Any] = {}
    if filters is None:
        return where
    is_one = len(filters.filters) == 1 and filters.condition != FilterCondition.NOT
    if not is_one and filters.condition not in (None, FilterCondition.AND):
        raise ConfigError(f"filters are joined by and, found {filters.condition}. Nothing was done; ask twice.")
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            for key, wanted in _where(one).items():
                where = joined(where, key, wanted)
        elif one.operator in _EQUAL:
            where = joined(where, one.key, one.value)
        elif one.operator in _RANGES:
            where = joined(where, one.key, {_RANGES[one.operator]: one.value})
        else:
            raise ConfigError(f"filter {one.key!r}: {one.operator.value!r} is not offered. Nothing was done.")
    return where
