"""Breadth-first exploration of a protocol: every interleaving of its steps, and the shortest way to a broken promise.

A state is ``bytes``: one byte a field, so that it hashes fast and ten million of them fit. A model says what its
start is, which steps a state allows, and which promise a state breaks. The search is exhaustive and deterministic:
the same model gives the same states in the same order, and the first broken promise found is one with fewest steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

Steps = list[tuple[str, bytes]]
"""What may happen next: a step's name and the state that it leads to."""

MOST_STATES = 4_000_000
"""Where the exploration of one setting gives up: about 0.7 GiB."""


class Layout:
    """Names the bytes of a state; a state is printed by these names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def take(self, *names: str) -> int:
        """Reserve one byte a name; return the position of the first."""
        start = len(self.names)
        self.names += names
        return start

    def changes(self, before: bytes, after: bytes) -> str:
        """Say which fields a step changed."""
        pairs = zip(self.names, before, after, strict=True)
        return ", ".join(f"{name} {old}→{new}" for name, old, new in pairs if old != new)


class Model(Protocol):
    """A protocol to explore."""

    layout: Layout
    start: bytes

    def steps(self, state: bytes) -> Steps:
        """Return every step that the state allows; one that leads back to the same state may be left out."""

    def broken(self, state: bytes) -> str | None:
        """Return the promise that the state breaks, or None."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A counter-example: the promise that broke, and the steps to it, each with the fields that it changed."""

    promise: str
    steps: tuple[tuple[str, str], ...]
    setting: str = ""
    states: int = 0
    """States that were explored until it was found."""

    def __str__(self) -> str:
        lines = [f"{number:3d}. {name:44s} {changed}" for number, (name, changed) in enumerate(self.steps, 1)]
        return "\n".join([f"{self.promise}, after {len(self.steps)} steps ({self.setting}):", *lines])


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration saw; ``whole`` unless it gave up at its limit or found a broken promise."""

    states: int
    transitions: int
    depth: int
    seconds: float
    whole: bool
    trace: Trace | None


def explore(model: Model, *, most_states: int = MOST_STATES, setting: str = "") -> Explored:
    """Visit every state that can be reached, at most ``most_states``; stop at the first broken promise."""
    started = time.monotonic()
    came_from: dict[bytes, bytes | None] = {model.start: None}
    level, transitions, depth = [model.start], 0, 0
    steps, broken = model.steps, model.broken

    def result(trace: Trace | None, *, whole: bool) -> Explored:
        return Explored(len(came_from), transitions, depth, time.monotonic() - started, whole, trace)

    if (promise := broken(model.start)) is not None:
        return result(Trace(promise, (), setting, 1), whole=False)
    while level:
        following: list[bytes] = []
        for state in level:
            for _, found in steps(state):
                transitions += 1
                if found in came_from:
                    continue
                came_from[found] = state
                following.append(found)
                if (promise := broken(found)) is not None:
                    path = _path(model, came_from, found)
                    return result(Trace(promise, path, setting, len(came_from)), whole=False)
            if len(came_from) >= most_states:
                return result(None, whole=False)
        level, depth = following, depth + 1
    return result(None, whole=True)


def _path(model: Model, came_from: dict[bytes, bytes | None], end: bytes) -> tuple[tuple[str, str], ...]:
    """Return the steps from the start to ``end``; names are not kept while exploring, but found again here."""
    path: list[tuple[str, str]] = []
    state = end
    while (before := came_from[state]) is not None:
        name = next(name for name, found in model.steps(before) if found == state)
        path.append((name, model.layout.changes(before, state)))
        state = before
    return tuple(reversed(path))
