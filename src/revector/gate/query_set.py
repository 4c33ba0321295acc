"""Owns the labelled queries that a gate can measure: those with a relevant document that exists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from revector.documents.own import OwnDocuments
from revector.encoders.vocabulary import script_of
from revector.labels import Labels, check_against, in_random_order, item_qrels, placed, read_queries
from revector.measure.slices import Slices, query_slices
from revector.spec import stable_hash

MOST_OTHERS = 2_000
"""Queries without labels that are asked of old and new: the share of those that differ is then known to 2 points."""

SCRIPT = "script"
"""Names the slices by the script of most letters of a query, which every query has; a field of that name wins."""


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The labelled queries that can be measured, with the judgements of documents that exist.

    ``qrels`` judges documents, ``items`` what was judged: documents and spans of them (``labels.items``). ``own`` are
    the documents that are a query themselves and not judged relevant for it: they are no answers, and are left out of
    what is found, as BEIR does. ``fingerprint`` changes with any text and judgement of them. ``counts`` says what was
    left out. ``others``: id → text of queries without labels that are asked beside them (``asked_beside``). ``drawn``:
    judged items of those of them that were drawn from the ones that differ, perhaps none (``draws.set_apart``).
    """

    labels: Labels
    qrels: Mapping[str, Mapping[str, int]]
    items: Mapping[str, Mapping[str, int]]
    fingerprint: str
    counts: Mapping[str, int]
    own: Mapping[str, frozenset[str]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    drawn: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Query id → text."""
        return {query: self.labels.queries[query] for query in self.qrels}

    def slices(self, names: Collection[str] = ()) -> Slices:
        """Return the queries by length, script and the fields of their metadata; see ``slices.query_slices``."""
        texts, meta = self.texts, self.labels.meta
        known = {query: {SCRIPT: script_of(text), **meta.get(query, {})} for query, text in texts.items()}
        return query_slices(texts, known, names)


class JudgedCorpus(Protocol):
    """The documents that labels are matched with; ``documents.documents.Documents`` is one."""

    def known(self, doc_ids: Iterable[str], /) -> set[str]:
        """Return those of ``doc_ids`` that exist."""
        ...

    def texts(self, doc_ids: Iterable[str], /) -> Mapping[str, str]:
        """Return the cleaned texts of those of ``doc_ids`` that exist."""
        ...

    def own(self, queries: Mapping[str, str], /) -> OwnDocuments:
        """Return the documents that are one of ``queries``, id → text, themselves."""
        ...


def usable_queries(labels: Labels, corpus: JudgedCorpus) -> QuerySet:
    """Return the queries with a relevant document that exists, and the judgements of such documents.

    A document that was deleted cannot be found by any model: it leaves both sides. Raises ``LabelError`` for labels
    of another corpus, and for spans whose quoted text is not in their document.
    """
    labels = placed(labels, corpus.texts)
    check = check_against(labels, corpus.known)
    unknown, left = set(check.unknown_ids), set(check.queries_left)
    qrels = {
        query: {doc: score for doc, score in judged.items() if doc not in unknown}
        for query, judged in labels.qrels.items()
        if query in left
    }
    items = item_qrels(labels, qrels)
    texts = {query: labels.queries[query] for query in qrels}
    found = corpus.own(texts)
    own = _no_answers(found, qrels)
    counts = {
        "queries": len(qrels),
        "queries_lost": len(check.queries_lost),
        "pairs": check.known_pairs,
        "unknown_documents": len(unknown),
        "unjudged_queries": len(labels.unjudged),
        "own_documents": len(own),
        "same_ids": found.other,
    }
    told: dict[str, object] = {"qrels": items, "queries": texts}
    if own:
        told["own"] = {query: sorted(ids) for query, ids in own.items()}
    return QuerySet(labels, qrels, items, stable_hash(told), counts, own)


def asked_beside(queries: QuerySet, path: Path | None, corpus: JudgedCorpus, drawn: Collection[str] = ()) -> QuerySet:
    """Return ``queries`` with those of the file ``path`` as ``others``: each text once, at most ``MOST_OTHERS``.

    They are taken in an order that depends on their ids alone; labelled queries are none of them, but for those
    ``drawn`` from them. None where ``path`` is None, and beside judged passages: whether these are found is not seen in
    which documents are. Raises as ``labels.read_queries``.
    """
    others = unjudged_texts(queries.labels, path, drawn)
    if not others:
        return queries
    return replace(queries, others=others, own={**_no_answers(corpus.own(others), queries.qrels), **queries.own})


def unjudged_texts(labels: Labels, path: Path | None, drawn: Collection[str] = ()) -> dict[str, str]:
    """Return id and text of the queries that ``asked_beside`` adds. Raises as ``labels.read_queries``."""
    if path is None or labels.spans:
        return {}
    labelled = {query: text for query, text in labels.queries.items() if query not in drawn}
    known = set(labelled.values())
    texts: dict[str, str] = {}
    for one in read_queries(path):
        if one.id not in labelled and one.text not in known:
            known.add(one.text)
            texts[one.id] = one.text
    return {query: texts[query] for query in in_random_order(texts)[:MOST_OTHERS]}


def _no_answers(found: OwnDocuments, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, frozenset[str]]:
    """Return the documents that are a query themselves, and are not judged relevant for it."""
    return {
        query: itself
        for query, ids in found.documents.items()
        if (itself := frozenset(doc for doc in ids if qrels.get(query, {}).get(doc, 0) < 1))
    }
