"""What a worker watches beside its work: the database's clock against its own, encoders by their probes, the load."""

from __future__ import annotations

import logging
import socket
import threading
from collections import defaultdict
from datetime import datetime

import sqlalchemy as sa

from revector.errors import EncoderError
from revector.indexing import loads
from revector.indexing.encoding import Encoders
from revector.registry.collections import Generation
from revector.registry.watching import JUMP_S, note_clock_jump, note_encoder, running_s

log = logging.getLogger("revector.worker")

CLOCK_S, LOAD_S, PROBE_S = 15.0, 60.0, 3_600.0


class Watch:
    """Belongs to one worker; each look is cheap unless something is due. Encoders may be looked at by many threads."""

    def __init__(self, engine: sa.Engine, encoders: Encoders) -> None:
        self._engine, self._encoders = engine, encoders
        self._actor = f"worker:{socket.gethostname()}"
        self._seen: tuple[float, datetime, float] | None = None
        self._probed: dict[int, float] = {}
        self._probing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._loaded_s = -LOAD_S

    def clock(self) -> None:
        """Compare the time that passed in the database with the time that passed here; record a jump of over 60 s.

        What the statement took is allowed for, so that a stalled connection is no jump.
        """
        before = running_s()
        if self._seen is not None and before - self._seen[2] < CLOCK_S:
            return
        with self._engine.connect() as connection:
            now: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        after, last = running_s(), self._seen
        self._seen = before, now, after
        if last is None:
            return
        passed_s = (now - last[1]).total_seconds()
        jump_s = passed_s - min(max(passed_s, before - last[2]), after - last[0])
        if abs(jump_s) > JUMP_S:
            held = note_clock_jump(self._engine, jump_s, actor=self._actor)
            log.error(
                "the database's clock jumped by %.0f s; %d open rollback windows now end by a person only", jump_s, held
            )

    def load(self) -> None:
        """Once a minute, keep how much waits in every collection and for how long."""
        now = running_s()
        if now - self._loaded_s < LOAD_S:
            return
        self._loaded_s = now
        with self._engine.begin() as connection:
            loads.add(connection)

    def encoder(self, generation: Generation) -> None:
        """Once an hour, embed the probe texts again. Raises ``EncoderError`` where they no longer match."""
        with self._probing[generation.gen]:
            now = running_s()
            if now - self._probed.get(generation.gen, -PROBE_S) < PROBE_S:
                return
            self._encoders.probe(generation)
            self._probed[generation.gen] = now
            note_encoder(self._engine, generation.cid, generation.gen, None, actor=self._actor)

    def encoder_failed(self, generation: Generation, error: EncoderError) -> None:
        """Record a failing encoder, so that status tells it of the way back before someone needs that way."""
        self._probed.pop(generation.gen, None)
        note_encoder(self._engine, generation.cid, generation.gen, str(error), actor=self._actor)
