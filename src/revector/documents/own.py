"""Documents that are a query themselves, as in ArguAna and Quora: no answer to it, wherever answers are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from revector.documents.text import clean, is_id
from revector.errors import DocumentError
from revector.interfaces import Content

BATCH = 500

# A document's text may hold its title besides. Equal ids alone prove nothing: many sets number both sides from 1.
_SAME_ID = r"""
SELECT q.id, position(q.text IN regexp_replace(d.content, '\s+', ' ', 'g')) > 0 AS same
FROM unnest(CAST(:ids AS text[]), CAST(:texts AS text[])) q(id, text)
JOIN document d ON d.cid = :cid AND d.doc_id = q.id COLLATE "C" AND NOT d.deleted
"""
# By the index of the ledgers: whatever is searched is in one of them.
_SAME_TEXT = """
SELECT DISTINCT d.doc_id, d.content_hash FROM slot s
JOIN ledger l ON l.gen = s.gen AND NOT l.deleted
  AND hashtextextended(l.content_hash, 0) IN (SELECT hashtextextended(h, 0) FROM unnest(CAST(:hashes AS text[])) h)
JOIN document d ON d.cid = s.cid AND d.doc_id = l.doc_id AND d.content_hash = ANY(CAST(:hashes AS text[]))
WHERE s.cid = :cid
"""


@dataclass(frozen=True, slots=True)
class OwnDocuments:
    """Query id → documents that are that query: of its id and with its text in them, or of exactly its text.

    ``other``: queries that only share their id with a document.
    """

    documents: Mapping[str, frozenset[str]]
    other: int


def own_documents(connection: sa.Connection, cid: int, queries: Mapping[str, str]) -> OwnDocuments:
    """Return the documents that are queries themselves; ``queries``: id → text."""
    texts = {query: text for query, given in queries.items() if (text := _cleaned(given)) is not None}
    found: dict[str, set[str]] = {}
    other, asked = 0, list(texts)
    for at in range(0, len(asked), BATCH):
        some = asked[at : at + BATCH]
        named = [query for query in some if is_id(query)]
        values = {"cid": cid, "ids": named, "texts": [" ".join(texts[query].split()) for query in named]}
        for row in connection.execute(sa.text(_SAME_ID), values):
            other += not row.same
            if row.same:
                found.setdefault(row.id, set()).add(row.id)
        by_hash: dict[str, list[str]] = {}
        for query in some:
            by_hash.setdefault(Content("text", texts[query]).sha256, []).append(query)
        for row in connection.execute(sa.text(_SAME_TEXT), {"cid": cid, "hashes": list(by_hash)}):
            for query in by_hash[row.content_hash]:
                found.setdefault(query, set()).add(row.doc_id)
    return OwnDocuments({query: frozenset(ids) for query, ids in found.items()}, other)


def _cleaned(text: str) -> str | None:
    try:
        return clean(text)
    except DocumentError:
        return None
