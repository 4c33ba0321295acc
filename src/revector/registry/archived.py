"""Sealed archive files beyond their generation: kept when it was dropped, or imported, so that nothing is redone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import sqlalchemy as sa

from revector.archive import SealedFile
from revector.registry.collections import Generation


def keep(connection: sa.Connection, generation: Generation) -> None:
    """Take the parts of a generation that is being dropped over into the archive."""
    connection.execute(
        sa.text(
            """
            INSERT INTO archived
              (path, sha256, cid, gen, vectors_fp, chunker_fp, dim, first_id, last_id, documents, chunks, why)
            SELECT p.path, p.sha256, g.cid, g.gen, g.vectors_fp, g.chunker_fp, (g.spec->'model'->>'dim')::int,
              p.first_id, p.last_id, p.documents, p.chunks, 'kept'
            FROM part p JOIN generation g USING (gen)
            WHERE p.gen = :gen AND g.vectors_fp <> '' AND p.first_id IS NOT NULL ON CONFLICT DO NOTHING
            """
        ),
        {"gen": generation.gen},
    )


def add_imported(
    connection: sa.Connection,
    cid: int,
    every: Sequence[SealedFile],
    *,
    vectors_fp: str,
    chunker_fp: str,
    dim: int,
) -> None:
    """Record sealed files of precomputed vectors, ``dim`` wide, of one model and chunker."""
    statement = sa.text(
        "INSERT INTO archived (path, sha256, cid, vectors_fp, chunker_fp, dim, first_id, last_id, documents, "
        "chunks, why) VALUES (:path, :sha256, :cid, :vectors_fp, :chunker_fp, :dim, :first, :last, :documents, "
        ":chunks, 'imported')"
    )
    same = {"cid": cid, "vectors_fp": vectors_fp, "chunker_fp": chunker_fp, "dim": dim}
    for sealed in every:
        own = {"path": sealed.path, "sha256": sealed.sha256, "first": sealed.first_id, "last": sealed.last_id}
        connection.execute(statement, {**same, **own, "documents": sealed.documents, "chunks": sealed.chunks})


def forget_old(connection: sa.Connection, cid: int, *, older_than_days: float) -> list[Path]:
    """Forget kept files that are older and return their paths, to be removed once this is committed.

    Imported ones stay: nobody can compute them again from here for nothing.
    """
    return [
        Path(path)
        for path in connection.scalars(
            sa.text(
                "DELETE FROM archived WHERE cid = :cid AND why = 'kept' AND at <= clock_timestamp() - :days * interval "
                "'1 day' RETURNING path"
            ),
            {"cid": cid, "days": older_than_days},
        )
    ]


def paths(connection: sa.Connection, cid: int) -> Collection[Path]:
    """Return the paths of all files that are kept or imported."""
    found = connection.scalars(sa.text("SELECT path FROM archived WHERE cid = :cid"), {"cid": cid})
    return {Path(path) for path in found}
