"""Progress as lines of a task log: done, total, rate and time left, at most one line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINE_EVERY_S = 5.0


class LogProgress:
    """Logs what long work reports. ``clock`` returns seconds and only goes forward."""

    def __init__(self, log: logging.Logger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log or logging.getLogger("revector.progress")
        self._clock = clock
        self._what, self._unit = "work", "documents"
        self._total: int | None = None
        self._done = 0
        self._began = self._spoke = clock()

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        """Begin a task and say so."""
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._began = self._spoke = self._clock()
        self._log.info("%s: %s", what, f"{total:,} {unit}" if total is not None else "started")

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more units; log a line if the last one is five seconds old."""
        self._done += n
        if (now := self._clock()) - self._spoke >= LINE_EVERY_S:
            self._spoke = now
            self._log.info("%s: %s", self._what, self._line(now))

    def done(self, note: str = "") -> None:
        """Log the end with the whole count, rate and time."""
        now = self._clock()
        rest = f"; {note}" if note else ""
        self._log.info(
            "%s: finished, %s %s in %.1f s (%s)%s",
            self._what,
            f"{self._done:,}",
            self._unit,
            now - self._began,
            self._rate(now),
            rest,
        )

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._began, 1e-9):,.1f} {self._unit}/s"

    def _line(self, now: float) -> str:
        if not self._total or not self._done:
            return f"{self._done:,} {self._unit}, {self._rate(now)}"
        left_s = max(0, self._total - self._done) * (now - self._began) / self._done
        minutes, seconds = divmod(round(left_s), 60)
        count = f"{self._done:,} of {self._total:,} {self._unit} ({self._done / self._total:.0%})"
        return f"{count}, {self._rate(now)}, {minutes}:{seconds:02d} left"
