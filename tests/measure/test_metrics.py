"""Promises of the metrics: textbook values, queries counted as documented, intervals that can be repeated."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.errors import ConfigError, LabelError
from revector.measure import metrics
from revector.measure.metrics import evaluate, latency_ms, mean_interval, recall_at_k

QRELS = {"q2": {"a": 2, "b": 1, "c": 0}, "q1": {"d": 1}, "none": {"e": 0}, "negative": {"f": -1}}
documents = st.sampled_from("abcdefgh")
qrels_and_runs = st.tuples(
    st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.dictionaries(documents, st.integers(-1, 3))),
    st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q4"]), st.lists(documents, unique=True)),
    st.integers(1, 12),
)


def test_doctests_hold() -> None:
    results = doctest.testmod(metrics)
    assert results.attempted >= 4
    assert results.failed == 0


@given(qrels_and_runs)
def test_recall_equals_the_direct_computation(
    case: tuple[dict[str, dict[str, int]], dict[str, list[str]], int],
) -> None:
    qrels, run, k = case
    expected = {}
    for query, judged in qrels.items():
        if relevant := {document for document, score in judged.items() if score >= 1}:
            expected[query] = len(relevant & set(run.get(query, [])[:k])) / len(relevant)
    assert recall_at_k(qrels, run, k) == pytest.approx(expected)


@given(qrels_and_runs)
def test_all_metrics_equal_their_definitions(case: tuple[dict[str, dict[str, int]], dict[str, list[str]], int]) -> None:
    qrels, run, k = case
    found = evaluate(qrels, run, k)
    for query in found["recall"]:
        gains = {document: max(score, 0) for document, score in qrels[query].items()}
        top = [gains.get(document, 0) for document in run.get(query, [])[:k]]
        best = sorted(gains.values(), reverse=True)[:k]
        dcg, ideal = (sum(gain / math.log2(rank + 2) for rank, gain in enumerate(g)) for g in (top, best))
        first = next((rank for rank, gain in enumerate(top, start=1) if gain), math.inf)
        assert found["ndcg"][query] == pytest.approx(dcg / ideal)
        assert found["mrr"][query] == pytest.approx(1 / first)
        assert found["hit"][query] == (first < math.inf)


def test_queries_without_a_relevant_document_are_left_out_and_missing_ones_score_zero() -> None:
    run = {"q1": ["d"], "none": ["e"], "other": ["a"]}
    assert list(recall_at_k(QRELS, run, 10).items()) == [("q2", 0.0), ("q1", 1.0)]


def test_nothing_relevant_or_nothing_found_is_no_error() -> None:
    assert evaluate({}, {}, 10) == {"recall": {}, "ndcg": {}, "mrr": {}, "hit": {}}
    assert recall_at_k({"q": {"a": 1}}, {}, 10) == {"q": 0.0}
    assert recall_at_k({"q": {"a": 1}}, {"q": []}, 10) == {"q": 0.0}


def test_order_is_the_rank_not_the_id() -> None:
    found = evaluate({"q": {"a": 1}}, {"q": ["z", "y", "a"]}, 3)
    assert found["mrr"] == {"q": pytest.approx(1 / 3)}
    assert evaluate({"q": {"a": 1}}, {"q": ["z", "y", "a"]}, 2)["mrr"] == {"q": 0.0}


def test_a_document_ranked_twice_is_refused() -> None:
    with pytest.raises(LabelError, match="query 'q' lists document 'b' twice"):
        recall_at_k({"q": {"a": 1}}, {"q": ["b", "a", "b"]}, 1)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="k=0"):
        recall_at_k(QRELS, {}, 0)


def test_an_interval_holds_its_mean_and_can_be_repeated() -> None:
    values = np.random.default_rng(1).random(200)
    interval = mean_interval(values)
    assert interval == mean_interval(list(values))
    assert interval.low < interval.mean < interval.high
    assert mean_interval(values, confidence=0.5).low > interval.low


def test_an_interval_is_as_wide_as_normal_theory_says() -> None:
    values = np.random.default_rng(2).normal(size=400)
    interval = mean_interval(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_one_value_and_equal_values_have_width_zero() -> None:
    assert mean_interval([0.5]) == mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_nothing_and_no_numbers_are_refused(values: list[float]) -> None:
    for function in (mean_interval, latency_ms):
        with pytest.raises(LabelError):
            function(values)


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 1.0}, {"draws": 0}])
def test_an_impossible_interval_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        mean_interval([1.0], **options)  # type: ignore[arg-type]


def test_latency_is_given_as_three_percentiles() -> None:
    assert latency_ms([float(v) for v in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
