"""Runs the library's calls so that one is awake at any time: the others stand where a rule put them.

Each call of an actor runs in a thread of its own, and hands over where it passes a crash point, takes a connection,
calls an encoder or sleeps: whole calls of unchanged code interleave, and the same choices give the same history. A call
stands only where it holds no transaction, so nobody ever waits for a lock; what happens inside transactions is the
business of layer L2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from evaluation.reliability.stepping import Actor, Hang, Killed, current

from revector.errors import DatabaseUnavailable

HANG_S = 30.0
BETWEEN = "between transactions"
OUTSIDE = "outside "
"""How the names of places begin that are none of the library's crash points."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What befalls a call at the n-th point that it passes, or at the first of that name.

    ``kill``: the process is gone. ``lost``: its connection is, and with it the answer of a commit. ``cut``: the server
    ends all connections.
    """

    kind: Literal["kill", "lost", "cut"]
    at: int | str


class Call(Actor):
    """One call under way. ``open``: transactions that it holds; ``passed``: points since it was let go on."""

    def __init__(self, name: str, body: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        super().__init__(name, body)
        self.then = then
        self.open = self.passed = 0
        self.pace: int | str = 0
        self.fate: Fate | None = None


class Stage:
    """All calls of a simulation. ``cut`` ends the connections of everybody."""

    def __init__(self, engine: sa.Engine, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._calls: dict[str, Call] = {}
        sa.event.listen(engine, "engine_connect", lambda _: self.at(BETWEEN))
        for name, change in (("begin", 1), ("commit", -1), ("rollback", -1)):
            sa.event.listen(engine, name, self._counter(change))

    def _counter(self, change: int) -> Callable[[sa.Connection], None]:
        def count(_: sa.Connection) -> None:
            if (call := _here()) is not None:
                call.open += change

        return count

    # What rules call --------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> list[str]:
        """Names of actors whose calls stand somewhere, oldest first."""
        return list(self._calls)

    def place(self, name: str) -> str | None:
        """Where an actor's call stands, or None."""
        return self._calls[name].at if name in self._calls else None

    def start(
        self,
        name: str,
        call: Callable[[], Any],
        then: Callable[[Any, BaseException | None], None],
        pace: int | str = 0,
        fate: Fate | None = None,
    ) -> None:
        """Begin a call; it stands at the ``pace``-th place where it can, or at the first of that name, with 0 at none.

        ``then`` gets its outcome.
        """
        self._calls[name] = Call(name, call, then)
        self.resume(name, pace, fate)

    def resume(self, name: str, pace: int | str = 0, fate: Fate | None = None) -> None:
        """Let a standing call go on, to its next place or its end."""
        call = self._calls[name]
        call.pace, call.fate, call.passed = pace, fate, 0
        call.resume()
        if not call.came_back(HANG_S):
            raise Hang(f"{name} did not come back within {HANG_S:g} s, last seen at {call.at}")
        if call.state == "done":
            del self._calls[name]
            call.then(call.result, call.error)

    def kill(self, name: str) -> None:
        """End a standing call where it stands."""
        self._calls[name].doom()
        self.resume(name)

    def close(self) -> None:
        """End all calls."""
        for name in self.standing:
            self.kill(name)

    # What runs in the calls' threads ----------------------------------------------------------------------------------

    def at(self, point: str) -> None:
        """Pass a point: be struck there, stand there, or go on."""
        if (call := _here()) is None:
            return
        if point != BETWEEN:
            call.passed += 1
            if call.fate is not None and call.fate.at in (call.passed, point):
                fate, call.fate = call.fate, None
                self._strike(fate, point)
        if call.open:
            return
        if isinstance(call.pace, int):
            call.pace -= 1
        if call.pace in (0, point):
            call.stand(point)

    def stand(self, point: str) -> None:
        """Hand over here, whatever is held."""
        if (call := _here()) is not None:
            call.stand(point)

    def _strike(self, fate: Fate, point: str) -> None:
        if fate.kind == "cut":
            self._cut()
        elif fate.kind == "lost" and not point.startswith(OUTSIDE):
            raise DatabaseUnavailable(f"the connection was lost at {point}")
        else:
            raise Killed(point)


def _here() -> Call | None:
    """Return the call in whose thread this runs."""
    found = current()
    return found if isinstance(found, Call) else None
