"""Owns the upkeep of indexes in stores outside of PostgreSQL: garbage is removed by id, a loss is noticed."""

from __future__ import annotations

import logging
import socket

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

LOOK_S = 60.0
ATTEMPTS = 1_000
"""Attempts of one request."""

ROUNDS = 20
"""Requests of one look: what a look may take is bounded."""

PAGE_IDS = 5_000

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
                facts = {"store": generation.spec.index.store, "index": generation.physical_name, "documents": shown}
                add_event(connection, generation.cid, self._actor, "store_lost", gen, facts)
        if not live:
            return
        if shown:
            log.error("the store %r has lost points of generation %s", generation.spec.index.store, gen)
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
