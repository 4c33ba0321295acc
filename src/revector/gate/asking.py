"""Owns asking one generation every query of a measurement, by its searches, as they are served."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from revector.errors import StateError
from revector.gate.query_set import QuerySet
from revector.interfaces import Progress
from revector.labels import Span, passage_overlap, ranked_items, span_of
from revector.registry.collections import Generation
from revector.serving.searcher import Answer, Hit, Searcher

CHUNKS_PER_ITEM = 4
MOST_CHUNKS = 1_000
"""Chunks that are read for k places of a query with judged spans; what is not among them counts as not found."""


@dataclass(slots=True)
class AskedQueries:
    """What each query found, best first, and the milliseconds that each took.

    ``refused``: queries that a search refuses, and why; they found nothing. ``tops``: score of the first hit of each
    query that found any. ``passages``: as of ``GateMeasurement``.
    """

    run: dict[str, list[str]]
    milliseconds: list[float] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    tops: dict[str, float] = field(default_factory=dict)
    passages: dict[str, float] = field(default_factory=dict)


def all_texts(queries: QuerySet) -> dict[str, str]:
    """Return id and text of all queries that are asked: labelled ones, and those beside them."""
    return {**queries.texts, **queries.others}


def ask_searches(
    searcher: Searcher, generation: Generation, queries: QuerySet, k: int, progress: Progress, *, exact: bool
) -> AskedQueries:
    """Ask each query for ``k`` items: one with judged spans by chunks, another by documents.

    Queries are embedded many at a time, which is not in ``milliseconds``. Documents that are the query are left out.
    """
    asking, asked = _Asking(searcher, generation, queries, k, exact), all_texts(queries)
    texts, refused = searcher.askable(generation, asked)
    passages = {query: 0.0 for query in queries.texts if _passages(queries.items[query])}
    found = AskedQueries({query: [] for query in asked}, refused=refused, passages=passages)
    for query, vector in searcher.encode_all(generation, texts):
        started = time.perf_counter()
        hits = asking.hits(query, vector)
        found.milliseconds.append((time.perf_counter() - started) * 1_000)
        places = [(hit.id, hit.start, hit.stop) for hit in hits]
        found.run[query] = asking.items(query, places)[:k]
        if hits:
            found.tops[query] = hits[0].score
        if query in passages:
            passages[query] = passage_overlap(places, _passages(queries.items[query]), k)
        progress.advance()
    return found


@dataclass(frozen=True, slots=True)
class _Asking:
    """How the queries are asked of one generation."""

    searcher: Searcher
    generation: Generation
    queries: QuerySet
    k: int
    exact: bool

    def hits(self, query: str, vector: npt.NDArray[np.float32]) -> list[Hit]:
        """Return documents, or where passages were judged so many chunks that ``k`` places are read, best first."""
        own = self.queries.own.get(query, frozenset())
        if query not in self.queries.labels.spans:
            return self._search(vector, min(self.k + len(own), MOST_CHUNKS), "document", own)[0]
        wanted = self.k
        while True:
            wanted = min(wanted * CHUNKS_PER_ITEM, MOST_CHUNKS)
            hits, found = self._search(vector, wanted, "chunk", own)
            places = [(hit.id, hit.start, hit.stop) for hit in hits]
            if len(self.items(query, places)) >= self.k or found < wanted or wanted == MOST_CHUNKS:
                return hits

    def items(self, query: str, hits: Sequence[tuple[str, int, int]]) -> list[str]:
        """Return the items that they find."""
        labels = self.queries.labels
        spans = labels.spans.get(query, {})
        by_span = {span.doc_id for span in spans}
        return ranked_items(hits, spans, [one for one in labels.qrels.get(query, ()) if one not in by_span])

    def _search(
        self, vector: npt.NDArray[np.float32], wanted: int, by: Literal["document", "chunk"], own: Collection[str]
    ) -> tuple[list[Hit], int]:
        """Return the hits but for documents that are the query itself, and how many there were with these."""
        answer = self.searcher.search_vector(self.generation, vector, wanted, by=by, exact=self.exact)
        hits = _answer(answer, self.generation).hits
        return [hit for hit in hits if hit.id not in own], len(hits)


def _passages(items: Mapping[str, int]) -> list[Span]:
    """Return the relevant spans of a query; none where a document is relevant as a whole."""
    relevant = [span_of(item) for item, score in items.items() if score > 0]
    return [span for span in relevant if span is not None] if None not in relevant else []


def _answer(answer: Answer | None, generation: Generation) -> Answer:
    if answer is None:
        raise StateError(f"generation {generation.gen} did not answer; it must be live. Nothing was measured.")
    return answer
