"""Owns asking one generation many queries for documents with their scores: what cut-offs are moved by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from revector.interfaces import Progress
from revector.measure.thresholds import Scored
from revector.registry.collections import Generation
from revector.serving.searcher import Searcher


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The best documents of each query with their similarities. Queries that were ``refused``, and why, have none."""

    run: Scored
    refused: Mapping[str, str]


def ask_scored(
    searcher: Searcher,
    generation: Generation,
    queries: Mapping[str, str],
    own: Mapping[str, frozenset[str]],
    k: int,
    progress: Progress,
) -> ScoredAnswers:
    """Return the best ``k`` documents of each of ``queries``, id → text, without those that are the query itself."""
    taken, refused = searcher.askable(generation, queries)
    progress.start(f"search {generation.revision}", len(taken), unit="queries")
    run: dict[str, list[tuple[str, float]]] = {query: [] for query in queries}
    for query, vector in searcher.encode_all(generation, taken):
        itself = own.get(query, frozenset())
        answer = searcher.search_vector(generation, vector, k + len(itself))
        hits = () if answer is None else answer.hits
        run[query] = [(hit.id, hit.score) for hit in hits if hit.id not in itself][:k]
        progress.advance()
    progress.done()
    return ScoredAnswers(run, refused)
