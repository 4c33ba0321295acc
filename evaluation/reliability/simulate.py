"""Layer L1: runs simulated histories of the real code by seed, and keeps what they did and found.

    python -m evaluation.reliability.simulate [--seed N] [--count N] [--processes N] [--bug NAME] [--results PATH]

Every history is an interleaving of writers, workers, migrations, queries, kills and faults under a clock of its own, on
a real PostgreSQL; see ``simulation``. ``--seed S --count 1`` repeats one. What breaks a promise is shrunk and printed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.arena import database, server
from evaluation.reliability.bugs import BUGS, plant
from evaluation.reliability.pieces import Piece, add_piece, in_batches, none, options
from evaluation.reliability.simulation import Finding, run_histories

MODULE = "evaluation.reliability.simulate"
BATCH = 250
"""Histories that share a database: more of them slow its catalogue down."""

GOAL = 100_000
COUNTED = {
    "steps": "steps, each judged with all invariants",
    "queries": "answers judged, hit by hit",
    "kills": "processes killed in or between calls",
    "swap": "swaps",
    "rollback": "rollbacks",
    "retire": "retirements",
    "windows": "rollback windows of 48 h that passed before their retirement",
}


def run_batch(seeds: range, bug: str | None) -> tuple[int, Counter[str], list[Finding]]:
    """Run histories in a database of their own; return how many, what they did, and what they found."""
    tally: Counter[str] = Counter()
    planted = None if bug is None else partial(plant, bug)
    with server() as at, database(at) as url:
        findings = run_histories(url, seeds, plant=planted, stop_at_first=bug is not None, tally=tally)
    return len(seeds), tally, findings


def figures(pieces: Sequence[Piece]) -> Iterator[Figure]:
    """Yield what all pieces together did and found."""
    histories = sum(piece["histories"] for piece in pieces)
    broken = sum(len(piece["findings"]) for piece in pieces)
    yield Figure("simulated histories", histories, "histories", f"≥ {GOAL:,}", histories >= GOAL)
    yield none("histories that broke a promise", broken, "histories")
    for name, says in COUNTED.items():
        yield Figure(says, sum(piece["tally"].get(name, 0) for piece in pieces), "")


def run(seed: int, count: int, processes: int, bug: str | None) -> dict[str, Any]:
    """Run the histories of ``count`` seeds from ``seed`` on, printing what they find and how fast they go."""
    started, done, tally, findings = time.monotonic(), 0, Counter[str](), list[Finding]()
    for histories, did, found in in_batches(run_batch, range(seed, seed + count), BATCH, processes, bug):
        done, findings = done + histories, findings + found
        tally.update(did)
        for finding in found:
            print(f"{finding}\nrepeat it: python -m {MODULE} --seed {finding.seed} --count 1")
    return {
        "seed": seed,
        "histories": done,
        "processes": processes,
        "bug": bug,
        "seconds": round(time.monotonic() - started, 1),
        "tally": dict(tally),
        "findings": [asdict(finding) for finding in findings],
    }


def main() -> int:
    """Read the command line and run; return 1 if a promise broke."""
    parser = options(MODULE, __doc__, seed=1, results="simulate", count=1_000, processes=2)
    parser.add_argument("--bug", choices=[bug.name for bug in BUGS.values() if "L1" in bug.layers])
    given = parser.parse_args()
    piece = run(given.seed, given.count, given.processes, given.bug)
    if given.bug is None and given.count > 1:
        add_piece(given.results, piece, lambda pieces: list(figures(pieces)), MODULE)
    return 1 if piece["findings"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
