"""What a number of queries can tell, and how many it takes to tell a drop: by size alone, before or after measuring."""

from __future__ import annotations

import math
from statistics import NormalDist

from revector.errors import ConfigError
from revector.measure.statistics import CONFIDENCE, Share

POWER = 0.8

CHANGED = 0.03
"""Share of queries of one relevant document whose recall changes between two near variants of a model."""


def detectable_drop(deviation: float, queries: int, *, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Return the smallest drop of the mean that ``queries`` queries tell from none, with probability ``power``.

    The same number is the smallest ``max_drop`` that two equal models pass with that probability.

    Args:
        deviation: Standard deviation of the paired differences, 0 to 1 (``deviation_of``).
        queries: Number of queries, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        power: Probability of detection, in (0, 1).

    Returns:
        The drop, above 0, at most 1: ``1/n + (z((1 + confidence) / 2) + z(power)) * sqrt(deviation² / n + 1/n²)``.

    Raises:
        ConfigError: If a number is out of range.

    Source:
        The normal approximation for paired data (Sakai, *Laboratory Experiments in Information Retrieval*, 2018,
        chapter 6), with the mean and the variance that the added query of ``bounded_interval`` brings: without it, 50
        queries without a difference would seem to detect any drop.

    """
    if not (0 <= deviation <= 1 and queries >= 1 and 0 < confidence < 1 and 0 < power < 1):
        raise ConfigError(
            f"a detectable drop was asked for with deviation={deviation}, queries={queries}, confidence={confidence} "
            f"and power={power}; deviation must be 0 to 1, queries at least 1, the others between 0 and 1."
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(power)
    return min(1.0, 1 / queries + z * math.sqrt(deviation**2 / queries + 1 / queries**2))


def queries_needed(deviation: float, drop: float, *, confidence: float = CONFIDENCE, power: float = POWER) -> int:
    """Return the least number of queries whose ``detectable_drop`` is at most ``drop``.

    Raises:
        ConfigError: If a number is out of range; ``drop`` must be above 0, at most 1.

    >>> queries_needed(0.3, 0.02) > 1_700
    True

    """
    if not 0 < drop <= 1:
        raise ConfigError(f"queries for a drop of {drop} were asked for; it must be above 0, at most 1.")
    few, enough = 0, 1
    while detectable_drop(deviation, enough, confidence=confidence, power=power) > drop:
        few, enough = enough, enough * 2
    while enough - few > 1:
        middle = (few + enough) // 2
        if detectable_drop(deviation, middle, confidence=confidence, power=power) > drop:
            few = middle
        else:
            enough = middle
    return enough


def excluded_by_equal(queries: int, *, confidence: float = CONFIDENCE) -> float:
    """Return the smallest drop, 0 to 1, that ``queries`` queries exclude which old and new answer alike.

    With the added query of ``bounded_interval``, the lower end of ``queries`` differences of 0 is a quantile of Beta(1,
    ``queries``), taken negative: ``1 - ((1 - confidence) / 2) ** (1 / queries)``, as of Clopper and Pearson.

    >>> round(excluded_by_equal(60), 4), equal_needed(0.02)
    (0.0596, 183)

    """
    return float(1 - ((1 - confidence) / 2) ** (1 / queries)) if queries else 1.0


def equal_needed(drop: float, *, confidence: float = CONFIDENCE) -> int:
    """Return how many queries, answered alike, exclude a ``drop`` above 0 and below 1; see ``excluded_by_equal``."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-drop))


def differing_needed(deviation: float, drop: float, share: Share, *, confidence: float = CONFIDENCE) -> int:
    """Return how many judged queries of those answered differently tell a ``drop`` of the mean over all, 0 to 1.

    ``deviation`` is that of their paired differences. 0 where even losing all of them is less than that drop. Raises as
    ``queries_needed``.
    """
    return 0 if share.value <= drop else queries_needed(deviation, drop / share.value, confidence=confidence)
