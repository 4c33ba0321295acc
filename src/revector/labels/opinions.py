"""What several people said of the same documents: which score stands, and how far they agree.

A score stands if it is the only one that was given, or if more than half of the judges gave it. Else it is open until
they have talked about it: what they enter as ``AGREED`` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

AGREED = "agreed"
"""In place of a judge's name: what the judges agreed on afterwards."""

Pair: TypeAlias = tuple[str, str]
"""Query id and document id."""

Opinions: TypeAlias = Mapping[str, Mapping[Pair, int]]
"""Judge → pair → score; above 0 means relevant."""


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """How far ``judges`` agree on what is relevant, over the ``pairs`` that two or more of them judged.

    On ``alike`` of these all say the same. ``alpha`` is 1 where they always do, 0 where they agree as often as by
    chance; None where nothing differs in the first place, for chance then agrees, too.
    """

    judges: int
    pairs: int
    alike: int
    alpha: float | None


def standing_score(scores: Mapping[str, int]) -> int | None:
    """Return the score that stands, of judge → score; None where it is open.

    >>> standing_score({"ada": 1, "bo": 0}), standing_score({"ada": 1, "bo": 0, "cy": 1})
    (None, 1)
    >>> standing_score({"ada": 1, "bo": 0, "agreed": 0})
    0
    """
    if AGREED in scores or not scores:
        return scores.get(AGREED)
    score, times = Counter(scores.values()).most_common(1)[0]
    return score if 2 * times > len(scores) else None


def scores_of(said: Opinions, pair: Pair) -> dict[str, int]:
    """Return judge → score of one pair."""
    return {judge: scores[pair] for judge, scores in said.items() if pair in scores}


def disputed(said: Opinions, pairs: Iterable[Pair]) -> list[Pair]:
    """Return those of ``pairs`` that were judged and whose score is open."""
    return [pair for pair in pairs if (scores := scores_of(said, pair)) and standing_score(scores) is None]


def agreement(said: Opinions) -> JudgeAgreement:
    """Return how far the judges agree on what is relevant (a score above 0), without what they settled afterwards.

    Source:
        Krippendorff, *Computing Krippendorff's Alpha-Reliability* (2011), section C: nominal data, any number of
        observers, missing data. For two judges without gaps it is near Cohen's kappa.

    >>> agreement({"ada": {("q", "a"): 1, ("q", "b"): 0}, "bo": {("q", "a"): 2, ("q", "b"): 0}}).alpha
    1.0
    """
    judges = {judge: scores for judge, scores in said.items() if judge != AGREED and scores}
    units = list(_units(judges))
    # Coincidences within the units: each of m values meets the m - 1 others of its unit.
    values: Counter[bool] = Counter()
    differing = 0.0
    for unit in units:
        values += unit
        differing += 2 * unit[True] * unit[False] / (unit.total() - 1)
    expected = 2 * values[True] * values[False]
    alpha = 1 - (values.total() - 1) * differing / expected if expected else None
    return JudgeAgreement(len(judges), len(units), sum(len(unit) == 1 for unit in units), alpha)


def _units(judges: Opinions) -> Iterator[Counter[bool]]:
    """Yield, for each pair that two or more judged, how many said that it is relevant and how many that it is not."""
    for pair in dict.fromkeys(pair for scores in judges.values() for pair in scores):
        unit = Counter(score > 0 for score in scores_of(judges, pair).values())
        if unit.total() > 1:
            yield unit
