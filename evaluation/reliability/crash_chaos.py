"""Kills at random moments: writers, workers, shards and control processes, restarted as a supervisor would.

A migration is a list of moves, each made by processes that are started again until one has succeeded, while writers,
workers and an ingester run beside them. At random moments one process is killed, or all are, as when a host fails. When
the moves are through, everything else is killed too; then one worker heals, and everything is compared.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.reliability.checker import Finding
from evaluation.reliability.crash_report import Kill, Trials
from evaluation.reliability.forks import End, Forks
from evaluation.reliability.site import Site

from revector.errors import DatabaseUnavailable, StateError
from revector.lifecycle import FORWARD

LIMIT_S = 90.0
"""A move that has not succeeded by then is a finding."""

TWINS, ALL = 0.15, 0.15
"""How often a move is made by two processes at once, and how often a kill hits every process."""

STRIKES = (0, 1, 1, 2, 3)
"""How many kills a move meets at most; they fall anywhere into the time that it took so far."""

CHANGED_FLOOR = 300
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is for; equal roles are interchangeable."""

    kind: str
    does: str
    actor: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)


CREW = (
    Role("writer", "write", "write", {"per_s": 8.0}),
    Role("writer", "write too", "write", {"per_s": 8.0}),
    Role("worker", "work", "work"),
    Role("worker", "work too", "work"),
    Role("ingester", "ingest", "ingest", {"pause_s": 1.0}),
)
"""Who runs beside every migration."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a migration does next: roles that must succeed, side by side, and the events that are then there, once."""

    does: str
    roles: tuple[Role, ...]
    effects: tuple[str, ...] = ()


def _control(move: str, *effects: str, **options: Any) -> Move:
    return Move(move, (Role("control", move, "control", {"move": move, **options}),), effects or (move,))


def plan(draw: random.Random, revision: str) -> tuple[list[Move], bool]:
    """Draw the moves of one migration; the flag says whether ``revision`` is served alone at its end."""
    why, moves = {"reason": "the trial"}, list[Move]()
    steps: tuple[str, ...] = FORWARD[1:]
    if draw.random() < 0.5:  # as the DAG does: shards side by side
        moves += [_control("provision", revision=revision)]
        embed = [Role("shard", f"embed {n}", "embed", {"revision": revision, "shard": n}) for n in (0, 1)]
        moves += [Move("embed", tuple(embed))]
        steps = steps[1:]
    end = draw.choice(("abort", "retire", "rollback", "rollback", "forward again"))
    if end == "abort":
        steps = steps[: draw.randrange(len(steps))]
        if steps:
            moves += [_control("upgrade", *steps, revision=revision, to=steps[-1])]
        elif len(moves) == 0:
            moves += [_control("provision", revision=revision)]
        return [*moves, _control("abort", "abort", "drop", **why)], False
    moves += [_control("upgrade", *steps, revision=revision)]
    back, forth = _control("rollback", **why), _control("swap", revision=revision)
    moves += {"retire": [], "rollback": [back], "forward again": [back, forth, back]}[end]
    return [*moves, _control("retire", "retire", "drop", now=True, **why)], end == "retire"


class Chaos(Trials):
    """Migrations on one database, among processes that die at any moment.

    ``outage`` kills PostgreSQL and brings it back, returning what was killed; without it, our own processes are killed.
    """

    def __init__(
        self,
        forks: Forks,
        site: Site,
        *,
        seed: int,
        plant: str | None = None,
        outage: Callable[[random.Random], str] | None = None,
    ) -> None:
        super().__init__(forks, site, seed=seed, plant=plant)
        self.errors: Counter[str] = Counter()
        self._draw, self._outage = random.Random(seed), outage
        self._served, self._round, self._doing = 0, 0, ""
        self._running: dict[int, Role] = {}
        self._strikes, self._next_strike, self._typical_s = 0, 0.0, dict[str, float]()

    def go_on(self) -> None:
        """Run one migration, then heal and compare."""
        revision = self.site.add_revision(self._served + 1)
        moves, served = plan(self._draw, revision)
        overlapped = False
        for role in CREW:
            self._start(role)
        for move in moves:
            overlapped |= self._make(move)
            self.intended.update(move.effects)
        self._end_all()
        self._served += served
        where = f"migration to {revision}: {', '.join(move.does for move in moves)}"
        self.compare(where, overlapped=overlapped)
        self.settled(where)
        self.report.migrations += 1

    # Processes --------------------------------------------------------------------------------------------------------

    def _start(self, role: Role) -> None:
        arguments = dict(role.arguments)
        if role.actor == "write":
            arguments["seed"] = self._draw.randrange(1 << 30)
        if role.actor == "ingest":
            arguments["round_"] = self._round
        self._running[self.forks.start(role.actor, **arguments)] = role

    def _make(self, move: Move) -> bool:
        """Run the roles of a move until each has succeeded; return whether two processes had one role."""
        started, left, overlapped = time.monotonic(), set(move.roles), False
        self._doing, self._strikes = move.does, self._draw.choice(STRIKES)
        self._plan_strike()
        for role in move.roles:
            self._start(role)
            if self._draw.random() < TWINS:
                self._start(role)
                overlapped = True
        while left or any(role in move.roles for role in self._running.values()):
            if time.monotonic() > started + LIMIT_S:
                raise TimeoutError(f"not done within {LIMIT_S:.0f} s: {[role.does for role in left]}")
            for role, end in self._ends():
                if role in left and end.status == 0:
                    left.discard(role)
                    self._kill([child for child, other in self._running.items() if other == role])
                elif role in left and role not in self._running.values():
                    self._start(role)
        self._typical_s[move.does] = (self._typical_s.get(move.does, 0.1) + time.monotonic() - started) / 2
        return overlapped

    def _plan_strike(self) -> None:
        self._next_strike = time.monotonic() + self._draw.uniform(0, self._typical_s.get(self._doing, 0.1))

    def _ends(self) -> Iterator[tuple[Role, End]]:
        """Wait for the next moment; kill, take note of who ended, start again who runs beside the migration."""
        if self._strikes and time.monotonic() >= self._next_strike:
            self._strikes -= 1
            self._strike()
            self._plan_strike()
        end = self.forks.next_end(
            min(max(0.0, self._next_strike - time.monotonic()), POLL_S) if self._strikes else POLL_S
        )
        if end is None:
            return
        role = self._running.pop(end.child)
        self._note(role, end)
        if role in CREW:
            self._round += role.actor == "ingest" and self.notes.latest.get(end.child, False)
            self._start(role)
        yield role, end

    def _strike(self) -> None:
        if self._outage is not None:
            self.report.kills.append(Kill(None, self._outage(self._draw), self._doing))
            self.report.find(self._doing, self.instant())
            return
        children = list(self._running)
        if self._draw.random() >= ALL:
            weights = [1 if self._running[child] in CREW else 4 for child in children]
            children = self._draw.choices(children, weights)
        self._kill(children)

    def _kill(self, children: Iterable[int]) -> None:
        for child in children:
            self.forks.kill(child)

    def _note(self, role: Role, end: End) -> None:
        self.notes.read(self.site, end)
        if end.killed:
            self.report.kills.append(Kill(None, role.kind, self._doing))
        elif end.status:
            record = self.notes.failures.get(end.child)
            kinds = record.detail["kinds"] if record else []
            self.errors[f"{role.kind}: {kinds[0] if kinds else end.status}"] += 1
            # A supervisor restarts a process that lost the database, or was overtaken by the one before it.
            expected = (self._outage is not None and DatabaseUnavailable.__name__ in kinds) or (
                role.kind != "writer" and StateError.__name__ in kinds
            )
            if not expected:
                self.report.find(role.does, [Finding("failed", f"a {role.kind}: {self.notes.said(end)}")])

    def _end_all(self) -> None:
        self._strikes, self._doing = 0, "the end"
        self._kill(self._running)
        while self._running:
            end = self.forks.next_end(LIMIT_S)
            if end is None:
                raise TimeoutError(f"killed processes did not end: {self._running}")
            self._note(self._running.pop(end.child), end)
