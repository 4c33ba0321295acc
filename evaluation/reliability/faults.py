"""Strikes the library with faults: on the SQL wire, in its encoders, by full disks; layer L4 of the proof.

    python -m evaluation.reliability.faults [--seed N] [--rounds N] [--only wire|encoder|disk] [--bug NAME]

Each round has a fresh database. It walks a collection through a whole migration and strikes every operation by a fault
of the wire, all of them at least once; then each fault of encoders and disks, on an operation drawn at random.
After each strike the world is looked at from outside, the fault ends, the call is repeated once, and everything must
have converged: nothing lost, stale or resurrected, no effect twice, no lock left behind. Disks are small mounts, which
take root; without it they are left out, and said to be.

revector has one store, pgvector: the store's wire is the SQL wire (class A of reliability.md).
"""

from __future__ import annotations

import logging
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.bench.common import Figure
from evaluation.reliability import arena, faults_disk, faults_encoder, faults_wire
from evaluation.reliability.checker import Finding
from evaluation.reliability.faults_place import Place
from evaluation.reliability.pieces import Piece, add_piece, none, not_run, options, totals
from evaluation.reliability.wire import Proxy

Plant = Callable[[sa.Engine], AbstractContextManager[object]]

MODULE = "evaluation.reliability.faults"
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


@dataclass
class Round:
    """What one round did and found."""

    findings: list[Finding] = field(default_factory=list)
    strikes: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: str = ""


def strike(url: str, *, seed: int, only: Collection[str] = FAMILIES, plant: Plant | None = None) -> Round:
    """Run one round on a database that has our tables and nothing else; a family that finds something is the last.

    ``only`` are some of ``FAMILIES``. ``plant`` may plant a bug around everything, given the engine of the observer.
    """
    done, draw = Round(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="revector-faults-") as folder, Proxy(url) as proxy:
        place = Place(Path(folder), url, wired=proxy.url, seed=seed)
        try:
            with plant(place.direct.engine) if plant else nullcontext():
                for name in FAMILIES:
                    if name in only and not done.findings:
                        _run(name, place, proxy, draw, done)
        finally:
            place.close()
    return done


def _run(family: str, place: Place, proxy: Proxy, draw: random.Random, done: Round) -> None:
    """Strike with one family, up to the first scenario that finds something: the next would find its traces."""
    where = family
    try:
        if family == "wire":
            found, strikes = faults_wire.strike_all(place, proxy, draw)
            done.strikes.update(strikes)
            done.findings += found
            return
        for fault, target, strike_once in SCENARIOS[family](place, draw):
            where = f"{family}: {fault} × {target}"
            found = strike_once()
            done.strikes[f"{family}: {fault}", target] += 1
            if found:
                done.findings += [replace(one, where=where) for one in found]
                return
    except faults_disk.NoMountError as error:
        done.left_out = f"{family}: {error}"
    except Exception as error:  # noqa: BLE001 - an error where none may be is a finding
        what = f"{type(error).__module__}: {error!r}"
        done.findings.append(Finding("what no fault touches goes on", what, where))


def figures(pieces: Sequence[Piece]) -> list[Figure]:
    """Count strikes and findings over all pieces."""
    strikes, breaches = totals(pieces, "strikes"), totals(pieces, "breaches")
    rounds = sum(piece["rounds"] for piece in pieces)
    wired = sum(piece["rounds"] for piece in pieces if piece["only"] in (None, "wire"))
    goal = min(ENOUGH, wired)
    found = [Figure("rounds, each with a whole migration on a fresh database", rounds, "rounds")]
    for fault in faults_wire.FAULTS:
        name = f"operations struck on the wire by: {fault}"
        struck = Figure(name, strikes[fault], "strikes", f"≥ {goal}", strikes[fault] >= goal)
        found.append(struck if wired else not_run(name))
    others = {fault: count for fault, count in strikes.items() if fault not in faults_wire.FAULTS}
    for family in SCENARIOS:
        mine = sum(count for fault, count in others.items() if fault.startswith(family))
        name = f"faults of the {family}"
        found.append(Figure(name, mine, "strikes") if mine else not_run(name))
    counted = (*PROMISES.values(), *sorted(breaches.keys() - set(PROMISES.values())))
    return found + [none(what, breaches[what]) for what in counted]


def breach(finding: Finding) -> str:
    """Return under which name a finding is counted."""
    return next((name for word, name in PROMISES.items() if word in finding.promise), f"not so: {finding.promise}")


def run(seed: int, rounds: int, only: str | None, bug: str | None) -> dict[str, Any]:
    """Run rounds and return the piece of results that they are; each finding says how it is repeated."""
    from evaluation.reliability.bugs import plant

    strikes: Counter[str] = Counter()
    found: list[Finding] = []
    left_out, started = "", time.monotonic()
    with arena.server() as at:
        for number in range(rounds):
            with arena.database(at) as url:
                families = FAMILIES if only is None else (only,)
                done = strike(url, seed=seed + number, only=families, plant=partial(plant, bug) if bug else None)
            for (fault, _), count in done.strikes.items():
                strikes[fault] += count
            found += done.findings
            left_out = done.left_out or left_out
            words = f"--seed {seed + number}" + (f" --only {only}" if only else "") + (f" --bug {bug}" if bug else "")
            for finding in done.findings:
                print(f"\n✗ {finding}\n  again: python -m {MODULE} {words}")
            lasted = time.monotonic() - started
            left = lasted / (number + 1) * (rounds - number - 1)
            print(f"round {number + 1} of {rounds}: {done.strikes.total()} strikes, {left:.0f} s left", flush=True)
    if left_out:
        print(f"left out: {left_out}")
    breaches = Counter(breach(finding) for finding in found)
    return {
        "seed": seed,
        "rounds": rounds,
        "only": only,
        "seconds": round(time.monotonic() - started, 1),
        "strikes": dict(sorted(strikes.items())),
        "breaches": dict(breaches),
        "left_out": left_out,
        "said": [str(finding) for finding in found[:20]],
    }


def main() -> int:
    """Read the command line, run, and keep the figures."""
    parser = options(MODULE, __doc__, seed=20_261_120, results="faults", rounds=1)
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--bug", help="plant a seeded bug, and keep no results")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that mounts and processes are gone then, too
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    logging.getLogger("revector").setLevel(logging.CRITICAL)  # workers complain while they are struck
    piece = run(given.seed, given.rounds, given.only, given.bug)
    if given.bug:
        return 1 if piece["breaches"] else 0
    return 0 if add_piece(given.results, piece, figures, MODULE) else 1


if __name__ == "__main__":
    raise SystemExit(main())
