"""Whether a judge beside people makes the gate wrong, and how many labels it saves: good, useless and hostile judges.

    python -m evaluation.bench.gate_proxy [--repetitions 150] [--output PATH]

What new wins and loses is that of two real pairs (``gate_pairs``): a near variant and another model on cosqa, where a
query has one answer. Judges of known worth judge each document: right in 90 or 97 %, at random, hiding what is lost, or
the opposite of people. Beside them real ones, of which ``gate_proxy_pairs`` counted what they say: another model's
cosine, for no cross-encoder's weights can be installed. A true drop is planted by tilting, as in ``gate_real``;
``BASE`` queries are judged at random and others drawn from those that differ, of ``OTHERS`` that both were asked; the
judge judges all of these.

Labels that a judge saves: how many more people would have to judge for an interval as narrow without it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluation.bench.common import PROXY_PAIRS_FILE, Figure, machine, parser, write
from evaluation.bench.gate_real import (
    BASE,
    BATCH,
    DRAWS,
    DROP,
    JUST_ABOVE,
    MOST,
    OTHERS,
    WORSE,
    rate_of,
    read_pairs,
    tilted,
)
from revector.gate.looks import look_confidence
from revector.measure.differing import DifferingPairs, ProxyPairs
from revector.measure.metrics import Interval
from revector.measure.proxied import proxied_interval
from revector.measure.statistics import Share
from revector.spec import Gate

Floats = npt.NDArray[np.float64]

SIZES = (100, 300)
POOLED = 200_000
"""Queries of which a judge of known worth judges each document, to count what it says."""

COMPARED = 25
"""Samples on which the labels that are saved are counted."""

ONE_LOOK, ALL_LOOKS = 0.025, 0.05
"""How often the gate may be wrong at one end."""

NEAR, OTHER = "cosqa, MiniLM → noise 0.1", "cosqa, LSA 256 → MiniLM"
CHANGED = {NEAR: (1, 3), OTHER: (3, 9)}
"""Documents of ten that old and new do not share, least and most."""


@dataclass(frozen=True, slots=True)
class ProxySample:
    """What people and a judge find of the queries that differ, ``base`` of which are among the labels at random."""

    found: Floats
    said: Floats
    base: int

    def interval(self, labels: int, confidence: float, *, judge: bool = True) -> Interval:
        """Return the interval of the difference by that many labels, with or without the judge."""
        judged = min(self.base + labels - BASE, len(self.found))
        found, said = self.found[:judged], self.said
        proxy = ProxyPairs(tuple(said[:judged]), tuple(said[judged:])) if judge else None
        share = Share(BASE + OTHERS, len(self.found))
        old, new = tuple(np.maximum(0, -found)), tuple(np.maximum(0, found))
        return proxied_interval(DifferingPairs(old, new, share, proxy), confidence=confidence, draws=DRAWS)


@dataclass(frozen=True, slots=True)
class ProxyWorld:
    """What people (``found``) and a judge (``said``) find of queries that differ, how probable, and their share."""

    name: str
    share: float
    found: Floats
    said: Floats
    chances: Floats

    def planted(self, mean: float) -> ProxyWorld:
        """Return the world tilted, so that the true difference over all queries is ``mean``; the judge stays."""
        return replace(self, chances=tilted(self.chances, self.found, mean / self.share))

    def draw(self, rng: np.random.Generator) -> ProxySample:
        """Return a sample of ``BASE`` queries, and of ``OTHERS`` that both were asked."""
        base = rng.binomial(BASE, self.share)
        drawn = rng.choice(len(self.chances), base + rng.binomial(OTHERS, self.share), p=self.chances)
        return ProxySample(self.found[drawn], self.said[drawn], base)


def judges_of_known_worth(rng: np.random.Generator) -> Iterator[ProxyWorld]:
    """Yield the two simulated pairs, each with judges of known worth."""
    for pair in read_pairs():
        name = next((one for one in CHANGED if pair.name.startswith(one)), None)
        if name is None:
            continue
        found = rng.choice(pair.values[1:], POOLED, p=pair.chances[1:] / pair.chances[1:].sum())
        said = {
            f"right on {100 * right:g} % of documents": _by_document(found, right, CHANGED[name], rng)
            for right in (0.97, 0.9)
        }
        said["at random"] = rng.choice([-1.0, 0.0, 1.0], POOLED)
        said["hides four of five losses"] = np.where(rng.random(POOLED) < 0.8, np.abs(found), found)
        said["the opposite of people"] = -found
        for judge, changes in said.items():
            yield _world(f"{name}; {judge}", 1 - pair.chances[0], Counter(zip(found, changes, strict=True)))


def _by_document(found: Floats, right: float, changed: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return what a judge finds that is wrong about each document with the same probability.

    One document is relevant to a query: where old or new alone found it, it is among the documents that they do not
    share; else in every second query among those that they share.
    """
    apart = rng.integers(changed[0], changed[1], found.size, endpoint=True)
    parts = ((apart, found < 0), (apart, found > 0), (10 - apart, (found == 0) & (rng.random(found.size) < 0.5)))
    old, new, both = (
        rng.binomial(there - holds, 1 - right) + holds * (rng.random(found.size) < right) for there, holds in parts
    )
    return np.round((new - old) / np.maximum(1, old + new + both), 6)


def real_judges() -> Iterator[ProxyWorld]:
    """Yield the pairs that ``gate_proxy_pairs`` counted."""
    for one in json.loads(PROXY_PAIRS_FILE.read_text(encoding="utf-8"))["pairs"]:
        judge = f"{one['judge']}, right on {100 * one['agreement']:.1f} % of documents"
        name = f"{one['set']}, {one['old']} → {one['new']}; {judge}"
        changes = Counter({(found, said): count for found, said, count in one["changes"]})
        yield _world(name, 1 - one["same"] / one["queries"], changes)


def _world(name: str, share: float, changes: Counter[tuple[float, float]]) -> ProxyWorld:
    found, said = (np.array([change[side] for change in changes]) for side in (0, 1))
    chances = np.array(list(changes.values()), dtype=np.float64)
    return ProxyWorld(name, share, found, said, chances / chances.sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if the gate is wrong more often than its confidence allows."""
    options = parser("evaluation.bench.gate_proxy", __doc__)
    options.add_argument("--repetitions", type=int, default=150)
    chosen = options.parse_args(argv)
    before, rng, figures = machine(), np.random.default_rng(17), list[Figure]()
    for world in (*judges_of_known_worth(rng), *real_judges()):
        figures += _figures(world, chosen.repetitions, rng)
        print(f"  {time.process_time():6.1f} s  {world.name}", file=sys.stderr, flush=True)
    command = f"python -m evaluation.bench.gate_proxy --repetitions {chosen.repetitions}"
    return write(chosen.output, command, before, figures)


def _figures(world: ProxyWorld, repetitions: int, rng: np.random.Generator) -> Iterator[Figure]:
    equal, lost, worse = (world.planted(mean) for mean in (0.0, -JUST_ABOVE, -WORSE))
    first = look_confidence(Gate(), 1)
    for labels in SIZES:
        told = f"{world.name}, {labels} labels"
        passed = [lost.draw(rng).interval(labels, first).low >= -DROP for _ in range(repetitions)]
        yield rate_of(f"{told}: 2.1 points lost PASS", passed, ONE_LOOK)
        samples = [equal.draw(rng) for _ in range(repetitions)]
        pairs = [_both(sample, labels, first) for sample in samples]
        for rule, found in zip(("with the judge", "without"), zip(*pairs, strict=True), strict=True):
            yield rate_of(f"{told}: equal PASS, {rule}", [one.low >= -DROP for one in found])
        yield rate_of(f"{told}: equal FAIL", [one.high < -DROP for one, _ in pairs], ONE_LOOK)
        width, before = (sum(one.high - one.low for one in found) for found in zip(*pairs, strict=True))
        yield Figure(f"{told}: the interval is narrower by", round(100 * (1 - width / before), 1), "%")
        saved = 1 - labels / _as_narrow(samples[:COMPARED], pairs[:COMPARED], labels, first)
        yield Figure(f"{told}: labels saved", round(100 * saved), "%")
    pairs = [_both(worse.draw(rng), SIZES[-1], first) for _ in range(repetitions)]
    for rule, found in zip(("with the judge", "without"), zip(*pairs, strict=True), strict=True):
        yield rate_of(
            f"{world.name}, {SIZES[-1]} labels: 5 points lost FAIL, {rule}", [one.high < -DROP for one in found]
        )
    ever = [_ever_passes(lost.draw(rng)) for _ in range(repetitions)]
    yield rate_of(f"{world.name}, looks up to {MOST} labels: 2.1 points lost ever PASS", ever, ALL_LOOKS)


def _both(sample: ProxySample, labels: int, confidence: float) -> tuple[Interval, Interval]:
    return sample.interval(labels, confidence), sample.interval(labels, confidence, judge=False)


def _as_narrow(
    samples: Sequence[ProxySample], pairs: Sequence[tuple[Interval, Interval]], labels: int, confidence: float
) -> float:
    """Return how many labels make the interval as narrow without the judge, between those that were tried."""
    sizes = [round(labels * times) for times in (0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4)]
    found = [[one.interval(size, confidence, judge=False) for one in samples] for size in sizes]
    widths = [sum(one.high - one.low for one in of) for of in found]
    reached = sum(one.high - one.low for one, _ in pairs)
    return float(np.interp(-reached, [-one for one in widths], sizes))


def _ever_passes(sample: ProxySample) -> bool:
    looks = enumerate(range(2 * BASE, MOST + 1, 2 * BATCH), start=1)
    return any(sample.interval(labels, look_confidence(Gate(), look)).low >= -DROP for look, labels in looks)


if __name__ == "__main__":
    raise SystemExit(main())
