"""Owns the lane of indexes in the registry's own database: pgvector tables, joined with documents and ledger.

One statement is one snapshot: it says who was active, hides what was deleted, and cuts the text that it found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pgvector import Vector

from revector.archive import Part
from revector.database.driver import analyze
from revector.guards import guard
from revector.interfaces import Progress, Vectors
from revector.registry import ledgers
from revector.registry.collections import Generation
from revector.registry.contents import hit_columns
from revector.registry.lane import NORM_TOLERANCE, IndexedDocument, SearchRequest, SqlRelation, Staged, VisibleHits
from revector.stores import pgvector
from revector.stores.pgvector import Build, PgVectorIndex, Rows

_FACTS = """
CROSS JOIN LATERAL (
  SELECT CAST(NULL AS uuid) AS attempt, count(*)::int AS n, count(DISTINCT i.chunk)::int AS kinds,
    min(i.chunk) AS lowest, max(i.chunk) AS highest,
    min(i.version) AS oldest, max(i.version) AS newest, max(i.stop) AS stop,
    count(*) FILTER (WHERE vector_dims(i.embedding) <> {dim}) AS unlike,
    count(*) FILTER (WHERE {bad}) AS bad,
    count(*) FILTER (WHERE i.start < 0 OR i.stop <= i.start) AS outside
  FROM {index} i WHERE i.doc_id = p.doc_id) c"""


class InSqlLane:
    """The index of a generation as a table beside its ledger."""

    traits = pgvector.TRAITS

    def __init__(self, generation: Generation) -> None:
        self._generation, self._cid, self._gen = generation, generation.cid, generation.gen
        self.index = PgVectorIndex(generation.physical_name, generation.spec.model.dim, generation.spec.index)

    def register(self, connection: sa.Connection, encoder_fp: str) -> None:
        """Create the table."""
        self.index.create(connection, encoder_fp)

    def ensure(self, engine: sa.Engine) -> None:
        """Do nothing: all of it is in this database."""
        del engine

    def build(self, engine: sa.Engine, progress: Progress, given: Build) -> bool:
        """Build the HNSW index, and that by which rows of a view find their vectors."""
        built = self.index.build(engine, progress, given)
        with engine.begin() as connection:
            key = connection.scalar(sa.text("SELECT view_key FROM adoption WHERE cid = :cid"), {"cid": self._cid})
            if key is not None:
                self.index.build_key(connection, key)
        return built

    def analyze(self, engine: sa.Engine) -> None:
        """Analyze index, documents and ledger.

        After a load the planner takes the documents for few, and would read them all instead of asking the ANN index.
        """
        analyze(engine, (self.index.name, "document", ledgers.table(self._gen)))

    def faults(self, connection: sa.Connection, *, built: bool) -> list[str]:
        """Look at the tables: each look is a few pages, whatever the size."""
        index, ledger = self.index, ledgers.table(self._gen)
        if absent := ledgers.absent(connection, (index.name, ledger)):
            return absent
        found = list[str]()
        if index.encoder_fp(connection) != self._generation.encoder_fp:
            found.append(f"the fingerprint inside {index.name} is not the generation's")
        empty = f"SELECT NOT EXISTS (SELECT 1 FROM {index.name}) AND EXISTS (SELECT 1 FROM {ledger} WHERE NOT deleted)"
        if connection.scalar(sa.text(empty)):
            found.append(f"the table {index.name} is empty, and its ledger shows documents")
        if built and not index.is_built(connection):
            found.append(f"the HNSW index of {index.name} {ledgers.MISSING} or invalid")
        return found

    def demand(self, engine: sa.Engine) -> None:
        """Do nothing: ``faults`` sees all of it."""
        del engine

    def is_whole(self, connection: sa.Connection) -> bool:
        """Return True: what the database committed, it keeps."""
        del connection
        return True

    def renew(self, engine: sa.Engine) -> None:
        """Do nothing: index and records go back in time together."""
        del engine

    def drop(self, connection: sa.Connection) -> None:
        """Drop the table."""
        self.index.drop(connection)

    def stage(self, engine: sa.Engine, part: Part) -> Staged:
        """Do nothing: rows are written in the transaction that shows them."""
        del engine, part
        return Staged()

    def reveal(self, connection: sa.Connection, part: Part, staged: Staged, held: set[str]) -> set[str]:
        """Replace the rows of all documents that are held."""
        del staged
        self.index.replace(connection, sorted(held), rows_of(part, held))
        return held

    def remove(self, attempts: Sequence[tuple[UUID, int]]) -> None:
        """Do nothing: no attempt is of this lane."""

    def search(self, connection: sa.Connection, query: npt.NDArray[np.float32], wanted: SearchRequest) -> VisibleHits:
        """Search in one statement."""
        if not wanted.exact:
            self.index.prepare(connection, wanted.candidates)
        shown = f"{_shown()} AND {wanted.filter_sql}" if wanted.filter_sql else _shown()
        distance, rows = self.index.nearest(shown, wanted.candidates, exact=wanted.exact)
        best = (
            "SELECT DISTINCT ON (doc_id) * FROM hits ORDER BY doc_id, distance, chunk"
            if wanted.by_document
            else "SELECT * FROM hits"
        )
        sql = f"""
            WITH hits AS MATERIALIZED (
              SELECT i.doc_id, i.chunk, i.start, i.stop, {distance} AS distance FROM {rows}
              ORDER BY {distance} LIMIT {int(wanted.candidates)}),
            top AS (SELECT * FROM ({best}) best ORDER BY distance, doc_id, chunk LIMIT {int(wanted.k)})
            SELECT c.active_gen, (SELECT count(*) FROM hits) AS candidates, t.doc_id, t.chunk, t.start, t.stop,
                   t.distance, d.version, d.meta, {hit_columns("l.content_hash")}
            FROM collection c LEFT JOIN top t ON true
            LEFT JOIN document d ON d.cid = c.cid AND d.doc_id = t.doc_id
            LEFT JOIN {ledgers.table(self._gen)} l ON l.gen = :gen AND l.doc_id = t.doc_id
            WHERE c.cid = :cid ORDER BY t.distance, t.doc_id, t.chunk"""
        values = {"cid": self._cid, "gen": self._gen, "query": Vector(query).to_text(), **wanted.filter_params}
        found = connection.execute(sa.text(sql), values).mappings().all()
        return VisibleHits(
            found[0]["active_gen"], found[0]["candidates"], [dict(row) for row in found if row["doc_id"] is not None]
        )

    def direction(self, connection: sa.Connection, doc_id: str) -> npt.NDArray[np.float32] | None:
        """Average in one statement."""
        one = "l2_normalize(i.embedding)" if self.index.spec.metric == "cosine" else "i.embedding"
        found = connection.scalar(
            sa.text(
                f"SELECT CAST(CAST(avg({one}) AS vector) AS text) FROM {self.index.name} i "
                f"{_shown()} AND i.doc_id = :doc_id"
            ),
            {"cid": self._cid, "doc_id": doc_id},
        )
        return None if found is None else np.asarray(Vector.from_text(found).to_numpy(), dtype=np.float32)

    def read(self, connection: sa.Connection, doc_ids: Sequence[str]) -> Iterator[IndexedDocument]:
        """Read rows."""
        return (IndexedDocument(*one) for one in self.index.read(connection, doc_ids))

    def sample(self, connection: sa.Connection, rows: int) -> Iterator[Vectors]:
        """Read random pages of the table."""
        return self.index.sample(connection, rows)

    def facts(self, connection: sa.Connection, page: SqlRelation) -> SqlRelation:
        """Count rows by the primary key, whatever the statistics say."""
        del connection, page
        model, half = self._generation.spec.model, self.index.spec.storage == "halfvec"
        norm = "l2_norm(i.embedding)" if half else "vector_norm(i.embedding)"
        # PostgreSQL orders NaN above all numbers, so both forms call it bad.
        bad = f"abs({norm} - 1) > {NORM_TOLERANCE}" if model.normalize else f"NOT ({norm} > 0 AND {norm} < 'Infinity')"
        return SqlRelation(_FACTS.format(dim=model.dim, bad=bad, index=self.index.name))

    def strays(self) -> str:
        """Return the ids of rows."""
        return (
            f"UNION (SELECT DISTINCT doc_id FROM {self.index.name} WHERE doc_id > :after ORDER BY doc_id LIMIT :rows)"
        )

    def signs(self, connection: sa.Connection, dims: int) -> SqlRelation:
        """Take the signs of all vectors, in the statement that asks."""
        del connection
        key = f"binary_quantize(subvector(embedding, 1, {dims}))"
        return SqlRelation(f"SELECT doc_id, chunk, start, stop, {key} AS key FROM {self.index.name}")

    def size_bytes(self, connection: sa.Connection) -> int:
        """Ask for the table with its indexes."""
        size = connection.scalar(
            sa.text("SELECT pg_total_relation_size(to_regclass(:name))"), {"name": self.index.name}
        )
        return int(size or 0)

    def rows(self, connection: sa.Connection) -> int:
        """Return the planner's estimate."""
        rows = connection.scalar(
            sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": self.index.name}
        )
        return max(0, int(rows or 0))


def visible() -> str:
    """Return the condition on a document ``d`` and what shows it, ``i``: not deleted, nor from before a delete."""
    return guard("search.visible", "NOT d.deleted AND i.version > d.tombstone_version")


def _shown() -> str:
    return f"JOIN document d ON d.cid = :cid AND d.doc_id = i.doc_id WHERE {visible()}"


def rows_of(part: Part, wanted: set[str]) -> Rows:
    """Return the rows of those documents of ``part`` that are ``wanted``, their chunks numbered from 0."""
    counts = np.where([doc_id in wanted for doc_id in part.doc_ids], part.counts, 0)
    documents = np.repeat(np.arange(len(part.doc_ids)), counts)
    chunks = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = part.starts[documents] + chunks
    return Rows(
        [part.doc_ids[n] for n in documents],
        chunks,
        part.versions[documents],
        part.chunk_starts[at],
        part.chunk_ends[at],
        part.embeddings[at],
    )
