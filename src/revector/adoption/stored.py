"""Owns the vectors of an adopted table, read for documents that are still what they were made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from revector.adoption.adoptions import read_adoption
from revector.adoption.table import numbers_sql, vector_sql
from revector.adoption.terms import ROW, column_of
from revector.interfaces import Vectors


class StoredVectors:
    """What an adopted table holds for a model and a chunker, by their fingerprints.

    A row's vector is taken as that of its text only where no transaction has written the row since the adoption began:
    an application that writes a text first, and its vector later, would otherwise have the old one taken for it.
    """

    def __init__(self, engine: sa.Engine, cid: int, *, vectors_fp: str, chunker_fp: str, dim: int) -> None:
        self._engine, self._dim = engine, dim
        self._adoption = None
        with engine.connect() as connection:
            found = read_adoption(connection, cid)
        if found and found.vectors_fp and not found.gone and found.terms.vector is not None:
            same = (found.vectors_fp, found.chunker_fp) == (vectors_fp, chunker_fp)
            self._adoption = found if same else None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._adoption is not None

    def count(self) -> int:
        """Return how many documents have one, nearly: rows that were written since are not left out."""
        if self._adoption is None:
            return 0
        table, column = self._adoption.table, column_of(str(self._adoption.terms.vector))
        width, sound = vector_sql(column, table.types[str(table.terms.vector)])
        statement = f"SELECT count(*) FROM {table.documents} WHERE {width} = :dim AND {sound}"
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.text(statement), {"dim": self._dim}) or 0)

    def read(self, wanted: Sequence[tuple[str, str]]) -> dict[str, Vectors]:
        """Return the vectors, (dim,) float32, of those ``(id, content hash)`` whose row still has that text."""
        if self._adoption is None or not wanted:
            return {}
        table, column = self._adoption.table, column_of(str(self._adoption.terms.vector))
        width, sound = vector_sql(column, table.types[str(table.terms.vector)])
        statement = f"""
            SELECT w.doc_id, {numbers_sql(column)} AS v
            FROM unnest(CAST(:ids AS text[]), CAST(:hashes AS text[])) w(doc_id, hash), {table.documents}
            WHERE {table.matches("w.doc_id")} AND {width} = :dim AND {sound}
              AND encode(sha256(convert_to(f.content, 'UTF8')), 'hex') = w.hash
              AND age({ROW}.xmin) > age(CAST(CAST(:horizon AS text) AS xid))"""
        values = {
            "ids": [doc_id for doc_id, _ in wanted],
            "hashes": [content for _, content in wanted],
            "dim": self._dim,
            "horizon": self._adoption.horizon % 2**32,
        }
        with self._engine.connect() as connection:
            rows = connection.execute(sa.text(statement), values).all()
        return {row.doc_id: np.frombuffer(row.v, ">f4").astype(np.float32) for row in rows}
