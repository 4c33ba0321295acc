"""Promises of the interval that uses where rankings differ, against oracles that share no code with it."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.errors import LabelError
from revector.measure.comparison import ScoredRun, compare
from revector.measure.differing import answers_differ, differing_pairs
from revector.measure.power import differing_needed, queries_needed
from revector.measure.statistics import Share, paired_interval

TAIL = 0.025


def chance_of_a_larger_loss(loss: float, asked: int, differing: int, judged: int) -> float:
    """P(share * mean > loss) where no judged query lost: Beta(differing + 1, asked - differing) * Beta(1, judged)."""
    grid = (np.arange(4_000) + 0.5) / 4_000
    same = asked - differing
    if not same:
        return (1 - loss) ** judged
    logs = differing * np.log(grid) + (same - 1) * np.log1p(-grid)
    weights = np.exp(logs - logs.max())
    beyond = np.where(grid > loss, np.clip(1 - loss / grid, 0, 1) ** judged, 0.0)
    return float((weights * beyond).sum() / weights.sum())


@pytest.mark.parametrize(
    ("asked", "differing", "judged"), [(40, 12, 5), (200, 60, 30), (2_000, 700, 90), (50, 0, 0), (30, 30, 30)]
)
def test_without_a_loss_the_lower_end_is_that_of_two_beta_laws(asked: int, differing: int, judged: int) -> None:
    found = paired_interval([1.0] * judged, [1.0] * judged, share=Share(asked, differing), draws=200_000)
    assert found.mean == 0
    assert found.high == pytest.approx(-found.low, abs=0.01)
    assert chance_of_a_larger_loss(-found.low, asked, differing, judged) == pytest.approx(TAIL, abs=0.004)


def multinomial(counts: tuple[int, ...], chances: tuple[float, ...]) -> float:
    left, found = sum(counts), 1.0
    for count, chance in zip(counts, chances, strict=True):
        found *= comb(left, count) * chance**count
        left -= count
    return found


@pytest.mark.parametrize(
    ("others", "share", "lost", "won"), [(0, 0.5, 0.4, 0.0), (9, 0.3, 0.9, 0.0), (14, 0.6, 0.3, 0.2)]
)
def test_each_end_misses_the_truth_in_no_more_samples_than_it_may(
    others: int, share: float, lost: float, won: float
) -> None:
    """Every sample of seven judged queries, and of the others, is enumerated with its probability."""
    judged, truth, missed = 7, share * (won - lost), [0.0, 0.0]
    chances = (share * lost, share * (1 - lost - won), share * won, 1 - share)
    for counts in product(range(judged + 1), repeat=3):
        if sum(counts) > judged:
            continue
        whole = (*counts, judged - sum(counts))
        old = [1.0] * counts[0] + [0.5] * counts[1] + [0.0] * counts[2]
        new = [0.0] * counts[0] + [0.5] * counts[1] + [1.0] * counts[2]
        for differing in range(others + 1):
            chance = multinomial(whole, chances) * multinomial((differing, others - differing), (share, 1 - share))
            if chance > 1e-7:
                asked = Share(judged + others, sum(counts) + differing)
                found = paired_interval(old, new, share=asked, confidence=0.8, draws=1_000)
                missed[0] += chance * (found.low > truth)
                missed[1] += chance * (found.high < truth)
    assert max(missed) <= 0.1 + 1e-6


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_judged_queries_alone_have_the_same_interval_with_their_share_and_without(change: list[float]) -> None:
    """A Dirichlet weighting splits into a Beta share and a Dirichlet weighting of the rest."""
    old, new = [max(0.0, -one) for one in change], [max(0.0, one) for one in change]
    differing = [n for n, one in enumerate(change) if one]
    whole = paired_interval(old, new, draws=10_000)
    share = Share(len(change), len(differing))
    split = paired_interval([old[n] for n in differing], [new[n] for n in differing], share=share, draws=10_000)
    assert split == pytest.approx(whole, abs=0.03)


def test_more_unlabelled_queries_never_widen_and_identical_answers_need_no_judgement() -> None:
    widths = []
    for asked in (100, 400, 4_000):
        found = paired_interval([1.0] * 30, [1.0] * 30, share=Share(asked, asked * 3 // 10), draws=40_000)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert paired_interval([], [], share=Share(1_000, 0)).low > -0.005
    assert paired_interval([], [], share=Share(1_000, 1_000)) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(("asked", "differing"), [(0, 0), (5, 6), (5, 1)])
def test_a_share_that_cannot_be_is_refused(asked: int, differing: int) -> None:
    with pytest.raises(LabelError, match=r"2 judged queries .* Nothing was compared"):
        paired_interval([1.0, 1.0], [1.0, 0.0], share=Share(asked, differing))


def test_only_what_the_metric_sees_makes_answers_differ() -> None:
    assert not answers_differ(["a", "b"], ["b", "a"])
    assert answers_differ(["a", "b"], ["b", "a"], ordered=True)
    assert answers_differ(["a"], ["a", "b"])
    found = differing_pairs(
        ["q1", "q2", "q3", "u1", "u2"],
        {"q1": 1.0, "q2": 1.0, "q3": 0.5},
        {"q1": 1.0, "q2": 0.0, "q3": 0.5},
        {"q1": ["a"], "q2": ["a"], "q3": ["a"], "u1": ["a"], "u2": ["a", "b"]},
        {"q1": ["a"], "q2": ["b"], "q3": ["c"], "u1": ["a"], "u2": ["b", "a"]},
    )
    assert (found.old, found.new, found.share) == ((1.0, 0.5), (0.0, 0.5), Share(5, 2))


def test_fewer_judgements_are_needed_where_fewer_answers_differ() -> None:
    needed = [differing_needed(0.2, 0.02, Share(1_000, differing)) for differing in (10, 20, 100, 400, 1_000)]
    assert needed[:2] == [0, 0]
    assert needed == sorted(needed)
    assert needed[-1] == queries_needed(0.2, 0.02)


def test_a_comparison_judges_the_queries_that_were_drawn_and_counts_the_others() -> None:
    base = {f"q{n}": 1.0 for n in range(20)}
    run = {query: ["a"] for query in base}
    others = {f"u{n}": ["a"] for n in range(400)}
    changed = others | {f"u{n}": ["b"] for n in range(60)}
    drawn = {f"u{n}": 0.0 for n in range(40)}
    alone = [ScoredRun(name, "same", {"recall": base}, run) for name in ("b200", "a100")]
    both = [
        ScoredRun(name, "same", {"recall": base}, run, rankings, {"recall": drawn})
        for name, rankings in (("b200", changed), ("a100", others))
    ]
    few = compare(*alone, k=1, documents=99, max_drop=0.02).metrics["recall"]
    many = compare(*both, k=1, documents=99, max_drop=0.02).metrics["recall"]
    assert (few.asked, few.differing, few.judged) == (20, 0, 0)
    assert (many.queries, many.asked, many.differing, many.judged) == (20, 420, 60, 40)
    assert many.difference.low > -0.02 > few.difference.low
    assert many.needed_differing < 40 < many.needed
    assert many.detectable < 0.02 < few.detectable
