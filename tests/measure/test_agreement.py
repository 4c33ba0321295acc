"""Promises of agreement: overlap and RBO as the paper defines them, and sums that add up to the same figures."""

from __future__ import annotations

import doctest
import json
import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.errors import ConfigError, LabelError
from revector.measure import agreement
from revector.measure.agreement import AgreementTally, agree, overlap_at_k, rank_biased_overlap

rankings = st.lists(st.sampled_from("abcdefghijklmno"), unique=True, max_size=15)


def webber(old: list[str], new: list[str], p: float) -> float:
    """Equation 32, written down as it is printed."""
    short, long = sorted((old, new), key=len)
    s, l = len(short), len(long)  # noqa: E741 - the paper's letters
    x = [len({*short[:d]} & {*long[:d]}) for d in range(l + 1)]
    seen = sum(x[d] / d * p**d for d in range(1, l + 1))
    beyond = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (seen + beyond) + ((x[l] - x[s]) / l + x[s] / s) * p**l


def test_doctests_hold() -> None:
    results = doctest.testmod(agreement)
    assert results.attempted >= 2
    assert results.failed == 0


@pytest.mark.parametrize(
    ("old", "new", "p", "expected"),
    [
        # Agreement at each depth: 0, then 1 for ever: (1 - p) p + p²
        ("ab", "ba", 0.5, 0.5),
        # 1, 1/2, then 1/2: (1 - p) (1 + p/2) + p²/2
        ("ab", "ac", 0.9, 0.1 * (1 + 0.45) + 0.405),
        # Unequal lengths: depth 1 agrees wholly; at depth 2 one of one is taken to go on: 1.
        ("a", "ab", 0.9, 1.0),
        # Depth 1: 0. Depth 2: 1/2, weighed p²; the rest agrees by half as well, weighed p².
        ("a", "ba", 0.5, 0.5 * 0.25 + 0.5 * 0.25),
    ],
)
def test_rbo_equals_hand_computed_values(old: str, new: str, p: float, expected: float) -> None:
    assert rank_biased_overlap(list(old), list(new), p) == pytest.approx(expected, abs=1e-12)


@given(rankings, rankings, st.floats(0.05, 0.98))
def test_rbo_is_the_papers_equation_symmetric_and_a_share(old: list[str], new: list[str], p: float) -> None:
    found = rank_biased_overlap(old, new, p)
    assert found == rank_biased_overlap(new, old, p)
    assert -1e-9 <= found <= 1 + 1e-9
    if old and new:
        assert found == pytest.approx(webber(old, new, p), abs=1e-9)
    assert rank_biased_overlap(old, old, p) == pytest.approx(1.0)


def test_rbo_weighs_the_top_more_and_overlap_does_not() -> None:
    old, top, bottom = list("abcdefghij"), list("bacdefghij"), list("abcdefghji")
    assert rank_biased_overlap(old, top) < rank_biased_overlap(old, bottom) < 1
    assert overlap_at_k(old, top, 10) == overlap_at_k(old, bottom, 10) == 1.0


def test_overlap_counts_only_the_top_and_a_short_ranking_as_missing() -> None:
    assert overlap_at_k(list("abcd"), list("dcbx"), 2) == 0.0
    assert overlap_at_k(list("abcd"), list("dcbx"), 4) == 0.75
    assert overlap_at_k(list("ab"), list("a"), 10) == 0.5
    assert overlap_at_k([], list("a"), 10) == 0.0
    assert overlap_at_k([], [], 10) == 1.0


def test_nothing_found_by_both_agrees_and_by_one_does_not() -> None:
    assert rank_biased_overlap([], []) == 1.0
    assert rank_biased_overlap([], ["a"]) == rank_biased_overlap(["a"], []) == 0.0


@pytest.mark.parametrize("measure", [lambda a, b: overlap_at_k(a, b, 10), rank_biased_overlap])
def test_a_document_twice_and_an_id_that_is_no_text_are_refused(measure) -> None:
    for wrong, said in ((["a", "b", "a"], "'a' twice"), (["a", math.nan], "nan as a document")):
        for pair in ((wrong, ["a"]), (["a"], wrong)):
            with pytest.raises(LabelError, match=said):
                measure(*pair)


@pytest.mark.parametrize("p", [0.0, 1.0, math.nan, -1.0])
def test_a_persistence_that_is_no_chance_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        rank_biased_overlap(["a"], ["a"], p)


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="k=0"):
        overlap_at_k(["a"], ["a"], 0)


def test_many_queries_give_means_with_intervals_and_the_unchanged_ones() -> None:
    old = {f"q{n}": ["a", "b"] for n in range(40)}
    new = {query: ["a", "b"] if n % 2 else ["a", "x"] for n, query in enumerate(old)}
    found = agree(old, new, k=2)
    data = json.loads(json.dumps(found.as_data()))
    assert (data["queries"], data["unchanged"]) == (40, 20)
    assert data["overlap"]["mean"] == 0.75
    assert 0.66 < data["overlap"]["low"] < 0.75 < data["overlap"]["high"] < 0.84
    assert found.rbo["q0"] == pytest.approx(0.1 * 1.45 + 0.405)
    assert list(islice(found.overlap.items(), 2)) == [("q0", 0.5), ("q1", 1.0)]


def test_what_lies_below_k_counts_for_neither_measure() -> None:
    found = agree({"q": ["a", "b", "c"]}, {"q": ["a", "b", "x"]}, k=2)
    assert found.overlap["q"] == 1.0
    assert found.rbo["q"] == pytest.approx(1.0)


def test_other_queries_and_none_are_refused() -> None:
    with pytest.raises(LabelError, match="1 of 2 are in one only, such as 'r'"):
        agree({"q": ["a"]}, {"q": ["a"], "r": ["b"]})
    with pytest.raises(LabelError, match="no queries"):
        agree({}, {})


# Sums -----------------------------------------------------------------------------------------------------------------


def tally(values: list[float], ms: list[float]) -> AgreementTally:
    made = AgreementTally()
    for value, took in zip(values, ms, strict=True):
        made.note(value, value / 2, old_ms=took, new_ms=2 * took)
    return made


def test_sums_give_the_mean_and_its_normal_interval() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 11, 500) / 10
    data = tally(values.tolist(), [1.0] * 500).as_data()
    reach = 1.96 * values.std(ddof=1) / math.sqrt(500)
    assert data["overlap"]["mean"] == pytest.approx(values.mean())
    assert data["overlap"]["low"] == pytest.approx(values.mean() - reach, abs=1e-5)
    assert data["rbo"]["high"] == pytest.approx((values.mean() + reach) / 2, abs=1e-5)
    assert data["overlap_tenths"] == np.bincount((values * 10).round().astype(int), minlength=11).tolist()


def test_percentiles_of_latency_are_within_nine_percent() -> None:
    ms = np.random.default_rng(6).lognormal(3, 1, 4_000)
    data = tally([1.0] * 4_000, ms.tolist()).as_data()
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert data["old_latency_ms"][name] == pytest.approx(np.percentile(ms, share), rel=0.1)
        assert data["new_latency_ms"][name] == pytest.approx(2 * np.percentile(ms, share), rel=0.1)


def test_latencies_beyond_the_buckets_count_in_the_outermost() -> None:
    made = tally([1.0, 1.0], [0.0, 1e9])
    assert made.old_ms[0] == made.old_ms[-1] == 1
    for wrong in (math.nan, math.inf, -1.0):
        with pytest.raises(LabelError, match="cannot be counted"):
            made.note(1.0, 1.0, old_ms=wrong, new_ms=1.0)


def test_two_tallies_add_up_to_the_tally_of_all_and_survive_json() -> None:
    first, second, both = tally([0.1, 0.9], [1, 2]), tally([0.5], [30]), tally([0.1, 0.9, 0.5], [1, 2, 30])
    first.shed, second.errors, both.shed, both.errors = 3, 1, 3, 1
    first.add(AgreementTally.from_row(json.loads(json.dumps(second.as_row()))))
    found, wanted = first.as_row(), both.as_row()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value), name


def test_a_refused_latency_leaves_the_sums_as_they_were() -> None:
    made = tally([0.5], [1.0])
    before = made.as_row()
    with pytest.raises(LabelError):
        made.note(1.0, 1.0, old_ms=1.0, new_ms=math.nan)
    assert made.as_row() == before


def test_nothing_compared_has_no_figures() -> None:
    made = AgreementTally(shed=2)
    data = made.as_data()
    assert (data["shed"], data["overlap"], data["new_latency_ms"]) == (2, None, None)
