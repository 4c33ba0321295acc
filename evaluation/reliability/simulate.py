"""Layer L1: runs simulated histories of the real code by seed, and keeps what they did and found.

    python -m evaluation.reliability.simulate [--seed N] [--count N] [--store memory] [--bug NAME] [--results PATH]

Every history is an interleaving of writers, workers, migrations, queries, kills and faults under a clock of its own, on
a real PostgreSQL; see ``simulation``. ``--seed S --count 1`` repeats one. What breaks a promise is shrunk and printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from evaluation.reliability.bugs import plant
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.simulation import run_histories

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
    done, planted = Drawn(), partial(plant, given.bug) if given.bug else None
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
