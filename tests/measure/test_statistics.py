"""Promises of the statistics: ends that hold for any scores, exact small cases, and agreement with scipy."""

from __future__ import annotations

import doctest
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.errors import ConfigError, LabelError
from revector.measure import power, statistics
from revector.measure.power import detectable_drop, queries_needed
from revector.measure.statistics import (
    deviation_of,
    gap_interval,
    is_saturated,
    paired_interval,
    randomisation_p,
    score_interval,
)

scores = st.lists(st.tuples(*[st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0])] * 2), min_size=1, max_size=40)


def test_doctests_hold() -> None:
    for module, least in ((statistics, 2), (power, 2)):
        results = doctest.testmod(module)
        assert results.attempted >= least
        assert results.failed == 0


@pytest.mark.parametrize(("lost", "queries"), [(0, 50), (1, 50), (7, 60), (200, 200)])
def test_on_two_values_the_ends_are_those_of_clopper_and_pearson(lost: int, queries: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = score_interval([0.0] * lost + [1.0] * (queries - lost), draws=100_000)
    exact = stats.binomtest(queries - lost, queries).proportion_ci(0.95, method="exact")
    assert found.mean == pytest.approx(1 - lost / queries)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.002)


def test_queries_without_any_difference_exclude_only_a_drop_that_they_would_have_shown() -> None:
    """The planted fault of percentile and BCa bootstraps: 50 equal scores would exclude every drop."""
    for queries in (50, 200, 1_000):
        interval = paired_interval([1.0] * queries, [1.0] * queries, draws=100_000)
        assert interval.mean == 0
        assert interval.low == pytest.approx(0.025 ** (1 / queries) - 1, rel=0.02)
        assert interval.high == pytest.approx(1 - 0.025 ** (1 / queries), rel=0.02)


def test_on_many_queries_the_interval_is_that_of_scipy_s_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    old, new = rng.beta(2, 2, 2_000), rng.beta(2, 2, 2_000)
    found = paired_interval(old, new)
    peer = stats.bootstrap((new - old,), np.mean, method="BCa", n_resamples=5_000, batch=100, rng=rng)
    ends = peer.confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.1 * (ends.high - ends.low))


@given(scores)
def test_an_interval_holds_its_mean_and_swaps_with_old_and_new(pairs: list[tuple[float, float]]) -> None:
    old, new = zip(*pairs, strict=True)
    found = paired_interval(old, new, draws=200)
    assert -1 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1
    swapped = paired_interval(new, old, draws=4_000)
    again = paired_interval(old, new, draws=4_000)
    assert swapped.mean == pytest.approx(-again.mean)
    assert (swapped.low, swapped.high) == pytest.approx((-again.high, -again.low), abs=0.08)


def test_equal_seeds_give_equal_numbers_and_the_order_of_queries_does_not_count() -> None:
    rng = np.random.default_rng(2)
    old, new = rng.random(100), rng.random(100)
    order = rng.permutation(100)
    assert paired_interval(old, new) == paired_interval(list(old), list(new))
    assert paired_interval(old, new) == pytest.approx(paired_interval(old[order], new[order]))
    assert randomisation_p(old, new) == randomisation_p(old[order], new[order])
    assert paired_interval(old, new, seed=1) != paired_interval(old, new)


def test_more_confidence_and_fewer_queries_widen_an_interval() -> None:
    rng = np.random.default_rng(3)
    old, new = rng.random(400), rng.random(400)
    usual = paired_interval(old, new)
    assert paired_interval(old, new, confidence=0.99).low < usual.low
    assert paired_interval(old[:100], new[:100]).low < usual.low


def test_memory_is_bounded_by_blocks_not_by_draws() -> None:
    rng = np.random.default_rng(4)
    old, new = rng.random(2_000), rng.random(2_000)
    tracemalloc.start()
    paired_interval(old, new, draws=3_000)
    randomisation_p(old, new, draws=3_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * statistics.BLOCK  # of 2,000 x 3,000 x 8 bytes and their copies


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=8, max_size=8))
def test_the_p_of_eight_queries_counts_all_256_sign_flips(pairs: list[tuple[int, int]]) -> None:
    differences = [new - old for old, new in pairs]
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((-1, 1), repeat=8)
    ]
    expected = sum(abs(flip) >= abs(sum(differences)) for flip in flips) / 256
    found = randomisation_p([old / 10 for old, _ in pairs], [new / 10 for _, new in pairs])
    assert found == pytest.approx(expected)


def test_eight_gains_have_the_p_of_two_flips_in_256() -> None:
    assert randomisation_p([0.0] * 8, [1.0] * 8) == 2 / 256
    assert randomisation_p([0.5] * 8, [0.5] * 8) == 1.0


def test_a_drawn_p_agrees_with_scipy_s_permutation_test_and_is_never_zero() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(5)
    old = rng.binomial(4, 0.5, 80) / 4
    new = np.clip(old + rng.choice([-0.25, 0, 0.25, 0.5], 80), 0, 1)
    peer = stats.permutation_test(
        (new, old), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20_000,
        vectorized=True, batch=500, rng=rng,
    )  # fmt: skip
    assert randomisation_p(old, new, draws=20_000) == pytest.approx(peer.pvalue, abs=0.01)
    assert randomisation_p(np.zeros(80), np.ones(80), draws=999) == 1 / 1_000


def test_the_p_of_equal_models_is_uniform_enough() -> None:
    rng = np.random.default_rng(6)
    found = [randomisation_p(rng.random(40), rng.random(40), draws=199, seed=i) for i in range(400)]
    assert np.mean(np.array(found) <= 0.05) < 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 400)


def test_the_detectable_drop_is_the_textbook_one_for_many_queries() -> None:
    z = 1.959964 + 0.841621
    assert detectable_drop(0.4, 1_000_000) == pytest.approx(z * 0.4 / 1_000, rel=0.01)
    assert detectable_drop(0.4, 400) < detectable_drop(0.4, 400, power=0.9) < detectable_drop(0.5, 400, power=0.9)
    assert detectable_drop(0.4, 400) < detectable_drop(0.4, 400, confidence=0.99)
    assert detectable_drop(0.3, 1) == 1.0


def test_fifty_equal_scores_do_not_detect_every_drop() -> None:
    """The planted fault of the textbook formula: with no deviation it gives 0."""
    assert detectable_drop(0.0, 50) == pytest.approx(1 - 0.025 ** (1 / 50), rel=0.1)


@given(st.floats(0, 1), st.floats(0.005, 1))
def test_so_many_queries_are_needed_and_not_one_fewer(deviation: float, drop: float) -> None:
    needed = queries_needed(deviation, drop)
    assert detectable_drop(deviation, needed) <= drop
    assert needed == 1 or detectable_drop(deviation, needed - 1) > drop


def test_a_drop_that_the_queries_can_detect_is_detected() -> None:
    rng = np.random.default_rng(7)
    drop, shown, excluded = 0.06, 0, 0
    equal = rng.random((2, 20_000)) < 0.7
    queries = queries_needed(deviation_of(*equal.astype(float)), drop)
    for seed in range(150):
        old, new = (rng.random((2, queries)) < 0.7).astype(float)
        excluded += paired_interval(old, new, draws=500, seed=seed).low > -drop
        lost = new * (rng.random(queries) >= drop / 0.7)
        shown += paired_interval(old, lost, draws=500, seed=seed).high < 0
    assert 0.65 <= shown / 150 <= 0.95
    assert 0.65 <= excluded / 150 <= 0.95


@pytest.mark.parametrize(
    ("scored", "baseline", "margin", "saturated"),
    [
        (0.99, 0.98, 0.02, True),
        (0.99, 0.95, 0.02, False),  # the baseline would fail the gate: the set tells models apart
        (0.60, 0.60, 0.02, False),  # as good as the baseline, and far from the ceiling
        (0.99, 0.10, 0.02, False),  # a good model alone is no saturation
        (0.97, 0.99, 0.02, True),
        (1.00, 1.00, 0.00, True),
    ],
)
def test_saturated_is_at_the_ceiling_together_with_a_trivial_baseline(
    scored: float, baseline: float, margin: float, saturated: bool
) -> None:
    assert is_saturated([scored] * 9, [baseline] * 9, margin=margin) is saturated


def test_the_ceiling_is_what_the_labels_let_a_ranking_reach() -> None:
    scored, baseline = [0.61] * 9, [0.60] * 9
    assert not is_saturated(scored, baseline, margin=0.02)
    assert is_saturated(scored, baseline, margin=0.02, attainable=[0.62] * 9)


@pytest.mark.parametrize("bad", [[], [math.nan], [1.5], [-0.1], [math.inf], [[1.0]], [1.0, 1.0]])
def test_scores_that_are_none_are_refused(bad: list[float]) -> None:
    for function in (paired_interval, randomisation_p, deviation_of):
        with pytest.raises(LabelError, match="Nothing was compared"):
            function([1.0], bad)
    with pytest.raises(LabelError):
        is_saturated([1.0], bad, margin=0.1)


def test_impossible_demands_are_refused() -> None:
    for confidence, draws in ((0.0, 10), (1.0, 10), (0.95, 0)):
        with pytest.raises(ConfigError):
            paired_interval([1.0], [1.0], confidence=confidence, draws=draws)
    for deviation, queries, options in ((-1.0, 5, {}), (0.3, 0, {}), (math.nan, 5, {}), (0.3, 5, {"power": 1.0})):
        with pytest.raises(ConfigError):
            detectable_drop(deviation, queries, **options)
    for drop in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ConfigError):
            queries_needed(0.3, drop)
    with pytest.raises(ConfigError):
        is_saturated([1.0], [1.0], margin=-0.1)


def test_one_query_has_no_deviation() -> None:
    assert deviation_of([1.0], [0.0]) == 0.0
    assert deviation_of([1.0, 0.0], [0.0, 1.0]) == 1.0  # of 1.41, cut to what detectable_drop takes


def test_the_gap_between_two_groups_is_missed_no_more_often_than_its_confidence_says() -> None:
    rng, missed = np.random.default_rng(4), [0, 0]
    for seed in range(400):
        first, second = (rng.random(size) < share for size, share in ((20, 0.6), (150, 0.9)))
        found = gap_interval(first.astype(float), second.astype(float), draws=1_000, seed=seed)
        missed[0] += found.high < -0.3
        missed[1] += found.low > -0.3
    assert max(missed) <= 400 * 0.025 + 8  # three deviations of chance
    assert gap_interval([1.0] * 400, [0.0] * 400).low > 0.95


def test_a_gap_has_two_sides_and_needs_queries_on_both() -> None:
    one, other = [0.0, 0.5, 1.0, 1.0], [1.0] * 30
    there, back = gap_interval(one, other), gap_interval(other, one)
    assert there.mean == -back.mean
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.03)
    with pytest.raises(LabelError):
        gap_interval([], other)
