"""Retrieval metrics per query, and the scatter of how like rankings are; pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import RR, R, Success, nDCG

from revector.errors import ConfigError, LabelError

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → judged relevance; relevant means at least 1."""

Run: TypeAlias = Mapping[str, Sequence[str]]
"""Query id → retrieved document ids, best first, each at most once."""

MetricName: TypeAlias = Literal["recall", "ndcg", "mrr", "hit"]


METRIC_NAMES: Mapping[MetricName, str] = {"recall": "recall", "ndcg": "nDCG", "mrr": "MRR", "hit": "hit"}
"""Metrics as people call them, in the order in which they are shown."""


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def evaluate(qrels: Qrels, run: Run, k: int) -> dict[MetricName, dict[str, float]]:
    """Return recall, nDCG, reciprocal rank and hit rate at rank ``k`` for each query, in one pass.

    Queries without a relevant document are left out: their recall is undefined, and counting them as 0 or 1 would move
    the mean by an amount that depends on the labels alone. Queries missing from ``run`` score 0; queries of ``run``
    without judgements are ignored.

    Args:
        qrels: Judged documents per query.
        run: Retrieved documents per query, best first.
        k: Cut-off rank, at least 1.

    Returns:
        ``recall``, ``ndcg``, ``mrr`` and ``hit``, each query id → value in [0, 1] in the order of ``qrels``. Relevance
        is binary but for nDCG, whose gain is the judged score.

    Raises:
        ConfigError: If ``k`` is below 1.
        LabelError: If ``run`` lists a document twice for one query.

    Source:
        trec_eval's ``recall_k``, ``ndcg_cut_k``, ``recip_rank`` and ``success_k`` (missing queries as with its ``-c``),
        through ir-measures: MacAvaney, Macdonald & Ounis, *Streamlining Evaluation with ir-measures* (ECIR 2022).

    >>> evaluate({"q": {"a": 1, "b": 1}}, {"q": ["x", "a", "b"]}, k=2)["mrr"]
    {'q': 0.5}

    """
    if k < 1:
        raise ConfigError(f"metrics were asked for at rank k={k}; k must be at least 1. Nothing was measured.")
    gains = {
        query: relevant
        for query, judged in qrels.items()
        if (relevant := {document: score for document, score in judged.items() if score >= 1})
    }
    if not gains:
        return {"recall": {}, "ndcg": {}, "mrr": {}, "hit": {}}
    # With the ranking cut at k, plain RR is RR@k, and trec_eval measures everything in a single call.
    measures: dict[ir_measures.Measure, MetricName] = {R @ k: "recall", nDCG @ k: "ndcg", RR: "mrr", Success @ k: "hit"}
    scores = {query: _scores(query, run.get(query, ()), k) for query in gains}
    found: dict[MetricName, dict[str, float]] = {name: dict.fromkeys(gains, 0.0) for name in measures.values()}
    for metric in ir_measures.iter_calc(list(measures), gains, scores):
        found[measures[metric.measure]][metric.query_id] = float(metric.value)
    return found


def recall_at_k(qrels: Qrels, run: Run, k: int) -> dict[str, float]:
    """Return, per query, the share of its relevant documents found in the top ``k``.

    Arguments, order, queries left out and errors are those of ``evaluate``. A query with more than ``k`` relevant
    documents cannot reach 1.

    Source:
        Manning, Raghavan & Schütze, *Introduction to Information Retrieval* (2008), sections 8.3-8.4; the value that
        trec_eval calls ``recall_k``. Not the overlap with exact neighbours that ANN benchmarks also call recall.

    >>> recall_at_k({"q": {"a": 1, "b": 2, "c": 0}}, {"q": ["b", "x", "a"]}, k=2)
    {'q': 0.5}
    """
    return evaluate(qrels, run, k)["recall"]


def attainable_recall(qrels: Qrels, k: int) -> dict[str, float]:
    """Return the best recall@k that any ranking has, per query with a relevant document.

    >>> attainable_recall({"q": {"a": 1, "b": 2, "c": 0}}, k=1)
    {'q': 0.5}

    """
    relevant = {query: sum(score >= 1 for score in judged.values()) for query, judged in qrels.items()}
    return {query: min(k, count) / count for query, count in relevant.items() if count}


def _scores(query: str, ranked: Sequence[str], k: int) -> dict[str, float]:
    """Return falling scores for the top ``k``: ir-measures orders by score, a run by position."""
    if len(set(ranked)) != len(ranked):
        twice = next(document for i, document in enumerate(ranked) if document in ranked[:i])
        raise LabelError(
            f"the ranking of query {query!r} lists document {twice!r} twice; each may appear once, or it would count "
            "twice. Nothing was measured; keep the best rank of each document."
        )
    top = ranked[:k]
    return {document: float(len(top) - rank) for rank, document in enumerate(top)}


def mean_interval(
    values: Sequence[float] | npt.NDArray[np.float64], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of per-query values and its percentile bootstrap interval over queries.

    For how like two rankings are, which is reported. Metrics of labelled queries have ``statistics.score_interval``
    everywhere, by which the gate judges: this one has no width where all queries agree, however few they are.

    Args:
        values: One finite value per query, at least one. A single value has the interval of width 0.
        confidence: Coverage in (0, 1).
        draws: Bootstrap samples, at least 1.
        seed: Equal seeds and values give equal intervals.

    Raises:
        ConfigError: If ``confidence`` or ``draws`` is out of range.
        LabelError: If there are no values, or one is not finite.

    Source:
        Efron & Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 13 (percentile intervals).

    >>> mean_interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)

    """
    if not 0 < confidence < 1 or draws < 1:
        raise ConfigError(
            f"an interval was asked for with confidence={confidence} and draws={draws}; confidence must lie between 0 "
            "and 1, draws must be at least 1. Nothing was measured."
        )
    sample = _finite(values, "a mean")
    rng = np.random.default_rng(seed)
    # One draw at a time: all draws at once would hold draws x queries numbers.
    means = [sample[rng.integers(0, sample.size, sample.size)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def latency_ms(values: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, float]:
    """Return ``p50``, ``p95`` and ``p99`` of latencies, all in milliseconds, interpolated linearly between values.

    Raises:
        LabelError: If there are no values, or one is not finite.

    >>> latency_ms([1.0, 2.0, 3.0])["p50"]
    2.0

    """
    p50, p95, p99 = np.percentile(_finite(values, "latency"), [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def _finite(values: Sequence[float] | npt.NDArray[np.float64], what: str) -> npt.NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise LabelError(f"{what} was asked for over no queries; at least one is needed. Check the labels.")
    if not np.isfinite(sample).all():
        raise LabelError(
            f"{what} was asked for over {sample.size} values, {int((~np.isfinite(sample)).sum())} of them NaN or "
            "infinite; all must be finite. Check how they were measured."
        )
    return sample
