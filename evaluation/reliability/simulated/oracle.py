"""What must be true, kept beside the library: documents by acknowledged writes only, and what each query may answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.reliability.judge import Row, asked, embedded, mismatch
from evaluation.reliability.simulated.look import Broken, Doc, Look, demand
from evaluation.reliability.truth import Chunk, Truth

from revector.interfaces import Vectors
from revector.serving.searcher import Answer, Hit
from revector.spec import Revision

TOLERANCE = {"vector": 1e-4, "halfvec": 3e-3}
"""Of a cosine: pgvector computes in float32, and halfvec rounds what it stores."""


class Write(NamedTuple):
    """What a caller asks for; content None deletes. ``external`` is the caller's own version."""

    doc_id: str
    content: str | None
    meta: dict[str, Any]
    external: int | None = None


class Oracle:
    """One collection as it must be."""

    def __init__(self, documents: Mapping[str, Doc]) -> None:
        self.documents = dict(documents)
        self.contents: dict[tuple[str, int], str | None] = {}
        """What every version of every document held."""
        self._perhaps: dict[str, Doc] | None = None
        self._floors: dict[str, dict[str, int]] = {}
        self._note(self.documents)

    # Writes -----------------------------------------------------------------------------------------------------------

    def changed_by(self, writes: Collection[Write]) -> dict[str, Doc]:
        """Return the documents that the writes change, without their versions."""
        changed = {}
        for write in writes:
            old = self.documents.get(write.doc_id)
            if old is None:
                new = Doc(None, write.content is None, 0, write.content, write.meta, write.external)
            else:
                late = write.external is not None and old.external is not None and write.external <= old.external
                same = (old.content, old.meta) == (write.content, write.meta)
                known = write.external is None or write.external == old.external
                if late or (same and known):
                    continue
                external = old.external if write.external is None else write.external
                new = Doc(None, write.content is None, old.tombstone, write.content, write.meta, external)
            changed[write.doc_id] = new
        return changed

    def acknowledged(self, changed: Mapping[str, Doc], versions: Mapping[str, int]) -> None:
        """Note what a write answered. Raises ``Broken`` if it answered for other documents than it had to."""
        demand(versions.keys() == changed.keys(), "lost", "writes of", changed, "were answered with", versions)
        for doc_id, doc in changed.items():
            self._accept(doc_id, doc, versions[doc_id])

    def unknown(self, changed: Mapping[str, Doc]) -> None:
        """Note that nobody knows whether a write happened."""
        self._perhaps = dict(changed)

    def _accept(self, doc_id: str, doc: Doc, version: int) -> None:
        old = self.documents.get(doc_id)
        demand(old is None or version > (old.version or 0), "went back", repr(doc_id), "got", version, "after", old)
        tombstone = version if doc.deleted else doc.tombstone
        self.documents[doc_id] = doc._replace(version=version, tombstone=tombstone)

    def settle(self, found: Mapping[str, Doc]) -> None:
        """Compare with the table: all of a doubtful write happened, or nothing of it did."""
        perhaps, self._perhaps = self._perhaps, None
        if perhaps and found != self.documents:
            for doc_id, doc in perhaps.items():
                demand(doc_id in found, "torn write", repr(doc_id), "of", perhaps, "is not in", found)
                self._accept(doc_id, doc, found[doc_id].version or 0)
        for doc_id in self.documents.keys() | found.keys():
            mine, theirs = self.documents.get(doc_id), found.get(doc_id)
            promise = "lost" if theirs is None else "phantom"
            demand(mine == theirs, promise, repr(doc_id), "is", theirs, "and written was", mine)
        self._note(found)

    def _note(self, found: Mapping[str, Doc]) -> None:
        for doc_id, doc in found.items():
            self.contents[doc_id, doc.version or 0] = doc.content

    # Sessions ---------------------------------------------------------------------------------------------------------

    def forget(self, doc_ids: Collection[str]) -> None:
        """Sessions may see older states of these from now on: someone moved the alias over them, knowingly."""
        for floor in self._floors.values():
            for doc_id in doc_ids:
                floor.pop(doc_id, None)

    def saw(self, session: str, versions: Mapping[str, int]) -> None:
        """Note which states a session was shown. Raises ``Broken`` if one is older than what it had seen."""
        floor = self._floors.setdefault(session, {})
        for doc_id, version in versions.items():
            seen = floor.get(doc_id, 0)
            demand(version >= seen, "went back", session, "saw", repr(doc_id), "at", seen, "and then at", version)
            floor[doc_id] = version


# Queries --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """One query as it was asked."""

    text: str
    k: int
    by: str
    lang: str | None


class Wanted(NamedTuple):
    """A chunk that is in reach of a query."""

    distance: float
    doc_id: str
    chunk: int
    piece: Chunk


Held = Mapping[str, Collection[int]]
"""Chunks by document that a store holds of what is shown: where it has lost some, nobody can find them."""


def in_reach(oracle: Oracle, seen: Look, gen: int, revision: Revision, query: Query, held: Held | None) -> list[Wanted]:
    """Return the chunks that the generation must find, best first: of every document what its ledger says."""
    found: list[Wanted] = []
    vector = asked(Truth.of(revision), query.text)
    for doc_id, doc in seen.documents.items():
        applied = seen.ledger.get((gen, doc_id))
        if doc.deleted or applied is None or applied.deleted or applied.version <= doc.tombstone:
            continue
        if query.lang is None or doc.meta.get("lang") == query.lang:
            chunks, vectors = embedded(Truth.of(revision), oracle.contents[doc_id, applied.version] or "")
            there = range(len(chunks)) if held is None else held.get(doc_id, ())
            found += [Wanted(1 - float(vectors[n] @ vector), doc_id, n, chunks[n]) for n in there]
    return sorted(found)


def check_answer(
    oracle: Oracle,
    seen: Look,
    revisions: Mapping[str, Revision],
    query: Query,
    answer: Answer,
    held: Held | None,
) -> None:
    """Judge an answer of this very instant. Raises ``Broken`` with the promise that it breaks."""
    gen = answer.generation
    revision = revisions[seen.generations[gen]["revision"]]
    own = Truth.of(revision).fingerprint
    demand(answer.encoder_fp == own, "wrong model", gen, "was asked with", answer.encoder_fp)
    tolerance = TOLERANCE[revision.index.storage]
    reach = in_reach(oracle, seen, gen, revision, query, held)
    chunks = {(one.doc_id, one.chunk): one for one in reach}
    for hit in answer.hits:
        one = chunks.get((hit.id, hit.chunk))
        same_place = one is not None and (one.piece.start, one.piece.end) == (hit.start, hit.stop)
        if one is None or not same_place or abs(1 - one.distance - hit.score) > tolerance:
            raise Broken(_blame(oracle, seen, revisions, query, answer, hit), f"{hit} of {query}, in reach: {reach}")
        _check_text(oracle, seen, gen, hit)
    best = {one.doc_id: one for one in reversed(reach)}
    wanted = sorted(best.values()) if query.by == "document" else reach
    demand(len(answer.hits) == min(query.k, len(wanted)), "lost", answer, "to", query, "in reach:", reach)
    told_apart = [hit.id if query.by == "document" else (hit.id, hit.chunk) for hit in answer.hits]
    demand(len(set(told_apart)) == len(told_apart), "mixed chunks", "twice in", answer)
    for hit, one in zip(answer.hits, wanted, strict=False):
        demand(abs(1 - one.distance - hit.score) <= tolerance, "lost", hit, "in place of", one, "to", query)


def _check_text(oracle: Oracle, seen: Look, gen: int, hit: Hit) -> None:
    """The text shown is of the document as it stands: the chunk, or all of it while a newer text waits."""
    doc, applied = oracle.documents[hit.id], seen.ledger[gen, hit.id]
    content = doc.content or ""
    current = oracle.contents[hit.id, applied.version] == content
    shown = content[hit.start : hit.stop] if current else content
    demand((hit.version, hit.text) == (doc.version, shown), "stale", hit, "and the document is", doc)
    demand(dict(hit.meta) == doc.meta, "stale", hit, "and the document is", doc)


def _blame(
    oracle: Oracle, seen: Look, revisions: Mapping[str, Revision], query: Query, answer: Answer, hit: Hit
) -> str:
    """Name the promise that a wrong hit breaks."""
    doc = seen.documents.get(hit.id)
    if doc is None:
        return "phantom"
    if doc.deleted:
        return "resurrected"
    revision = revisions[seen.generations[answer.generation]["revision"]]
    tolerance = TOLERANCE[revision.index.storage]

    def came_from(content: str, vector: Vectors) -> bool:
        chunks, vectors = embedded(Truth.of(revision), content)
        at = [n for n, chunk in enumerate(chunks) if (chunk.start, chunk.end) == (hit.start, hit.stop)]
        return any(abs(float(vectors[n] @ vector) - hit.score) <= tolerance for n in at)

    for (doc_id, version), content in oracle.contents.items():
        if doc_id == hit.id and content is not None and came_from(content, asked(Truth.of(revision), query.text)):
            return "resurrected" if version <= doc.tombstone else "stale"
    others = [one for one in revisions.values() if one.model.dim == revision.model.dim and one != revision]
    texts = [content for (doc_id, _), content in oracle.contents.items() if doc_id == hit.id and content]
    if any(came_from(text, asked(Truth.of(other), query.text)) for other in others for text in texts):
        return "wrong model"
    return "phantom"


def check_vectors(oracle: Oracle, seen: Look, gen: int, revision: Revision, rows: Collection[Any]) -> None:
    """Compare every row of an index (doc_id, chunk, start, stop, vector) with the texts that its ledger names."""
    found: dict[str, list[Row]] = {}
    for doc_id, chunk, start, stop, vector in sorted(rows, key=lambda row: row[1]):
        found.setdefault(doc_id, []).append(Row(chunk, 0, start, stop, vector))
    for (of, doc_id), applied in seen.ledger.items():
        if of != gen or applied.deleted:
            continue
        if applied.content_hash == "" and (gen, doc_id) in seen.pending:  # lost, and a dead letter since
            found.pop(doc_id, None)
            continue
        text, tolerance = oracle.contents[doc_id, applied.version] or "", TOLERANCE[revision.index.storage]
        if wrong := mismatch(found.pop(doc_id, []), text, Truth.of(revision), tolerance):
            raise Broken(wrong[0], f"{gen} {doc_id!r} {applied}: {wrong[1]}")
    demand(not found, "phantom", gen, "has rows of", list(found))
