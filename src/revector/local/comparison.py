"""The independent comparison of the demo: what the application was told, against what the indexes hold.

It trusts neither ledger nor work set: the expected contents come from the source and the application's own record; they
are re-chunked and re-embedded and compared with what every live index holds: with all rows of a table, and with those
points of another store that SQL shows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.config import Project
from revector.documents.text import clean
from revector.indexing.chunking import make_chunker
from revector.interfaces import Content, Document, Encoder, Piece
from revector.local.record import read_record
from revector.registry import ledgers
from revector.registry.collections import Generation, read_generation
from revector.registry.lane import IndexedDocument
from revector.registry.lanes import lane_of
from revector.revisions import RevisionGraph

SAMPLE = 60
"""Unchanged documents that are embedded again per index; changed ones all are, up to ``MOST_CHANGED``."""

MOST_CHANGED = 150
MIN_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Difference:
    """What an index lacks, still has, or has of an old version; ``compared`` chunks were embedded again."""

    revision: str
    documents: int
    lost: tuple[str, ...]
    stale: tuple[str, ...]
    resurrected: tuple[str, ...]
    compared: int


Contents: TypeAlias = tuple[Content, ...]


def expected(source: Iterable[Document], record: Path) -> tuple[dict[str, Contents], set[str], set[str]]:
    """Return what must be served, the ids that were changed, and those whose last write had no clear end."""
    held = {one.id: _contents(one.text, one.image() if callable(one.image) else one.image) for one in source}
    changed: set[str] = set()
    unknown: set[str] = set()
    for line in read_record(record):
        doc_id = str(line.get("id", ""))
        if line["op"] == "put":
            image = line.get("image")
            held[doc_id] = _contents(line["text"], None if image is None else base64.b64decode(image))
        elif line["op"] == "delete":
            held.pop(doc_id, None)
        if line["op"] in ("put", "delete"):
            changed.add(doc_id)
            unknown.discard(doc_id)
        elif line["op"] == "unknown":
            unknown.add(doc_id)
    return held, changed, unknown


def _contents(text: str | None, image: bytes | None) -> Contents:
    texts = (Content("text", clean(text)),) if text or image is None else ()
    return texts if image is None else (*texts, Content.image(image))


def compare(
    project: Project, collection: str, held: Mapping[str, Contents], changed: set[str], unknown: set[str]
) -> list[Difference]:
    """Compare every live index with the expected contents; documents of unknown outcome are left out."""
    graph = RevisionGraph.from_folder(project.migrations(collection))
    with project.engine.connect() as connection:
        live = connection.execute(
            sa.text("SELECT g.gen FROM slot s JOIN generation g USING (gen) WHERE s.cid = :cid ORDER BY g.gen"),
            {"cid": project.cid(collection)},
        ).all()
        generations = [read_generation(connection, row.gen) for row in live]
    return [_compare_index(project, one, graph, held, changed, unknown) for one in generations]


def _held(connection: sa.Connection, generation: Generation) -> dict[str, IndexedDocument]:
    lane = lane_of(generation)
    where = generation.physical_name if lane.traits.in_sql else ledgers.table(generation.gen)
    ids = connection.scalars(sa.text(f"SELECT DISTINCT doc_id FROM {where} ORDER BY doc_id")).all()
    return {one.doc_id: one for one in lane.read(connection, ids)}


def _compare_index(
    project: Project,
    generation: Generation,
    graph: RevisionGraph,
    held: Mapping[str, Contents],
    changed: set[str],
    unknown: set[str],
) -> Difference:
    spec = graph[generation.revision]
    encoder = project.load_encoder(spec.model)
    chunker = make_chunker(spec.chunking, encoder.tokenizer, encoder.kinds)
    with project.engine.connect() as connection:
        rows = _held(connection, generation)
    lost = sorted(set(held) - set(rows) - unknown)
    resurrected = sorted(set(rows) - set(held) - unknown)
    stale: list[str] = []
    again: list[tuple[str, Piece, npt.NDArray[np.float32]]] = []
    here = sorted((set(held) & set(rows)) - unknown)
    sample = set(sorted(changed & set(here))[:MOST_CHANGED]) | set(here[:: max(1, len(here) // SAMPLE)])
    for doc_id in here:
        pieces = chunker.pieces(held[doc_id])
        found = rows[doc_id]
        if [piece.locator for piece in pieces] != list(map(tuple, found.locators.tolist())):
            stale.append(doc_id)
        elif doc_id in sample:
            again += [(doc_id, piece, vector) for piece, vector in zip(pieces, found.vectors, strict=True)]
    stale += _unlike(encoder, again)
    return Difference(
        generation.revision, len(rows), tuple(lost), tuple(sorted(set(stale))), tuple(resurrected), len(again)
    )


def _unlike(encoder: Encoder, again: list[tuple[str, Piece, npt.NDArray[np.float32]]]) -> list[str]:
    """Return the documents whose vectors are not those of the piece; ``again`` is document, piece and stored vector."""
    if not again:
        return []
    fresh = encoder.encode("document", [piece for _, piece, _ in again])
    stored = np.array([vector for _, _, vector in again], dtype=np.float32)
    cosines = (fresh * stored).sum(axis=1) / np.linalg.norm(fresh, axis=1) / np.linalg.norm(stored, axis=1)
    return [doc_id for (doc_id, _, _), cosine in zip(again, cosines, strict=True) if cosine < MIN_COSINE]
