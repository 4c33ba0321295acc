"""Labelled queries as data: what was read, what it means, and how far it fits the documents there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from revector.errors import LabelError
from revector.labels.lines import malformed, some
from revector.spec import stable_hash

PLACE = 1_000
"""Characters of one place where passages are judged: about a chunk of 256 tokens of English."""


class Span(NamedTuple):
    """A part of a document that was judged: ``[start, end)`` in characters of the document's cleaned text.

    With ``quote``, the text of that part, the offsets may be those of the text as it was handed over (see ``quotes``).
    """

    doc_id: str
    start: int
    end: int
    quote: str = ""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query as it was read; ``meta`` are its language, tenant, type and whatever else slices are made of."""

    place: str
    id: str
    text: str
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement as it was read: of a document as a whole, or of ``span``."""

    place: str
    query: str
    document: str
    score: int
    span: Span | None = None

    @property
    def named(self) -> str:
        """Query and what was judged, for messages."""
        return f"({self.query!r}, {self.document!r}{f', {self.span.start}-{self.span.end}' if self.span else ''})"


@dataclass(frozen=True, slots=True)
class Read:
    """Everything that a source of labels says, before anything of it is believed."""

    name: str
    queries_at: str
    judged_at: str
    queries: Sequence[LabelledQuery]
    judgements: Sequence[Judgement]


@dataclass(frozen=True, slots=True)
class Labels:
    """Judged queries: ``queries`` and ``qrels`` have the same keys, in the order of the source.

    ``qrels`` holds documents: one that was judged by spans has the highest score of them. ``spans`` holds the spans of
    the queries that have any; per query, a document is judged as a whole or by spans, never both. ``meta`` holds the
    metadata of the queries that have some.
    ``name`` is ``<folder>/<split>`` or the source's own. ``fingerprint`` (SHA-256 hex) changes with any judged query's
    text or judgement and with the rule by which spans are found, and with nothing else. ``unjudged`` are ids of the
    queries kept out because nothing was judged for them.
    """

    name: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    fingerprint: str
    unjudged: tuple[str, ...] = ()
    spans: dict[str, dict[Span, int]] = field(default_factory=dict)
    meta: dict[str, dict[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """How far labels fit a collection; only relevant judgements count.

    ``known_pairs`` of ``pairs`` (query, document) judgements name a document that exists; ``unknown_ids`` are the
    documents that do not. ``queries_left`` have at least one relevant document, ``queries_lost`` had only unknown ones.
    """

    pairs: int
    known_pairs: int
    unknown_ids: tuple[str, ...]
    queries_left: tuple[str, ...]
    queries_lost: tuple[str, ...]


def believe(read: Read) -> Labels:
    """Return what ``read`` means.

    Raises:
        LabelError: If a query id appears twice, judgements contradict each other, a judged query has no text, or
            nothing is judged relevant.

    """
    texts: dict[str, str] = {}
    for query in read.queries:
        if query.id in texts:
            raise malformed(query.place, f"query id {query.id!r} a second time", "each query once")
        texts[query.id] = query.text
    for judgement, what, allowed in contradictions(read.judgements):
        raise malformed(judgement.place, what, allowed)
    judged, spans = _judged(read.judgements)
    if without := [query for query in judged if not texts.get(query, "").strip()]:
        raise LabelError(
            f"{read.judged_at} judges {some(without)}, without text in {read.queries_at}; every judged query needs a "
            "text. Nothing was measured; add the text or remove the judgements."
        )
    if not any(score > 0 for documents in judged.values() for score in documents.values()):
        raise LabelError(
            f"{read.judged_at} judges {len(judged)} queries but no document relevant (score above 0), so no recall can "
            "be measured. Nothing was measured; check the scores."
        )
    queries = {query: text for query, text in texts.items() if query in judged}
    qrels = {query: judged[query] for query in queries}
    told: dict[str, object] = {"queries": queries, "qrels": qrels}
    if spans:
        told["spans"] = {
            query: sorted([*span[: 4 if span.quote else 3], score] for span, score in found.items())
            for query, found in spans.items()
        }
        told["place"] = PLACE  # by another rule the same labels give other figures
    return Labels(
        name=read.name,
        queries=queries,
        qrels=qrels,
        fingerprint=stable_hash(told),
        unjudged=tuple(query for query in texts if query not in judged),
        spans={query: spans[query] for query in queries if query in spans},
        meta={query.id: dict(query.meta) for query in read.queries if query.meta and query.id in queries},
    )


def contradictions(judgements: Iterable[Judgement]) -> Iterator[tuple[Judgement, str, str]]:
    """Yield each judgement that contradicts an earlier one, what was found, and what is allowed."""
    scores: dict[tuple[str, str, Span | None], int] = {}
    by_span: dict[tuple[str, str], bool] = {}
    for one in judgements:
        before = scores.setdefault((one.query, one.document, one.span), one.score)
        if before != one.score:
            yield one, f"{one.named} judged {before} and {one.score}", "one score per pair"
        elif by_span.setdefault((one.query, one.document), one.span is not None) != (one.span is not None):
            yield one, f"{one.named} judged as a whole and by spans", "one of the two"


def check_against(labels: Labels, known_ids: Callable[[Sequence[str]], set[str]]) -> LabelCheck:
    """Match the relevant documents of ``labels`` with those that exist.

    Args:
        labels: Judged queries.
        known_ids: Given document ids, returns those that exist; called once.

    Raises:
        LabelError: If none of the documents exists: the labels belong to another collection.

    """
    positive = {query: {d for d, score in judged.items() if score > 0} for query, judged in labels.qrels.items()}
    relevant = {query: ids for query, ids in positive.items() if ids}
    asked = sorted(set().union(*relevant.values()))
    known = known_ids(asked) & set(asked)
    if not known:
        raise LabelError(
            f"labels {labels.name} name {len(asked)} relevant documents, {some(asked, 'document')}, and the "
            "collection holds none of them. Nothing was measured; these labels belong to other documents, or the id "
            "field of the source is not the one that the labels use."
        )
    left = tuple(query for query, ids in relevant.items() if ids & known)
    return LabelCheck(
        pairs=sum(map(len, relevant.values())),
        known_pairs=sum(len(ids & known) for ids in relevant.values()),
        unknown_ids=tuple(document for document in asked if document not in known),
        queries_left=left,
        queries_lost=tuple(query for query, ids in relevant.items() if not ids & known),
    )


def _judged(judgements: Iterable[Judgement]) -> tuple[dict[str, dict[str, int]], dict[str, dict[Span, int]]]:
    documents: dict[str, dict[str, int]] = {}
    spans: dict[str, dict[Span, int]] = {}
    for one in judgements:
        of_query = documents.setdefault(one.query, {})
        of_query[one.document] = max(one.score, of_query.get(one.document, one.score))
        if one.span is not None:
            spans.setdefault(one.query, {})[one.span] = one.score
    return documents, spans
