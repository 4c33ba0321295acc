"""Owns an estimate: a figure for the whole collection from a sample of it, with the ends of its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

NORMAL_95 = 1.959964
"""A normal deviate is within this on either side of 0 in 95 of 100 cases."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure for the whole collection, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """Return the estimate of something that is ``factor`` times as much."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    @staticmethod
    def of_count(certain: int, hits: int, drawn: int, rest: int) -> Estimate:
        """Return how many of all documents are such: ``certain`` plus those among the ``rest``, with its interval.

        Of the rest, ``hits`` of ``drawn`` were; Wilson's score interval (JASA 22, 1927), whose upper end is above 0
        also where none was found.
        """
        if drawn == 0 or rest <= drawn:
            return Estimate(certain + hits, certain + hits, certain + hits)
        share, z2 = hits / drawn, NORMAL_95**2
        middle = (share + z2 / (2 * drawn)) / (1 + z2 / drawn)
        half = NORMAL_95 / (1 + z2 / drawn) * math.sqrt(share * (1 - share) / drawn + z2 / (4 * drawn * drawn))
        low, high = (min(1.0, max(0.0, end)) * rest for end in (middle - half, middle + half))
        return Estimate(certain + share * rest, certain + max(low, hits), certain + high)
