"""Layer L7: plants each seeded bug and asks the other layers to find it; says which one did, and after how much.

    python -m evaluation.reliability.hunt [--only NAME,…] [--effort N] [--seed N] [--processes N] [--results PATH]

Each bug has a process and a database of its own. Its layers are asked in their order, each with a budget that grows
with ``--effort``, until one of them reports a broken promise.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.arena import database, server
from evaluation.reliability.bugs import BUGS, Bug, plant
from evaluation.reliability.pieces import Piece, add_piece, options

from revector.spec import PGVECTOR
from revector.stores.opening import MEMORY

MODULE = "evaluation.reliability.hunt"
HISTORIES, INTERLEAVINGS, ROUNDS = 400, 40, 1
"""What one unit of effort buys of each layer."""

ROOT = Path(__file__).parents[2]
DIRECTED = {
    "advisory_gate_only": "test_interleave.py::test_r05_with_the_advisory_lock_alone_its_change_is_lost",
    "row_gate_only": "test_interleave.py::test_r37_with_the_row_lock_alone_writers_overtake_a_swap_that_waits",
    "test_in_lock_statement": (
        "test_interleave.py::test_r36_in_a_snapshot_older_than_its_lock_it_swaps_with_a_write_missing"
    ),
}


@dataclass(frozen=True, slots=True)
class Caught:
    """A hunt's end: the layer that saw the bug (None: nobody did), after how many tries, and as what."""

    name: str
    says: str
    races: tuple[str, ...]
    caught_by: str | None
    tries: int
    took_s: float
    shown_as: str


Sighting = tuple[int, str]
"""How many tries it took, and which promise broke, in words."""


def _model(bug: Bug, _url: str, _seed: int, _effort: int) -> Sighting | None:
    from evaluation.reliability.model import hunt

    found = hunt(bug.switch or bug.name)
    return None if found is None else (1, str(found).splitlines()[0])


def _simulation(bug: Bug, url: str, seed: int, effort: int, store: str = PGVECTOR) -> Sighting | None:
    from evaluation.reliability.simulate import run_histories

    seeds = range(seed, seed + HISTORIES * effort)
    found = run_histories(url, seeds, plant=partial(plant, bug.name), shrunk=False, store=store)
    return (found[0].seed - seed + 1, f"{found[0].promise}: {found[0].detail}") if found else None


def _interleavings(bug: Bug, url: str, seed: int, effort: int, store: str = PGVECTOR) -> Sighting | None:
    from evaluation.reliability.interleave import run_interleavings

    seeds = range(seed, seed + INTERLEAVINGS * effort)
    found = run_interleavings(url, seeds, plant=partial(plant, bug.name), store=store).findings
    return (found[0][0] - seed + 1, found[0][1]) if found else None


def _faults(bug: Bug, url: str, seed: int, effort: int) -> Sighting | None:
    from evaluation.reliability.faults import strike

    for turn in range(ROUNDS * effort):
        found = strike(url, seed=seed + turn, only=("encoder",), bug=bug.name).findings
        if found:
            return turn + 1, found[0][1]
    return None


def _test_at(name: str) -> str:
    """Return where the test ``file::function`` is, whatever its folder."""
    file, _, function = name.partition("::")
    return f"{next((ROOT / 'tests').rglob(file))}::{function}"


def _run_test(name: str, *options: str, **environment: str) -> list[str]:
    """Run a test of this project; return what it came to: ``passed``, ``failed`` or ``error``."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _test_at(name), *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    return re.findall(r"\d+ (passed|failed|error)s?\b", (done.stdout.splitlines() or [""])[-1])


def _directed(bug: Bug, _url: str, _seed: int, _effort: int) -> Sighting | None:
    """Run the schedule that leads straight to the bug: its test passes if the promise breaks with the guard gone."""
    return (1, DIRECTED[bug.name]) if _run_test(DIRECTED[bug.name]) == ["passed"] else None


def _test(bug: Bug, url: str, _seed: int, _effort: int) -> Sighting | None:
    """Run the test that names the promise, without the bug and with it: it must pass, and then fail."""
    at, planted = {"REVECTOR_PLANT": bug.name, "REVECTOR_TEST_DATABASE_URL": url}, "evaluation.reliability.planted"
    sound, spoilt = _run_test(bug.test or "", **at), _run_test(bug.test or "", "-p", planted, **at)
    seen = sound == ["passed"] and "failed" in spoilt and "error" not in spoilt
    return (1, f"{bug.test} fails") if seen else None


LAYERS: dict[str, Callable[..., Sighting | None]] = {
    "L0": _model,
    "L1": _simulation,
    "L2": _interleavings,
    "L1, store": partial(_simulation, store=MEMORY),
    "L2, store": partial(_interleavings, store=MEMORY),
    "L4": _faults,
    "L2, directed": _directed,
    "test": _test,
}


def hunt_bug(name: str, seed: int, effort: int) -> Caught:
    """Ask a bug's layers for it, best first."""
    bug, started = BUGS[name], time.monotonic()
    layer, tries, shown_as = None, 0, ""
    with server() as at:
        for layer_name in bug.layers:
            with database(at) as url:
                seen = LAYERS[layer_name](bug, url, seed, effort)
            if seen is not None:
                layer, (tries, shown_as) = layer_name, seen
                break
    took_s = round(time.monotonic() - started, 1)
    return Caught(name, bug.says, bug.races, layer, tries, took_s, shown_as[:300])


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Return how many bugs were caught, by whom, over all pieces."""
    latest: dict[str, dict[str, Any]] = {bug["name"]: bug for piece in pieces for bug in piece["bugs"]}
    caught = [bug for bug in latest.values() if bug["caught_by"]]
    by = {layer: sum(bug["caught_by"] == layer for bug in caught) for layer in sorted({b["caught_by"] for b in caught})}
    return [
        Figure("seeded bugs planted", len(latest), "bugs", str(len(BUGS)), len(latest) == len(BUGS)),
        Figure("seeded bugs caught", len(caught), "bugs", str(len(latest)), len(caught) == len(latest)),
        *(Figure(f"caught by {layer}", count, "bugs") for layer, count in by.items()),
    ]


def main() -> int:
    """Read the command line and hunt; return 1 if a bug got away."""
    parser = options(MODULE, __doc__, seed=20_261_120, results="hunt", effort=1, processes=2)
    parser.add_argument("--only", default=",".join(BUGS), help="names, default: all")
    given = parser.parse_args()
    done: list[Caught] = []
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        hunts = [pool.submit(hunt_bug, name, given.seed, given.effort) for name in given.only.split(",")]
        for one in as_completed(hunts):
            done.append(one.result())
            by = f"caught by {done[-1].caught_by} after {done[-1].tries}" if done[-1].caught_by else "NOT caught"
            print(f"{len(done):3}/{len(hunts)} {done[-1].name:24} {by}, {done[-1].took_s} s  {done[-1].shown_as[:80]}")
    done.sort(key=lambda one: list(BUGS).index(one.name))
    piece = {"seed": given.seed, "effort": given.effort, "bugs": [asdict(one) for one in done]}
    return 0 if add_piece(given.results, piece, figures, MODULE) else 1


if __name__ == "__main__":
    raise SystemExit(main())
