"""Owns how many labels a gate needs, said before anything is measured: from its thresholds, and what is typical."""

from __future__ import annotations

import math
from dataclasses import dataclass

from revector.gate.looks import look_confidence
from revector.measure.metrics import METRIC_NAMES
from revector.measure.power import CHANGED, differing_needed, queries_needed
from revector.measure.statistics import Share
from revector.spec import Gate

DIFFERING = (0.1, 0.3, 0.6)
"""Shares of queries that are answered differently, for which the need is said."""


@dataclass(frozen=True, slots=True)
class LabelNeed:
    """How many labels the first look of a gate needs to pass a model as good as the old one, in 4 of 5 cases.

    ``metric``: as people call it. ``same``: queries drawn at random, where it changes on none; ``changed``: where it
    does on ``CHANGED`` of them. ``differing``: share of queries answered differently → judgements of such queries,
    where it changes on none.
    """

    max_drop: float
    same: int
    changed: int
    differing: dict[float, int]
    metric: str = "recall"

    @property
    def sentence(self) -> str:
        """The need in words."""
        shares, judged = zip(*self.differing.items(), strict=True)
        return (
            f"To exclude a fall of {self.metric} by {self.max_drop:g}, a gate needs about {self.same:,} labelled "
            f"queries where {self.metric} changes on none of them, about {self.changed:,} where it changes on "
            f"{CHANGED:.0%}. With a file of queries without labels (`queries` in revector.toml) it needs judgements "
            "only of those that old and new answer differently: about "
            f"{_listed([f'{one:,}' for one in judged])} where these are "
            f"{_listed([f'{100 * one:g}' for one in shares])} % of all."
        )


def label_need(gate: Gate) -> LabelNeed | None:
    """Return what ``gate`` needs; None where it allows no drop, which only a gain passes, or any."""
    drop, confidence = gate.max_drop, look_confidence(gate, 1)
    if not 0 < drop < 1:
        return None
    return LabelNeed(
        drop,
        queries_needed(0.0, drop, confidence=confidence),
        queries_needed(math.sqrt(CHANGED), drop, confidence=confidence),
        {
            share: differing_needed(0.0, drop, Share(100, round(100 * share)), confidence=confidence)
            for share in DIFFERING
        },
        METRIC_NAMES[gate.metric],
    )


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
