"""Layers that draw everything from a seed: one command line, batches in processes, and figures of all pieces."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from evaluation.bench.common import Figure
from evaluation.reliability.arena import database, server
from evaluation.reliability.pieces import Piece, add_piece, none, options

from revector.spec import PGVECTOR
from revector.stores.opening import MEMORY


@dataclass
class Drawn:
    """What the runs of some seeds did, and what broke: the seed, and the promise in words."""

    tally: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)


Run = Callable[[str, Sequence[int], argparse.Namespace], Drawn]
"""Runs seeds on a database of their own; the command line says how."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One such layer: its module and what that says of it, its results, and what its runs are called.

    ``counted`` names what a tally counts, ``goals`` how often it should; ``batch`` runs share a database.
    """

    module: str
    doc: str | None
    results: str
    runs: str
    run: Run
    counted: Mapping[str, str]
    batch: int
    goals: Mapping[str, int] = field(default_factory=dict)
    goal: int | None = None
    """Of the runs themselves."""
    stores: bool = False
    """Whether the indexes of its runs may be in a store."""

    def options(self, **numbers: int) -> argparse.ArgumentParser:
        """Return the command line, to which a layer may add."""
        made = options(self.module, self.doc, results=self.results, **{"seed": 1, "processes": 2, **numbers})
        made.set_defaults(store=PGVECTOR)
        if self.stores:
            made.add_argument("--store", choices=(PGVECTOR, MEMORY), help="memory: behind a network at its worst")
        made.add_argument("--bug", metavar="NAME", help="plant a seeded bug; nothing is kept then")
        return made

    def main(self, given: argparse.Namespace) -> int:
        """Run the seeds, say what broke, and keep the figures; return 1 if a promise broke."""
        started, total = time.monotonic(), Drawn()
        for found in self._in_batches(given):
            total.tally.update(found.tally)
            total.findings += found.findings
            for seed, says in found.findings:
                bug = f" --bug {given.bug}" if given.bug else ""
                store = f" --store {given.store}" if self.stores else ""
                print(f"seed {seed}: {says}\n  again: python -m {self.module} --seed {seed} --count 1{store}{bug}")
        broken = len({seed for seed, _ in total.findings})
        print(f"{self.runs}: {given.count:,}, of which {broken} broke a promise")
        if given.bug or given.count == 1:
            return 1 if broken else 0
        piece = {
            "seed": given.seed,
            "runs": given.count,
            "store": given.store,
            "seconds": round(time.monotonic() - started, 1),
            "tally": dict(total.tally),
            "findings": [f"seed {seed}: {says}" for seed, says in total.findings[:50]],
            "broken": broken,
        }
        add_piece(given.results, piece, self.figures, self.module)  # fewer runs than the goal are no fault
        return 1 if broken else 0

    def figures(self, pieces: Sequence[Piece]) -> list[Figure]:
        """Return what all pieces together did and found."""
        runs, total = sum(piece["runs"] for piece in pieces), Counter[str]()
        stored = sum(piece["runs"] for piece in pieces if piece.get("store", PGVECTOR) != PGVECTOR)
        for piece in pieces:
            total.update(piece["tally"])

        def figure(name: str, count: int, goal: int | None) -> Figure:
            return Figure(name, count, "", *((None, None) if goal is None else (f"≥ {goal:,}", count >= goal)))

        return [
            figure(self.runs, runs, self.goal),
            *([figure(f"{self.runs} of indexes in a store", stored, None)] if self.stores else []),
            none(f"{self.runs} in which a promise broke", sum(piece["broken"] for piece in pieces), ""),
            *(figure(name, total[key], self.goals.get(key)) for key, name in self.counted.items()),
            Figure("time", round(sum(piece["seconds"] for piece in pieces) / 60, 1), "min"),
        ]

    def _in_batches(self, given: argparse.Namespace) -> Iterator[Drawn]:
        """Run batches of seeds in processes of their own, and print how fast they go."""
        started, done, size = time.monotonic(), 0, min(self.batch, -(-given.count // given.processes))
        seeds = range(given.seed, given.seed + given.count)
        batches = [seeds[at : at + size] for at in range(0, len(seeds), size)]
        with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(run_batch, self.run, batch, given): batch for batch in batches}
            for future in as_completed(futures):
                yield future.result()
                done += len(futures[future])
                rate = done / (time.monotonic() - started)
                left_s = (len(seeds) - done) / rate
                print(f"{done:,} of {len(seeds):,}, {rate:.2f} a second, {left_s:.0f} s left", flush=True)


def run_batch(run: Run, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run some seeds on a database of their own."""
    with server() as at, database(at) as url:
        return run(url, seeds, given)
