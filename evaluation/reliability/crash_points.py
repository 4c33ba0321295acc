"""Kills at every named crash point: stories of a migration, whose processes die there and are run again.

A story begins and ends with one served generation, so that any number of them follow each other on one database. Each
turn is a real process with the point armed: it dies at the first passing, its successor at the second, and so on until
one survives, which must have succeeded. Where a turn does not pass the point, nothing dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from evaluation.reliability import checks
from evaluation.reliability.checker import Finding
from evaluation.reliability.forks import End, Forks, Notes
from evaluation.reliability.judge import at_rest
from evaluation.reliability.site import NEW, Site

from revector.crash import POINTS
from revector.errors import StateError
from revector.lifecycle import FORWARD

PASSINGS, ALL_PASSINGS = 2, 4
"""Deaths of one turn in the short and in the long form, at its first passing, its second, …"""

WRITES = 5

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
"""Which turns of a story surely pass a point. ``task.after_step`` is the DAG's own."""

OF_TASKS = "task.after_step"
TASKS = (*FORWARD[:2], "embed 0", "embed 1", *FORWARD[2:])
"""What passes the point of the DAG, in order."""

DAG_S, LIMIT_S = 600.0, 120.0


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
    why, step, seeds = {"reason": "the story"}, {"revision": NEW}, count(seed)

    def write(does: str) -> Turn:
        return Turn("writer", does, "write", {"seed": next(seeds), "count": WRITES})

    def shard(number: int) -> Turn:
        return Turn("shard", f"embed shard {number}", "embed", {"revision": NEW, "shard": number})

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


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: at which point, what kind of process, doing what, at which passing."""

    point: str
    kind: str
    during: str
    passing: int


class Trials:
    """Migrations on one database that are killed into, whose history grows from one to the next."""

    def __init__(self, forks: Forks, site: Site, *, seed: int = 0, plant: str | None = None) -> None:
        self.site, self.notes, self.tally = site, Notes(), Counter[str]()
        self.kills, self.findings = list[Kill](), list[Finding]()
        self.forks, self.intended, self._seed, self._plant, self._newest = forks, Counter[str](), seed, plant, 0

    def begin(self) -> None:
        """Write the corpus and make the first generation live, unharmed; from here on bugs are planted."""
        self.site.begin(self.notes.recorder)
        self.intended.update(FORWARD[1:])
        self.forks.open(self.site, self._plant)

    def find(self, where: str, findings: Sequence[Finding]) -> None:
        """Note what was found."""
        self.findings += [replace(one, where=where) for one in findings]

    def killed(self, where: str, kill: Kill) -> None:
        """Count a kill, and check what is true at every instant."""
        self.kills.append(kill)
        self.tally.update(("kills", f"at {kill.point}", f"of a {kill.kind}", f"during {kill.during}"))
        self.find(where, checks.instant(self.site.engine, self.site.cid))

    def run(self, actor: str, arm: str = "", **arguments: Any) -> End:
        """Run one process to its end and take over its notes."""
        end = self.forks.run(actor, arm, **arguments)
        self.notes.read(self.site, end)
        return end

    def compare(self, where: str, *, overlapped: bool = False) -> None:
        """Let one worker heal, and compare everything with what the victims were told."""
        site, recorder = self.site, self.notes.recorder
        self.find(where, checks.sessions(site.engine))
        end = self.run("drain")
        if end.status:
            self.find(where, [Finding("not caught up", self.notes.said(end))])
        found = checks.instant(site.engine, site.cid)
        found += at_rest(site.engine, site.cid, site.judge(recorder), recorder)
        self._newest, parts = checks.parts(site.engine, site.project.archive, self._newest, overlapped=overlapped)
        self.find(where, found + parts)
        self.tally["comparisons"] += 1
        self.tally |= Counter(acknowledged=self.notes.count("ok"), unknown=self.notes.count("info"))

    def settled(self, where: str, migrations: int) -> None:
        """Check that each intended move had one effect, and that nothing ended is left."""
        engine = self.site.engine
        self.find(where, checks.effects(engine, self.site.cid, self.intended) + checks.leftovers(engine))
        self.tally["migrations"] += migrations


class Stories(Trials):
    """Stories on one database; ``everywhere``: each turn is armed, also where ``PASSES`` does not ask for it.

    What moves slots or embeds a shard, and died whenever it was to, is run again by two processes at once, as by two
    supervisors.
    """

    def __init__(
        self, forks: Forks, site: Site, *, seed: int, plant: str | None = None, everywhere: bool = False
    ) -> None:
        super().__init__(forks, site, seed=seed, plant=plant)
        self.everywhere, self._overlapped = everywhere, False

    def tell(self, point: str) -> list[Kill]:
        """Tell the story of one point, armed where ``PASSES`` says, or ``everywhere`` and more often; return its kills.

        What broke is in ``findings``.
        """
        does = (turn.does for turn in turns(0) if turn is not None) if self.everywhere else PASSES[point]
        return self.tell_of(dict.fromkeys(does, point), point)

    def tell_of(self, armed: Mapping[str, str], name: str) -> list[Kill]:
        """Tell one story in which each turn named dies at its point; return its kills. Findings are under ``name``."""
        before, calm = len(self.kills), list[Turn]()
        self._seed += 10
        for turn in turns(self._seed):
            if turn is not None and turn.does not in armed:
                calm.append(turn)
                continue
            self._together(name, calm)
            calm.clear()
            if turn is None:
                self.compare(name, overlapped=self._overlapped)
                self._overlapped = False
            else:
                self._armed(armed[turn.does], turn, ALL_PASSINGS if self.everywhere else PASSINGS)
        self.settled(name, 2)
        return self.kills[before:]

    def _armed(self, point: str, turn: Turn, most: int) -> None:
        """Let one process after another die at the point, until one gets through."""
        where = f"{point}, {turn.kind}: {turn.does}"
        for passing in range(1, most + 1):
            end = self.run(turn.actor, f"{point}:{passing}", **turn.arguments)
            if not end.killed:
                break
            self.killed(where, Kill(point, turn.kind, turn.does, passing))
        else:
            # Two at one shard may embed a document twice, so that parts are less to be judged by.
            shared = turn.kind == "shard" and self._seed // 10 % 2 == 0
            self._overlapped |= shared
            twice = shared or turn.does in _SLOTS
            end = self._twice(where, turn) if twice else self.run(turn.actor, **turn.arguments)
        self._succeeded(where, end)
        self.intended.update(turn.effects)

    def _twice(self, where: str, turn: Turn) -> End:
        """Let two processes do one move at once; return the better end of both. The other may have come too late."""
        children = [self.forks.start(turn.actor, **turn.arguments) for _ in range(2)]
        ends = sorted((self.forks.end_of(child, LIMIT_S) for child in children), key=lambda end: abs(end.status))
        for end in ends:
            self.notes.read(self.site, end)
        late = self.notes.failures.get(ends[1].child)
        if ends[1].status and not (late and StateError.__name__ in late.detail["kinds"]):
            self.find(where, [Finding("failed", self.notes.said(ends[1]))])
        return ends[0]

    def _together(self, point: str, calm: list[Turn]) -> None:
        """Do turns that nothing happens to in one process."""
        if calm:
            scenes = [{"actor": turn.actor, "arguments": turn.arguments} for turn in calm]
            done = ", ".join(turn.does for turn in calm)
            self._succeeded(f"{point}, unharmed: {done}", self.run("several", scenes=scenes))
            self.intended.update(effect for turn in calm for effect in turn.effects)

    def _succeeded(self, where: str, end: End) -> None:
        if end.status:
            self.find(where, [Finding("not done when run again", self.notes.said(end))])


class Tasks(Trials):
    """The DAG, killed after each step, before Airflow is told: Airflow's own `dag.test()` runs the real tasks."""

    def tell(self, tasks: Sequence[str]) -> None:
        """Run the DAG, killed once after each of ``tasks``, then to its end."""
        embedded = set[str]()
        for task in tasks:
            # What a killed run did is passed again, and succeeds at once; only shards that are done are left out.
            before = TASKS[: TASKS.index(task)]
            passing = 1 + len(set(before) - embedded)
            embedded |= {one for one in (*before, task) if one.startswith("embed")}
            end = self.run("dag", f"{OF_TASKS}:{passing}", limit_s=DAG_S)
            if end.killed:
                self.killed(task, Kill(OF_TASKS, "task", task, passing))
            else:
                self.find(task, [Finding("not killed", f"the DAG ended: {self.notes.said(end)}")])
        end = self.run("dag", limit_s=DAG_S)
        if end.status:
            self.find("the last run", [Finding("not done when run again", self.notes.said(end))])
        self.intended.update(FORWARD[1:])
        self.compare("the end")
        self.settled("the end", 1)
