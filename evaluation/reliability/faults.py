"""Strikes the library with faults: on the SQL wire, in its encoders, by full disks; layer L4 of the proof.

    python -m evaluation.reliability.faults [--seed N] [--count N] [--only wire|encoder|disk] [--bug NAME]

Each round has a fresh database. It walks a collection through a whole migration and strikes every operation by a fault
of the wire, all of them at least once; then each fault of encoders and disks, on an operation drawn at random. After
each strike the world is looked at from outside, the fault ends, the call is repeated once, and everything must have
converged: nothing lost, stale or resurrected, no effect twice, no lock left behind. Disks are small mounts, which take
root; without it they are left out, and said to be.

revector has one store, pgvector: the store's wire is the SQL wire (class A of reliability.md).
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from evaluation.bench.common import Figure
from evaluation.reliability import faults_disk, faults_encoder, faults_wire
from evaluation.reliability.arena import database
from evaluation.reliability.bugs import plant
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import Place
from evaluation.reliability.pieces import Piece, none, not_run, totals
from evaluation.reliability.seeds import Drawn, Layer
from evaluation.reliability.wire import Proxy

SCENARIOS = {"encoder": faults_encoder.scenarios, "disk": faults_disk.scenarios}
FAMILIES = ("wire", *SCENARIOS)
ENOUGH = 50
"""Strikes by each fault of the wire before a release (reliability.md, 4.1)."""

PROMISES = {
    "lost": "documents or writes lost",
    "stale": "documents stale after heal",
    "resurrected": "deleted documents back after heal",
    "wrong model": "documents shown by vectors that are not theirs after heal",
    "one intended": "effects that happened twice, or not at all",
    "of our tree": "errors that are not ours",
}
"""Beginnings or ends of promises, and how their breaches are counted; any other is counted as such."""


def strike(url: str, *, seed: int, only: Collection[str] = FAMILIES, bug: str | None = None) -> Drawn:
    """Run one round on a database that has our tables and nothing else; a family that finds something is the last.

    ``only`` are some of ``FAMILIES``; ``bug`` names one to be planted around everything.
    """
    done, draw = Drawn(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="revector-faults-") as folder, Proxy(url) as proxy:
        place = Place(Path(folder), url, wired=proxy.url, seed=seed)
        try:
            with plant(bug, place.direct.engine) if bug else nullcontext():
                for name in FAMILIES:
                    if name in only and not done.findings:
                        done.findings += [(seed, str(one)) for one in _run(name, place, proxy, draw, done.tally)]
        finally:
            place.close()
    return done


def _run(family: str, place: Place, proxy: Proxy, draw: random.Random, tally: Counter[str]) -> Sequence[Finding]:
    """Strike with one family, up to the first scenario that finds something: the next would find its traces."""
    where = family
    try:
        if family == "wire":
            return faults_wire.strike_all(place, proxy, draw, tally)
        for fault, target, strike_once in SCENARIOS[family](place, draw):
            where = f"{family}: {fault} × {target}"
            found = strike_once()
            tally[f"{family}: {fault}"] += 1
            if found:
                return [replace(one, where=where) for one in found]
    except faults_disk.NoMountError as error:
        print(f"left out: {family}: {error}", flush=True)
    except Exception as error:  # noqa: BLE001 - an error where none may be is a finding
        return [Finding("what no fault touches goes on", f"{type(error).__module__}: {error!r}", where)]
    return []


def breach(finding: str) -> str:
    """Return under which name a finding is counted."""
    promise = finding.partition(":")[0]
    return next((name for word, name in PROMISES.items() if word in promise), f"not so: {promise}")


class Faults(Layer):
    """The layer, which counts by fault and by promise."""

    def figures(self, pieces: Sequence[Piece]) -> list[Figure]:
        """Count strikes and findings over all pieces."""
        strikes = totals(pieces, "tally")
        breaches = Counter(breach(said.partition(": ")[2]) for piece in pieces for said in piece["findings"])
        wired = sum(piece["runs"] for piece in pieces if piece["tally"].keys() & faults_wire.FAULTS.keys())
        goal = min(ENOUGH, wired)
        rounds = sum(piece["runs"] for piece in pieces)
        found = [Figure("rounds, each with a whole migration on a fresh database", rounds, "rounds")]
        for fault in faults_wire.FAULTS:
            name = f"operations struck on the wire by: {fault}"
            struck = Figure(name, strikes[fault], "strikes", f"≥ {goal}", strikes[fault] >= goal)
            found.append(struck if wired else not_run(name))
        for family in SCENARIOS:
            mine = sum(count for fault, count in strikes.items() if fault.startswith(f"{family}:"))
            name = f"faults of the {family}"
            found.append(Figure(name, mine, "strikes") if mine else not_run(name))
        counted = (*PROMISES.values(), *sorted(breaches.keys() - set(PROMISES.values())))
        return found + [none(what, breaches[what]) for what in counted]


def run(url: str, seeds: Sequence[int], given: argparse.Namespace) -> Drawn:
    """Run some rounds, each in a database of its own."""
    logging.getLogger("revector").setLevel(logging.CRITICAL)  # workers complain while they are struck
    drawn = Drawn()
    for seed in seeds:
        with database(sa.make_url(url)) as fresh:
            done = strike(fresh, seed=seed, only=(given.only,) if given.only else FAMILIES, bug=given.bug)
        drawn.tally += done.tally
        drawn.findings += done.findings
        print(f"round {seed}: {done.tally.total()} strikes", flush=True)
    return drawn


LAYER = Faults("evaluation.reliability.faults", __doc__, "faults", "rounds", run, {}, 2)


def main() -> int:
    """Read the command line, run, and keep the figures."""
    parser = LAYER.options(seed=20_261_120, count=2)
    parser.add_argument("--only", choices=FAMILIES)
    return LAYER.main(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
