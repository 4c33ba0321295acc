"""Promises of moved cut-offs: the same share passes, decisions are counted as documented, little evidence is named."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from revector.errors import ConfigError, LabelError
from revector.measure.thresholds import Scored, match_cutoffs


def corpus(queries: int, k: int, *, seed: int = 0, noise: float = 0.0, map_score=lambda score: score) -> Scored:
    """Scores of ``k`` documents per query, in [0, 1]; ``noise`` disturbs them before ``map_score`` does."""
    rng = np.random.default_rng(seed)
    base = rng.beta(5, 3, (queries, k))
    disturbed = base + noise * np.random.default_rng(seed + 1).normal(size=base.shape)
    return {
        f"q{n}": [(f"d{n}-{i}", float(map_score(score))) for i, score in enumerate(row)]
        for n, row in enumerate(disturbed)
    }


def test_a_model_that_only_rescales_its_scores_changes_no_decision() -> None:
    old, new = corpus(200, 10), corpus(200, 10, map_score=lambda score: 0.3 + score**3 / 4)
    (found,) = match_cutoffs({"filter": 0.7}, old, new, draws=200)
    assert found.matched is not None
    assert found.interval is not None
    assert found.matched.threshold == pytest.approx(0.3 + 0.7**3 / 4, abs=2e-3)
    assert found.matched.agreement.mean == 1.0
    assert (found.matched.added, found.matched.dropped) == (0, 0)
    assert found.matched.share == found.share
    assert found.notes == ()
    # Nobody moves it: the new scores end at 0.55, and nothing is shown any more.
    assert (found.unchanged.kept, found.unchanged.empty, found.unchanged.share) == (0, 200, 0.0)
    assert found.unchanged.agreement.mean == pytest.approx(1 - found.share)
    assert found.unchanged.still_shown is not None
    assert found.unchanged.still_shown.mean == 0.0


def test_decisions_equal_those_counted_by_hand() -> None:
    old = {"q": [("a", 0.9), ("b", 0.8), ("c", 0.5)], "r": [("d", 0.6), ("e", 0.4)]}
    new = {"q": [("a", 0.5), ("x", 0.45), ("b", 0.2)], "r": [("e", 0.4), ("d", 0.3)]}
    (found,) = match_cutoffs({"answers": 0.6}, old, new, draws=50)
    assert (found.share, found.queries, found.scores, found.empty) == (0.6, 2, 5, 0)
    # Three of five pass: a, x and e; the threshold lies halfway between 0.4 and 0.3.
    assert found.matched is not None
    assert found.matched.threshold == pytest.approx(0.35)
    # Shown before: a b d; now: a x e; c by neither.
    counts = found.matched.kept, found.matched.added, found.matched.dropped, found.matched.neither
    assert counts == (1, 2, 2, 1)
    assert found.matched.agreement.mean == pytest.approx(2 / 6)
    assert found.matched.still_shown is not None
    assert found.matched.still_shown.mean == pytest.approx(1 / 3)
    unchanged = found.unchanged
    assert (unchanged.kept, unchanged.added, unchanged.dropped, unchanged.neither) == (0, 0, 3, 3)
    assert unchanged.empty == 2


def test_each_threshold_is_matched_and_higher_ones_stay_higher() -> None:
    old, new = corpus(150, 10), corpus(150, 10, noise=0.1, map_score=lambda score: score / 2)
    found = match_cutoffs({"low": 0.5, "middle": 0.6, "high": 0.8}, old, new, draws=50)
    assert [one.name for one in found] == ["low", "middle", "high"]
    matched = [one.matched.threshold for one in found if one.matched is not None]
    assert matched == sorted(matched)
    assert len(set(matched)) == 3
    for one in found:
        assert one.matched is not None
        assert abs(one.matched.share - one.share) <= 1 / one.scores


def test_intervals_cover_the_threshold_and_the_agreement_of_the_whole_population() -> None:
    def noisy(queries: int, seed: int) -> tuple[Scored, Scored]:
        return corpus(queries, 8, seed=seed), corpus(queries, 8, seed=seed, noise=0.05, map_score=lambda s: s - 0.2)

    (truth,) = match_cutoffs({"t": 0.7}, *noisy(20_000, 1), draws=1)
    assert truth.matched is not None
    covered = []
    for seed in range(2, 42):
        (found,) = match_cutoffs({"t": 0.7}, *noisy(100, seed), draws=300)
        assert found.interval is not None
        assert found.matched is not None
        covered.append(
            [
                found.interval.low <= truth.matched.threshold <= found.interval.high,
                found.matched.agreement.low <= truth.matched.agreement.mean <= found.matched.agreement.high,
            ]
        )
    assert (np.mean(covered, axis=0) >= 0.85).all()  # 34 of 40; 95 % is aimed at, and 33 or fewer come once in 4,000


def test_equal_seeds_give_equal_intervals() -> None:
    old, new = corpus(60, 5), corpus(60, 5, noise=0.1)
    assert match_cutoffs({"t": 0.6}, old, new, draws=50) == match_cutoffs({"t": 0.6}, old, new, draws=50)
    assert match_cutoffs({"t": 0.6}, old, new, draws=50) != match_cutoffs({"t": 0.6}, old, new, draws=50, seed=1)


def test_ties_pass_together_and_the_share_that_was_reached_is_told() -> None:
    old = {"q": [("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)]}
    new = {"q": [("a", 0.5), ("b", 0.5), ("c", 0.5), ("d", 0.1)]}
    (found,) = match_cutoffs({"t": 0.8}, old, new, draws=20)
    assert found.matched is not None
    assert (found.share, found.matched.share) == (0.5, 0.75)


def test_a_threshold_that_the_sample_cannot_tell_of_is_not_matched_and_says_why() -> None:
    old, new = corpus(60, 5), corpus(60, 5, noise=0.1)
    above, below = match_cutoffs({"above": 1.5, "below": -1.0}, old, new, draws=20)
    for found, said in ((above, "none of the 300 old scores"), (below, "all 300 old scores")):
        assert found.matched is None
        assert found.interval is None
        assert said in found.notes[0]
    assert above.unchanged.still_shown is None
    assert above.unchanged.agreement.mean == 1.0
    assert above.empty == 60


def test_small_samples_are_named() -> None:
    (found,) = match_cutoffs({"t": 0.6}, corpus(20, 10), corpus(20, 10), draws=20)
    assert found.notes == ("only 20 queries: intervals over fewer than 50 are too narrow",)
    old = corpus(60, 5)
    ninth = sorted((score for ranked in old.values() for _, score in ranked), reverse=True)[8]
    (found,) = match_cutoffs({"t": ninth}, old, old, draws=20)
    assert found.notes == ("only 9 of 300 scores reach it: the new threshold rests on few",)


def test_queries_that_found_nothing_are_no_error_but_count_as_empty() -> None:
    old, new = {**corpus(60, 5), "none": []}, {**corpus(60, 5), "none": []}
    (found,) = match_cutoffs({"t": 0.0001}, old, new, draws=20)
    assert (found.queries, found.empty) == (61, 1)


def test_everything_is_plain_json() -> None:
    for found in match_cutoffs({"t": 0.6, "above": 2.0}, corpus(60, 5), corpus(60, 5), draws=20):
        data = found.as_data()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert (data["matched"] is None) == (found.name == "above")


# Refused --------------------------------------------------------------------------------------------------------------

GOOD: Scored = {"q": [("a", 0.9), ("b", 0.1)]}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (GOOD, {"r": [("a", 0.9)]}, "2 of 2 are in one only, such as 'q'"),
        (GOOD, {"q": [("a", math.nan)]}, "document 'a' for query 'q' is nan"),
        ({"q": [("a", math.inf)]}, GOOD, "is inf"),
        (GOOD, {"q": [("a", 0.9), ("a", 0.8)]}, "a document twice"),
        (GOOD, {"q": []}, "found nothing at all"),
        ({}, {}, "found nothing at all"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(old: Scored, new: Scored, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        match_cutoffs({"t": 0.5}, old, new)


@pytest.mark.parametrize(
    ("thresholds", "options", "said"),
    [
        ({"t": math.nan}, {}, "'t' is nan"),
        ({"t": math.inf}, {}, "'t' is inf"),
        ({"t": 0.5}, {"confidence": 1.0}, "confidence=1.0"),
        ({"t": 0.5}, {"draws": 0}, "draws=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(thresholds, options, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        match_cutoffs(thresholds, GOOD, GOOD, **options)
