"""Owns what a reader may see of a generation: its index joined with collection, documents and ledger in one statement.

One statement is one snapshot: it says who was active, hides what was deleted, and cuts the text that it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pgvector import Vector

from revector.guards import guard
from revector.registry import ledgers
from revector.registry.collections import Generation
from revector.registry.tables import index_of


@dataclass(frozen=True, slots=True)
class VisibleHits:
    """One statement's answer: who was active in its snapshot, how many candidates it saw, and the best rows."""

    active_gen: int | None
    candidates: int
    rows: list[Mapping[str, Any]]


def _shown() -> str:
    """Join the index ``i`` with its documents ``d``: neither deleted ones, nor text from before a delete."""
    visible = guard("search.visible", "NOT d.deleted AND i.version > d.tombstone_version")
    return f"JOIN document d ON d.cid = :cid AND d.doc_id = i.doc_id WHERE {visible}"


def search(
    connection: sa.Connection,
    generation: Generation,
    query: npt.NDArray[np.float32],
    k: int,
    *,
    candidates: int,
    by_document: bool,
    exact: bool,
    filter_sql: str = "",
    filter_params: Mapping[str, Any] | None = None,
) -> VisibleHits:
    """Return the ``k`` rows nearest to ``query``, float32 ``(dim,)``, of the ``candidates`` nearest that are visible.

    ``by_document`` keeps the best chunk of each document. ``filter_sql`` is a condition on the document ``d``.
    """
    index = index_of(generation)
    if not exact:
        index.prepare(connection, candidates)
    shown = f"{_shown()} AND {filter_sql}" if filter_sql else _shown()
    distance, rows = index.nearest(shown, candidates, exact=exact)
    best = (
        "SELECT DISTINCT ON (doc_id) * FROM hits ORDER BY doc_id, distance, chunk"
        if by_document
        else "SELECT * FROM hits"
    )
    sql = f"""
        WITH hits AS MATERIALIZED (
          SELECT i.doc_id, i.chunk, i.start, i.stop, {distance} AS distance FROM {rows}
          ORDER BY {distance} LIMIT {int(candidates)}),
        top AS (SELECT * FROM ({best}) best ORDER BY distance, doc_id, chunk LIMIT {int(k)})
        SELECT c.active_gen, (SELECT count(*) FROM hits) AS candidates, t.doc_id, t.chunk, t.start, t.stop,
               t.distance, d.version, d.meta, CASE WHEN l.content_hash = d.content_hash
                 THEN substr(d.content, t.start + 1, t.stop - t.start) ELSE d.content END AS text
        FROM collection c LEFT JOIN top t ON true
        LEFT JOIN document d ON d.cid = c.cid AND d.doc_id = t.doc_id
        LEFT JOIN {ledgers.table(generation.gen)} l ON l.gen = :gen AND l.doc_id = t.doc_id
        WHERE c.cid = :cid ORDER BY t.distance, t.doc_id, t.chunk"""
    values = {"cid": generation.cid, "gen": generation.gen, "query": Vector(query).to_text(), **(filter_params or {})}
    found = connection.execute(sa.text(sql), values).mappings().all()
    return VisibleHits(
        found[0]["active_gen"], found[0]["candidates"], [dict(row) for row in found if row["doc_id"] is not None]
    )


def direction(connection: sa.Connection, generation: Generation, doc_id: str) -> npt.NDArray[np.float32] | None:
    """Return the mean direction of a document's chunks, ``(dim,)``; None where the index shows none of them."""
    found = connection.scalar(
        sa.text(
            f"SELECT CAST(CAST(avg(l2_normalize(i.embedding)) AS vector) AS text) FROM {generation.physical_name} i "
            f"{_shown()} AND i.doc_id = :doc_id"
        ),
        {"cid": generation.cid, "doc_id": doc_id},
    )
    return None if found is None else np.asarray(Vector.from_text(found).to_numpy(), dtype=np.float32)
