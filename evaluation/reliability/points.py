"""What a store really holds of an index, past network and library, judged against what SQL says of its points."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
from evaluation.reliability.checker import Finding
from evaluation.reliability.judge import Row

from revector.registry.intents import point_ids
from revector.stores.memory import MemoryIndex


class Attempt(NamedTuple):
    """An intent as SQL has it; ``doc_id`` is empty for a canary. ``due``: its document waits to be embedded again."""

    attempt: UUID
    doc_id: str
    version: int
    n_chunks: int
    state: str
    shown: bool
    due: bool

    @property
    def is_canary(self) -> bool:
        """Whether it stands for the whole index: without it, the store has lost points."""
        return not self.doc_id and self.state == "published"


ATTEMPTS = """
SELECT i.attempt, i.doc_id, i.version, i.n_chunks, i.state, l.attempt IS NOT NULL AS shown, p.gen IS NOT NULL AS due
FROM intent i LEFT JOIN ledger l ON l.gen = i.gen AND l.attempt = i.attempt
LEFT JOIN pending p ON p.gen = i.gen AND p.doc_id = i.doc_id WHERE i.gen = """
"""All intents of the generation whose number follows; columns as ``Attempt``."""


def there(index: MemoryIndex, attempts: Iterable[Attempt]) -> dict[UUID, list[Row]]:
    """Return what the index holds of attempts: rows in the order of their chunks."""
    wanted = {one.attempt: one for one in attempts}
    found: defaultdict[UUID, list[Row]] = defaultdict(list)
    if index.describe() is not None:
        points = index.read(point_ids((one.attempt, one.n_chunks) for one in wanted.values()))
        for n in np.argsort(points.chunks, kind="stable").tolist():
            version = wanted[points.attempts[n]].version
            place = int(points.chunks[n]), version, int(points.starts[n]), int(points.stops[n])
            found[points.attempts[n]].append(Row(*place, points.vectors[n].tolist()))
    return found


def attempts_held(index: MemoryIndex, attempts: Sequence[Attempt]) -> list[tuple[Attempt, list[Row]]]:
    """Return each attempt with what the index holds of it."""
    held = there(index, attempts)
    return [(one, held.get(one.attempt, [])) for one in attempts]


def wrong_points(index: MemoryIndex, attempts: Sequence[Attempt]) -> list[Finding]:
    """Find points that SQL does not know of, and shown attempts without theirs, unless a loss is being dealt with.

    A loss is until the canary is in its place again: from then on, what is shown and not there is due.
    """
    described, held = index.describe(), there(index, attempts)
    points = described.points if described is not None else 0
    found = []
    if unknown := points - sum(map(len, held.values())):
        found.append(Finding("unknown", f"SQL does not know of {unknown} of {points} points of {index.name}"))
    if any(one.attempt in held for one in attempts if one.is_canary):
        lacking = [one for one in attempts if one.shown and not one.due and len(held[one.attempt]) != one.n_chunks]
        found += [Finding("lost", f"{index.name} lacks points that are shown: {one}") for one in lacking[:3]]
    return found


def garbage(index: MemoryIndex, attempts: Sequence[Attempt]) -> list[Finding]:
    """Find what a store at rest holds, or SQL names, besides what is shown and the canary; or what is missing there.

    What was lost of a document that cannot be embedded again, and so is due for ever, stays lost.
    """
    described, held = index.describe(), there(index, attempts)
    needed = {
        one.attempt: len(held[one.attempt]) if one.due else one.n_chunks
        for one in attempts
        if one.shown or one.is_canary
    }
    points = described.points if described is not None else 0
    left = [one for one in attempts if one.attempt not in needed and one.doc_id]  # canaries come and go
    if points == sum(needed.values()) == sum(len(held[attempt]) for attempt in needed) and not left:
        return []
    return [Finding("leftover", f"{index.name} holds {points} points, needed are {needed}, left over is {left}")]


def lose(index: MemoryIndex, attempts: Sequence[Attempt], chance: random.Random) -> None:
    """Have the store lose the canary and half of the attempts, or the whole index."""
    if chance.random() < 0.5:
        index.drop()
        return
    lost = [(one.attempt, one.n_chunks) for one in attempts if not one.doc_id or chance.random() < 0.5]
    index.remove(point_ids(lost))
