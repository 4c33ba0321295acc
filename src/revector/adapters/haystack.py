"""Haystack over a collection: a document store, and a retriever that is asked by text (extra `haystack`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils.filters import document_matches_filter

from revector.adapters.collection import OpenCollection
from revector.adapters.matching import documents_where, joined
from revector.config import Project
from revector.documents.documents import StoredDocument
from revector.errors import ConfigError, DocumentError
from revector.interfaces import Document as Stored
from revector.serving.asked import MinScore

_RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


class RevectorDocumentStore:
    """A collection as Haystack's document store. Texts and metadata are kept; vectors that documents bring are not.

    ``project``: folder or file of the project, else that of ``$REVECTOR_CONFIG``. ``wait_s``: how long writing waits
    until searches show the documents (`revector worker` embeds them), None: not at all.
    """

    def __init__(
        self, collection: str = "docs", *, project: Project | Path | str | None = None, wait_s: float | None = 60.0
    ) -> None:
        self.collection, self.wait_s, self.opened = collection, wait_s, OpenCollection(collection, project, wait_s)

    def to_dict(self) -> dict[str, Any]:
        """Return what opens this store again; no password is in it."""
        where = {"collection": self.collection, "project": str(self.opened.project.root), "wait_s": self.wait_s}
        return dict(default_to_dict(self, **where))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RevectorDocumentStore:
        """Open a store that ``to_dict`` described."""
        made: RevectorDocumentStore = default_from_dict(cls, data)
        return made

    def count_documents(self) -> int:
        """Return how many documents there are."""
        return self.opened.documents.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return all documents that meet Haystack's ``filters``, by id. They are read one page after the other.

        Raises ``FilterError`` for a filter that Haystack does not know.
        """
        found = (_shown(one) for one in documents_where(self.opened.project, self.collection, {}))
        return [one for one in found if not filters or document_matches_filter(filters, one)]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents and return how many; without a policy, an id that exists is an error (``FAIL``).

        Raises ``DuplicateDocumentError`` before anything is written, ``DocumentError`` for what cannot be stored (a
        document without text, too), ``ValueError`` for what is no list of documents.
        """
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise ValueError("write_documents takes a list of documents. Nothing was written.")
        if untold := [one.id for one in documents if one.blob is not None or one.sparse_embedding is not None]:
            raise DocumentError(f"documents {untold[:5]} hold more than text. Nothing was written; leave it out.")
        known = (
            set[str]()
            if policy == DuplicatePolicy.OVERWRITE
            else self.opened.documents.known(one.id for one in documents)
        )
        if known and policy != DuplicatePolicy.SKIP:
            raise DuplicateDocumentError(f"documents {sorted(known)[:5]} exist. Nothing was written.")
        new = {one.id: Stored(one.id, one.content, one.meta) for one in documents if one.id not in known}
        self.opened.put(new.values())
        return len(new)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents; ids that do not exist are left alone."""
        self.opened.delete(document_ids)


@component
class RevectorDocumentRetriever:
    """The documents of a store that are most like a query, by the index and encoder that serve when it is asked."""

    def __init__(
        self,
        document_store: RevectorDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        min_score: MinScore = None,
    ) -> None:
        self.document_store, self.filters, self.top_k, self.min_score = document_store, filters, top_k, min_score

    def to_dict(self) -> dict[str, Any]:
        """Return what makes this retriever again."""
        store = self.document_store.to_dict()
        asked = {"filters": self.filters, "top_k": self.top_k, "min_score": self.min_score}
        return dict(default_to_dict(self, document_store=store, **asked))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RevectorDocumentRetriever:
        """Make a retriever that ``to_dict`` described."""
        store = RevectorDocumentStore.from_dict(data["init_parameters"]["document_store"])
        parameters = {**data["init_parameters"], "document_store": store}
        return cls(**parameters)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        min_score: MinScore = None,
    ) -> dict[str, list[Document]]:
        """Search by text; a document's ``score`` is by the index's metric. ``filters``: comparisons joined by AND.

        ``min_score``, by default that of the retriever, is a number or the name of a cut-off.

        Raises ``ConfigError`` for other filters: they could not be met before the best are chosen.
        """
        chosen = filters or self.filters
        where = where_of(chosen) if chosen else None
        opened = self.document_store.opened
        least = self.min_score if min_score is None else min_score
        found = opened.whole(opened.searcher.search(query, top_k or self.top_k, where=where, min_score=least))
        return {
            "documents": [
                Document(id=hit.id, content=text, meta=dict(hit.meta), score=hit.score) for hit, text in found
            ]
        }


def where_of(filters: dict[str, Any]) -> dict[str, Any]:
    """Return Haystack's filter as the Searcher takes it. Raises ``ConfigError`` where it cannot."""
    if filters.get("operator") == "AND":
        where: dict[str, Any] = {}
        for one in filters.get("conditions", []):
            for key, wanted in where_of(one).items():
                where = joined(where, key, wanted)
        return where
    try:
        field, operator, value = filters["field"], filters["operator"], filters["value"]
    except KeyError as error:
        raise ConfigError(
            f"filter {filters!r:.120}: searches take comparisons joined by AND. Nothing was searched."
        ) from error
    name = field.removeprefix("meta.")
    if operator in ("==", "in"):
        return {name: value}
    if operator in _RANGES:
        return {name: {_RANGES[operator]: value}}
    raise ConfigError(f"filter {name!r}: {operator!r} is not offered by searches. Nothing was searched.")


def _shown(one: StoredDocument) -> Document:
    return Document(id=one.id, content=one.text, meta=dict(one.meta))
