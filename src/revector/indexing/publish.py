"""From due items to visible vectors: chunk and embed outside any transaction, then prove and publish in a short one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from revector import counts
from revector.archive import Part
from revector.crash import crash_at
from revector.database.engine import repeated, transaction
from revector.encoders.check import check_vectors, unit_rows
from revector.encoders.pca import rotation_of
from revector.encoders.probes import PROBES, first_row, probes_of
from revector.encoders.vocabulary import Vocabulary
from revector.errors import (
    BadVectors,
    DatabaseUnavailable,
    DocumentError,
    EncoderError,
    EncoderMismatch,
    EncoderUnavailable,
    GenerationGone,
    ProviderUnavailable,
    RevectorError,
    StoreUnavailable,
    TextsRefused,
)
from revector.guards import guard
from revector.indexing.batches import part_of
from revector.indexing.encoding import MODEL_ERRORS
from revector.indexing.reuse import EmbeddedPieces, Reuse
from revector.interfaces import Chunker, Encoder, Piece, Vectors
from revector.registry import work
from revector.registry.collections import Generation
from revector.registry.lane import Staged
from revector.registry.lanes import lane_of
from revector.registry.work import Item
from revector.stores.pgvector import MAX_HALF

_VERSIONS = "unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[])) AS s(doc_id, version)"
FRAME = 0, 1
"""The probes that go before and after each batch, of each kind in it: a reordered reply shows there."""

MIN_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that could not be embedded. ``final`` says that trying again cannot help."""

    item: Item
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """What to do for a batch: documents to embed, ones that others have embedded, and what needs no vectors."""

    items: tuple[Item, ...]
    todo: tuple[tuple[Item, list[Piece]], ...]
    known: Mapping[str, EmbeddedPieces]
    unchanged: tuple[Item, ...]
    tombstones: tuple[Item, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """What embedding a batch gave: documents with vectors, ones whose content did not change, tombstones, failures."""

    part: Part
    unchanged: tuple[Item, ...]
    tombstones: tuple[Item, ...]
    failures: tuple[Failure, ...]
    reused: int = 0
    """Documents of ``part`` whose vectors were found and not computed."""


class Applier:
    """Brings documents up to date in one generation. Any number may work at once, also on the same document."""

    def __init__(self, engine: sa.Engine, generation: Generation, encoder: Encoder, chunker: Chunker) -> None:
        self._engine, self.generation, self._encoder, self._chunker = engine, generation, encoder, chunker
        self._reuse = Reuse(engine, generation, rotation_of(encoder), chunker)
        self._vocabulary = Vocabulary(encoder.tokenizer)
        self._lane = lane_of(generation)

    def apply(self, doc_ids: Sequence[str]) -> tuple[int, int]:
        """Embed and publish the documents as they stand; return (published, dead-lettered).

        What moved on meanwhile stays due. Failures are recorded with their reason.
        """
        try:
            items = work.read_items(self._engine, self.generation.cid, doc_ids)
            crash_at("worker.after_read")
            prepared = self.prepare(items)
            crash_at("worker.after_embed")
            published = self.publish(prepared)
        except (EncoderUnavailable, EncoderMismatch, DatabaseUnavailable, StoreUnavailable):
            with suppress(DatabaseUnavailable):
                work.release(self._engine, self.generation.gen, doc_ids)
            raise
        dead = self.record_failures(prepared.failures)
        crash_at("worker.after_failures")
        return published, dead

    def prepare(self, items: Sequence[Item]) -> PreparedBatch:
        """``plan`` and ``embed`` in one."""
        return self.embed(self.plan(items))

    def plan(self, items: Sequence[Item], *, archive: bool = False) -> PlannedBatch:
        """Cut into chunks what must be embedded, holding no lock; ``items`` in id order.

        Equal content is not embedded again: neither what the generation shows already, nor what ``Reuse`` finds.
        Whichever it is, a document with a chunk that the model knows too little of is refused.
        """
        shown = work.applied_unchanged(self._engine, self.generation.gen, items)
        tombstones = tuple(item for item in items if not item.contents)
        unchanged = tuple(item for item in items if item.doc_id in shown)
        open_items = [item for item in items if item.contents and item.doc_id not in shown]
        known, cut = self._reuse.find(open_items, archive=archive), dict[str, list[Piece]]()
        todo: list[tuple[Item, list[Piece]]] = []
        failures: list[Failure] = []
        for item in open_items:
            if item.doc_id in known:
                cut[item.doc_id] = known[item.doc_id].pieces(item.contents)
                continue
            try:
                pieces = self._chunker.pieces(item.contents)
                if not pieces:
                    held = " and ".join(content.kind for content in item.contents)
                    raise DocumentError(
                        f"document {item.doc_id!r} holds {held}, in which model {self.generation.spec.model.name!r} "
                        f"finds nothing to embed: it embeds {' and '.join(self._encoder.kinds)}."
                    )
                todo.append((item, pieces))
                cut[item.doc_id] = pieces
            except RevectorError as error:
                failures.append(Failure(item, str(error), final=True))
        refused = self._vocabulary.unreadable(cut, self.generation.spec.model.max_unknown_tokens)
        failures += [
            Failure(item, refused[item.doc_id].reason(item.doc_id), final=True)
            for item in open_items
            if item.doc_id in refused
        ]
        todo = [one for one in todo if one[0].doc_id not in refused]
        known = {doc_id: one for doc_id, one in known.items() if doc_id not in refused}
        return PlannedBatch(tuple(items), tuple(todo), known, unchanged, tombstones, tuple(failures))

    def embed(self, planned: PlannedBatch) -> PreparedBatch:
        """Embed what was planned. Raises ``EncoderUnavailable`` when not the documents but the encoder is at fault."""
        embedded, failed = self._embed(planned.todo)
        counts.add("chunks_embedded", sum(len(pieces) for _, pieces, _ in embedded), self.generation.cid)
        if failed and not embedded:
            self._prove_alive()
        found = [(item, planned.known[item.doc_id]) for item in planned.items if item.doc_id in planned.known]
        found += [(item, EmbeddedPieces.of(pieces, vectors)) for item, pieces, vectors in embedded]
        return PreparedBatch(
            part_of(sorted(found, key=lambda one: one[0].doc_id), self._encoder.dim),
            planned.unchanged,
            planned.tombstones,
            (*planned.failures, *failed),
            reused=len(planned.known),
        )

    def _embed(
        self, todo: Sequence[tuple[Item, list[Piece]]]
    ) -> tuple[list[tuple[Item, list[Piece], Vectors]], list[Failure]]:
        """Embed in one call; when that fails, bisect, so that a poison document costs only itself."""
        if not todo:
            return [], []
        every = [piece for _, pieces in todo for piece in pieces]
        once = {piece.content: piece for piece in every}
        places = {content: n for n, content in enumerate(once)}
        try:
            vectors = self._encode(list(once.values()))[[places[piece.content] for piece in every]]
        except (EncoderMismatch, ProviderUnavailable):
            raise
        except TextsRefused as error:
            return self._embed_without(todo, error)
        except MODEL_ERRORS as error:
            if len(todo) == 1:
                final = isinstance(error, EncoderError | DocumentError) and not error.retryable
                return [], [Failure(todo[0][0], str(error) if final else f"{type(error).__name__}: {error}", final)]
            middle = len(todo) // 2
            left, left_failed = self._embed(todo[:middle])
            right, right_failed = self._embed(todo[middle:])
            return left + right, left_failed + right_failed
        ends = np.cumsum([len(pieces) for _, pieces in todo])
        parts = np.split(vectors, ends[:-1])
        return [(item, pieces, part) for (item, pieces), part in zip(todo, parts, strict=True)], []

    def _embed_without(
        self, todo: Sequence[tuple[Item, list[Piece]]], error: TextsRefused
    ) -> tuple[list[tuple[Item, list[Piece], Vectors]], list[Failure]]:
        """Give up the documents whose texts the encoder found that it cannot take, and embed the others."""
        refused = error.refused
        failed = [
            Failure(item, next(refused[one.content.data] for one in pieces if one.content.data in refused), final=True)
            for item, pieces in todo
            if any(one.content.data in refused for one in pieces)
        ]
        if not failed:
            raise EncoderUnavailable(f"the encoder refuses the probe texts: {error}") from error
        given_up = {failure.item.doc_id for failure in failed}
        embedded, more = self._embed([one for one in todo if one[0].doc_id not in given_up])
        return embedded, failed + more

    def _encode(self, pieces: Sequence[Piece]) -> Vectors:
        if len(pieces) == 1:
            vectors = check_vectors(self._encoder.encode("document", pieces), 1, self.generation.spec.model.dim)
        else:
            vectors = self._encode_framed(pieces)
        if self.generation.spec.index.storage == "halfvec" and np.abs(vectors).max() > MAX_HALF:
            raise BadVectors(f"a vector holds {np.abs(vectors).max():g}, halfvec stores at most {MAX_HALF:,.0f}.")
        return vectors

    def _encode_framed(self, pieces: Sequence[Piece]) -> Vectors:
        kinds = dict.fromkeys(piece.content.kind for piece in pieces)
        before, after = ([PROBES[kind][n] for kind in kinds] for n in FRAME)
        framed, n = [*before, *pieces, *after], len(kinds)
        reply = check_vectors(self._encoder.encode("document", framed), len(framed), self.generation.spec.model.dim)
        stored = self.generation.probes[[first_row(self._encoder.kinds, kind) + at for at in FRAME for kind in kinds]]
        cosines = np.sum(unit_rows(np.concatenate([reply[:n], reply[-n:]])) * unit_rows(stored), axis=1)
        if cosines.min() < MIN_COSINE:
            raise EncoderMismatch(
                f"the encoder of generation {self.generation.gen} (revision {self.generation.revision}) was given "
                f"{len(pieces)} texts between two probe texts, and what came back in their places has cosine "
                f"{cosines.min():.4f} to what is stored for them, {MIN_COSINE} is allowed: replies are reordered, or "
                "the model changed. Nothing was published and all work stays due; fix the encoder."
            )
        return reply[n:-n]

    def _prove_alive(self) -> None:
        """Embed a probe, after a batch of which nothing came through: a lost device must not give up the corpus."""
        try:
            self._encode(probes_of(self._encoder.kinds)[:1])
        except MODEL_ERRORS as error:
            raise EncoderUnavailable(
                f"the encoder of generation {self.generation.gen} (revision {self.generation.revision}) fails on every "
                f"text: {type(error).__name__}: {error}. Nothing was published and all work stays due; fix the "
                "encoder or its device, then run it again."
            ) from error

    def publish(self, prepared: PreparedBatch) -> int:
        """Make results visible in one short transaction that proves each is still the latest; return how many were.

        A document whose version moved, or that is being written this instant, is left out: its item stays. Raises
        ``GenerationGone`` when the generation is no longer live, ``EncoderMismatch`` never: the row names the encoder.
        """
        part = prepared.part
        candidates = {doc_id: int(version) for doc_id, version in zip(part.doc_ids, part.versions, strict=True)}
        candidates |= {item.doc_id: item.version for item in (*prepared.unchanged, *prepared.tombstones)}
        if not candidates:
            return 0
        consumed = self._publish(prepared, self._lane.stage(self._engine, part), candidates)
        counts.add("documents_published", len(consumed), self.generation.cid)
        left = [doc_id for doc_id in candidates if doc_id not in consumed]
        if left:
            work.release(self._engine, self.generation.gen, left)
        return len(consumed)

    @repeated
    def _publish(self, prepared: PreparedBatch, staged: Staged, candidates: dict[str, int]) -> set[str]:
        gen, part = self.generation.gen, prepared.part
        dead = {item.doc_id for item in prepared.tombstones}
        same = {item.doc_id for item in prepared.unchanged}
        with transaction(self._engine) as connection:
            current = self._lock_current(connection, candidates)
            crash_at("publish.after_lock")
            # Asked again under the locks: a repair may have taken back what the ledger showed.
            shown = work.shown_unchanged(connection, gen, prepared.unchanged) if same else set()
            wanted = {doc_id: version for doc_id, version in current.items() if doc_id not in same - shown}
            held = work.hold(connection, gen, wanted)
            consumed = self._lane.reveal(connection, part, staged, held - same) | held & same
            crash_at("publish.after_rows")
            work.consume(connection, gen, list(consumed))
            crash_at("publish.after_consume")
            self._write_ledger(
                connection,
                part,
                staged,
                consumed,
                {doc_id: candidates[doc_id] for doc_id in consumed & dead},
                {doc_id: candidates[doc_id] for doc_id in consumed & same},
            )
            crash_at("publish.after_ledger")
        crash_at("publish.after_commit")
        return consumed

    def _lock_current(self, connection: sa.Connection, candidates: dict[str, int]) -> dict[str, int]:
        """Lock the documents that are still what was embedded, and prove that the generation takes it."""
        gen = self.generation
        current = connection.execute(
            sa.text(
                f"SELECT d.doc_id, d.version FROM {_VERSIONS} JOIN document d ON d.cid = :cid AND d.doc_id = s.doc_id "
                f"WHERE {guard('publish.version', 'd.version = s.version')} ORDER BY d.doc_id "
                f"{guard('publish.document_lock', 'FOR SHARE OF d SKIP LOCKED')}"
            ),
            {"cid": gen.cid, "ids": list(candidates), "versions": list(candidates.values())},
        ).all()
        alive = connection.scalar(
            sa.text(
                f"SELECT live AND {guard('publish.encoder', 'encoder_fp = :fp')} FROM generation WHERE gen = :gen FOR "
                "SHARE"
            ),
            {"gen": gen.gen, "fp": self._encoder.fingerprint},
        )
        if not alive:
            raise GenerationGone(
                f"generation {gen.gen} is no longer live or has another encoder; {len(candidates)} results were "
                "dropped, the documents are untouched."
            )
        return {row.doc_id: row.version for row in current}

    def _write_ledger(
        self,
        connection: sa.Connection,
        part: Part,
        staged: Staged,
        consumed: set[str],
        tombstones: dict[str, int],
        unchanged: dict[str, int],
    ) -> None:
        new = [n for n, doc_id in enumerate(part.doc_ids) if doc_id in consumed]
        ids = [part.doc_ids[n] for n in new] + list(tombstones)
        connection.execute(
            sa.text(
                """
                INSERT INTO ledger AS l (gen, doc_id, version, deleted, n_chunks, content_hash, attempt)
                SELECT :gen, doc_id, version, content_hash IS NULL, n_chunks, content_hash, attempt
                FROM unnest(CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:counts AS int[]),
                            CAST(:hashes AS text[]), CAST(:attempts AS uuid[]))
                  s(doc_id, version, n_chunks, content_hash, attempt)
                ON CONFLICT (gen, doc_id) DO UPDATE SET version = EXCLUDED.version, deleted = EXCLUDED.deleted,
                  n_chunks = EXCLUDED.n_chunks, content_hash = EXCLUDED.content_hash, attempt = EXCLUDED.attempt,
                  applied_at = clock_timestamp()
                """
            ),
            {
                "gen": self.generation.gen,
                "ids": ids,
                "versions": [int(part.versions[n]) for n in new] + list(tombstones.values()),
                "counts": [int(part.counts[n]) for n in new] + [0] * len(tombstones),
                "hashes": [part.content_hashes[n] for n in new] + [None] * len(tombstones),
                # A shorter list ends in NULL: tombstones name no attempt, nor do indexes in this database.
                "attempts": [staged.attempts[part.doc_ids[n]] for n in new] if staged.attempts else [],
            },
        )
        if unchanged:
            connection.execute(
                sa.text(
                    "UPDATE ledger l SET version = s.version, applied_at = clock_timestamp() FROM unnest(CAST(:ids "
                    "AS text[]), CAST(:versions AS bigint[])) s(doc_id, version) WHERE l.gen = :gen AND l.doc_id = "
                    "s.doc_id"
                ),
                {"gen": self.generation.gen, "ids": list(unchanged), "versions": list(unchanged.values())},
            )

    def record_failures(self, failures: Sequence[Failure]) -> int:
        """Put failed items back with their reason, or among the dead letters; return how many are dead."""
        gen = self.generation.gen
        dead = sum(
            work.fail(self._engine, gen, failure.item.doc_id, failure.item.version, failure.reason, final=failure.final)
            for failure in failures
        )
        counts.add("documents_failed", dead, self.generation.cid, "dead")
        counts.add("documents_failed", len(failures) - dead, self.generation.cid, "retried")
        return dead
