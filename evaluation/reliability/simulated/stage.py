"""Runs the library's calls so that one is awake at any time: the others stand where a rule put them.

Each call of an actor runs in a thread of its own, and hands over where it passes a crash point, takes a connection,
calls an encoder or sleeps: whole calls of unchanged code interleave, and the same choices give the same history. A call
stands only where it holds no transaction, so nobody ever waits for a lock; what happens inside transactions is the
business of layer L2.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from evaluation.reliability.stepping import Hang, Killed

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


@dataclass(slots=True)
class Actor:
    """One call under way, in a thread that outlives it."""

    name: str
    inbox: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    thread: int = 0
    call: Callable[[], Any] | None = None
    then: Callable[[Any, BaseException | None], None] | None = None
    at: str | None = None
    """Where the call stands; None while nothing is under way."""
    open: int = 0
    """Transactions that it holds."""
    passed: int = 0
    pace: int | str = 0
    fate: Fate | None = None


class Stage:
    """All actors of a simulation. ``cut`` ends the connections of everybody."""

    def __init__(self, engine: sa.Engine, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._actors: dict[str, Actor] = {}
        self._idle: list[Actor] = []
        self._back: queue.SimpleQueue[tuple[Any, BaseException | None] | None] = queue.SimpleQueue()
        self._awake: Actor | None = None
        sa.event.listen(engine, "engine_connect", lambda _: self.at(BETWEEN))
        for name, change in (("begin", 1), ("commit", -1), ("rollback", -1)):
            sa.event.listen(engine, name, self._counter(change))

    def _counter(self, change: int) -> Callable[[sa.Connection], None]:
        def count(_: sa.Connection) -> None:
            if self._awake is not None and self._awake.thread == threading.get_ident():
                self._awake.open += change

        return count

    # What rules call --------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> list[str]:
        """Names of actors whose calls stand somewhere, oldest first."""
        return list(self._actors)

    def place(self, name: str) -> str | None:
        """Where an actor's call stands, or None."""
        return self._actors[name].at if name in self._actors else None

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
        actor = self._idle.pop() if self._idle else self._hire()
        actor.name, actor.call, actor.then = name, call, then
        actor.open = actor.passed = 0
        self._actors[name] = actor
        self._let(actor, pace, fate)

    def resume(self, name: str, pace: int | str = 0, fate: Fate | None = None) -> None:
        """Let a standing call go on."""
        actor = self._actors[name]
        actor.passed = 0
        self._let(actor, pace, fate)

    def kill(self, name: str) -> None:
        """End a standing call where it stands."""
        self.resume(name, fate=Fate("kill", 0))

    def close(self) -> None:
        """End all calls and threads."""
        for name in self.standing:
            self.kill(name)
        for actor in self._idle:
            actor.inbox.put(None)
        self._idle.clear()

    def _let(self, actor: Actor, pace: int | str, fate: Fate | None) -> None:
        actor.pace, actor.fate, self._awake = pace, fate, actor
        actor.inbox.put(actor)
        try:
            outcome = self._back.get(timeout=HANG_S)
        except queue.Empty:
            raise Hang(f"{actor.name} did not come back within {HANG_S:g} s, last seen at {actor.at}") from None
        finally:
            self._awake = None
        if outcome is None:
            return
        del self._actors[actor.name]
        self._idle.append(actor)
        actor.at, then = None, actor.then
        if then is not None:
            then(*outcome)

    # What runs in the actors' threads ---------------------------------------------------------------------------------

    def _hire(self) -> Actor:
        actor = Actor("")
        threading.Thread(target=self._work, args=(actor,), daemon=True).start()
        return actor

    def _work(self, actor: Actor) -> None:
        actor.thread = threading.get_ident()
        while actor.inbox.get() is not None:
            outcome: tuple[Any, BaseException | None]
            try:
                assert actor.call is not None
                outcome = actor.call(), None
            except BaseException as error:  # noqa: BLE001 - the rule judges every end of a call
                outcome = None, error
            self._back.put(outcome)

    def at(self, point: str) -> None:
        """Pass a point: be struck there, stand there, or go on."""
        actor = self._awake
        if actor is None or actor.thread != threading.get_ident():
            return
        if point != BETWEEN:
            actor.passed += 1
            if actor.fate is not None and actor.fate.at in (actor.passed, point):
                fate, actor.fate = actor.fate, None
                self._strike(fate, point)
        if actor.open:
            return
        if isinstance(actor.pace, int):
            actor.pace -= 1
        if actor.pace in (0, point):
            self.stand(point)

    def stand(self, point: str) -> None:
        """Hand over here, whatever is held."""
        actor = self._awake
        assert actor is not None
        actor.at = point
        self._back.put(None)
        actor.inbox.get()
        if actor.fate is not None and actor.fate.at == 0:
            raise Killed(point)

    def _strike(self, fate: Fate, point: str) -> None:
        if fate.kind == "cut":
            self._cut()
        elif fate.kind == "lost" and not point.startswith(OUTSIDE):
            raise DatabaseUnavailable(f"the connection was lost at {point}")
        else:
            raise Killed(point)
