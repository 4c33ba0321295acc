"""Random interleavings of the real code on a real PostgreSQL, statement by statement (layer L2).

    python -m evaluation.reliability.interleave [--seed N] [--count N] [--processes N] [--bug NAME]

Each run is a small collection of its own, met at a random point of its life by eight to eleven actors: writers through
the library and by SQL of their own at every isolation level, workers, shards of a backfill, one or two controllers,
sessions that ask, and time, which ends leases. One advances at a time, by one statement, as the seed says; now and
then one is stopped for long, or killed where it stands: its transaction is rolled back, or its commit stands and nobody
knows. Afterwards a worker drains, and everything is compared with what was acknowledged, every index row by row.

revector's one store lies in the same database (class A); what only a store outside it can do is the model's to show.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.bench.common import Figure
from evaluation.reliability.arena import database, server
from evaluation.reliability.checker import Finding
from evaluation.reliability.interleave_actors import cast
from evaluation.reliability.interleave_scene import Scene, SharedEncoders, check_end, heal, look, noted_moves
from evaluation.reliability.pieces import add_piece, in_batches, none, options
from evaluation.reliability.stepping import Actor, Hang, Killed, Stage, stage

from revector.database.engine import make_engine
from revector.errors import RevectorError
from revector.migration import catch_up
from revector.migration import steps as forward

MODULE = "evaluation.reliability.interleave"
Plant = Callable[[sa.Engine], AbstractContextManager[Any]]

ENOUGH_STEPS, MOST_STEPS = 1_200, 2_400
"""After the first, loops of actors end; after the second, they are killed."""

PAUSES = {"worker.after_embed": 0.25, "commit": 0.12}
"""How likely an actor is stopped for long where it stands; elsewhere 0.01."""

BATCH = 100
"""Runs on one database: a fresh one keeps the catalogue small."""


@dataclass
class Report:
    """What runs did and found. ``failed`` are seeds, each of which repeats its run."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, Finding]] = field(default_factory=list)
    schedules: dict[int, list[str]] = field(default_factory=dict)
    """Of the failed runs: who did what, in order."""

    @property
    def failed(self) -> list[int]:
        """Seeds of the runs in which a promise broke."""
        return sorted({seed for seed, _ in self.findings})

    def add(self, other: Report) -> None:
        """Take another report's runs in."""
        self.counts += other.counts
        self.findings += other.findings
        self.schedules |= other.schedules


def run_interleavings(
    url: str, seeds: Iterable[int], *, plant: Plant | None = None, stop_at_first: bool = True
) -> Report:
    """Run one interleaving per seed, each in a collection of its own, in the database at ``url``, which has our tables.

    ``plant`` plants a bug around all runs. The role must be a superuser.
    """
    report, encoders, engine = Report(), SharedEncoders(), make_engine(url)
    budgets = catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS
    catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS = 0.2, 3, 2
    try:
        with (
            tempfile.TemporaryDirectory(prefix="interleave-") as folder,
            plant(engine) if plant else nullcontext(),
            noted_moves(),
            stage(engine) as steps,
        ):
            for seed in seeds:
                steps.restart()
                scene = Scene(steps, seed, Path(folder), encoders)
                _run(steps, scene)
                report.counts += scene.counts + Counter(runs=1)
                report.findings += [(seed, finding) for finding in scene.findings]
                if scene.findings:
                    report.schedules[seed] = steps.trace
                    if stop_at_first:
                        break
            report.counts += steps.counts
    finally:
        catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS = budgets
        engine.dispose()
    return report


def _run(steps: Stage, scene: Scene) -> None:
    random.seed(scene.seed)  # tenacity's pauses
    with _noted(scene, "opening"):
        scene.open()
    with _noted(scene, "schedule"):
        _drive(steps, scene)
    scene.over = True
    for actor in steps.actors:
        if actor.error is not None and not isinstance(actor.error, Killed):
            what = f"{type(actor.error).__name__}: {actor.error}"
            scene.found("unexpected error", f"{actor.name} before {actor.at}: {what}")
    with _noted(scene, "end"):
        steps.clear()
        heal(scene)
        check_end(scene)


@contextmanager
def _noted(scene: Scene, where: str) -> Iterator[None]:
    try:
        yield
    except Hang as hang:
        scene.found("hang", f"{where}: {hang}")
    except (RevectorError, sa.exc.SQLAlchemyError) as error:
        scene.found("unexpected error", f"{where}: {type(error).__name__}: {error}")


def _drive(steps: Stage, scene: Scene) -> None:
    draw = random.Random(f"schedule {scene.seed}")
    burst, kills = draw.choice((1, 2, 4, 12)), draw.choice((0.0, 0.002, 0.006))
    steps.patient = lambda: draw.random() < 0.7
    roles = {steps.enter(role.name, role): role for role in cast(scene)}
    last: Actor | None = None
    while (able := _able(steps, scene)) is not None and steps.steps < MOST_STEPS:
        if not able:
            steps.come_back()
            continue
        scene.over |= steps.steps > ENOUGH_STEPS
        last = last if last in able and draw.random() > 1 / burst else draw.choice(able)
        if draw.random() < PAUSES.get(last.at, 0.01):
            last.wakes = steps.steps + draw.randint(20, 150)
        elif draw.random() < kills and last.at != "start":
            steps.kill(last)
            if draw.random() < 0.7:
                role = roles[last]
                roles[steps.enter(role.name, role)] = role
        else:
            steps.step(last)
        if draw.random() < 0.03:
            look(scene)


def _able(steps: Stage, scene: Scene) -> list[Actor] | None:
    """Return the actors that can be chosen, none if all wait for locks; None if all are done."""
    left = [actor for actor in steps.actors if actor.state != "done"]
    if not left:
        return None
    ready = [actor for actor in left if actor.state == "ready"]
    able = [actor for actor in ready if actor.needs is None or actor.needs()]
    if ready and not able:
        scene.over = True
        return ready
    return [actor for actor in able if actor.wakes <= steps.steps] or able


# The command line -----------------------------------------------------------------------------------------------------

GOALS = {"runs": 10_000, "swap": 1_000, "rollback": 500, "retire": 200}
NAMES = {
    "runs": "interleavings",
    "statements": "statements that were chosen one by one",
    "lock waits": "waits for a lock, as PostgreSQL told them",
    "swap": "cut-overs among other actors",
    "rollback": "rollbacks",
    "retire": "retirements",
    "abort": "aborts",
    "register": "registrations",
    "crashes": "actors killed where they stood",
    "answers lost after commit": "of them after a commit that nobody knows of",
    "writes": "acknowledged writes",
    "refused writes": "foreign transactions given up",
    "transactions that PostgreSQL asked to repeat": "foreign transactions that PostgreSQL asked to repeat",
    "queries": "answers checked",
    "refused moves": "moves refused, each leaving nothing behind",
    "instants at which the invariant views were read": "instants at which the invariant views were read",
}


def figures(pieces: Sequence[Any]) -> list[Figure]:
    """Return what all pieces did and found together."""
    total: Counter[str] = Counter()
    for piece in pieces:
        total.update(piece["counts"])
    found = []
    for key, name in NAMES.items():
        goal = GOALS.get(key)
        wanted, holds = (None, None) if goal is None else (f"≥ {goal:,}", total[key] >= goal)
        found.append(Figure(name, total[key], "", wanted, holds))
    failed = [seed for piece in pieces for seed in piece["failed"]]
    seconds = sum(piece["seconds"] for piece in pieces)
    found.append(Figure("time", round(seconds / 60, 1), "min of one process"))
    return [*found, none("interleavings in which a promise broke", len(failed), "")]


def _batch(seeds: Sequence[int], at: str, bug: str | None) -> tuple[Report, float]:
    """Run some seeds in a database of their own; return the report and the seconds that it took."""
    started = time.monotonic()
    plant: Plant | None = None
    if bug is not None:
        from evaluation.reliability import bugs

        plant = partial(bugs.plant, bug)
    with database(sa.make_url(at)) as url:
        return run_interleavings(url, seeds, plant=plant, stop_at_first=False), time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Run them and keep the figures; return 1 if a goal was missed or a promise broke."""
    parser = options(MODULE, __doc__, seed=1, results="interleave", count=1_000, processes=1)
    parser.add_argument("--bug", help="plant a seeded bug; nothing is kept then")
    parser.add_argument("--schedule", action="store_true", help="print the schedule of each run that failed")
    given = parser.parse_args(argv)
    seeds, size = range(given.seed, given.seed + given.count), min(BATCH, -(-given.count // given.processes))
    total, seconds = Report(), 0.0
    with server() as at:
        where = at.render_as_string(hide_password=False)
        for report, took in in_batches(_batch, seeds, size, given.processes, where, given.bug):
            total.add(report)
            seconds += took
            _tell(report, given.bug, schedule=given.schedule)
    if given.bug is not None:
        print(f"{given.bug}: found in {len(total.failed)} of {given.count} runs")
        return 1 if total.failed else 0
    piece = {"seed": given.seed, "counts": dict(total.counts), "failed": total.failed, "seconds": round(seconds, 1)}
    piece["findings"] = [f"seed {seed}: {one}" for seed, one in total.findings[:50]]
    return 0 if add_piece(given.results, piece, figures, MODULE) else 1


def _tell(report: Report, bug: str | None, *, schedule: bool) -> None:
    for seed in report.failed:
        for finding in [one for of, one in report.findings if of == seed][:5]:
            print(f"  {finding}")
        print(f"  again: python -m {MODULE} --seed {seed} --count 1 --schedule{f' --bug {bug}' if bug else ''}")
        if schedule:
            print("\n".join(report.schedules[seed]))


if __name__ == "__main__":
    sys.exit(main())
