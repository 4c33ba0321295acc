"""The simulation's time: it stands still between steps, and only rules and the library's own waiting move it.

Two clocks, as in life: true time, which the processes count, and the database's clock, which may also jump.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psycopg
import tenacity.nap

import revector.documents.documents
import revector.indexing.keeping
import revector.indexing.watch
import revector.indexing.worker
import revector.migration.catch_up
import revector.migration.leftovers
import revector.registry.attempts

BEGIN_S = float(int(time.time()))
"""What the database's clock says when a history begins, in seconds since 1970; no history depends on it."""

LEAST_SLEEP_S = 1.0
"""A sleep may take longer than asked for: polling loops end after fewer rounds."""

MODULES: tuple[ModuleType, ...] = (
    revector.migration.catch_up,
    revector.migration.leftovers,
    revector.documents.documents,
    revector.indexing.worker,
    revector.registry.attempts,
    tenacity.nap,
)


class Clock:
    """Stands in for the module ``time`` where the library waits, and sets the clock that its SQL reads."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self._database = database
        self.elapsed_s = self.skew_s = 0.0
        self.woken: Callable[[], None] = lambda: None
        """Called after each sleep: others may be up first."""

    def restart(self) -> None:
        """Begin a new history."""
        self.elapsed_s = self.skew_s = 0.0
        self._set()

    def now_s(self) -> float:
        """The database's clock, in seconds since 1970."""
        return BEGIN_S + self.elapsed_s + self.skew_s

    def wait(self, seconds: float) -> None:
        """Let true time pass."""
        self.elapsed_s += seconds
        self._set()

    def jump(self, seconds: float) -> None:
        """Let the database's clock alone gain or lose time."""
        self.skew_s += seconds
        self._set()

    def monotonic(self) -> float:
        """As ``time.monotonic``."""
        return 1_000_000.0 + self.elapsed_s

    def sleep(self, seconds: float) -> None:
        """As ``time.sleep``."""
        self.wait(max(LEAST_SLEEP_S, seconds))
        self.woken()

    def _set(self) -> None:
        self._database.execute("SELECT setval('simulated.clock', %s)", (int(self.now_s() * 1_000_000),))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the library's processes live in this time."""
        running_s, watching = (
            revector.indexing.watch.running_s,
            (
                revector.indexing.watch,
                revector.indexing.keeping,
                revector.registry.attempts,
            ),
        )
        times = [module.time for module in MODULES]  # type: ignore[attr-defined]
        try:
            for module in MODULES:
                module.time = self  # type: ignore[attr-defined]
            for module in watching:
                module.running_s = self.monotonic  # type: ignore[attr-defined]
            yield
        finally:
            for module in watching:
                module.running_s = running_s  # type: ignore[attr-defined]
            for module, real in zip(MODULES, times, strict=True):
                module.time = real  # type: ignore[attr-defined]
