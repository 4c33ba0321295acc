"""The seeded bugs that are Python: each takes one guard of the library away for as long as its block lasts."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import sqlalchemy as sa

from revector import archive
from revector.documents import documents
from revector.encoders import check
from revector.indexing import publish
from revector.indexing.publish import check_vectors
from revector.interfaces import Piece, Side
from revector.lifecycle import Outcome, Phase
from revector.migration.back_moves import BackMoves
from revector.registry import control as controls
from revector.registry import in_sql, intents, moves, sharding, verdicts, work
from revector.registry.attempts import AttemptsLane
from revector.registry.collections import read_generation
from revector.serving import searcher

UNDO = {
    "DROP TRIGGER IF EXISTS c_tombstones ON revector.document": (
        "CREATE TRIGGER c_tombstones BEFORE DELETE ON revector.document FOR EACH STATEMENT EXECUTE FUNCTION "
        "revector.refuse('set deleted = true, so that every index learns of it')"
    )
}
"""What takes a bug's own statements back."""


@contextmanager
def replaced(original: Any, replacement: Any) -> Iterator[None]:
    """Put ``replacement`` wherever a loaded module of ours, or of the proofs, holds ``original``."""
    held = [
        (module, name)
        for key, module in list(sys.modules.items())
        if key.split(".")[0] in ("revector", "evaluation", "tests") and key != __name__
        for name, value in list(vars(module).items())
        if value is original
    ]
    for module, name in held:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name in held:
            setattr(module, name, original)


Planted = AbstractContextManager[object]
"""A mistake that is there for as long as its block lasts."""


@contextmanager
def _together(*mistakes: Planted) -> Iterator[None]:
    with ExitStack() as stack:
        for one in mistakes:
            stack.enter_context(one)
        yield


def old_snapshot() -> Planted:
    """Let control transactions see what was there before they got the gate."""
    original = controls.control

    def control(engine: sa.Engine, cid: int, **options: Any) -> Any:
        return original(engine.execution_options(isolation_level="REPEATABLE READ"), cid, **options)

    return replaced(original, control)


def search_by_alias() -> Planted:
    """Search what is active now with a vector of what was active before."""
    original = searcher.Searcher.search_vector

    def search_vector(self: Any, pinned: Any, vector: Any, k: int, **options: Any) -> Any:
        if options.get("follow_alias"):
            pinned = self.resolve()
        return original(self, pinned, vector, k, **options)

    return patch.object(searcher.Searcher, "search_vector", search_vector)


def alias_cached() -> Planted:
    """Resolve the alias once per process and collection, and believe it."""
    resolve, search_vector = searcher.Searcher.resolve, searcher.Searcher.search_vector
    cached: dict[tuple[int, str], Any] = {}

    def resolved(self: Any, generation: int | None = None) -> Any:
        if generation is not None:
            return resolve(self, generation)
        key = id(self._engine.pool), self._collection
        if key not in cached:
            cached[key] = resolve(self)
        return cached[key]

    def searched(self: Any, pinned: Any, vector: Any, k: int, **options: Any) -> Any:
        return search_vector(self, pinned, vector, k, **options | {"follow_alias": False})

    return _together(
        patch.object(searcher.Searcher, "resolve", resolved),
        patch.object(searcher.Searcher, "search_vector", searched),
    )


def cache_by_text() -> Planted:
    """Remember query vectors by their text, whatever encoder made them."""
    original = searcher.Encoders.of
    cached: dict[tuple[str, int], Any] = {}

    class Cached:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def encode(self, side: Side, pieces: Sequence[Piece]) -> Any:
            if side == "document":
                return self._inner.encode(side, pieces)
            return np.stack(
                [
                    cached.setdefault((piece.text, self._inner.dim), self._inner.encode(side, [piece])[0])
                    for piece in pieces
                ]
            )

    return patch.object(searcher.Encoders, "of", lambda self, generation: Cached(original(self, generation)))


def retire_without_lock() -> Planted:
    """Decide on a retirement first, and take the gate then."""

    def retire(self: Any, why: str, *, now: bool = False, epoch: int | None = None, wait: bool = True) -> Outcome:
        del now, epoch, wait
        decided = self._standing.collection().standby_gen
        if decided is None:
            return Outcome("retire", "", Phase.COMPLETED, bool(self._leftovers.drop(wait=True)), {"dropped": []})
        with controls.control(self._engine, self._cid, actor=self._actor) as held:
            held.must_hit_one(
                "UPDATE collection SET standby_gen = NULL, rollback_deadline = NULL, epoch = epoch + 1 WHERE cid = "
                ":cid",
                cid=self._cid,
            )
            unused = read_generation(held.connection, decided)
            held.set_phase(decided, unused.phase, Phase.RETIRED, ", live = false, ended_at = clock_timestamp()")
            held.record("retire", decided, revision=unused.revision, reason=why, window_given_up=True)
        return Outcome("retire", unused.revision, Phase.COMPLETED, True, {"dropped": self._leftovers.drop(wait=True)})

    def retire_move(control: Any, *, reason: str, now: bool) -> Any:
        del now
        decided = control.collection.standby_gen
        unused = read_generation(control.connection, decided)
        control.move_slots("standby_gen = NULL, rollback_deadline = NULL")
        control.set_phase(decided, unused.phase, Phase.RETIRED, ", live = false, ended_at = clock_timestamp()")
        control.record("retire", decided, revision=unused.revision, reason=reason, window_given_up=True)
        return read_generation(control.connection, decided)

    return _together(patch.object(BackMoves, "_retire", retire), replaced(moves.retire, retire_move))


def dead_ignored() -> Planted:
    """Count only what is due."""
    return patch.object(work.Backlog, "blocking", property(lambda self: self.due + self.bulk))


def bulk_lane_ignored() -> Planted:
    """Count only the live lane and dead letters."""
    return patch.object(work.Backlog, "blocking", property(lambda self: self.due + self.dead - self.waived))


def chunks_reversed() -> Planted:
    """Publish the last chunk of a document as its first."""
    original = in_sql.rows_of

    def reversed_rows(part: Any, wanted: set[str]) -> Any:
        starts, counts = part.starts, part.counts
        order = np.concatenate(
            [np.arange(start + n - 1, start - 1, -1) for start, n in zip(starts, counts, strict=True)]
        ).astype(np.int64)
        spoilt = replace(
            part,
            chunk_starts=part.chunk_starts[order],
            chunk_ends=part.chunk_ends[order],
            embeddings=part.embeddings[order],
        )
        return original(spoilt, wanted)

    return patch.object(in_sql, "rows_of", reversed_rows)


def old_query_encoder() -> Planted:
    """Encode all queries of a searcher by the generation that it resolved first."""
    original = searcher.Searcher.encode
    first: dict[int, Any] = {}

    def encode(self: Any, pinned: Any, queries: list[str]) -> Any:
        return original(self, first.setdefault(id(self), pinned), queries)

    return patch.object(searcher.Searcher, "encode", encode)


def unchanged_not_asked_again() -> Planted:
    """Believe, when publishing, what was found before the locks."""

    class Believing:
        def __getattr__(self, name: str) -> Any:
            return getattr(work, name)

        def shown_unchanged(self, _connection: Any, _gen: int, items: Sequence[Any]) -> set[str]:
            return {item.doc_id for item in items}

    return patch.object(publish, "work", Believing())


def old_gate_accepted() -> Planted:
    """Ask only whether each kind of verdict was ever a pass."""

    def stale_evidence(
        connection: sa.Connection, generation: Any, kinds: Any = ("verify", "recall"), **_: Any
    ) -> str | None:
        passed = set(
            connection.scalars(
                sa.text("SELECT kind FROM gate_result WHERE gen = :gen AND passed"), {"gen": generation.gen}
            )
        )
        return None if passed >= set(kinds) else "there is no result for it"

    return replaced(verdicts.stale_evidence, stale_evidence)


def zombie_accepted() -> Planted:
    """Let any run write, also one that was taken over."""
    return replaced(controls._check_token, lambda *_: None)


def seed_ends_on_error() -> Planted:
    """Take an error for the end of the data."""
    original = sharding.seed_page

    def seed_page(engine: sa.Engine, cid: int, shard: Any) -> bool:
        try:
            return original(engine, cid, shard)
        except Exception:  # noqa: BLE001 - that is the bug
            with engine.begin() as connection:
                connection.execute(
                    sa.text("UPDATE shard SET seeded = true WHERE gen = :gen AND shard = :shard"),
                    {"gen": shard.gen, "shard": shard.shard},
                )
            return True

    return replaced(original, seed_page)


def short_batch_accepted() -> Planted:
    """Stretch a reply to the number of texts, and do not look at the probe texts around it."""
    original = check_vectors

    def lenient(vectors: Any, count: int, dim: int) -> Any:
        found = np.asarray(vectors, dtype=np.float32)
        if found.ndim == 2 and 0 < len(found) < count and found.shape[1] == dim:
            found = np.resize(found, (count, dim))
        return original(found, count, dim)

    return _together(replaced(original, lenient), patch.object(publish, "MIN_COSINE", -2.0))


def torn_part_accepted() -> Planted:
    """Read a sealed part without asking for its hash."""
    original = archive.read_part

    def read_part(path: Path, sha256: str | None = None, *, attributes: Mapping[str, Any] | None = None) -> Any:
        del sha256
        return original(path, None, attributes=attributes)

    return replaced(original, read_part)


def same_name_other_model() -> Planted:
    """Trust whatever loads under a model's name."""
    return replaced(check.check_same_encoder, lambda *_, **__: None)


def tombstone_purged() -> Planted:
    """Remove a document's row as soon as it is deleted."""
    original = documents.Documents.delete_many

    def delete_many(self: Any, doc_ids: Sequence[str], version: int | None = None) -> Any:
        written = original(self, doc_ids, version)
        with self._engine.begin() as connection:
            connection.execute(
                sa.text("DELETE FROM document WHERE cid = :cid AND doc_id = ANY(CAST(:ids AS text[])) AND deleted"),
                {"cid": self._cid, "ids": list(doc_ids)},
            )
        return written

    return patch.object(documents.Documents, "delete_many", delete_many)


def ack_before_searchable() -> Planted:
    """Take a store's acknowledgement for the proof that its points are found."""
    return patch.object(AttemptsLane, "_await", lambda *_: None)


def fixed_point_ids() -> Planted:
    """Name what is put by the version of its document, so that all tries to embed that share their points."""

    def named(part: Any) -> dict[str, uuid.UUID]:
        versions = zip(part.doc_ids, part.versions, strict=True)
        return {doc_id: uuid.uuid5(uuid.NAMESPACE_OID, f"{doc_id} {version}") for doc_id, version in versions}

    return patch.object(intents, "new_attempts", named)


def no_intent() -> Planted:
    """Tell SQL of points when they are published, not before they are put."""
    later: list[tuple[Any, ...]] = []
    opened, published = intents.open_all, intents.publish

    def publish_all(connection: sa.Connection, gen: int, attempts: Sequence[Any]) -> set[str]:
        while later:
            opened(*later.pop())
        return published(connection, gen, attempts)

    return _together(
        patch.object(intents, "open_all", lambda *args: later.append(args)),
        patch.object(intents, "publish", publish_all),
    )
