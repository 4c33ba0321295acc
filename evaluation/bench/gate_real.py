"""How often the gate is wrong, and how often it decides, on real pairs of models (``gate_pairs``), by one look or more.

A query of a pair has the same ten documents, or other ones and a change of recall. To plant a true drop, the changes
are tilted exponentially; each sample then draws queries with these probabilities. Judged are ``BASE`` queries at
random, as people have them, and others drawn from those that differ, of ``OTHERS`` that were asked of both; beside it,
as before, all labels at random. Looks come at each ``BATCH`` of further labels; they are judged by the looks' shares of
the error (``gate.looks``), by the same interval at every look, and by a betting e-process: capital that grows by
``1 + f (d + c) / (1 - c)`` with each judged query, mixed over 50 fractions ``f`` (Waudby-Smith & Ramdas, *Estimating
Means of Bounded Random Variables by Betting*, 2024), to which the true share is given.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np
import numpy.typing as npt

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
NEAR = {
    ("cosqa", "noise 0.03"),
    ("cosqa", "noise 0.1"),
    ("cosqa", "PCA 256"),
    ("cranfield", "noise 0.03"),
    ("cranfield", "PCA 256"),
    ("cosqa", "cut 256"),
    ("cranfield", "cut 256"),
    ("cranfield", "LSA 128"),
}
"""Pairs of about equal quality, by set and new model."""

LOOKED_AT = "cosqa"
"""The set whose pairs are looked at again and again: with one answer a query, its intervals take least time."""

_FRACTIONS = np.linspace(0.02, 0.99, 50)


@dataclass(frozen=True, slots=True)
class Pair:
    """A real pair: what a change of recall is worth, and how probable it is; the first place is of the same answers."""

    name: str
    values: Floats
    chances: Floats

    def planted(self, mean: float) -> Pair:
        """Return the pair with its probabilities tilted, so that the true difference is ``mean``."""
        low, high = -200.0, 200.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            weights = self.chances * np.exp(middle * self.values - np.max(middle * self.values))
            weights /= weights.sum()
            low, high = (middle, high) if weights @ self.values < mean else (low, middle)
        return Pair(self.name, self.values, weights)

    @property
    def differing(self) -> Pair:
        """The pair among the queries that differ."""
        chances = np.concatenate([[0.0], self.chances[1:]])
        return Pair(self.name, self.values, chances / chances.sum())

    def draw(self, queries: int, rng: np.random.Generator) -> Counts:
        """Return how often each place was drawn."""
        return rng.multinomial(queries, self.chances)


def read_pairs() -> list[Pair]:
    """Return the near pairs of those that ``gate_pairs`` counted."""
    found = []
    for one in json.loads(PAIRS_FILE.read_text(encoding="utf-8"))["pairs"]:
        if (one["set"], one["new"]) in NEAR:
            values = np.array([0.0, *(value for value, _ in one["changes"])])
            counts = np.array([one["same"], *(count for _, count in one["changes"])], dtype=np.float64)
            share = 1 - one["same"] / one["queries"]
            name = f"{one['set']}, {one['old']} → {one['new']} ({100 * share:.0f} % of queries differ)"
            found.append(Pair(name, values, counts / counts.sum()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate; return 1 if the gate is wrong more often than its confidence allows."""
    options = parser("evaluation.bench.gate_real", __doc__)
    options.add_argument("--repetitions", type=int, default=150)
    chosen = options.parse_args(argv)
    before, figures = machine(), list[Figure]()
    for one in _figures(chosen.repetitions):
        figures.append(one)
        print(f"  {time.process_time():6.1f} s  {one.name}: {one.value} {one.unit}", file=sys.stderr)
    return write(
        chosen.output, f"python -m evaluation.bench.gate_real --repetitions {chosen.repetitions}", before, figures
    )


def _figures(repetitions: int) -> Iterator[Figure]:
    """Yield the figures of each pair: one look of several sizes, then many looks."""
    rng = np.random.default_rng(17)
    for pair in read_pairs():
        for labels in SIZES:
            yield from _one_look(pair, labels, repetitions, rng)
        if pair.name.startswith(LOOKED_AT):
            yield from _many_looks(pair, repetitions, rng)


def _one_look(pair: Pair, labels: int, repetitions: int, rng: np.random.Generator) -> Iterator[Figure]:
    for mean, what, wanted in ((0.0, "equal models: PASS", True), (-JUST_ABOVE, "2.1 points lost: PASS", True)):
        world = pair.planted(mean)
        most = ERROR / 2 if mean else None
        for way, sample in (("all labels at random", _at_random), (f"{BASE} at random, others that differ", _drawn)):
            found = [_passes(sample(world, labels, rng), seed) is wanted for seed in range(repetitions)]
            yield _rate(f"{pair.name}, {labels} labels ({way}), {what}", found, most)
    world = pair.planted(-WORSE)
    found = [_fails(_drawn(world, labels, rng), seed) for seed in range(repetitions)]
    yield _rate(f"{pair.name}, {labels} labels ({BASE} at random), 5 points lost: FAIL", found)


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


def _many_looks(pair: Pair, repetitions: int, rng: np.random.Generator) -> Iterator[Figure]:
    gate = Gate()
    rules: dict[str, Callable[[Sample, int, int], bool]] = {
        "looks share the error": lambda sample, look, seed: (
            _interval(sample, seed, look_confidence(gate, look)).low >= -DROP
        ),
        "the same interval at each look": lambda sample, look, seed: _passes(sample, seed),  # noqa: ARG005
        "e-process": lambda sample, look, seed: _capital(sample) >= np.log(1 / ERROR),  # noqa: ARG005
    }
    for rule, passes in rules.items():
        where = f"{pair.name}, looks at {2 * BASE} labels and each {BATCH} more up to {MOST}, {rule}"
        null = [_first_pass(pair.planted(-JUST_ABOVE), passes, seed, rng) is not None for seed in range(repetitions)]
        yield _rate(f"{where}, 2.1 points lost: ever PASS", null, ERROR if "same" not in rule else None)
        ended = [_first_pass(pair.planted(0.0), passes, seed, rng) for seed in range(repetitions)]
        yield _rate(f"{where}, equal models: PASS", [one is not None for one in ended])
        at_once = [one == 2 * BASE for one in ended]
        yield _rate(f"{where}, equal models: PASS at the first look", at_once)
        middle = median(one or 10 * MOST for one in ended)
        yield Figure(f"{where}, equal models: median labels", middle if middle <= MOST else f"above {MOST}", "labels")


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


def _rate(name: str, found: Sequence[bool], most: float | None = None) -> Figure:
    """Return how often; a goal leaves room for the chance of the simulation (1 in 1,000)."""
    rate, total = sum(found) / len(found), len(found)
    if most is None:
        return Figure(name, round(100 * rate, 2), "%")
    room = NormalDist().inv_cdf(0.999) * (most * (1 - most) / total) ** 0.5
    goal = f"at most {100 * most:g}, by chance of {total:,} repetitions {100 * (most + room):.1f}"
    return Figure(name, round(100 * rate, 2), "%", goal, rate <= most + room)


if __name__ == "__main__":
    raise SystemExit(main())
