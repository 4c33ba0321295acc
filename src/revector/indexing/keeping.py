"""Owns the upkeep of indexes in stores outside of PostgreSQL: garbage is removed by id, a loss is noticed."""

from __future__ import annotations

import logging
import socket
from uuid import UUID

import sqlalchemy as sa

from revector.crash import crash_at
from revector.indexing.mirroring import follow_if_it_can
from revector.indexing.rearm import rearm
from revector.registry import intents
from revector.registry.collections import Generation
from revector.registry.control import add_event, before_event
from revector.registry.lane import Lane
from revector.registry.lanes import lane_of
from revector.registry.watching import running_s
from revector.stores.clients import batches

LOOK_S = 60.0
ATTEMPTS = 1_000
"""Attempts of one request."""

ROUNDS = 20
"""Requests of one look: what a look may take is bounded."""

PAGE_IDS = 5_000

DRAWN = 500
"""Documents that a look reads back. Of the writes of two minutes, those of one second are lost unseen once in 65 times;
of fewer than 500 documents, never."""

log = logging.getLogger("revector.worker")


class StoreKeeper:
    """Belongs to one worker; looks after each generation once a minute. Any number of workers may do so at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._actor = engine, f"worker:{socket.gethostname()}"
        self._looked_at_s: dict[int, float] = {}

    def look(self, generation: Generation) -> None:
        """Notice a loss, set the store's alias right, remove garbage, if that is due. Raises ``StoreUnavailable``."""
        lane, now_s = lane_of(generation), running_s()
        if lane.traits.in_sql or now_s - self._looked_at_s.get(generation.gen, -LOOK_S) < LOOK_S:
            return
        self.make_whole(generation)
        self.make_good(generation)
        lane.renew(self._engine)
        follow_if_it_can(self._engine, generation.cid)
        for _ in range(ROUNDS):
            if self.collect(generation, lane) < ATTEMPTS:
                break
        self._looked_at_s[generation.gen] = now_s

    def make_whole(self, generation: Generation) -> None:
        """Make an index that is not there yet, and every document of one that has lost points due again.

        That it is whole is said last: what was killed before is made again.
        """
        lane = lane_of(generation)
        with self._engine.connect() as connection:
            whole = lane.is_whole(connection)
        if not whole:
            self._restore(generation, lane)

    def make_good(self, generation: Generation) -> None:
        """Make documents due again that were published since the newest canary was put, and whose points are gone.

        A store that crashes may lose what it acknowledged last, and no canary among that. ``DRAWN`` of these documents
        are read back; where one of them lacks points, all are.
        """
        lane, gen, lost = lane_of(generation), generation.gen, list[str]()
        if not self._lacking(lane, gen, drawn=True)[0]:
            return
        after, more = None, True
        while more:
            lacking, after, more = self._lacking(lane, gen, after=after)
            lost += lacking
        if not lost:  # replaced meanwhile
            return
        with self._engine.begin() as connection:
            before_event(connection, generation.cid)
            self._say_lost(connection, generation, len(lost))
        for page in batches(sorted(lost), PAGE_IDS):
            rearm(self._engine, generation.cid, gen, {"lost": page}, actor=self._actor)

    def _lacking(
        self, lane: Lane, gen: int, *, after: UUID | None = None, drawn: bool = False
    ) -> tuple[list[str], UUID | None, bool]:
        """Return which documents lack points, the last attempt that was looked at, and whether there may be more."""
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            intents.hold_for_reading(connection, gen)
            shown = intents.shown_lately(connection, gen, DRAWN, after=after, drawn=drawn)
            there = {one.doc_id: len(one.vectors) for one in lane.read(connection, [doc_id for _, doc_id, _ in shown])}
        lost = [doc_id for _, doc_id, n_chunks in shown if there.get(doc_id) != n_chunks]
        return lost, shown[-1][0] if shown else after, len(shown) == DRAWN

    def _say_lost(self, connection: sa.Connection, generation: Generation, documents: int) -> None:
        facts = {"store": generation.spec.index.store, "index": generation.physical_name, "documents": documents}
        add_event(connection, generation.cid, self._actor, "store_lost", generation.gen, facts)
        log.error("the store %r has lost points of generation %s", generation.spec.index.store, generation.gen)

    def _restore(self, generation: Generation, lane: Lane) -> None:
        gen, after = generation.gen, ""
        # A publisher that is under way has put points that may be lost: from here on it shows none of them. What it
        # showed before is counted below, and becomes due.
        intents.give_up_canary(self._engine, gen)
        with self._engine.begin() as connection:
            before_event(connection, generation.cid)
            live = connection.scalar(sa.text("SELECT EXISTS (SELECT 1 FROM slot WHERE gen = :gen)"), {"gen": gen})
            shown = connection.scalar(
                sa.text("SELECT count(*) FROM ledger WHERE gen = :gen AND attempt IS NOT NULL"), {"gen": gen}
            )
            if live and shown:
                self._say_lost(connection, generation, int(shown))
        if not live:
            return
        while shown and (ids := self._next_shown(gen, after)):
            rearm(self._engine, generation.cid, gen, {"lost": ids}, actor=self._actor)
            after = ids[-1]
            crash_at("restore.after_page")
        lane.ensure(self._engine)

    def collect(self, generation: Generation, lane: Lane) -> int:
        """Give up attempts that nobody sees, and remove the points of those that were given up; return how many."""
        intents.doom(self._engine, generation.gen, ATTEMPTS)
        crash_at("collect.after_doom")
        with self._engine.connect() as connection:
            doomed = intents.doomed(connection, generation.gen, ATTEMPTS)
        if doomed:
            lane.remove([(one.attempt, one.n_chunks) for one in doomed])
            crash_at("collect.after_remove")
            intents.removed(self._engine, generation.gen, doomed)
        return len(doomed)

    def _next_shown(self, gen: int, after: str) -> list[str]:
        with self._engine.connect() as connection:
            return list(
                connection.scalars(
                    sa.text(
                        "SELECT doc_id FROM ledger WHERE gen = :gen AND attempt IS NOT NULL AND doc_id > :after "
                        "ORDER BY doc_id LIMIT :rows"
                    ),
                    {"gen": gen, "after": after, "rows": PAGE_IDS},
                )
            )
