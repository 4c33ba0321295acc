"""A store whose requests arrive late, twice or never: the reference store behind a network at its worst.

An acknowledged request has arrived. One that was not acknowledged may arrive at any later time, or never; any request
may arrive once more. A store may do so, and what revector promises must hold all the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone, StoreUnavailable
from revector.interfaces import Progress
from revector.spec import IndexSpec
from revector.stores.memory import MemoryIndex, MemoryStore
from revector.stores.seam import IndexDescription, NearPoint, Points

T = TypeVar("T")

FAILS, TWICE, ARRIVES = 0.1, 0.2, 0.3
"""Share of writes that are not acknowledged, that arrive twice, and of those under way that arrive at each request."""


class LateNetwork:
    """A network that is drawn from ``seed``."""

    def __init__(self, *, seed: int = 0, fails: float = FAILS, twice: float = TWICE) -> None:
        self._random, self._fails, self._twice = random.Random(seed), fails, twice
        self._under_way: list[Callable[[], object]] = []
        self.lost = 0
        """Requests that were not acknowledged."""

    def write(self, request: Callable[[], T]) -> T:
        """Send a request and return its answer. Raises ``StoreUnavailable`` where no acknowledgement came back."""
        self.arrive()
        if self._random.random() < self._twice:
            self._under_way.append(request)
        if self._random.random() < self._fails:
            if self._random.random() < 0.5:
                request()
            self._under_way.append(request)
            self.lost += 1
            raise StoreUnavailable("the store did not answer in time. Whether the request arrived is not known.")
        return request()

    def arrive(self, share: float = ARRIVES) -> None:
        """Have some of what is under way arrive, in any order; some of it is lost."""
        self._random.shuffle(self._under_way)
        kept = []
        for request in self._under_way:
            drawn = self._random.random()
            if drawn < share:
                with suppress(IndexGone):  # it came too late for its index
                    request()
            elif drawn < 0.95:
                kept.append(request)
        self._under_way = kept


class LateStore(LateNetwork):
    """Indexes of a ``MemoryStore`` behind such a network."""

    traits = MemoryStore.traits

    def __init__(self, *, seed: int = 0, fails: float = FAILS) -> None:
        super().__init__(seed=seed, fails=fails)
        self._inner = MemoryStore()

    def open(self, name: str, dim: int, index: IndexSpec) -> LateIndex:
        """Return the index of that name."""
        return LateIndex(self._inner.open(name, dim, index), self)

    def ask(self) -> str:
        """Say what it is."""
        return "the memory of this process, behind a network at its worst"

    def close(self) -> None:
        """Keep what is there."""


class LateIndex:
    """One index of a ``LateStore``."""

    traits = MemoryStore.traits

    def __init__(self, inner: MemoryIndex, store: LateStore) -> None:
        self.name, self._inner, self._store = inner.name, inner, store

    def create(self, encoder_fp: str) -> None:
        """Create it; that arrives."""
        self._inner.create(encoder_fp)

    def describe(self) -> IndexDescription | None:
        """Describe it."""
        return self._inner.describe()

    def drop(self) -> None:
        """Drop it; that arrives."""
        self._inner.drop()

    def put(self, points: Points) -> None:
        """Put points, or so it seems."""
        self._store.write(lambda: self._inner.put(points))

    def remove(self, ids: Sequence[UUID]) -> None:
        """Remove points, or so it seems."""
        self._store.write(lambda: self._inner.remove(ids))

    def near(self, vector: npt.NDArray[np.float32], n: int, *, exact: bool) -> list[NearPoint]:
        """Search, after some of what is under way arrived."""
        self._store.arrive()
        return self._inner.near(vector, n, exact=exact)

    def read(self, ids: Sequence[UUID]) -> Points:
        """Read points."""
        return self._inner.read(ids)

    def finish(self, progress: Progress) -> bool:
        """Build nothing."""
        return self._inner.finish(progress)
