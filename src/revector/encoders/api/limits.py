"""Owns what holds requests back: the clock, the budgets per minute, the circuit breaker and the meter of spend."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple, Protocol

BURST_S = 1.0
"""A budget per minute may be used this far ahead of an even pace, in seconds."""

FAILURES, COOL_DOWN_S = 3, 60.0
"""How many requests given up in a row open the circuit, and for how long."""


class Clock:
    """The time as limits see it; tests give another."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def now(self) -> float:
        """Seconds since 1970, UTC: what an HTTP date is compared with."""
        return time.time()

    def sleep(self, seconds: float, unless: threading.Event) -> None:
        """Wait, or return as soon as ``unless`` is set."""
        unless.wait(seconds)


class TokenBucket:
    """A token bucket, as the virtual scheduling algorithm (ITU-T I.371): one number, the time up to which it is used.

    In any 60 s no more begins than the budget, ``BURST_S`` of it, and one request.
    """

    def __init__(self, per_min: float | None, clock: Clock) -> None:
        self._per_s = None if per_min is None else per_min / 60
        self._clock = clock
        self._used_until = clock.monotonic()
        self._lock = threading.Lock()

    def take(self, amount: float) -> float:
        """Take ``amount`` of the budget; return the seconds to wait before it may be used."""
        if self._per_s is None:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            begin = max(self._used_until, now)
            self._used_until = begin + amount / self._per_s
            return max(0.0, begin - BURST_S - now)


class CircuitOpen(Exception):
    """No request is let through; one is tried in ``seconds`` (0: one is under way)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Breaker:
    """Stops requests to a provider that fails: closed, open for a while, then one trial decides.

    Counts requests that were given up after all their tries, not tries: a hiccup that a second try fixes opens nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Let a request through and return whether it is the trial; ``leave`` must follow. Raises ``CircuitOpen``."""
        with self._lock:
            if self._open_until is None:
                return False
            left = self._open_until - self._clock.monotonic()
            if left > 0 or self._trying:
                raise CircuitOpen(max(0.0, left))
            self._trying = True
            return True

    def leave(self, ok: bool | None, *, trial: bool) -> None:
        """Note that the server answered (True), that a request was given up (False), or that neither is known."""
        with self._lock:
            self._trying = self._trying and not trial
            if ok:
                self._failures, self._open_until = 0, None
            elif ok is False:
                self._failures += 1
                if trial or self._failures >= FAILURES:
                    self._open_until = self._clock.monotonic() + COOL_DOWN_S

    def open_for(self, seconds: float) -> None:
        """Let nothing through for ``seconds``: the server asked for it."""
        with self._lock:
            self._open_until = self._clock.monotonic() + seconds


class Use(NamedTuple):
    """What requests used; negative where an estimate was too high."""

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0


class Meter(Protocol):
    """Counts what each provider has been used for, over all time and, where it can, over all processes."""

    def charge(self, provider: str, use: Use, *, caps: Mapping[str, float] | None = None) -> tuple[str | None, Use]:
        """Add ``use``, in one atomic step, unless that takes the provider's USD beyond one of ``caps``, by ``CAPS``.

        Return the cap that refuses it and what counts towards that one; None and the total where it was added.
        """
        ...


class MemoryMeter:
    """A meter for one process, whose whole life is one month and one migration."""

    def __init__(self) -> None:
        self._total: dict[str, Use] = defaultdict(Use)
        self._lock = threading.Lock()

    def charge(self, provider: str, use: Use, *, caps: Mapping[str, float] | None = None) -> tuple[str | None, Use]:
        """Add ``use`` unless that takes the provider's USD beyond a cap; see ``Meter``."""
        with self._lock:
            before = self._total[provider]
            for name, cap in (caps or {}).items():
                if before.usd + use.usd > cap:
                    return name, before
            total = Use(before.requests + use.requests, before.tokens + use.tokens, before.usd + use.usd)
            self._total[provider] = total
            return None, total
