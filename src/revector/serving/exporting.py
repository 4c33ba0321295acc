"""Owns reading the vectors of a generation out of its index, whole, as one snapshot shows them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from revector.archive import Part, Size
from revector.errors import VerificationFailed
from revector.registry import intents
from revector.registry.collections import Generation
from revector.registry.lane import IndexedDocument
from revector.registry.lanes import lane_of

PAGE_DOCUMENTS, PAGE_CHUNKS = 2_000, 4_000
"""Most documents of a statement, and the chunks after which it ends: what bounds memory."""

_VISIBLE = """
  FROM ledger l JOIN document d ON d.cid = :cid AND d.doc_id = l.doc_id
  WHERE l.gen = :gen AND NOT l.deleted AND NOT d.deleted AND l.version > d.tombstone_version"""

# The same by one look-up per document: planners prefer to merge, and then every page reads all documents before it.
_VISIBLE_BY_KEY = """
  FROM ledger l CROSS JOIN LATERAL (
    SELECT * FROM document d WHERE d.cid = :cid AND d.doc_id = l.doc_id OFFSET 0) d
  WHERE l.gen = :gen AND NOT l.deleted AND NOT d.deleted AND l.version > d.tombstone_version"""


@contextmanager
def reading_vectors(engine: sa.Engine, generation: Generation) -> Iterator[tuple[Size, Iterator[Part]]]:
    """Yield how much a generation shows, and its documents in id order in parts that are read as they are asked for.

    Everything is of one REPEATABLE READ snapshot, which is held until the block ends. A document that waits is what
    searches still find of it; deleted ones are left out. Vectors are float32, exactly as stored. While the block runs,
    the index's table cannot be dropped. Raises ``VerificationFailed`` for a document whose rows are not those of the
    ledger.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        # Between two pages lies whatever the reader does with one.
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        intents.hold_for_reading(connection, generation.gen)
        row = connection.execute(
            sa.text(
                "SELECT count(*) AS documents, coalesce(sum(l.n_chunks), 0)::bigint AS chunks, "
                f"coalesce(max(octet_length(l.doc_id)), 1) AS id_bytes {_VISIBLE}"
            ),
            {"cid": generation.cid, "gen": generation.gen},
        ).one()
        size = Size(row.documents, row.chunks, generation.spec.model.dim, row.id_bytes)
        yield size, _parts(connection, generation)


def changed_since(engine: sa.Engine, generation: Generation, moment: datetime, doc_ids: Collection[str]) -> set[str]:
    """Return which of ``doc_ids`` the generation shows otherwise than at ``moment`` of the database's clock, or not."""
    asked = {"cid": generation.cid, "gen": generation.gen, "moment": moment, "ids": list(doc_ids)}
    with engine.connect() as connection:
        as_before = connection.scalars(
            sa.text(f"SELECT l.doc_id {_VISIBLE} AND l.applied_at < :moment AND l.doc_id = ANY(:ids)"), asked
        )
        return set(doc_ids).difference(as_before)


def _parts(connection: sa.Connection, generation: Generation) -> Iterator[Part]:
    page = sa.text(
        f"""
        SELECT * FROM (
          SELECT *, sum(n_chunks) OVER (ORDER BY doc_id) - n_chunks AS before FROM (
            SELECT l.doc_id, l.version, l.content_hash, l.n_chunks {_VISIBLE_BY_KEY} AND l.doc_id > :after
            ORDER BY l.doc_id LIMIT :documents) ahead) summed
        WHERE before < :chunks ORDER BY doc_id
        """
    )
    lane = lane_of(generation)
    values = {"cid": generation.cid, "gen": generation.gen, "documents": PAGE_DOCUMENTS, "chunks": PAGE_CHUNKS}
    after = ""
    while rows := connection.execute(page, {**values, "after": after}).all():
        yield _part(generation, rows, {one.doc_id: one for one in lane.read(connection, [row.doc_id for row in rows])})
        after = rows[-1].doc_id


def _part(generation: Generation, rows: Sequence[sa.Row[object]], read: Mapping[str, IndexedDocument]) -> Part:
    for row in rows:
        if (found := len(read[row.doc_id].vectors) if row.doc_id in read else 0) != row.n_chunks:
            raise VerificationFailed(
                f"generation {generation.gen} shows {found} chunks of document {row.doc_id!r}, its ledger has "
                f"{row.n_chunks}. Nothing was exported; run `revector verify --repair`."
            )
    counts = np.array([row.n_chunks for row in rows], np.int32)
    documents = [read[row.doc_id] for row in rows]
    chunk_starts, chunk_ends = np.ascontiguousarray(np.concatenate([one.locators for one in documents]).T)
    return Part(
        doc_ids=[row.doc_id for row in rows],
        versions=np.array([row.version for row in rows], np.int64),
        content_hashes=[row.content_hash for row in rows],
        starts=np.cumsum(counts, dtype=np.int64) - counts,
        counts=counts,
        chunk_starts=chunk_starts,
        chunk_ends=chunk_ends,
        embeddings=np.concatenate([one.vectors for one in documents]),
    )
