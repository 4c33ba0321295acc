"""What per-query scores prove: intervals of means and of gaps, a paired test and saturation; numbers only.

The interval is a Bayesian bootstrap with one worst possible query added (Gaffke's bound), not a percentile or BCa
bootstrap. Those resample only what was seen: where a new model loses 3 queries in 100 whole and keeps the rest, 50
labelled queries show no loss in every fifth sample, both intervals then have the width 0, and a gate on them passes by
luck. The added query is what the sample may have missed; for scores of two values the ends are those of Clopper and
Pearson. ``evaluation/bench/gate.py`` simulates all three.

Where two models give the same answer, nothing is lost whatever the judgements. So the mean difference is the share of
queries that are answered differently times the mean difference of these, and the share is counted on queries that
nobody has to judge (``Share``). Both uncertainties are multiplied draw by draw: a Beta draw of the share by a draw of
the mean (melded confidence procedures). With the judged queries alone, that is the interval without a share, exactly:
a Dirichlet weighting splits into the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError, LabelError
from revector.measure.metrics import Interval

Floats: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = Sequence[float] | Floats

CONFIDENCE = 0.95
DRAWS = 10_000
MOST_DRAWS = 1_000_000
"""Further out than at ``CONFIDENCE``, an end takes more draws, so that as many lie beyond it, but never more."""

BLOCK = 1 << 20
"""Random numbers held at once (8 MiB)."""

EXACT_FLIPS = 16
"""Up to this many queries that differ, all sign flips (65,536) are counted instead of drawn."""

NEAR_CEILING = 0.05
"""How near to the best possible mean a score counts as being at the ceiling (our choice)."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of the ``asked`` queries, ``differing`` were answered differently by old and new; 0 to ``asked``."""

    asked: int
    differing: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.differing / self.asked


def score_interval(scores: Values, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return the mean of per-query scores in [0, 1] and its interval; see ``bounded_interval``."""
    return bounded_interval(_scores(scores), 0.0, confidence=confidence, draws=draws, seed=seed)


def paired_interval(
    old: Values,
    new: Values,
    *,
    share: Share | None = None,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``new - old`` per query, and its interval; above 0 means that ``new`` is better.

    Args:
        old: One score in [0, 1] per query.
        new: Scores of the same queries in the same order.
        share: Of queries that are answered differently; ``old`` and ``new`` are then a random sample of such queries,
            and may be empty. None: they are a random sample of all queries.
        confidence: Coverage in (0, 1); each end alone holds with ``(1 + confidence) / 2``.
        draws: Random weightings, at least 1.
        seed: Equal seeds and scores give equal intervals.

    Raises:
        ConfigError: If ``confidence`` or ``draws`` is out of range.
        LabelError: If there are no queries, the arrays differ in length, or a score is NaN or outside [0, 1]; for a
            share of no queries, or of fewer that differ than were judged.

    Source:
        As ``bounded_interval``.

    >>> paired_interval([1.0] * 50, [1.0] * 50).low < -0.06  # fifty queries exclude no drop of 6 points
    True

    """
    values = differences(old, new) if share is None or len(old) or len(new) else np.empty(0)
    return bounded_interval(values, -1.0, share=share, confidence=confidence, draws=draws, seed=seed)


def bounded_interval(
    values: Floats,
    least: float,
    *,
    share: Share | None = None,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean of values between ``least`` and 1 and its interval, whatever their distribution.

    Each draw weights the values at random (Dirichlet), together with one added value: ``least`` for the lower end, 1
    for the upper. Equal values share one draw, and draws are made in blocks: memory is bounded by ``BLOCK``.

    Args:
        values: Finite values in [``least``, 1], at least one.
        least: The smallest value that is possible: 0 for scores, -1 for differences.
        share: As of ``paired_interval``.
        confidence: Coverage in (0, 1); each end alone holds with ``(1 + confidence) / 2``.
        draws: Random weightings, at least 1; more are made above ``CONFIDENCE``, so that as many lie beyond an end.
        seed: Equal seeds and values give equal intervals.

    Raises:
        ConfigError: If ``confidence`` or ``draws`` is out of range.
        LabelError: As ``paired_interval`` for a share.

    Source:
        Rubin, *The Bayesian Bootstrap* (Annals of Statistics 9, 1981); with the added value: Gaffke, *Three Test
        Statistics for a Nonparametric One-Sided Hypothesis on the Mean of a Nonnegative Variable* (Mathematical
        Methods of Statistics 14, 2005). Coverage for every distribution and size is conjectured and survived every
        search for a counterexample: Learned-Miller & Thomas, arXiv:1905.06208; Phan, Thomas & Learned-Miller,
        *Towards Practical Mean Bounds for Small Samples* (ICML 2021). With a share: Fay, Proschan & Brittain,
        *Combining One-Sample Confidence Procedures for Inference in the Two-Sample Case* (Biometrics 71, 2015).

    """
    draws, rng = enough_draws(confidence, draws), np.random.default_rng(seed)
    low, high = reweighted(values, least, 1.0, draws, rng)
    mean = float(values.mean()) if values.size else 0.0
    if share is not None:
        times = drawn_shares(share, values.size, draws, rng)
        low, high, mean = low * times, high * times, mean * share.value
    return interval_of(mean, low, high, confidence)


def enough_draws(confidence: float, draws: int) -> int:
    """Return ``draws``, or more above ``CONFIDENCE``. Raises ``ConfigError`` as ``bounded_interval``."""
    _check_draws(confidence, draws)
    further = max(1.0, (1 - CONFIDENCE) / (1 - confidence))
    return max(draws, min(MOST_DRAWS, math.ceil(draws * further)))


def drawn_shares(share: Share, judged: int, draws: int, rng: np.random.Generator) -> Floats:
    """Return ``draws`` upper draws of a share. Raises ``LabelError`` as ``paired_interval``."""
    _check_share(share, judged)
    same = share.asked - share.differing
    return rng.beta(share.differing + 1, same, draws) if same else np.ones(draws)


def interval_of(mean: float, low: Floats, high: Floats, confidence: float) -> Interval:
    """Return the interval that draws of its lower and upper ends give."""
    tail = (1 - confidence) / 2
    return Interval(mean, float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail)))


def gap_interval(
    inside: Values, outside: Values, *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the mean of scores of some queries minus that of others, and its interval; below 0: the first are lower.

    Args:
        inside: Scores in [0, 1], at least one.
        outside: Scores in [0, 1] of other queries, at least one; the two groups are independent samples.
        confidence: Coverage in (0, 1); each end alone holds with ``(1 + confidence) / 2``.
        draws: Random weightings, at least 1.
        seed: Equal seeds and scores give equal intervals.

    Raises:
        ConfigError: If ``confidence`` or ``draws`` is out of range.
        LabelError: If a group is empty, or a score is NaN or outside [0, 1].

    Source:
        The lower bound of one mean and the upper one of the other, subtracted draw by draw: melded confidence
        intervals, Fay, Proschan & Brittain (Biometrics 71, 2015), on the bounds of ``bounded_interval``.

    """
    first, second = _scores(inside), _scores(outside)
    _check_draws(confidence, draws)
    rng = np.random.default_rng(seed)
    low, high = reweighted(first, 0.0, 1.0, draws, rng)
    other_low, other_high = reweighted(second, 0.0, 1.0, draws, rng)
    mean = float(first.mean() - second.mean())
    return interval_of(mean, low - other_high, high - other_low, confidence)


def _check_share(share: Share, judged: int) -> None:
    if not (share.asked >= 1 and judged <= share.differing <= share.asked):
        raise LabelError(
            f"{judged} judged queries were to be compared of {share.differing} that are answered differently, of "
            f"{share.asked}; each number must be at most the next. Nothing was compared; ask both models the same "
            "queries."
        )


def reweighted(
    values: Floats, least: float, most: float, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return ``draws`` random means with ``least`` added, and with ``most`` added."""
    distinct, counts = np.unique(np.round(values, 12), return_counts=True)
    low, high = np.empty(draws), np.empty(draws)
    for at, rows in _blocks(draws, distinct.size):
        weights = rng.standard_gamma(counts.astype(np.float64), (rows, distinct.size))
        added = rng.standard_exponential(rows)
        means, sums = weights @ distinct, weights.sum(axis=1) + added
        low[at : at + rows] = (means + least * added) / sums
        high[at : at + rows] = (means + most * added) / sums
    return low, high


def randomisation_p(old: Values, new: Values, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean difference under random exchange of old and new per query.

    Exact up to ``EXACT_FLIPS`` queries that differ, else drawn: never below ``1 / (draws + 1)``. It tests whether
    anything changed; whether the change is tolerable is for ``paired_interval``.

    Args:
        old: One score in [0, 1] per query.
        new: Scores of the same queries in the same order.
        draws: Random flips, at least 1.
        seed: Equal seeds and scores give equal p-values.

    Raises:
        ConfigError: If ``draws`` is below 1.
        LabelError: As ``paired_interval``.

    Source:
        Fisher (1935); Smucker, Allan & Carterette, *A Comparison of Statistical Significance Tests for Information
        Retrieval Evaluation* (CIKM 2007). Drawn p-values: Phipson & Smyth, *Permutation P-values Should Never Be Zero*
        (2010).

    >>> randomisation_p([0.0] * 3, [1.0] * 3)  # 2 of 8 flips
    0.25

    """
    _check_draws(CONFIDENCE, draws)
    sizes = np.abs(np.round(differences(old, new), 12))
    sizes = sizes[sizes > 0]
    seen = abs(float(np.round(differences(old, new), 12).sum())) - 1e-9  # ties count, whatever the rounding
    if sizes.size <= EXACT_FLIPS:
        signs = (np.arange(2**sizes.size)[:, None] >> np.arange(sizes.size) & 1) * 2 - 1
        return float(np.mean(np.abs(signs @ sizes) >= seen))
    distinct, counts = np.unique(sizes, return_counts=True)
    rng = np.random.default_rng(seed)
    extreme = 0
    for _, rows in _blocks(draws, distinct.size):
        flipped = rng.binomial(counts, 0.5, (rows, distinct.size))
        extreme += int((np.abs((2 * flipped - counts) @ distinct) >= seen).sum())
    return (extreme + 1) / (draws + 1)


def deviation_of(old: Values, new: Values) -> float:
    """Return the standard deviation of ``new - old`` per query (0 for one query). Raises as ``paired_interval``."""
    found = differences(old, new)
    return min(1.0, float(found.std(ddof=1))) if found.size > 1 else 0.0


def is_saturated(scores: Values, baseline: Values, *, margin: float, attainable: Values | None = None) -> bool:
    """Whether the queries are too easy to tell models apart: at the ceiling, and a trivial baseline is too.

    True where the mean of ``scores`` is within ``NEAR_CEILING`` of the best possible mean, and the baseline falls short
    of ``scores`` by at most ``margin``: a ranking by words, or at random, would pass the gate as well. A high score
    alone is no saturation.

    Args:
        scores: Scores of the model in [0, 1], one per query; of the old one where there is one.
        baseline: Scores of BM25, or of a random ranking, on the same queries.
        margin: Largest drop that the gate lets pass, 0 to 1.
        attainable: Best possible score per query; by default 1. Recall@k of a query with more than k relevant documents
            cannot reach 1.

    Raises:
        ConfigError: If ``margin`` is not 0 to 1.
        LabelError: As ``paired_interval``.

    """
    if not 0 <= margin <= 1:
        raise ConfigError(f"saturation was asked for with margin={margin}; it must be 0 to 1. Nothing was compared.")
    ceiling = 1.0 if attainable is None else float(_scores(attainable).mean())
    short = -float(differences(scores, baseline).mean())
    return bool(_scores(scores).mean() >= ceiling - NEAR_CEILING and short <= margin + 1e-12)


def differences(old: Values, new: Values) -> Floats:
    """Return ``new - old`` per query. Raises as ``paired_interval``."""
    before, after = _scores(old), _scores(new)
    if before.size != after.size:
        raise LabelError(
            f"{before.size} old and {after.size} new scores were to be compared; both must be of the same queries in "
            "the same order. Nothing was compared; measure both on the same labels."
        )
    return after - before


def _scores(values: Values) -> Floats:
    found: Floats = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size:
        raise LabelError(
            f"scores of shape {found.shape} were given; one score for each of at least one query is needed. Nothing "
            "was compared; check the labels."
        )
    if bad := int((~((found >= 0) & (found <= 1))).sum()):  # NaN is in no range
        raise LabelError(
            f"{bad} of {found.size} scores are NaN or outside 0 to 1. Nothing was compared; check how they were "
            "measured."
        )
    return found


def _check_draws(confidence: float, draws: int) -> None:
    if not 0 < confidence < 1 or draws < 1:
        raise ConfigError(
            f"a resampling was asked for with confidence={confidence} and draws={draws}; confidence must lie between 0 "
            "and 1, draws must be at least 1. Nothing was measured."
        )


def _blocks(draws: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield ``(start, rows)`` of blocks of at most ``BLOCK`` numbers."""
    step = max(1, BLOCK // max(1, width))
    for at in range(0, draws, step):
        yield at, min(step, draws - at)
