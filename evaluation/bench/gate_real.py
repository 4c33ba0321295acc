"""How often the gate is wrong, and how often it decides, on real pairs of models (``gate_pairs``), by one look or more.

    python -m evaluation.bench.gate_real [--repetitions 150] [--output PATH]

A query of a pair has the same ten documents, or other ones and a change of recall. To plant a true drop, the changes
are tilted exponentially; each sample then draws queries with these probabilities. Judged are ``BASE`` queries at
random, as people have them, and others drawn from those that differ, of ``OTHERS`` that were asked of both; beside it,
as before, all labels at random.

Peers judge the same labels at random: a percentile bootstrap, and the rule of VecShift 0.4.0 (``eval/runner.py``,
``decide``: the mean recall@10 may not have fallen by more than the tolerance).

Looks come at each ``BATCH`` of further labels; they are judged by the looks' shares of the error (``gate.looks``), by
the same interval at every look, by VecShift's rule, and by a betting e-process: capital that grows by
``1 + f (d + c) / (1 - c)`` with each judged query, mixed over 50 fractions ``f`` (Waudby-Smith & Ramdas, *Estimating
Means of Bounded Random Variables by Betting*, 2024), to which the true share is given.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist, median

import numpy as np
import numpy.typing as npt

from evaluation.bench import gate_chart
from evaluation.bench.common import PAIRS_FILE, Figure, machine, parser, write
from revector.gate.looks import look_confidence
from revector.measure.metrics import Interval
from revector.measure.statistics import Share, paired_interval
from revector.spec import Gate

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BASE, OTHERS = 50, 2_000
SIZES = (100, 200, 300)
BATCH, MOST = 50, 600
DROP, JUST_ABOVE, WORSE = 0.02, 0.021, 0.05
ERROR = 0.05
DRAWS = 1_000
NEAR = ("noise 0.03", "noise 0.1", "PCA 256", "cut 256")
"""New models that are the old one made slightly wrong: with these, labels are few and well spent."""

LOOKED_AT = ("cosqa", "medquad")
"""Sets whose pairs are looked at again and again: with one answer a query, their intervals take least time."""

_FRACTIONS = np.linspace(0.02, 0.99, 50)


def tilted(chances: Floats, values: Floats, mean: float) -> Floats:
    """Return probabilities of ``values`` that are tilted by their size until they have that mean."""
    low, high = -200.0, 200.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        weights = chances * np.exp(middle * values - np.max(middle * values))
        weights /= weights.sum()
        low, high = (middle, high) if weights @ values < mean else (low, middle)
    return weights


@dataclass(frozen=True, slots=True)
class Pair:
    """A real pair: what a change of recall is worth, and how probable it is; the first place is of the same answers."""

    name: str
    near: bool
    again: bool
    values: Floats
    chances: Floats

    def planted(self, mean: float) -> Pair:
        """Return the pair with its probabilities tilted, so that the true difference is ``mean``."""
        return replace(self, chances=tilted(self.chances, self.values, mean))

    @property
    def differing(self) -> Pair:
        """The pair among the queries that differ."""
        chances = np.concatenate([[0.0], self.chances[1:]])
        return replace(self, chances=chances / chances.sum())

    def draw(self, queries: int, rng: np.random.Generator) -> Counts:
        """Return how often each place was drawn."""
        return rng.multinomial(queries, self.chances)


def read_pairs() -> Iterator[Pair]:
    """Yield the pairs that ``gate_pairs`` counted, but those of which no drop of 5 points can be drawn."""
    for one in json.loads(PAIRS_FILE.read_text(encoding="utf-8"))["pairs"]:
        values = np.array([0.0, *(value for value, _ in one["changes"])])
        counts = np.array([one["same"], *(count for _, count in one["changes"])], dtype=np.float64)
        share = 1 - one["same"] / one["queries"]
        name = f"{one['set']}, {one['old']} → {one['new']} ({100 * share:.0f} % of queries differ)"
        if values.min() < -WORSE:
            yield Pair(name, one["new"] in NEAR, one["set"] in LOOKED_AT, values, counts / counts.sum())


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if the gate is wrong more often than its confidence allows."""
    options = parser("evaluation.bench.gate_real", __doc__)
    options.add_argument("--repetitions", type=int, default=150)
    chosen = options.parse_args(argv)
    before, simulated = machine(), Simulation(chosen.repetitions)
    simulated.run()
    gate_chart.draw(chosen.output, simulated.rates)
    figures = [*simulated.summary(), *simulated.figures]
    return write(
        chosen.output, f"python -m evaluation.bench.gate_real --repetitions {chosen.repetitions}", before, figures
    )


Sample = tuple[Counts, Share | None, Floats]
"""How often each change was judged, the share of the queries that differ, and the changes."""


def _at_random(world: Pair, labels: int, rng: np.random.Generator) -> Sample:
    return world.draw(labels, rng), None, world.values


def _drawn(world: Pair, labels: int, rng: np.random.Generator) -> Sample:
    base, others = world.draw(BASE, rng), world.draw(OTHERS, rng)
    share = Share(BASE + OTHERS, int(base[1:].sum() + others[1:].sum()))
    judged = base.copy()
    judged[0] = 0
    judged += world.differing.draw(min(labels - BASE, int(others[1:].sum())), rng)
    return judged, share, world.values


def _interval(sample: Sample, seed: int, confidence: float = 0.95) -> Interval:
    counts, share, values = sample
    old, new = np.repeat(np.maximum(0, -values), counts), np.repeat(np.maximum(0, values), counts)
    return paired_interval(old, new, share=share, confidence=confidence, draws=DRAWS, seed=seed)


def _passes(sample: Sample, seed: int) -> bool:
    return _interval(sample, seed).low >= -DROP


def _fails(sample: Sample, seed: int) -> bool:
    return _interval(sample, seed).high < -DROP


def _passes_bootstrap(sample: Sample, seed: int) -> bool:
    counts, _, values = sample
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), DRAWS)
    return bool(np.quantile(drawn @ values / counts.sum(), ERROR / 2) >= -DROP)


def _passes_vecshift(sample: Sample, seed: int) -> bool:  # noqa: ARG001
    """Return whether the mean change is at least minus the tolerance; of a share, the mean of all queries."""
    counts, share, values = sample
    mean = counts @ values / max(1, counts.sum())
    return bool((mean if share is None else mean * share.value) >= -DROP)


OURS = f"gate, {BASE} labels at random, others that differ"
ONE_LOOK: dict[str, tuple[Callable[[Pair, int, np.random.Generator], Sample], Callable[[Sample, int], bool]]] = {
    OURS: (_drawn, _passes),
    "gate, all labels at random": (_at_random, _passes),
    "percentile bootstrap": (_at_random, _passes_bootstrap),
    "VecShift's rule": (_at_random, _passes_vecshift),
}
"""Rule → how its labels are drawn, and whether it passes."""


def _shared(gate: Gate, sample: Sample, look: int, seed: int) -> bool:
    return _interval(sample, seed, look_confidence(gate, look)).low >= -DROP


MANY_LOOKS: dict[str, Callable[[Sample, int, int], bool]] = {
    "looks share the error": partial(_shared, Gate()),
    "the same interval at each look": lambda sample, _, seed: _passes(sample, seed),
    "e-process": lambda sample, _, __: _capital(sample) >= np.log(1 / ERROR),
    "VecShift's rule": lambda sample, _, seed: _passes_vecshift(sample, seed),
}


class Simulation:
    """The figures of each pair, and what they come to.

    ``rates``: (question, rule, labels) → percentages, one for each pair; the questions are those of ``gate_chart``.
    """

    def __init__(self, repetitions: int) -> None:
        self.figures, self.rates = list[Figure](), dict[gate_chart.Cell, list[float]]()
        self._repetitions, self._rng = repetitions, np.random.default_rng(17)
        self._medians = list[float]()

    def run(self) -> None:
        """Simulate each pair: one look of several sizes, then, of some, many looks."""
        for pair in read_pairs():
            for labels in SIZES:
                self._one_look(pair, labels)
            if pair.again:
                self._many_looks(pair)
            print(f"  {time.process_time():6.1f} s  {pair.name}", file=sys.stderr, flush=True)

    def summary(self) -> Iterator[Figure]:
        """Yield what the pairs come to, worst first."""
        ours = {size: self.rates[gate_chart.Cell("equal: PASS", OURS, size)] for size in SIZES}
        near = {size: self.rates[gate_chart.Cell("near, equal: PASS", OURS, size)] for size in SIZES}
        for size, goal in ((100, 50.0), (200, 80.0)):
            told = f"near variants of equal quality that PASS in at least {goal:g} % with {size} labels"
            yield _of_all(told, [one >= goal for one in near[size]])
            yield Figure(f"the same, PASS in the worst of them, {size} labels", min(near[size]), "%")
            told = f"all {len(ours[size])} pairs, equal models PASS, median, {size} labels"
            yield Figure(told, median(ours[size]), "%")
        failed = [one for size in SIZES for one in self.rates[gate_chart.Cell("equal: FAIL", OURS, size)]]
        yield self._most("an equal model FAILs, 100 to 300 labels: the worst pair", failed, 1.0)
        ever = self.rates[gate_chart.Cell("2.1 lost: ever PASS", next(iter(MANY_LOOKS)), MOST)]
        yield self._most(f"2.1 points lost, PASS at any of the looks up to {MOST} labels: the worst pair", ever, 5.0)
        worse = self.rates[gate_chart.Cell("5 lost: FAIL", OURS, 300)]
        yield _of_all(
            "pairs in which 5 points lost FAIL in at least 80 % with 300 labels", [one >= 80 for one in worse]
        )
        told = "pairs of different models, made equal, that are decided with a median of at most 500 labels"
        yield _of_all(told, [one <= 500 for one in self._medians])
        for cell, rates in self.rates.items():
            if cell.question in ("equal: PASS", "2.1 lost: PASS", "2.1 lost: ever PASS"):
                where = f"{cell.question}, {cell.rule}, {cell.labels} labels"
                yield Figure(f"{where}: median of {len(rates)} pairs", round(median(rates), 2), "%")
                yield Figure(f"{where}: most of them", max(rates), "%")

    def _one_look(self, pair: Pair, labels: int) -> None:
        for mean, question in ((0.0, "equal: PASS"), (-JUST_ABOVE, "2.1 lost: PASS")):
            world = pair.planted(mean)
            for rule, (draw, passes) in ONE_LOOK.items():
                found = [passes(draw(world, labels, self._rng), seed) for seed in range(self._repetitions)]
                most = ERROR / 2 if mean and rule.startswith("gate") else None
                self._keep(pair, gate_chart.Cell(question, rule, labels), found, most)
                if not mean and pair.near:
                    self._keep(None, gate_chart.Cell("near, equal: PASS", rule, labels), found)
        for mean, question in ((0.0, "equal: FAIL"), (-WORSE, "5 lost: FAIL")):
            world = pair.planted(mean)
            found = [_fails(_drawn(world, labels, self._rng), seed) for seed in range(self._repetitions)]
            self._keep(pair, gate_chart.Cell(question, OURS, labels), found, None if mean else ERROR / 2)

    def _many_looks(self, pair: Pair) -> None:
        lost, equal = pair.planted(-JUST_ABOVE), pair.planted(0.0)
        for rule, passes in MANY_LOOKS.items():
            found = [_first_pass(lost, passes, seed, self._rng) is not None for seed in range(self._repetitions)]
            honest = rule in ("looks share the error", "e-process")
            self._keep(pair, gate_chart.Cell("2.1 lost: ever PASS", rule, MOST), found, ERROR if honest else None)
            ended = [_first_pass(equal, passes, seed, self._rng) for seed in range(self._repetitions)]
            middle = median(one or 10 * MOST for one in ended)
            if rule == "looks share the error" and not pair.near:
                self._medians.append(middle)
            told = f"{pair.name}, equal models, {rule}: median of the labels until PASS"
            self.figures.append(Figure(told, middle if middle <= MOST else f"above {MOST}", "labels"))

    def _keep(self, pair: Pair | None, cell: gate_chart.Cell, found: Sequence[bool], most: float | None = None) -> None:
        """Keep a rate; of the peers' only what all pairs come to is told."""
        rate = round(100 * sum(found) / len(found), 2)
        self.rates.setdefault(cell, []).append(rate)
        if pair is not None and (most is not None or cell.rule == OURS):
            self.figures.append(
                rate_of(f"{pair.name}, {cell.labels} labels, {cell.rule}, {cell.question}", found, most)
            )

    def _most(self, name: str, rates: Sequence[float], goal: float) -> Figure:
        allowed = _allowed(goal / 100, self._repetitions)
        told = f"at most {goal:g}, by chance of {self._repetitions:,} repetitions {100 * allowed:.1f}"
        return Figure(name, max(rates), "%", told, max(rates) <= 100 * allowed)


def _first_pass(
    world: Pair, passes: Callable[[Sample, int, int], bool], seed: int, rng: np.random.Generator
) -> int | None:
    """Return the number of labels at which a gate that looks again and again passes."""
    judged, share, values = _drawn(world, 2 * BASE, rng)
    for look, labels in enumerate(range(2 * BASE, MOST + 1, BATCH), start=1):
        if passes((judged, share, values), look, seed):
            return labels
        assert share is not None
        judged = judged + world.differing.draw(min(BATCH, share.differing - int(judged.sum())), rng)
    return None


def _capital(sample: Sample) -> float:
    """Return the logarithm of the e-process against a drop of ``DROP``."""
    counts, share, values = sample
    assert share is not None
    allowed = DROP / share.value if share.differing else 1.0
    if allowed >= 1:
        return float("inf")
    bets = np.log1p(_FRACTIONS[:, None] * (values + allowed) / (1 - allowed)) @ counts
    return float(np.logaddexp.reduce(bets) - np.log(len(_FRACTIONS)))


def _allowed(most: float, repetitions: int) -> float:
    """Return the share above ``most`` that the chance of the simulation alone reaches once in 1,000."""
    return float(most + NormalDist().inv_cdf(0.999) * (most * (1 - most) / repetitions) ** 0.5)


def _of_all(name: str, reached: Sequence[bool]) -> Figure:
    """Return how many of them reach a goal that all should reach."""
    return Figure(f"{name}, of {len(reached)}", sum(reached), "pairs", "all", all(reached))


def rate_of(name: str, found: Sequence[bool], most: float | None = None) -> Figure:
    """Return how often."""
    rate, total = sum(found) / len(found), len(found)
    if most is None:
        return Figure(name, round(100 * rate, 2), "%")
    allowed = _allowed(most, total)
    goal = f"at most {100 * most:g}, by chance of {total:,} repetitions {100 * allowed:.1f}"
    return Figure(name, round(100 * rate, 2), "%", goal, rate <= allowed)


if __name__ == "__main__":
    raise SystemExit(main())
