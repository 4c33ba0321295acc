"""Layer L1: runs simulated histories of the real code by seed, and keeps what they did and found.

    python -m evaluation.reliability.simulate [--seed N] [--count N] [--store memory] [--bug NAME] [--results PATH]

Every history is an interleaving of writers, workers, migrations, queries, kills and faults under a clock of its own, on
a real PostgreSQL, judged after every step, healed, and judged again. ``--seed S --count 1`` repeats one. What breaks a
promise is shrunk and printed.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from evaluation.reliability.beginnings import BEGINNINGS
from evaluation.reliability.bugs import plant as plant_bug
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.simulated import rules_documents, rules_processes, rules_store  # noqa: F401 - they register their rules
from evaluation.reliability.simulated.heal import heal
from evaluation.reliability.simulated.look import Broken
from evaluation.reliability.simulated.place import Place, place
from evaluation.reliability.simulated.rules import Step, draw, take
from evaluation.reliability.simulated.stage import Hang
from evaluation.reliability.simulated.world import World

from revector.spec import PGVECTOR

STEPS = (6, 9, 13, 19, 28)
"""How many steps a history may have; a drawn rule that does not apply is none."""

OFTEN = ("served", "provisioned", "provisioned", "approved", "approved", "swapped", "swapped", "swapped", "rolled back")
"""Where histories begin more often: right before and after what is worth doing."""

MOST_DETAIL = 2_000
HANGS = "hang"
Plant = Callable[[sa.Engine], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that broke. ``step`` counts from 1; the last one is healing, where it is above ``len(steps)``."""

    seed: int
    step: int
    promise: str
    detail: str
    beginning: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        where = f"seed {self.seed}, begun as {self.beginning!r}, step {self.step}"
        lines = [f"{where}: {self.promise.upper()}: {self.detail[:MOST_DETAIL]}"]
        return "\n".join(lines + [f"  {n:3} {name}{arguments}" for n, (name, arguments) in enumerate(self.steps, 1)])


def run_histories(
    url: str,
    seeds: Iterable[int],
    *,
    plant: Plant | None = None,
    stop_at_first: bool = True,
    shrunk: bool = True,
    tally: Counter[str] | None = None,
    store: str = PGVECTOR,
) -> list[Finding]:
    """Run one history per seed in the database of ``url``, which must have this version's tables and no other use.

    ``plant`` may spoil the library, or the database through its engine, for as long as histories run. ``tally`` gets
    what the histories did. With ``shrunk``, what is found comes without the steps that it does not need. ``store``:
    see ``place``.
    """
    findings = []
    with place(url, store) as at, nullcontext() if plant is None else plant(at.engine):
        for seed in seeds:
            finding = run_history(at, seed)
            if finding is None:
                continue
            hangs = finding.promise == HANGS
            findings.append(shrink(at, finding) if shrunk and not hangs else finding)
            if stop_at_first or hangs:  # what hangs still holds what others need
                break
        if tally is not None:
            tally.update(at.tally)
    return findings


def run_history(at: Place, seed: int) -> Finding | None:
    """Draw a history and run it; return the promise that it breaks, if any."""
    chance = random.Random(seed)
    beginning = chance.choice((*BEGINNINGS, *OFTEN))
    count = chance.choice(STEPS)
    return _run(at, seed, beginning, (draw(chance, stored=at.store is not None) for _ in range(10 * count)), count)


def repeat(at: Place, finding: Finding, steps: Sequence[Step]) -> Finding | None:
    """Run other steps of a finding's history."""
    return _run(at, finding.seed, finding.beginning, iter(steps), len(steps))


def shrink(at: Place, finding: Finding) -> Finding:
    """Return a history that breaks the same promise with steps left out, as many as can be."""
    size = len(finding.steps) // 2
    while size:
        for begin in range(len(finding.steps) - size, -1, -size):
            shorter = finding.steps[:begin] + finding.steps[begin + size :]
            found = repeat(at, finding, shorter)
            if found is not None and found.promise == finding.promise:
                finding = found
        size //= 2
    return finding


def _run(at: Place, seed: int, beginning: str, drawn: Iterator[Step], count: int) -> Finding | None:
    world, steps, healing = World(at, beginning, seed), list[Step](), False
    try:
        for step in drawn:
            if len(steps) == count:
                break
            steps.append(step)
            if not take(world, step):
                steps.pop()
        healing = True
        heal(world, finish=seed % 3 == 0)
    except (Broken, Hang) as error:
        promise, detail = (error.promise, error.detail) if isinstance(error, Broken) else (HANGS, str(error))
        return Finding(seed, len(steps) + healing, promise, detail, beginning, tuple(steps))
    except Exception as error:
        error.add_note(f"in the history of seed {seed}, after {steps}")
        raise
    finally:
        world.close()
    return None


# The command line -----------------------------------------------------------------------------------------------------

COUNTED = {
    "steps": "steps, each judged with all invariants",
    "queries": "answers judged, hit by hit",
    "kills": "processes killed in or between calls",
    "swap": "swaps",
    "rollback": "rollbacks",
    "retire": "retirements",
    "losses": "losses of points that a store had acknowledged",
    "store_lost": "of them noticed, and their documents embedded again",
    "windows": "rollback windows of 48 h that passed before their retirement",
}


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run the histories of some seeds; with a bug, up to the first that finds it."""
    done, planted = Drawn(), partial(plant_bug, given.bug) if given.bug else None
    found = run_histories(
        url, seeds, plant=planted, stop_at_first=planted is not None, tally=done.tally, store=given.store
    )
    done.findings += [(one.seed, str(one)) for one in found]
    return done


# More histories on one database slow its catalogue down.
LAYER = Layer(
    *("evaluation.reliability.simulate", __doc__, "simulate", "simulated histories", run, COUNTED, 250),
    goal=100_000,
    stores=True,
)

if __name__ == "__main__":
    raise SystemExit(LAYER.main(LAYER.options(count=1_000).parse_args()))
