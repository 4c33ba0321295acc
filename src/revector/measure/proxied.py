"""The mean difference with a judge's word beside people's: narrower where the judge is good, valid whatever it is.

Prediction-powered inference: the judge's differences ``f`` on queries that nobody else judged, and on the judged ones
what people find beyond them, ``y - f``. The second is the judge's bias, measured; so the sum is people's mean, however
the judge errs. It counts with a weight from 0 (not at all) to 1, one for each judged query, found on the queries before
it alone: given these, ``y - weight * f`` and ``weight`` times the judge's mean have people's mean together, for any
weight. A judge that tells nothing gets 0, and the interval is that without it. What a weight costs is reckoned with:
``y - weight * f`` reaches as far as ``1 + weight``, and the worst that a sample may have missed lies there.

Sources: Angelopoulos, Bates, Fannjiang, Jordan & Zrnic, *Prediction-Powered Inference* (Science 382, 2023); the weight:
Angelopoulos, Duchi & Zrnic, *PPI++: Efficient Prediction-Powered Inference* (arXiv:2311.01453, 2023). The two means and
the share of queries that differ are independent, and melded draw by draw as in ``statistics``.
``evaluation/bench/gate_proxy.py`` simulates judges of all kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from revector.measure.differing import DifferingPairs, ProxyPairs
from revector.measure.metrics import Interval
from revector.measure.statistics import (
    CONFIDENCE,
    DRAWS,
    Floats,
    differences,
    drawn_shares,
    enough_draws,
    interval_of,
    reweighted,
)

FIRST = 20
"""Judged queries before a judge gets a weight: fewer say nothing of it."""

_WEIGHTS = np.linspace(0, 1, 21)


@dataclass(frozen=True, slots=True)
class Corrected:
    """A judge's ``beside`` with a mean ``weight``, and what people find beyond it, ``values``, at most 1 + ``most``."""

    values: Floats
    beside: Floats
    weight: float
    most: float

    @property
    def mean(self) -> float:
        """People's mean, as both together say it."""
        judged = float(self.values.mean()) if self.values.size else 0.0
        return judged + (self.weight * float(self.beside.mean()) if self.weight else 0.0)

    @property
    def deviation(self) -> float:
        """Standard deviation of one judged query, 0 to 1, with its part of the uncertainty of the judge's mean."""
        if self.values.size < 2:
            return 0.0
        variance = float(self.values.var(ddof=1))
        if self.weight:
            variance += self.values.size * self.weight**2 * float(self.beside.var()) / self.beside.size
        return min(1.0, math.sqrt(variance))


def correct(pairs: DifferingPairs, *, confidence: float = CONFIDENCE) -> Corrected:
    """Return what people find beyond a judge; without ``pairs.proxy``, beyond nothing.

    The judged queries are in an order that does not depend on what was found of them, and with those ``beside`` a
    random sample of the queries that differ. ``confidence``: of the interval that the weights are to make narrow.
    """
    found = differences(pairs.old, pairs.new) if pairs.new else np.empty(0)
    judge = pairs.proxy or ProxyPairs((math.nan,) * found.size, ())
    proxies, beside = np.array(judge.judged, dtype=np.float64), np.array(judge.beside, dtype=np.float64)
    asked = ~np.isnan(proxies)
    weights = np.zeros(found.size)
    if beside.size and asked.any():
        weights[asked] = _weights(found[asked], proxies[asked], beside, found.size, confidence)
    values = found - weights * np.where(asked, proxies, 0.0)
    return Corrected(values, beside, *((float(weights.mean()), float(weights.max())) if found.size else (0.0, 0.0)))


def proxied_interval(
    pairs: DifferingPairs, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the mean of new minus old over all queries, and its interval, as of ``statistics.paired_interval``.

    Without a judged query the judge has no weight. Raises as ``paired_interval`` with a share.
    """
    both = correct(pairs, confidence=confidence)
    draws, rng = enough_draws(confidence, draws), np.random.default_rng(seed)
    low, high = reweighted(both.values, -1 - both.most, 1 + both.most, draws, rng)
    if both.weight:
        lower, upper = reweighted(both.beside, -1.0, 1.0, draws, rng)
        low, high = low + both.weight * lower, high + both.weight * upper
    times = drawn_shares(pairs.share, both.values.size, draws, rng)
    return interval_of(both.mean * pairs.share.value, low * times, high * times, confidence)


def _weights(found: Floats, proxies: Floats, beside: Floats, judged: int, confidence: float) -> Floats:
    """Return the weight of each query, by which the queries before it would have the narrowest interval."""
    before = np.arange(found.size)
    counts = np.maximum(1, before)

    def mean(values: Floats) -> Floats:
        return np.concatenate([[0.0], np.cumsum(values)])[:-1] / counts

    people, judge = mean(found), mean(proxies)
    of_people, of_judge = mean(found**2) - people**2, mean(proxies**2) - judge**2
    together = mean(found * proxies) - people * judge
    beyond = of_people[:, None] - 2 * _WEIGHTS * together[:, None] + _WEIGHTS**2 * of_judge[:, None]
    variance = np.maximum(0.0, beyond) / judged + _WEIGHTS**2 * beside.var() / beside.size
    tail = (1 - confidence) / 2
    reach = NormalDist().inv_cdf(1 - tail) * np.sqrt(variance) - math.log(tail) * (1 + _WEIGHTS) / judged
    return np.where(before < FIRST, 0.0, _WEIGHTS[np.argmin(reach, axis=1)])
