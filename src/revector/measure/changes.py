"""One metric of old and new over the same queries: means, intervals, and what so many queries can tell."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from revector.measure.differing import DifferingPairs
from revector.measure.metrics import Interval
from revector.measure.power import detectable_drop, differing_needed, queries_needed
from revector.measure.proxied import correct, proxied_interval
from revector.measure.statistics import deviation_of, paired_interval, randomisation_p, score_interval


@dataclass(frozen=True, slots=True)
class ProxyChange:
    """A judge's part in a difference: its own mean, on ``beside`` differing queries that people did not judge.

    ``weight``: how far it counts, 0 (not at all) to 1. ``without``: the difference without it.
    """

    mean: float
    beside: int
    weight: float
    without: Interval

    def narrower(self, difference: Interval) -> float:
        """Return by which share of its width the interval became narrower; below 0: wider."""
        width = self.without.high - self.without.low
        return 1 - (difference.high - difference.low) / width if width else 0.0


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of old and new over the same queries; all but ``queries`` and ``new`` are None without an old one.

    ``difference`` is new minus old, ``p`` that of no change at all, ``deviation`` that of the paired differences.
    ``detectable`` is the smallest drop that this number of queries can tell, ``needed`` how many the demanded one takes
    (None where none is demanded): both with 80 % power. Of ``asked`` queries, labelled or not, ``differing`` were
    answered differently, ``judged`` of them have judgements, and ``needed_differing`` would tell as much as ``needed``.
    These are None in slices and in what earlier versions kept. ``proxy``: a judge's part, None where none counts.
    """

    queries: int
    new: Interval
    old: Interval | None = None
    difference: Interval | None = None
    p: float | None = None
    deviation: float | None = None
    detectable: float | None = None
    needed: int | None = None
    asked: int | None = None
    differing: int | None = None
    judged: int | None = None
    needed_differing: int | None = None
    proxy: ProxyChange | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Confidence of the intervals, and of the one that ``needed`` is for; the largest drop, None for any."""

    confidence: float
    sized_for: float
    drop: float | None


def change_of(
    queries: Collection[str],
    new: Mapping[str, float],
    old: Mapping[str, float] | None,
    asked: Bounds,
    differing: DifferingPairs | None = None,
) -> MetricChange:
    """Return what ``queries`` say of one metric; ``differing``: which of them, and of others, are answered differently.

    ``new`` and ``old`` hold a score in [0, 1] of each query; None: there is no old revision.
    """
    after = [new[query] for query in queries]
    confidence = asked.confidence
    measured = score_interval(after, confidence=confidence)
    if old is None:
        return MetricChange(len(queries), measured)
    before = [old[query] for query in queries]
    deviation = deviation_of(before, after)
    found = MetricChange(
        queries=len(queries),
        new=measured,
        old=score_interval(before, confidence=confidence),
        difference=paired_interval(before, after, confidence=confidence),
        p=randomisation_p(before, after),
        deviation=deviation,
        detectable=detectable_drop(deviation, len(queries), confidence=confidence),
        needed=queries_needed(deviation, asked.drop, confidence=asked.sized_for) if asked.drop else None,
    )
    return found if differing is None else _shared(found, differing, asked)


def _shared(found: MetricChange, pairs: DifferingPairs, asked: Bounds) -> MetricChange:
    """Return ``found`` with what the share of differing queries says; of labelled ones alone, no more than counts."""
    share, judged = pairs.share, len(pairs.new)
    difference = paired_interval(pairs.old, pairs.new, share=share, confidence=asked.confidence)
    deviation = deviation_of(pairs.old, pairs.new) if judged else 0.0
    if pairs.proxy is not None:
        without, difference = difference, proxied_interval(pairs, confidence=asked.confidence)
        both = correct(pairs, confidence=asked.confidence)
        deviation, mean = both.deviation, float(both.beside.mean()) if both.beside.size else 0.0
        found = replace(found, proxy=ProxyChange(mean * share.value, both.beside.size, both.weight, without))
    needed = differing_needed(deviation, asked.drop, share, confidence=asked.sized_for) if asked.drop else None
    counts = replace(found, asked=share.asked, differing=share.differing, judged=judged, needed_differing=needed)
    if share.asked == found.queries and pairs.proxy is None:
        return counts
    return replace(
        counts,
        difference=difference,
        deviation=deviation,
        detectable=share.value * detectable_drop(deviation, max(1, judged), confidence=asked.confidence),
        needed=None if needed is None else math.ceil(needed / max(share.value, 1 / share.asked)),
    )
