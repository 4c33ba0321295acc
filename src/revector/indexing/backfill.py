"""The bulk lane: one shard of a backfill, embedded into sealed HDF5 parts and published part by part; resumable."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import sqlalchemy as sa

from revector.archive import Part, read_part, remove_temporary, write_part
from revector.crash import crash_at
from revector.database.analyzing import analyze_grown
from revector.errors import ArchiveError, EncoderMismatch, EncoderUnavailable
from revector.indexing.publish import Applier, PlannedBatch, PreparedBatch
from revector.indexing.throttle import Throttle
from revector.interfaces import Progress
from revector.registry import ledgers, sharding, work
from revector.registry.sharding import Shard

PART_S = 10.0
"""Work between two seals, in seconds: what a kill can cost, and how often progress moves."""

PART_DOCUMENTS = 4_096
PART_CHARACTERS = 100_000, 16_000_000
"""Least and most text of a part: the first two take the least, later ones what ``PART_S`` allows."""

FULL_SHARE, RESERVE_BYTES = 0.85, 2 << 30
"""No part is begun on a disk that is fuller than this share and has less than this free: what else lies there, live
documents first, is still written (reliability.md, R72). The second keeps large disks, never empty, usable."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What one call did: documents embedded now, published (from now or an earlier, killed call), and dead-lettered.

    ``reused`` ones needed no embedding: their vectors were found in a live index or in the archive. ``paused_s``:
    seconds that were left to others.
    """

    embedded: int
    published: int
    dead: int
    reused: int = 0
    paused_s: float = 0.0


_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Inline(Executor):
    """Does everything at once, in the caller's thread: for callers that must decide the order of all statements."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Backfill:
    """Runs shards of one generation. Memory is bounded by three parts, whatever the corpus.

    While one is embedded, the next is read and cut into chunks, and the one before is sealed and published, unless
    ``overlap`` is off. Between two parts, ``throttle`` says how long to rest; without it there is none.
    """

    def __init__(
        self,
        engine: sa.Engine,
        applier: Applier,
        folder: Path,
        progress: Progress,
        *,
        overlap: bool = True,
        throttle: Throttle | None = None,
    ) -> None:
        self._engine, self._applier, self._folder, self._progress = engine, applier, folder, progress
        self._overlap, self._throttle = overlap, throttle
        self._generation = applier.generation

    def run(self, shard: Shard) -> ShardReport:
        """Seed, publish what an earlier call sealed, then embed the rest; does nothing for a finished shard.

        Raises ``ArchiveError`` where a part cannot be written, before it is embedded if the disk is full by then.
        """
        if shard.done:
            return ShardReport(0, 0, 0)
        remove_temporary(self._folder / self._generation.physical_name)
        while not sharding.seed_page(self._engine, self._generation.cid, shard):
            pass
        self._analyze_grown()
        self._progress.start(f"shard {shard.shard}", shard.documents)
        published = self._publish_sealed(shard)
        with ThreadPoolExecutor(2, "backfill") if self._overlap else _Inline() as pool:
            done = self._embed_all(shard, pool)
        crash_at("shard.before_done")
        with self._engine.begin() as connection:
            sharding.mark_shard_done(connection, shard)
        published += done.published
        copied = f", {done.reused:,} of them copied" if done.reused else ""
        self._progress.done(f"{published:,} published{copied}")
        return replace(done, published=published)

    def _embed_all(self, shard: Shard, pool: Executor) -> ShardReport:
        embedded = reused = published = dead = 0
        worked_s = paused_s = 0.0
        characters = PART_CHARACTERS[0]
        ahead = pool.submit(self._next, shard, shard.lo, characters)
        sealing: Future[int] | None = None
        while planned := ahead.result():
            paused_s += self._throttle.rest(worked_s) if self._throttle else 0.0
            self._refuse_full_disk()
            ids, started = [item.doc_id for item in planned.items], time.monotonic()
            ahead = pool.submit(self._next, shard, ids[-1], characters)
            if planned.todo:
                work.count_attempt(self._engine, shard.gen, ids)
                crash_at("shard.after_count")
            try:
                prepared = self._applier.embed(planned)
            except (EncoderUnavailable, EncoderMismatch):
                work.release(self._engine, shard.gen, ids)  # no document is to blame
                raise
            worked_s = time.monotonic() - started
            rate = sum(item.characters for item in planned.items) / max(0.001, worked_s)
            share = (
                self._throttle.share if self._throttle else 1.0
            )  # slowed down, it works and rests for PART_S together
            characters = min(max(int(rate * PART_S * share), PART_CHARACTERS[0]), PART_CHARACTERS[1])
            embedded, reused = embedded + len(prepared.part.doc_ids) - prepared.reused, reused + prepared.reused
            dead += self._applier.record_failures(prepared.failures)
            published += sealing.result() if sealing else 0
            self._analyze_grown()
            sealing = pool.submit(self._seal_and_publish, shard, prepared)
        published += sealing.result() if sealing else 0
        return ShardReport(embedded, published, dead, reused, paused_s)

    def _analyze_grown(self) -> None:
        gen = self._generation
        analyze_grown(self._engine, (gen.physical_name, ledgers.table(gen.gen), "pending"))

    def _next(self, shard: Shard, after: str, characters: int) -> PlannedBatch | None:
        """Plan the next documents of the shard, at least one, of about ``characters`` in all; None at its end."""
        ids = sharding.bulk_page(self._engine, shard, after, PART_DOCUMENTS)
        items = work.read_items(self._engine, self._generation.cid, ids, characters=characters)
        return self._applier.plan(items, archive=True) if items else None

    def _seal_and_publish(self, shard: Shard, prepared: PreparedBatch) -> int:
        part = prepared.part
        if len(part.doc_ids) == prepared.reused:  # nothing was embedded, so there is nothing to keep
            published = self._applier.publish(prepared)
            self._progress.advance(len(part.doc_ids) + len(prepared.unchanged) + len(prepared.tombstones))
            return published
        # A name of its own: a task and its retry may be at the same shard at once.
        name = f"shard-{shard.shard:04d}-{uuid.uuid4().hex[:12]}.h5"
        path = self._folder / self._generation.physical_name / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sha256 = write_part(path, part, attributes=self._attributes())
        except OSError as error:
            said = os.strerror(error.errno) if error.errno else str(error)
            raise ArchiveError(f"{path} could not be written: {said}. {_ADVICE}") from error
        with self._engine.begin() as connection:
            sharding.lock_shard(connection, shard)
            number = connection.scalar(
                sa.text(
                    "INSERT INTO part (gen, shard, part, path, sha256, documents, chunks, first_id, last_id) SELECT "
                    ":gen, :shard, coalesce(max(part) + 1, 0), :path, :sha256, :documents, :chunks, :first, :last "
                    "FROM part WHERE gen = :gen AND shard = :shard RETURNING part"
                ),
                {
                    "gen": shard.gen,
                    "shard": shard.shard,
                    "path": str(path),
                    "sha256": sha256,
                    "documents": len(part.doc_ids),
                    "chunks": len(part.embeddings),
                    "first": part.doc_ids[0],
                    "last": part.doc_ids[-1],
                },
            )
        crash_at("shard.after_manifest")
        published = self._applier.publish(prepared)
        crash_at("shard.after_publish")
        self._mark_published(shard, int(number or 0))
        crash_at("shard.after_mark")
        self._progress.advance(len(part.doc_ids))
        return published

    def _refuse_full_disk(self) -> None:
        folder = self._folder
        while not folder.exists():
            folder = folder.parent
        disk = shutil.disk_usage(folder)
        if disk.used > FULL_SHARE * disk.total and disk.free < RESERVE_BYTES:
            raise ArchiveError(
                f"the archive {self._folder} lies on a disk of which {disk.used / disk.total:.0%} are used and "
                f"{disk.free >> 20:,} MiB free; a part is begun at up to {FULL_SHARE:.0%}, or with "
                f"{RESERVE_BYTES >> 20:,} MiB free. {_ADVICE}"
            )

    def _publish_sealed(self, shard: Shard) -> int:
        """Publish parts that a killed call sealed but did not publish; a damaged one is forgotten, its items remain."""
        with self._engine.connect() as connection:
            sealed = connection.execute(
                sa.text(
                    "SELECT part, path, sha256 FROM part WHERE gen = :gen AND shard = :shard AND published_at IS NULL "
                    "ORDER BY part"
                ),
                {"gen": shard.gen, "shard": shard.shard},
            ).all()
        published = 0
        for row in sealed:
            try:
                part = read_part(Path(row.path), row.sha256, attributes=self._attributes())
            except ArchiveError:
                with self._engine.begin() as connection:
                    connection.execute(
                        sa.text("DELETE FROM part WHERE gen = :gen AND shard = :shard AND part = :part"),
                        {"gen": shard.gen, "shard": shard.shard, "part": row.part},
                    )
                continue
            published += self._applier.publish(_only(part))
            self._mark_published(shard, row.part)
            self._progress.advance(len(part.doc_ids))
        return published

    def _mark_published(self, shard: Shard, number: int) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.text(
                    "UPDATE part SET published_at = clock_timestamp() WHERE gen = :gen AND shard = :shard AND part = "
                    ":part AND published_at IS NULL"
                ),
                {"gen": shard.gen, "shard": shard.shard, "part": number},
            )

    def _attributes(self) -> dict[str, str | int]:
        generation = self._generation
        return {
            "encoder_fp": generation.encoder_fp,
            "chunker_fp": generation.chunker_fp,
            "revision": generation.revision,
            "model": generation.spec.model.name,
        }


_ADVICE = (
    "What was published stays, everything else waits, and documents are written, indexed and served as before; free "
    "space or correct archive_folder, and run the step backfill again."
)


def _only(part: Part) -> PreparedBatch:
    return PreparedBatch(part, (), (), ())
