"""Random interleavings of the real code on a real PostgreSQL, statement by statement (layer L2).

    python -m evaluation.reliability.interleave [--seed N] [--count N] [--processes N] [--store memory] [--bug NAME]

Each run is a small collection of its own, met at a random point of its life by eight to eleven actors: writers through
the library and by SQL of their own at every isolation level, workers, shards of a backfill, one or two controllers,
sessions that ask, and time, which ends leases. One advances at a time, by one statement, as the seed says; now and
then one is stopped for long, or killed where it stands: its transaction is rolled back, or its commit stands and nobody
knows. Afterwards a worker drains, and everything is compared with what was acknowledged, every index row by row.

With ``--store memory`` most indexes are in a store outside of the database, behind a network at its worst: requests are
steps as well, and keepers remove garbage and notice losses among the others.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability.beginnings import Beginnings, read_once
from evaluation.reliability.bugs import plant
from evaluation.reliability.interleave_actors import cast
from evaluation.reliability.interleave_judged import check_end, heal, look
from evaluation.reliability.interleave_scene import CORPUS, Scene, noted_moves, parts
from evaluation.reliability.late import late_store
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.stepping import Actor, Hang, Killed, Stage, stage

from revector.database.engine import make_engine
from revector.encoders.loading import load_encoder
from revector.errors import RevectorError
from revector.indexing.encoding import Encoders
from revector.migration import catch_up
from revector.migration import steps as forward
from revector.spec import PGVECTOR

Plant = Callable[[sa.Engine], AbstractContextManager[Any]]

ENOUGH_STEPS, MOST_STEPS = 1_200, 2_400
"""After the first, loops of actors end; after the second, they are killed."""

PAUSES = {"worker.after_embed": 0.25, "commit": 0.12, "store put": 0.15, "stage.after_put": 0.15, "store near": 0.15}
"""How likely an actor is stopped for long where it stands; elsewhere 0.01."""


def run_interleavings(
    url: str,
    seeds: Iterable[int],
    *,
    plant: Plant | None = None,
    stop_at_first: bool = True,
    schedules: bool = False,
    store: str = PGVECTOR,
) -> Drawn:
    """Run one interleaving per seed, each in a collection of its own, in the database at ``url``, which has our tables.

    ``plant`` plants a bug around all runs. With the ``store`` ``memory``, indexes are there. With ``schedules``, what
    is found says who did what, in order. The role must be a superuser.
    """
    done, engine, encoders = Drawn(), make_engine(url), Encoders(partial(load_encoder, root=Path()))
    budgets = catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS
    catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS = 0.2, 3, 2
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="interleave-"))
            late = None if store == PGVECTOR else stack.enter_context(late_store())
            stack.enter_context(read_once())
            lines = parts(stored=late is not None)
            beginnings = Beginnings(engine, Path(folder), lines, CORPUS, encoders, late)
            if plant is not None:
                stack.enter_context(plant(engine))
            stack.enter_context(noted_moves())
            steps = stack.enter_context(stage(engine))
            for seed in seeds:
                steps.restart()
                scene = Scene(steps, seed, beginnings, encoders)
                _run(steps, scene)
                done.tally += scene.counts
                if scene.findings:
                    says = [str(one) for one in scene.findings[:5]] + (steps.trace if schedules else [])
                    done.findings.append((seed, "\n  ".join(says)))
                    if stop_at_first:
                        break
            done.tally += steps.counts
    finally:
        catch_up.GATE_BUDGET_S, catch_up.MOVE_ATTEMPTS, forward.MEASURE_ATTEMPTS = budgets
        engine.dispose()
    return done


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
        with scene.calm():
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

COUNTED = {
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
    "losses": "losses of points that a store had acknowledged",
    "instants at which the invariant views were read": "instants at which the invariant views were read",
}


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run the interleavings of some seeds."""
    planted = partial(plant, given.bug) if given.bug else None
    return run_interleavings(
        url, seeds, plant=planted, stop_at_first=False, schedules=given.schedule, store=given.store
    )


# A fresh database for each hundred keeps the catalogue small.
LAYER = Layer(
    "evaluation.reliability.interleave",
    __doc__,
    "interleave",
    "interleavings",
    run,
    COUNTED,
    100,
    {"swap": 1_000, "rollback": 500, "retire": 200},
    10_000,
    stores=True,
)

if __name__ == "__main__":
    words = LAYER.options(count=1_000, processes=1)
    words.add_argument("--schedule", action="store_true", help="print the schedule of each run that failed")
    raise SystemExit(LAYER.main(words.parse_args()))
