"""Kills at every named crash point: stories of a migration, whose processes die there and are run again.

A story begins and ends with one served generation, so that any number of them follow each other on one database. Each
turn is a real process with the point armed: it dies at the first passing, its successor at the second, and so on until
one survives, which must have succeeded. Where a turn does not pass the point, nothing dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

from evaluation.reliability.crash_checks import (
    check_effects,
    check_instant,
    check_leftovers,
    check_parts,
    check_sessions,
    compare,
)
from evaluation.reliability.crash_report import Kill, Report
from evaluation.reliability.crash_server import End, Forks
from evaluation.reliability.crash_site import COLLECTION, Site, free, labelled, name_of
from evaluation.reliability.crash_truth import Truth, write_first

from revector.crash import POINTS
from revector.lifecycle import FORWARD

PASSINGS, ALL_PASSINGS = 2, 4
"""Deaths of one turn in the short and in the long form, at its first passing, its second, …"""

WRITES = 5

BASE, NEXT = name_of(0), name_of(1)

_WRITES = ("write into one slot", "write into two slots", "write before swap", "write before rollback")
_WORK = ("work for one slot", "work for two slots", "swap", "rollback", "swap forward")
_SHARDS = ("embed shard 0", "backfill", "embed shard 1")
_STEPS = ("backfill", "index", "verify", "gate", "approve")
_SLOTS = ("provision", "swap", "rollback", "swap forward", "retire", "abort")

PASSES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("write.after_gate", "ingest.after_page"), ("ingest",)),
    **dict.fromkeys(("write.after_row", "write.after_commit"), _WRITES),
    **dict.fromkeys((point for point in POINTS if point.startswith("worker.")), _WORK),
    **dict.fromkeys((point for point in POINTS if point.startswith("publish.")), (*_WORK, *_SHARDS)),
    **dict.fromkeys((point for point in POINTS if point.startswith(("seed.", "shard."))), _SHARDS),
    "backfill.after_seeded": ("backfill",),
    **dict.fromkeys(("index.after_drop", "index.after_build"), ("index",)),
    "evidence.after_measure": ("verify", "gate", "swap forward"),
    "lease.after_commit": ("provision", *_STEPS, "swap", "swap forward", "abort"),
    **dict.fromkeys(("control.after_gate", "control.before_commit", "control.after_commit"), (*_STEPS, *_SLOTS)),
    "control.after_move": _SLOTS,
    "control.after_phase": (*_STEPS, *_SLOTS[1:]),
    **dict.fromkeys(("drop.after_table", "drop.after_commit"), ("retire", "abort")),
}
"""Which turns of a story surely pass a point. ``task.after_step`` is the DAG's own: see ``crash_task``."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One process of a story: what kind, what it does, and the events that it is meant to leave, once each."""

    kind: str
    does: str
    actor: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[str, ...] = ()


def _move(move: str, does: str = "", effects: tuple[str, ...] = (), **options: Any) -> Turn:
    return Turn("control", does or move, "control", {"move": move, **options}, effects or (move,))


def turns(seed: int) -> Iterator[Turn | None]:
    """Yield the turns of a story; None stands for a whole comparison."""
    why, step, seeds = {"reason": "the story"}, {"revision": NEXT}, count(seed)

    def write(does: str) -> Turn:
        return Turn("writer", does, "write", {"seed": next(seeds), "count": WRITES})

    def shard(number: int) -> Turn:
        return Turn("shard", f"embed shard {number}", "embed", {"revision": NEXT, "shard": number})

    yield write("write into one slot")
    yield Turn("ingester", "ingest", "ingest", {"round_": seed}, ("ingest",))
    yield Turn("worker", "work for one slot", "drain")
    yield _move("provision", **step)
    yield write("write into two slots")
    yield shard(0)
    yield from (_move(move, **step) for move in _STEPS)
    yield write("write before swap")
    yield _move("swap", **step)
    yield Turn("worker", "work for two slots", "drain")
    yield write("write before rollback")
    yield _move("rollback", **why)
    yield write("write before swap forward")
    yield _move("swap", "swap forward", **step)
    yield None
    yield _move("rollback", "rollback again", **why)
    yield _move("retire", effects=("retire", "drop"), now=True, **why)
    yield _move("provision", "provision again", **step)
    yield shard(1)
    yield _move("abort", effects=("abort", "drop"), **why)
    yield None


class Stories:
    """Stories on one database, whose truth grows from story to story."""

    def __init__(
        self, forks: Forks, site: Site, *, seed: int, plant: str | None = None, everywhere: bool = False
    ) -> None:
        self._everywhere = everywhere
        self.site, self.truth, self.report = site, Truth(), Report(seed)
        self._forks, self._seed, self._plant, self._intended = forks, seed, plant, Counter[str]()
        self._newest, self._points = 0, cycle(PASSES)

    def begin(self) -> None:
        """Write the corpus and make the first generation live, unharmed; from here on bugs are planted."""
        self.site.project.init()
        write_first(self.site, self.truth, labelled() + free())
        self.site.project.migrator(COLLECTION, actor="first").upgrade(BASE)
        self._intended.update(step for step in FORWARD if step != "plan")
        self._forks.open(self.site, self._plant)

    def go_on(self) -> None:
        """Tell the story of the next point."""
        self.tell(next(self._points))

    def tell(self, point: str) -> list[Kill]:
        """Tell the story of one point, armed where ``PASSES`` says, or ``everywhere`` and more often; return its kills.

        What broke is in ``report``.
        """
        does = (turn.does for turn in turns(0) if turn is not None) if self._everywhere else PASSES[point]
        return self.tell_of(dict.fromkeys(does, point), point)

    def tell_of(self, armed: Mapping[str, str], name: str) -> list[Kill]:
        """Tell one story in which each turn named dies at its point; return its kills. Findings are under ``name``."""
        before, calm = len(self.report.kills), list[Turn]()
        self._seed += 10
        for turn in turns(self._seed):
            if turn is not None and turn.does not in armed:
                calm.append(turn)
                continue
            self._together(name, calm)
            calm.clear()
            if turn is None:
                self._compare(name)
            else:
                self._armed(armed[turn.does], turn, ALL_PASSINGS if self._everywhere else PASSINGS)
        self.report.find(name, check_effects(self.site, self._intended))
        self.report.find(name, check_leftovers(self.site))
        self.report.migrations += 2
        self.report.acknowledged, self.report.unknown = self.truth.acknowledged, self.truth.unknown
        return self.report.kills[before:]

    def _armed(self, point: str, turn: Turn, most: int) -> None:
        """Let one process after another die at the point, until one gets through."""
        for passing in range(1, most + 1):
            end = self._run(turn, f"{point}:{passing}")
            if not end.killed:
                break
            self.report.kills.append(Kill(point, turn.kind, turn.does, passing))
            self.report.find(f"{point}, {turn.kind}: {turn.does}", check_instant(self.site))
        else:
            end = self._run(turn)
        self._succeeded(point, turn, end)
        self._intended.update(turn.effects)

    def _together(self, point: str, calm: list[Turn]) -> None:
        """Do turns that nothing happens to in one process."""
        if calm:
            scenes = [{"actor": turn.actor, "arguments": turn.arguments} for turn in calm]
            several = Turn("several", f"{calm[0].does} to {calm[-1].does}", "several", {"scenes": scenes})
            self._succeeded(point, several, self._run(several))
            self._intended.update(effect for turn in calm for effect in turn.effects)

    def _compare(self, point: str) -> None:
        self.report.find(point, check_sessions(self.site))
        heal = Turn("worker", "heal", "drain")
        self._succeeded(point, heal, self._run(heal))
        self._newest, parts = check_parts(self.site, self._newest, overlapped=False)
        self.report.find(point, check_instant(self.site) + compare(self.site, self.truth) + parts)
        self.report.comparisons += 1

    def _run(self, turn: Turn, arm: str = "") -> End:
        end = self._forks.run(turn.actor, arm, **turn.arguments)
        self.truth.read(self.site, end)
        return end

    def _succeeded(self, point: str, turn: Turn, end: End) -> None:
        if end.status:
            said = self.truth.failures[end.child].detail["error"] if end.child in self.truth.failures else end.status
            self.report.find(f"{point}, {turn.kind}: {turn.does}", [f"not done when run again: {said}"])
