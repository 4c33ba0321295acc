"""The live lane as a service: drains the work set of every live generation, before, during and after migrations."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from revector import counts
from revector.crash import crash_at
from revector.encoding import Encoders
from revector.errors import DatabaseUnavailable, EncoderError, GenerationGone
from revector.publish import Applier
from revector.registry import work
from revector.registry.collections import Generation, read_generation
from revector.watch import Watch

log = logging.getLogger("revector.worker")

BATCH_DOCUMENTS = 32
POLL_S = 0.2
BACK_OFF_S = 2.0
REST_S = 15.0
"""A generation whose encoder cannot be used is tried again after this long."""


class Worker:
    """Any number of workers may run: an item is leased to save work, and publishing is safe without leases."""

    def __init__(self, engine: sa.Engine, encoders: Encoders) -> None:
        self._engine, self._encoders = engine, encoders
        self._watch = Watch(engine, encoders)
        self._appliers: dict[int, Applier] = {}
        self._rest_until: dict[int, float] = {}

    def run(
        self,
        stop: threading.Event,
        *,
        collections: Sequence[str] | None = None,
        on_applied: Callable[[int, int], None] | None = None,
    ) -> None:
        """Work until ``stop`` is set. A database that is down, or an encoder that does not load, is waited for."""
        while not stop.is_set():
            try:
                self._watch.clock()
                self._watch.load()
                done = self.drain(collections=collections, on_applied=on_applied)
            except (DatabaseUnavailable, sa.exc.OperationalError) as error:
                log.warning("%s", error)
                counts.add("errors", 1, type(error).__name__)
                stop.wait(BACK_OFF_S)
                continue
            if not done:
                stop.wait(POLL_S)

    def drain(
        self, *, collections: Sequence[str] | None = None, on_applied: Callable[[int, int], None] | None = None
    ) -> int:
        """Bring one batch per live generation up to date; return how many documents were published or dead-lettered."""
        total = 0
        for generation in self._live(collections):
            if time.monotonic() < self._rest_until.get(generation.gen, 0.0):
                continue
            try:
                self._watch.encoder(generation)
                published, dead = self.apply_some(generation)
            except GenerationGone as error:
                log.info("%s", error)
                continue
            except EncoderError as error:
                # This generation waits, and its lag shows it; the others go on.
                self._rest_until[generation.gen] = time.monotonic() + REST_S
                self._watch.encoder_failed(generation, error)
                counts.add("errors", 1, type(error).__name__)
                log.warning("generation %s, revision %s: %s", generation.gen, generation.revision, error)
                continue
            if on_applied and (published or dead):
                on_applied(generation.gen, published)
            total += published + dead
        return total

    def apply_some(
        self, generation: Generation, *, lanes: Sequence[str] = ("live",), rows: int = BATCH_DOCUMENTS
    ) -> tuple[int, int]:
        """Claim and apply up to ``rows`` documents of one generation; return (published, dead-lettered)."""
        applier = self.applier(generation)
        ids = work.claim(self._engine, generation.gen, rows=rows, lanes=lanes)
        if not ids:
            return 0, 0
        crash_at("worker.after_claim")
        return applier.apply(ids)

    def applier(self, generation: Generation) -> Applier:
        """Return the applier of a generation, its encoder loaded and proved."""
        if generation.gen not in self._appliers:
            self._appliers[generation.gen] = Applier(
                self._engine, generation, self._encoders.of(generation), self._encoders.chunker_of(generation)
            )
        return self._appliers[generation.gen]

    def warm(self, collections: Sequence[str] | None = None) -> None:
        """Load the encoders of all live generations."""
        for generation in self._live(collections):
            self.applier(generation)

    def _live(self, collections: Sequence[str] | None) -> list[Generation]:
        with self._engine.connect() as connection:
            gens = connection.scalars(
                sa.text(
                    "SELECT s.gen FROM slot s JOIN collection c USING (cid) WHERE CAST(:names AS text[]) IS NULL OR "
                    "c.name = ANY(CAST(:names AS text[])) ORDER BY s.role, s.gen"
                ),
                {"names": None if collections is None else list(collections)},
            ).all()
            known = {gen: applier.generation for gen, applier in self._appliers.items()}
            for gone in set(known) - set(gens):
                del self._appliers[gone]
            return [known.get(gen) or read_generation(connection, gen) for gen in gens]
