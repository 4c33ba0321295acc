"""Owns finding embeddings that exist already, by fingerprint and content: in live indexes, and in the archive."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.adoption.stored import StoredVectors
from revector.archive import Part, read_part
from revector.encoders.check import unit_rows
from revector.encoders.pca import Rotation
from revector.errors import ArchiveError, IndexGone
from revector.interfaces import Chunker, Content, Locator, Piece, Vectors, locators_of, read_to_the_end
from revector.registry.collections import Generation, read_generation
from revector.registry.lanes import lane_of
from revector.registry.work import Item
from revector.spec import Revision
from revector.stores.pgvector import MAX_HALF

PARTS_KEPT = 4
"""Archive parts in memory at once: pages of a shard follow each other, and so do the parts that hold them."""

MIN_COSINE = 0.999

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPieces:
    """The embedded pieces of one document: ``locators`` int32 ``(c, 2)``, ``vectors`` float32 ``(c, dim)``."""

    locators: npt.NDArray[np.int32]
    vectors: Vectors

    @classmethod
    def of(cls, pieces: Sequence[Piece], vectors: Vectors) -> EmbeddedPieces:
        """Return what was embedded just now."""
        return cls(locators_of(pieces), vectors)

    def pieces(self, contents: Sequence[Content]) -> list[Piece]:
        """Return the pieces, of a document that holds ``contents``."""
        return [Piece.at(contents, Locator(*locator)) for locator in self.locators.tolist()]


# Of the same model, no narrower; or of the model that this one is a rotation of, at its full width.
_ALIKE = (
    "{fp} <> '' AND ({fp} = :vectors_fp AND {dim} >= :dim OR {fp} = CAST(:base_fp AS text) AND {dim} = CAST(:width AS "
    "int))"
)

# Narrower storage than the generation's own has lost what cannot be had back.
_SOURCES = f"""
FROM generation g WHERE {_ALIKE.format(fp="g.vectors_fp", dim="(g.spec->'model'->>'dim')::int")}
  AND g.chunker_fp = :chunker_fp AND NOT g.dropped
  AND (g.spec->'index'->>'storage' = 'vector' OR g.spec->'index'->>'storage' = :storage)
"""


def count_known(
    engine: sa.Engine,
    cid: int,
    revision: Revision,
    vectors_fp: str,
    rotation: Rotation | None = None,
    *,
    probes: Vectors,
) -> int:
    """Return how many documents a migration to ``revision`` need not embed: as ``Reuse`` finds them, counted in SQL.

    A live index holds their vectors, or a part of the archive whose documents lie between its first and last id and
    have not changed since it was sealed; or the table that the collection adopted. ``probes``: the encoder's vectors of
    its probes, (n, dim).
    """
    values = _values(cid, revision, vectors_fp, rotation)
    with engine.connect() as connection:
        gens = connection.scalars(sa.text(f"SELECT g.gen {_SOURCES}"), values).all()
        live = [gen for gen in gens if _same_probes(read_generation(connection, gen), probes, rotation)]
        parts = connection.execute(sa.text(f"SELECT path, gen, first_id, last_id, at FROM ({_PARTS}) every"), values)
        kept = [part for part in parts if Path(part.path).is_file()]
        makers = {part.gen: read_generation(connection, part.gen) for part in kept if part.gen is not None}
        others = {gen for gen, maker in makers.items() if not _same_probes(maker, probes, rotation)}
        kept = [part for part in kept if part.gen not in others]
        found = connection.scalar(
            sa.text(
                """
                WITH kept AS MATERIALIZED (SELECT * FROM unnest(CAST(:firsts AS text[]), CAST(:lasts AS text[]),
                  CAST(:at AS timestamptz[])) AS k(first, last, at))
                SELECT count(*) FROM document d WHERE d.cid = :cid AND NOT d.deleted AND (
                  EXISTS (SELECT 1 FROM ledger l WHERE l.content_hash = d.content_hash AND NOT l.deleted
                          AND l.gen = ANY(CAST(:live AS int[])))
                  OR EXISTS (SELECT 1 FROM kept k WHERE d.changed_at <= k.at AND d.doc_id >= k.first COLLATE "C"
                             AND d.doc_id <= k.last COLLATE "C"))
                """
            ),
            {
                "cid": cid,
                "live": live,
                "firsts": [part.first_id for part in kept],
                "lasts": [part.last_id for part in kept],
                "at": [part.at for part in kept],
            },
        )
    adopted = StoredVectors(engine, cid, vectors_fp=vectors_fp, chunker_fp=revision.chunker_fp, dim=revision.model.dim)
    return max(int(found or 0), adopted.count())


def _values(cid: int, revision: Revision, vectors_fp: str, rotation: Rotation | None) -> dict[str, object]:
    return {
        "cid": cid,
        "vectors_fp": vectors_fp,
        "base_fp": None if rotation is None else rotation.base_fp,
        "width": None if rotation is None else len(rotation.matrix),
        "chunker_fp": revision.chunker_fp,
        "dim": revision.model.dim,
        "storage": revision.index.storage,
    }


_PARTS = f"""
  SELECT p.path, p.sha256, p.gen, g.vectors_fp, p.first_id, p.last_id, p.sealed_at AS at
  FROM part p JOIN generation g USING (gen) WHERE g.cid = :cid AND g.gen IN (SELECT g.gen {_SOURCES})
  UNION ALL
  SELECT path, sha256, gen, vectors_fp, first_id, last_id, at FROM archived
  WHERE cid = :cid AND {_ALIKE.format(fp="vectors_fp", dim="dim")} AND chunker_fp = :chunker_fp
"""


def _same_probes(source: Generation, own: Vectors, rotation: Rotation | None) -> bool:
    """Whether the probe texts have the same vectors here and there: a server's model may have changed."""
    turned = rotation is not None and source.vectors_fp == rotation.base_fp
    theirs = (rotation(source.probes) if rotation is not None and turned else source.probes)[:, : own.shape[1]]
    norms = np.linalg.norm(theirs, axis=1) * np.linalg.norm(own, axis=1)
    return bool((np.sum(theirs * own, axis=1) >= MIN_COSINE * norms).all())


class Reuse:
    """Looks for vectors that generation ``generation`` would only compute again.

    The same text, cut by the same chunker and embedded by the same model, has the same vectors, whatever document it
    is in: a re-run, other index parameters, a narrower cut (Matryoshka), and documents that moved cost nothing.
    Nor does a ``rotation`` of a model whose vectors are there: they are turned.
    """

    def __init__(
        self,
        engine: sa.Engine,
        generation: Generation,
        rotation: Rotation | None = None,
        chunker: Chunker | None = None,
    ) -> None:
        """``chunker``: the generation's own, which says how much of a text an adopted vector is of."""
        self._engine, self._generation, self._chunker, self._rotation = engine, generation, chunker, rotation
        self._adopted = StoredVectors(
            engine,
            generation.cid,
            vectors_fp=generation.vectors_fp,
            chunker_fp=generation.chunker_fp,
            dim=generation.spec.model.dim,
        )
        self._parts: OrderedDict[str, Mapping[str, EmbeddedPieces]] = OrderedDict()
        self._values = _values(generation.cid, generation.spec, generation.vectors_fp, rotation)

    def find(self, items: Sequence[Item], *, archive: bool = False) -> dict[str, EmbeddedPieces]:
        """Return what is known of the documents in ``items`` (sorted by id), by id.

        With ``archive``, sealed files and the vectors of an adopted table are looked at too.

        What a repair took back is not looked for: it is re-embedded.
        """
        if not items or not self._generation.vectors_fp:
            return {}
        wanted = {item.doc_id: str(item.content_hash) for item in items if item.contents}
        hashes = self._shown(set(wanted.values()))
        if archive and (missing := set(wanted.values()) - set(hashes)):
            hashes |= self._archived(missing, min(wanted), max(wanted))
        if archive and self._adopted and self._chunker:
            hashes |= self._in_table(self._chunker, [item for item in items if str(item.content_hash) not in hashes])
        # What the storage cannot hold is embedded again, and refused there with its reason.
        found = {
            doc_id: hashes[content]
            for doc_id, content in wanted.items()
            if content in hashes and self._fits(hashes[content].vectors)
        }
        for doc_id in self._taken_back(found):
            del found[doc_id]
        return found

    def _shown(self, hashes: set[str]) -> dict[str, EmbeddedPieces]:
        """Return what live indexes show, by content hash: ledger and rows in one snapshot."""
        found: dict[str, EmbeddedPieces] = {}
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            gens = connection.scalars(sa.text(f"SELECT g.gen {_SOURCES}"), self._values).all()
            rows = connection.execute(
                sa.text(
                    # One look-up for each text: as a join it would read the whole ledger for each batch.
                    "SELECT l.* FROM unnest(CAST(:hashes AS text[])) hash, LATERAL (SELECT content_hash, gen, doc_id, "
                    "n_chunks FROM ledger WHERE hashtextextended(content_hash, 0) = hashtextextended(hash, 0) AND "
                    "content_hash = hash AND NOT deleted AND gen = ANY(CAST(:gens AS int[])) ORDER BY gen LIMIT 1) l"
                ),
                {"hashes": sorted(hashes), "gens": list(gens)},
            ).all()
            by_generation: dict[int, list[sa.Row[tuple[str, int, str, int]]]] = defaultdict(list)
            for row in rows:
                by_generation[row.gen].append(row)
            for gen, shown in by_generation.items():
                found |= self._read(connection, gen, shown)
        return found

    def _read(
        self, connection: sa.Connection, gen: int, shown: Iterable[sa.Row[tuple[str, int, str, int]]]
    ) -> dict[str, EmbeddedPieces]:
        source = read_generation(connection, gen)
        if not self._same_model(source):
            return {}
        by_id = {row.doc_id: row for row in shown}
        try:
            read = list(lane_of(source).read(connection, sorted(by_id)))
        except IndexGone:  # retired and dropped since the snapshot began
            connection.rollback()
            return {}
        return {
            by_id[one.doc_id].content_hash: EmbeddedPieces(one.locators, self._as_own(one.vectors, source.vectors_fp))
            for one in read
            if len(one.vectors) == by_id[one.doc_id].n_chunks
            and np.isfinite(one.vectors).all()
            and one.vectors.any(axis=1).all()
        }

    def _same_model(self, source: Generation) -> bool:
        return _same_probes(source, self._generation.probes, self._rotation)

    def _archived(self, hashes: set[str], first: str, last: str) -> dict[str, EmbeddedPieces]:
        """Return what sealed parts hold of ``hashes`` that lie between two document ids."""
        with self._engine.connect() as connection:
            parts = connection.execute(
                sa.text(
                    f"SELECT path, sha256, gen, vectors_fp FROM ({_PARTS}) every WHERE first_id <= :last AND "
                    "last_id >= :first ORDER BY at DESC"
                ),
                {**self._values, "first": first, "last": last},
            ).all()
            makers = {part.gen for part in parts if part.gen is not None}
            others = {gen for gen in makers if not self._same_model(read_generation(connection, gen))}
        found: dict[str, EmbeddedPieces] = {}
        for path, sha256, gen, vectors_fp in parts:
            if gen in others:
                continue
            if len(found) == len(hashes):
                break
            part = self._part(Path(path), sha256, vectors_fp)
            found |= {content: part[content] for content in hashes - set(found) if content in part}
        return found

    def _in_table(self, chunker: Chunker, items: Sequence[Item]) -> dict[str, EmbeddedPieces]:
        """Return what an adopted table holds, by content hash: one vector for a text that the model sees to its end."""
        read = self._adopted.read([(item.doc_id, str(item.content_hash)) for item in items if item.contents])
        found: dict[str, EmbeddedPieces] = {}
        for item in items:
            pieces = chunker.pieces(item.contents) if item.doc_id in read else []
            if len(pieces) == 1 and read_to_the_end(pieces, item.contents):
                found[str(item.content_hash)] = EmbeddedPieces.of(pieces, read[item.doc_id][None])
        return found

    def _part(self, path: Path, sha256: str, vectors_fp: str) -> Mapping[str, EmbeddedPieces]:
        if sha256 not in self._parts:
            try:
                self._parts[sha256] = self._by_content(read_part(path, sha256), vectors_fp)
            except ArchiveError as error:
                log.warning("%s", error)
                self._parts[sha256] = {}
            if len(self._parts) > PARTS_KEPT:
                self._parts.popitem(last=False)
        self._parts.move_to_end(sha256)
        return self._parts[sha256]

    def _by_content(self, part: Part, vectors_fp: str) -> dict[str, EmbeddedPieces]:
        locators = np.column_stack((part.chunk_starts, part.chunk_ends))
        return {
            content: EmbeddedPieces(
                locators[at : at + count],
                self._as_own(part.embeddings[at : at + count].astype(np.float32), vectors_fp),
            )
            for content, at, count in zip(part.content_hashes, part.starts, part.counts, strict=True)
        }

    def _fits(self, vectors: Vectors) -> bool:
        half = self._generation.spec.index.storage == "halfvec"
        return not half or bool(np.abs(vectors).max() <= MAX_HALF)

    def _as_own(self, vectors: Vectors, vectors_fp: str) -> Vectors:
        """Return vectors of a source as the generation's own encoder gives them: turned and cut, where it does that."""
        model = self._generation.spec.model
        turned = self._turned(vectors, vectors_fp)
        if turned is vectors and vectors.shape[1] == model.dim:
            return vectors
        cut = np.ascontiguousarray(turned[:, : model.dim])
        return unit_rows(cut) if model.normalize else cut

    def _turned(self, vectors: Vectors, vectors_fp: str) -> Vectors:
        turn = self._rotation
        return turn(vectors) if turn is not None and vectors_fp == turn.base_fp else vectors

    def _taken_back(self, doc_ids: Iterable[str]) -> list[str]:
        """Return which documents a repair has marked in this generation (see ``indexing.rearm``)."""
        with self._engine.connect() as connection:
            return list(
                connection.scalars(
                    sa.text(
                        "SELECT doc_id FROM ledger WHERE gen = :gen AND doc_id = ANY(CAST(:ids AS text[])) AND "
                        "content_hash = ''"
                    ),
                    {"gen": self._generation.gen, "ids": list(doc_ids)},
                )
            )
