"""How often the gate is wrong: verdicts on simulated pairs of models whose true difference in recall is known.

A query has some relevant documents and a chance that a model finds each: 0 for some queries, 1 for others, Beta(2, 2)
for the rest. Old and new find the same documents for a share of the queries and draw again for the others. A drop is
planted in two ways: whole queries are lost, or single documents all over. The same samples are judged by percentile and
by BCa bootstrap intervals (Efron & Tibshirani, 1993, chapters 13 and 14).
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from evaluation.bench.common import Figure, machine, parser, write
from revector.gate.figures import GateFigures, Value
from revector.gate.judgement import judge
from revector.measure.changes import MetricChange
from revector.measure.comparison import Comparison
from revector.measure.metrics import Interval
from revector.measure.power import queries_needed
from revector.measure.statistics import deviation_of, paired_interval
from revector.spec import Gate

Floats = npt.NDArray[np.float64]

MAX_DROP, PLANTED = 0.02, 0.03
TAIL = 0.025
"""What the 95 % interval lets one end miss."""

SIZES = (50, 200, 500, 1_000)
DRAWS = 1_000
ZERO = Interval(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class World:
    """Labelled queries: relevant documents a query, shares of hopeless and sure ones, share that both answer alike."""

    name: str
    relevant: tuple[int, ...]
    hopeless: float
    sure: float
    alike: float

    @property
    def mean(self) -> float:
        """True recall of both models before a drop is planted."""
        return self.sure + (1 - self.sure - self.hopeless) / 2

    def draw(
        self, queries: int, rng: np.random.Generator, drop: float = 0.0, *, whole: bool = True
    ) -> tuple[Floats, Floats]:
        """Return recall of old and of new, whose true mean is lower by ``drop``."""
        relevant = rng.choice(self.relevant, queries)
        kind = rng.random(queries)
        chance = rng.beta(2, 2, queries)
        chance[kind < self.hopeless] = 0.0
        chance[kind > 1 - self.sure] = 1.0
        old, new = rng.binomial(relevant, chance), rng.binomial(relevant, chance)
        new = np.where(rng.random(queries) < self.alike, old, new)
        kept = 1 - drop / self.mean
        new = new * (rng.random(queries) < kept) if whole else rng.binomial(new, kept)
        return old / relevant, new / relevant


WORLDS = (
    World("one answer, recall 0.80 as cosqa", (1,), 0.05, 0.65, 0.8),
    World("1 to 10 answers, recall 0.45 as cranfield", (1, 2, 5, 10), 0.15, 0.05, 0.4),
    World("one answer, models nearly alike, recall 0.95", (1,), 0.02, 0.92, 0.98),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if the gate is wrong more often than its confidence allows."""
    options = parser("evaluation.bench.gate", __doc__)
    options.add_argument("--repetitions", type=int, default=1_000)
    chosen = options.parse_args(argv)
    before, started = machine(), time.process_time()
    figures = list[Figure]()
    for one in _figures(chosen.repetitions):
        figures.append(one)
        print(f"  {time.process_time() - started:5.1f} s  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    return write(chosen.output, f"python -m evaluation.bench.gate --repetitions {chosen.repetitions}", before, figures)


def _figures(repetitions: int) -> Iterator[Figure]:
    rng = np.random.default_rng(5)
    for world in WORLDS:
        for queries in SIZES:
            where = f"{world.name}, {queries:,} queries"
            samples = [world.draw(queries, rng) for _ in range(repetitions)]
            intervals = [_interval(*sample, seed) for seed, sample in enumerate(samples)]
            yield from _equal(f"{where}, equal models", intervals)
            for drop, whole in ((PLANTED, True), (PLANTED, False), (MAX_DROP, True)):
                if whole or max(world.relevant) > 1:
                    samples = [world.draw(queries, rng, drop, whole=whole) for _ in range(repetitions)]
                    how = "whole queries" if whole else "single documents"
                    yield from _dropped(f"{where}, true drop {drop:.2f} ({how} lost)", samples, drop)
        yield from _power(world, repetitions, rng)


def _equal(where: str, intervals: list[Interval]) -> Iterator[Figure]:
    verdicts = _verdicts(intervals, MAX_DROP)
    yield _rate(f"{where}: passed", verdicts, Value.PASS)
    yield _rate(f"{where}: inconclusive", verdicts, Value.INCONCLUSIVE)
    yield _rate(f"{where}: failed", verdicts, Value.FAIL, TAIL)
    nothing = _verdicts(intervals, 0.0)
    yield _rate(f"{where}, no drop allowed: passed, so said to be better", nothing, Value.PASS, TAIL)
    yield _rate(f"{where}, no drop allowed: failed, so said to be worse", nothing, Value.FAIL, TAIL)


def _dropped(where: str, samples: list[tuple[Floats, Floats]], drop: float) -> Iterator[Figure]:
    verdicts = _verdicts([_interval(*sample, seed) for seed, sample in enumerate(samples)], MAX_DROP)
    yield _rate(f"{where}: passed", verdicts, Value.PASS, TAIL, strict=drop > MAX_DROP)
    yield _rate(f"{where}: inconclusive", verdicts, Value.INCONCLUSIVE)
    yield _rate(f"{where}: failed", verdicts, Value.FAIL)
    if drop > MAX_DROP:
        rivals = [_bootstraps(*sample, seed) for seed, sample in enumerate(samples)]
        for name, found in zip(("percentile", "BCa"), zip(*rivals, strict=True), strict=True):
            yield _rate(f"{where}: passed by a {name} bootstrap", _verdicts(found, MAX_DROP), Value.PASS)


def _power(world: World, repetitions: int, rng: np.random.Generator) -> Iterator[Figure]:
    for drop, wanted, least in ((0.0, Value.PASS, MAX_DROP), (PLANTED, Value.FAIL, PLANTED - MAX_DROP)):
        queries = queries_needed(deviation_of(*world.draw(100_000, rng, drop)), least)
        found = [_interval(*world.draw(queries, rng, drop), seed) for seed in range(repetitions)]
        share = _verdicts(found, MAX_DROP)[wanted] / repetitions
        yield Figure(
            f"{world.name}, true drop {drop:.2f}, the {queries:,} queries that the gate asks for: {wanted}",
            round(100 * share, 1),
            "%",
            "about 80, at least 70",
            share >= 0.7,
        )


def _interval(old: Floats, new: Floats, seed: int) -> Interval:
    return paired_interval(old, new, draws=DRAWS, seed=seed)


def _verdicts(intervals: Sequence[Interval], max_drop: float) -> Counter[Value]:
    """Let the gate itself judge each interval."""
    gate = Gate(max_drop=max_drop, min_queries=1, min_overlap=None)
    return Counter(
        judge(
            gate,
            GateFigures(
                comparison=Comparison(
                    k=10,
                    documents=10_000,
                    queries=1,
                    fingerprint="",
                    confidence=0.95,
                    new="new",
                    old="old",
                    metrics={"recall": MetricChange(1, ZERO, ZERO, interval, detectable=0.0)},
                    ceiling=1.0,
                    saturated_by=(),
                )
            ),
        ).value
        for interval in intervals
    )


def _rate(
    name: str, verdicts: Counter[Value], value: Value, most: float | None = None, *, strict: bool = False
) -> Figure:
    """Return how often ``value`` was the verdict.

    A goal that is not ``strict`` leaves room for the chance of the simulation (1 in 1,000): the true rate may be equal.
    """
    total = verdicts.total()
    rate = verdicts[value] / total
    if most is None:
        return Figure(name, round(100 * rate, 2), "%")
    room = 0.0 if strict else NormalDist().inv_cdf(0.999) * (most * (1 - most) / total) ** 0.5
    goal = f"at most {100 * most:g}" + (
        "" if strict else f", by chance of {total:,} repetitions {100 * (most + room):.1f}"
    )
    return Figure(name, round(100 * rate, 2), "%", goal, rate <= most + room)


def _bootstraps(old: Floats, new: Floats, seed: int) -> tuple[Interval, Interval]:
    """Return the percentile and the BCa interval of the same resamples."""
    values = np.round(new - old, 12)
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(values.size, counts / values.size, DRAWS)
    means = drawn @ distinct / values.size
    plain, shifted = (np.quantile(means, levels) for levels in ([TAIL, 1 - TAIL], _bca(values, means)))
    mean = float(values.mean())
    return Interval(mean, float(plain[0]), float(plain[1])), Interval(mean, float(shifted[0]), float(shifted[1]))


def _bca(values: Floats, means: Floats) -> Floats:
    """Return the levels that BCa takes; the acceleration of a mean is its skewness / (6 sqrt(n))."""
    normal, centred = NormalDist(), values - values.mean()
    if not centred.any():
        return np.array([TAIL, 1 - TAIL])
    # Half of the ties count as below, or a mean on a coarse grid would look biased.
    below = np.mean(means < values.mean() - 1e-12) + np.mean(np.abs(means - values.mean()) <= 1e-12) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS)))
    skew = float((centred**3).sum() / (6 * (centred**2).sum() ** 1.5))
    shifted = [bias + normal.inv_cdf(level) for level in (TAIL, 1 - TAIL)]
    return np.array([normal.cdf(bias + one / (1 - skew * one)) for one in shifted])


if __name__ == "__main__":
    raise SystemExit(main())
