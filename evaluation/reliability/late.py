"""A store whose requests arrive late, twice or never: the reference store behind a network at its worst.

An acknowledged request has arrived, or arrives before long where the store says so in its traits. One that was not
acknowledged may arrive later, for as long as revector reckons with (``intents.LATE_S``), or never; any request may
arrive once more. A store may do so, and what revector promises must hold all the same.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch
from uuid import UUID

from revector.errors import IndexGone, StoreUnavailable
from revector.interfaces import Progress
from revector.registry import intents
from revector.spec import IndexSpec
from revector.stores.memory import MemoryIndex, MemoryStore
from revector.stores.opening import added
from revector.stores.seam import Points

T = TypeVar("T")

FAILS, TWICE, ARRIVES = 0.1, 0.2, 0.3
"""Share of writes that are not acknowledged, that arrive twice, and of those under way that arrive at each request."""

SILENT, SLOW = 0.03, 0.2
"""In a store at its very worst: share of other requests without an answer, and of acknowledged ones still under way."""


LATE_S = intents.LATE_S
"""So long a request may be under way, also where a test has revector wait for less."""


class Request(NamedTuple):
    """A write under way; one that was acknowledged (``sure``) arrives."""

    write: Callable[[], object]
    sent_s: float
    sure: bool


class LateNetwork:
    """A network that is drawn from ``seed``; while it is ``calm``, every request arrives at once."""

    def __init__(
        self, *, seed: int = 0, fails: float = FAILS, twice: float = TWICE, silent: float = 0.0, slow: float = 0.0
    ) -> None:
        self._fails, self._twice, self._silent, self._slow = fails, twice, silent, slow
        self.now_s: Callable[[], float] = time.monotonic
        self.lost = 0
        """Requests that were not acknowledged."""
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget what is under way, and draw from another seed."""
        self._random, self._under_way, self.calm = random.Random(f"network {seed}"), list[Request](), False

    def cut(self) -> None:
        """Lose what is under way, as where the store's server is started again."""
        self._under_way.clear()

    def write(self, request: Callable[[], T | None]) -> T | None:
        """Send a write; return its answer, or None before it arrives. Raises ``StoreUnavailable`` where none came."""
        self.arrive()
        if self._drawn(self._twice):
            self._send(request)
        if self._drawn(self._fails):
            if self._drawn(0.5):
                request()
            self._send(request)
            self._lose()
        if self._drawn(self._slow):
            self._send(request, sure=True)
            return None
        return request()

    def question(self, request: Callable[[], T]) -> T:
        """Send a request that is done at once or never, and return its answer. Raises ``StoreUnavailable``."""
        self.arrive()
        if self._drawn(self._silent):
            self._lose()
        return request()

    def arrive(self, share: float = ARRIVES) -> None:
        """Have some of what is under way arrive, in any order; some of it is lost."""
        self._random.shuffle(self._under_way)
        waiting, self._under_way = self._under_way, []
        for one in waiting:
            drawn, over = self._random.random(), self.now_s() - one.sent_s > LATE_S
            if (over and one.sure) or (drawn < share and not over):
                with suppress(IndexGone):  # it came too late for its index
                    one.write()
            elif not over and (one.sure or drawn < 0.95):
                self._under_way.append(one)

    def name(self) -> UUID:
        """Draw a name that nothing else has."""
        return UUID(int=self._random.getrandbits(128), version=4)

    def _drawn(self, share: float) -> bool:
        return self._random.random() < share and not self.calm

    def _send(self, request: Callable[[], object], *, sure: bool = False) -> None:
        self._under_way.append(Request(request, self.now_s(), sure))

    def _lose(self) -> None:
        self.lost += 1
        raise StoreUnavailable("the store did not answer in time. Whether the request arrived is not known.")


class LateStore(LateNetwork):
    """Indexes of a ``MemoryStore`` behind such a network; ``at`` is called with each before it is sent."""

    def __init__(self, *, seed: int = 0, fails: float = FAILS, silent: float = 0.0, slow: float = 0.0) -> None:
        super().__init__(seed=seed, fails=fails, silent=silent, slow=slow)
        self.inner = MemoryStore()
        self.traits = replace(MemoryStore.traits, searchable_at_once=not slow)
        self.at: Callable[[str], None] = lambda _: None

    def open(self, name: str, dim: int, index: IndexSpec) -> LateIndex:
        """Return the index of that name."""
        return LateIndex(self.inner.open(name, dim, index), self)

    def sent(self, name: str, request: Callable[[], T], by: Callable[[Callable[[], T]], T]) -> T:
        """Send a request; raises ``StoreUnavailable`` where the caller stood for so long that it timed out before."""
        began_s = self.now_s()
        self.at(name)
        if self.now_s() - began_s > LATE_S:
            self._lose()
        return by(request)

    def ask(self) -> str:
        """Say what it is."""
        return "the memory of this process, behind a network at its worst"

    def close(self) -> None:
        """Keep what is there."""


class LateIndex:
    """One index of a ``LateStore``: whatever it is asked goes over the network."""

    def __init__(self, inner: MemoryIndex, store: LateStore) -> None:
        self.name, self.inner, self._store, self.traits = inner.name, inner, store, store.traits

    def __getattr__(self, name: str) -> Callable[..., Any]:
        request = getattr(self.inner, name)
        by: Any = self._store.write if name in ("put", "remove") else self._store.question
        return lambda *given, **options: self._store.sent(name, partial(request, *given, **options), by)

    def put(self, points: Points) -> None:
        """Put points, some time; a method of the class, for the tests that stand in for it."""
        self.__getattr__("put")(points)

    def finish(self, progress: Progress) -> bool:
        """Build nothing."""
        return self.inner.finish(progress)


@contextmanager
def late_store() -> Iterator[LateStore]:
    """Know a store ``late`` at its very worst, in this process; attempts have names of its own drawing.

    So a history is repeated by its seed.
    """
    log = logging.getLogger("revector")
    level = log.level
    log.setLevel(logging.CRITICAL)  # workers say much of what a store does here all the time
    try:
        with (
            added("late", LateStore(silent=SILENT, slow=SLOW)) as store,
            patch.object(intents, "new_attempt", store.name),
        ):
            yield store
    finally:
        log.setLevel(level)
