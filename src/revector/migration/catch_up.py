"""Bringing a generation up to date and then moving the alias: drain, take the gate, finish the last items, move."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
import tenacity

from revector.errors import GateBusy, NotCaughtUp
from revector.indexing.worker import Worker
from revector.registry import work
from revector.registry.collections import Generation

T = TypeVar("T")

FEW_WAITING = 25
"""The gate is only asked for while fewer items wait, so that writers never stand long (reliability.md, R77)."""

FEW_CHARACTERS = 20_000
"""… and only that much text is embedded while it is held: one large document must not stop all writers."""

GATE_BUDGET_S = 2.0
MOVE_ATTEMPTS = 20
LANES = ("live", "bulk")


class CatchUp:
    """Works beside `revector worker`, or without any: a move never depends on another process being alive."""

    def __init__(self, engine: sa.Engine, worker: Worker) -> None:
        self._engine, self._worker = engine, worker

    def drain(self, generation: Generation, *, until: int = FEW_WAITING) -> None:
        """Bring the generation up to date until at most ``until`` items are due.

        With ``until=0`` it also ends once few items wait and 2 s did not suffice: writers go on, or the rest is
        leased or backing off, and the move itself says what waits.
        """
        give_up = time.monotonic() + GATE_BUDGET_S
        while (due := self._due(generation)) > until:
            applied = sum(self._worker.apply_some(generation, lanes=LANES))
            if due > FEW_WAITING and applied:
                give_up = time.monotonic() + GATE_BUDGET_S
            elif until == 0 and time.monotonic() > give_up:
                return
            if not applied:
                time.sleep(0.05)

    def then(self, generation: Generation, move: Callable[[], T]) -> T:
        """Drain, then move; while live items wait or the gate is busy, try again with growing pauses.

        Dead letters end it at once: no waiting cures them.
        """

        def attempt() -> T:
            self.drain(generation, until=0)
            return move()

        def passing(error: BaseException) -> bool:
            return isinstance(error, GateBusy) or (isinstance(error, NotCaughtUp) and not self._dead(generation))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            stop=tenacity.stop_after_attempt(MOVE_ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=0.2, max=60),
            reraise=True,
        )
        return retrying(attempt)

    def finish_under_gate(self, generation: Generation) -> None:
        """Finish the last few items while writers stand still, within a short budget; the move then tests for zero.

        Publishing needs no gate, so it goes on in transactions of its own while the caller holds it.
        """
        deadline = time.monotonic() + GATE_BUDGET_S
        while due := self._due(generation):
            if due > FEW_WAITING or time.monotonic() > deadline or self._characters_due(generation) > FEW_CHARACTERS:
                return
            if not sum(self._worker.apply_some(generation, lanes=LANES)):
                time.sleep(0.01)

    def _due(self, generation: Generation) -> int:
        with self._engine.connect() as connection:
            waiting = work.backlog(connection, generation.gen)
        return waiting.due + waiting.bulk

    def _characters_due(self, generation: Generation) -> int:
        with self._engine.connect() as connection:
            return work.characters_due(connection, generation.gen, generation.cid)

    def _dead(self, generation: Generation) -> int:
        with self._engine.connect() as connection:
            waiting = work.backlog(connection, generation.gen)
        return waiting.dead - waiting.waived
