"""Searches by vectors and by words, fused: what an application calls, and what revector measures as users see it.

In revector.toml beside it, with this file as fused_search.py in the project's folder:

    [collections.docs]
    pipeline = "fused_search:answer"

The application calls the same function with a searcher that follows the alias:

    from revector.config import load_project

    answer("how do I reset my password", load_project().searcher("docs"), 10)
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

DEPTH = 50
RANK = 60
"""Of reciprocal rank fusion: Cormack, Clarke and Buettcher (SIGIR 2009) found 60 good whatever is fused."""

BY_WORDS = """
SELECT doc_id FROM document JOIN collection USING (cid), websearch_to_tsquery('english', :query) asked,
  to_tsquery('english', replace(asked::text, '&', '|')) any_word
WHERE collection.name = :collection AND NOT deleted AND to_tsvector('english', content) @@ any_word
ORDER BY ts_rank_cd(to_tsvector('english', content), any_word, 1) DESC, doc_id LIMIT :depth
"""
"""Any of the query's words, ranked by PostgreSQL (not BM25, which it has not), without the stop words of ``english``:
name your language, for ``simple`` keeps them, and they then decide. For a large corpus make an index:
CREATE INDEX ON revector.document USING gin (to_tsvector('english', content))."""


def answer(query: str, searcher: Any, k: int) -> list[str]:
    """Return the ids of the ``k`` best documents by vectors and by words together."""
    by_vectors = [hit.id for hit in searcher.search(query, DEPTH).hits]
    with searcher.engine.connect() as connection:
        asked = {"query": query, "collection": searcher.collection, "depth": DEPTH}
        by_words = list(connection.scalars(sa.text(BY_WORDS), asked))
    return fused(by_vectors, by_words)[:k]


def fused(*rankings: list[str]) -> list[str]:
    """Return the documents of all rankings, best first, each by the sum of its 1 / (60 + rank)."""
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, doc_id in enumerate(ranking, start=1):
            scores[doc_id] += 1 / (RANK + rank)
    return sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
