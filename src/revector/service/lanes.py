"""How many requests may be under way at once, of one key and in all: the rest waits a moment, or is sent away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import anyio
from starlette.exceptions import HTTPException

QUEUE_PER_KEY, QUEUE = 32, 64
"""Requests of one key, and in all, that may wait for a place where a lane lets them wait; more are refused at once."""

RETRY_S = 1


@dataclass(slots=True)
class _Key:
    """What one key has under way."""

    places: anyio.Semaphore
    asked: int = 0


class RequestLane:
    """Places for requests of one kind: ``most`` in all and ``most_per_key`` of each key, waited for ``wait_s`` at most.

    Belongs to one event loop.
    """

    def __init__(self, what: str, most: int, most_per_key: int, *, wait_s: float = 0.0) -> None:
        self._what, self._most, self._per_key, self._wait_s = what, most, min(most, most_per_key), wait_s
        self._places = anyio.Semaphore(most)
        self._asked = 0
        self._keys: dict[str, _Key] = {}

    @asynccontextmanager
    async def place(self, key_id: str) -> AsyncIterator[None]:
        """Hold a place inside. Raises 429 where the key has too many requests under way, 503 where all have."""
        with self._counted(key_id) as mine:
            await self._take(
                mine.places, 429, f"this key has {self._per_key} {self._what} under way, as many as it may"
            )
            try:
                await self._take(self._places, 503, f"the service has {self._most} {self._what} under way, its most")
                try:
                    yield
                finally:
                    self._places.release()
            finally:
                mine.places.release()

    @contextmanager
    def _counted(self, key_id: str) -> Iterator[_Key]:
        """Count those that have a place or wait for one, and forget a key that has none."""
        mine = self._keys.setdefault(key_id, _Key(anyio.Semaphore(self._per_key)))
        waiting_per_key, waiting = (QUEUE_PER_KEY, QUEUE) if self._wait_s else (0, 0)
        if mine.asked >= self._per_key + waiting_per_key:
            raise _busy(429, f"this key has {mine.asked} {self._what} under way or waiting")
        if self._asked >= self._most + waiting:
            raise _busy(503, f"the service has {self._asked} {self._what} under way or waiting")
        mine.asked += 1
        self._asked += 1
        try:
            yield mine
        finally:
            self._asked -= 1
            mine.asked -= 1
            if not mine.asked:
                self._keys.pop(key_id, None)

    async def _take(self, places: anyio.Semaphore, status: int, said: str) -> None:
        with suppress(anyio.WouldBlock):
            places.acquire_nowait()
            return
        taken = False
        with anyio.move_on_after(self._wait_s):
            await places.acquire()
            taken = True
        if not taken:
            raise _busy(status, said)


@dataclass(slots=True)
class Room:
    """Bytes of bodies that may be in memory at once: ``most`` in all, ``most_per_key`` of each key."""

    most: int
    most_per_key: int
    held: int = 0
    _of: dict[str, int] = field(default_factory=dict)

    def check(self, key_id: str, size: int) -> None:
        """Raise 429 or 503 where ``size`` bytes more are too much; counts nothing."""
        mine = self._of.get(key_id, 0) + size
        if mine > self.most_per_key:
            raise _busy(429, f"this key has {mine - size:,} bytes of bodies under way, of {self.most_per_key:,}")
        if self.held + size > self.most:
            raise _busy(503, f"the service has {self.held:,} bytes of bodies under way, of {self.most:,}")

    def take(self, key_id: str, size: int) -> None:
        """Count ``size`` bytes more. Raises 429 or 503 where that is too much; nothing is counted then."""
        self.check(key_id, size)
        self.held += size
        self._of[key_id] = self._of.get(key_id, 0) + size

    def give(self, key_id: str, size: int) -> None:
        """Count ``size`` bytes less."""
        self.held -= size
        left = self._of.get(key_id, 0) - size
        if left > 0:
            self._of[key_id] = left
        else:
            self._of.pop(key_id, None)


class Full(HTTPException):
    """A request is sent away, as a key or the service has as much under way as it may."""


def _busy(status: int, said: str) -> Full:
    said = f"{said}. Nothing was done; ask again later."
    return Full(status, said, headers={"Retry-After": f"{RETRY_S}", "Connection": "close"})
