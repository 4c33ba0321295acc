"""Owns what generations leave behind when they end, and changed documents: until all of it is gone."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from revector.errors import StoreUnavailable
from revector.interfaces import Progress
from revector.registry import archived, ledgers, moves
from revector.registry.collections import read_generations
from revector.registry.contents import sweep_images
from revector.registry.lanes import lane_of
from revector.spec import PGVECTOR

LATE = timedelta(days=1)
"""Longer than any request to a store is on its way."""


class Leftovers:
    """What the ended generations of one collection left. ``drain_s`` is longer than any query runs.

    ``archive_days``: how long embeddings outlive their index, so that a restart can reuse them.
    """

    def __init__(
        self,
        engine: sa.Engine,
        cid: int,
        *,
        archive: Path,
        archive_days: float,
        drain_s: float,
        actor: str,
        progress: Progress,
    ) -> None:
        self._engine, self._cid = engine, cid
        self._archive, self._archive_days, self._drain_s = archive, archive_days, drain_s
        self._actor, self._progress = actor, progress

    def drop(self, *, wait: bool) -> list[int]:
        """Drop indexes whose generations left their slots longer ago than ``drain_s``; return their numbers.

        With ``wait``, younger ones are waited for. Finishes what an earlier call could not.
        """
        with self._engine.connect() as connection:
            ended = [one for one in read_generations(connection, self._cid) if not one.live and not one.dropped]
            now = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        dropped = []
        for generation in ended:
            # Nobody searches a generation that was never live.
            age_s = (now - generation.ended_at).total_seconds() if generation.ended_at else 0.0
            left_s = self._drain_s - max(0.0, age_s) if generation.live_at else 0.0
            if left_s > 0 and not wait:
                continue
            if left_s > 0:
                self._progress.start(f"wait {left_s:.0f} s for queries in flight")
                time.sleep(left_s)
                self._progress.done()
            moves.drop(self._engine, generation, actor=self._actor)
            dropped.append(generation.gen)
        self._drop_again(now)
        ledgers.sweep(self._engine)
        sweep_images(self._engine)
        self._sweep_archive()
        return dropped

    def _drop_again(self, now: datetime) -> None:
        """Drop indexes in other stores once more for a day: a request to make one may arrive late."""
        with self._engine.connect() as connection:
            for generation in read_generations(connection, self._cid):
                ended = generation.dropped and generation.ended_at and now - generation.ended_at < LATE
                if ended and generation.spec.index.store != PGVECTOR:
                    with suppress(StoreUnavailable):  # tried again by the next call
                        lane_of(generation).drop(connection)

    def _sweep_archive(self) -> None:
        """Remove old parts of dropped generations, and what a kill or a late shard task left there unrecorded."""
        with self._engine.begin() as connection:
            old = archived.forget_old(connection, self._cid, older_than_days=self._archive_days)
        with self._engine.connect() as connection:
            ended = [one for one in read_generations(connection, self._cid) if one.dropped]
            kept = archived.paths(connection, self._cid)
        for path in old:
            path.unlink(missing_ok=True)
        for generation in ended:
            folder = self._archive / generation.physical_name
            for path in folder.glob("*") if folder.is_dir() else ():
                if path not in kept:
                    path.unlink(missing_ok=True)
            with suppress(OSError):  # holds kept parts, or is gone
                folder.rmdir()
