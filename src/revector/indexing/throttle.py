"""How fast the bulk lane goes: as fast as a person lets it, and slower while writers or readers suffer from it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from revector.errors import GenerationGone
from revector.indexing.dial import read_share, worked_lag_s
from revector.registry.collections import Generation, read_generation
from revector.registry.lane import SearchRequest
from revector.registry.lanes import lane_of

log = logging.getLogger("revector.backfill")

LOOK_S, SLICE_S = 5.0, 1.0
"""Between two looks at the active index, and between two looks at the dial while pausing."""

LEAST_SHARE, FASTER = 0.125, 0.125
"""However much suffers, an eighth of the time is worked; each look at which nothing does gives one back."""

LOOKS, K = 2, 10
"""Searches of the last two looks count; each asks for ten documents."""


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """What the active index may suffer before the bulk lane yields: ``lag_s`` seconds, ``search_ms`` at p95."""

    lag_s: float = 30.0
    search_ms: float = 250.0


def yielded(share: float, *, strained: bool) -> float:
    """Return the share of the time for the next while: half as much under strain, else an eighth more.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): several shards end at equal shares.
    """
    return max(LEAST_SHARE, share / 2) if strained else min(1.0, share + FASTER)


class Throttle:
    """How fast one shard works: its share of the time.

    Searches are measured in the database alone, with the vectors of the active index's probe texts: without encoding,
    and on pages that are soon in memory.
    """

    def __init__(
        self,
        engine: sa.Engine,
        generation: Generation,
        bars: ThrottleLimits,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine, self._generation, self._bars, self._pause = engine, generation, bars, pause
        self._own = self._dial = 1.0
        self._looked_at = -LOOK_S
        self._active: Generation | None = None
        self._searches_ms: deque[float] = deque(maxlen=LOOKS * len(generation.probes))

    @property
    def share(self) -> float:
        """Share of the time that is worked, as of the last look: 0 to 1."""
        return self._dial * self._own

    def rest(self, worked_s: float) -> float:
        """Pause as the share wants it after ``worked_s`` of work, as long as the dial stands at 0; return for how long.

        Raises ``GenerationGone`` when the migration was ended meanwhile.
        """
        self._look()
        paused_s = 0.0
        while left_s := self._left_s(worked_s, paused_s):
            self._pause(left_s)
            paused_s += left_s
        return paused_s

    def _left_s(self, worked_s: float, paused_s: float) -> float:
        with self._engine.connect() as connection:
            dial = read_share(connection, self._generation.gen)
        if dial is None:
            raise GenerationGone(
                f"generation {self._generation.gen} is no longer live; its backfill ends, the documents are untouched."
            )
        self._dial = dial
        if not self.share:
            return SLICE_S
        return min(SLICE_S, max(0.0, worked_s * (1 / self.share - 1) - paused_s))

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        strain = self._strain()
        before, self._own = self._own, yielded(self._own, strained=strain is not None)
        if self._own != before:
            log.info("the bulk lane works %.0f %% of the time: %s", self._own * 100, strain or "nothing suffers")

    def _strain(self) -> str | None:
        """Return what suffers, or None. Nothing is served before the first swap, so nothing suffers."""
        with self._engine.begin() as connection:
            gen = connection.scalar(
                sa.text("SELECT active_gen FROM collection WHERE cid = :cid"), {"cid": self._generation.cid}
            )
            if gen is None:
                return None
            if (lag_s := worked_lag_s(connection, gen)) > self._bars.lag_s:
                return f"the active index lags {lag_s:.0f} s, {self._bars.lag_s:g} s are allowed"
            p95_ms = self._search_ms(connection, gen)
        if p95_ms > self._bars.search_ms:
            return f"searches take {p95_ms:.0f} ms at p95, {self._bars.search_ms:g} ms are allowed"
        return None

    def _search_ms(self, connection: sa.Connection, gen: int) -> float:
        if self._active is None or self._active.gen != gen:
            self._active = read_generation(connection, gen)
            self._searches_ms.clear()
        for probe in self._active.probes:
            began = time.perf_counter()
            exact = self._active.spec.index.kind == "exact"
            lane_of(self._active).search(connection, probe, SearchRequest(K, K, by_document=True, exact=exact))
            self._searches_ms.append((time.perf_counter() - began) * 1_000)
        return float(np.percentile(self._searches_ms, 95, method="inverted_cdf"))
