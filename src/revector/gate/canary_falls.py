"""Owns when a fall of recall below the first canary of an index is told: a sharp test by the day, and one by the week.

The queries are the sample, compared one by one with what each of them found at first. Runs of following days are no
sample of anything: an index that did not change gives the same scores again, one that did gives nearly the same. So no
day adds evidence to another one, and what is shared out is how often chance may speak: a test on each day takes a tenth
of one false alarm a year, one in each week the rest. Their sum is at most one, however the days depend on each other
(an expectation adds up whatever depends on what), and a fall that stays waits for the next test of a week at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from revector.measure.statistics import paired_interval

DAYS = 365.25
DAY, WEEK = 0.1 / DAYS, 0.9 * 7 / DAYS
"""Chance of a false alarm of one test: of one a day a tenth of an alarm in a year, of one a week nine tenths."""

WEEK_DAYS = 6.5
"""Days after which a week is over: a daily schedule is never exact."""

POWER = 0.8
"""The share of all sets of queries that must show a fall for it to count as noticed."""

COARSE = 1.5
"""A canary that only notices falls larger than this multiple of ``canary_drop`` says so."""


def _shown(level: float) -> int:
    """Return how many queries must lose all, and none gain, to show a fall.

    Of n queries or more, ``bounded_interval`` gives the upper end of n losses above 0 with a chance of 2 ** -n, and no
    smaller one where they lose less.
    """
    return math.ceil(-math.log2(level))


SHOWN_DAY, SHOWN_WEEK = _shown(DAY), _shown(WEEK)

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class CanaryCheck:
    """One thing that a canary looks at: ``value`` against the ``limit`` that it may reach, in a sentence.

    ``value`` is None where there was nothing to compare.
    """

    name: str
    value: float | None
    limit: float
    alert: bool
    says: str


def fall_check(
    then: Mapping[str, float],
    now: Mapping[str, float],
    *,
    what: str,
    max_drop: float,
    weekly: bool,
    share: float = 1.0,
    unit: str = "queries",
) -> CanaryCheck:
    """Return the test of the day or, where it is due, that of the week: with its larger level it takes the day's place.

    It alerts where the fall is at least half of ``max_drop`` and no chance. ``then`` and ``now``: scores of the same
    queries, 0 to 1, at least one. ``what`` fell, for the sentence; ``share`` (0 to 1) of
    the false alarms is its.
    """
    before, after = ([one[query] for query in now] for one in (then, now))
    sides = math.fsum(before) / len(now), math.fsum(after) / len(now)
    fall, half = sides[0] - sides[1], max_drop / 2
    said = f"{what} {'fell' if fall > 0 else 'went'} from {sides[0]:.4f} to {sides[1]:.4f} on {len(now):,} {unit}"
    name, level = ("week", WEEK * share) if weekly else ("day", DAY * share)
    least = _shown(level)
    losses = sum(new < old for old, new in zip(before, after, strict=True))
    if fall < half - ROUNDING or losses < least:
        why = f"{losses:,} of them lost; the test of the {name} needs a fall of {half:g}, and {least} that lost"
        return CanaryCheck(name, fall, half, alert=False, says=f"{said}; {why}")
    interval = paired_interval(before, after, confidence=1 - 2 * level)
    shown = interval.high < 0
    how = "no chance" if shown else "perhaps chance"
    ends = f"({interval.mean:+.4f}, {1 - 2 * level:.2%} interval {interval.low:+.4f} to {interval.high:+.4f})"
    says = f"{said}: query by query {how} by the test of the {name} {ends}"
    return CanaryCheck(name, fall, half, alert=shown, says=says)


def resolution(queries: int, max_drop: float) -> tuple[float, str | None]:
    """Return the smallest true fall that alerts within a week in 4 of 5 sets of ``queries``; a warning if it is coarse.

    A set varies most where single queries lose all: binomially. The fewest of them that alert are those that make half
    of ``max_drop`` and show that it is no chance.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if noticed(middle, queries, max_drop) >= POWER else (middle, high)
    wanted = COARSE * max_drop
    if wanted >= 1 or noticed(wanted, queries, max_drop) >= POWER:
        return high, None
    needed = queries
    while noticed(wanted, needed, max_drop) < POWER:
        needed += 1
    return high, (
        f"of {queries:,} queries a fall of {high:.4f} is noticed within a week in 4 of 5 cases, and one of "
        f"{max_drop:g} in {noticed(max_drop, queries, max_drop):.0%}; {needed:,} queries notice {wanted:g}"
    )


def noticed(fall: float, queries: int, max_drop: float, shown: int = SHOWN_WEEK) -> float:
    """Return the probability that a true ``fall`` alerts, ``shown`` losses being no chance: a binomial tail."""
    least = max(math.ceil((max_drop / 2 - ROUNDING) * queries), shown)
    if least > queries:
        return 0.0
    logs = (
        math.lgamma(queries + 1)
        - math.lgamma(lost + 1)
        - math.lgamma(queries - lost + 1)
        + lost * math.log(fall)
        + (queries - lost) * math.log1p(-fall)
        for lost in range(least)
    )
    return 1 - sum(map(math.exp, logs))
