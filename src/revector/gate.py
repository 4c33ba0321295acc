"""The gate before a swap: recall of old and new on the labelled queries, and the verdict on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from revector import judgement
from revector.comparison import Comparison, Scored, attainable_recall, compare
from revector.errors import LabelError
from revector.interfaces import Progress
from revector.judgement import Thresholds
from revector.labels import Labels, check_against
from revector.metrics import Interval, MetricName, evaluate, latency_ms, mean_interval, paired_difference
from revector.registry.collections import Generation
from revector.searcher import Searcher
from revector.spec import Gate, stable_hash

ENCODE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement with its evidence; ``reasons`` is empty when it passed."""

    value: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...]
    detail: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the alias may move."""
        return self.value == "pass"


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation measured on labelled queries through the production search path."""

    generation: int
    revision: str
    metrics: Mapping[MetricName, Mapping[str, float]]
    run: Mapping[str, list[str]]
    latency_ms: Mapping[str, float]

    def interval(self, metric: MetricName = "recall") -> Interval:
        """Mean and 95 % bootstrap interval over queries of one metric."""
        return mean_interval(list(self.metrics[metric].values()))


def measure(
    searcher: Searcher,
    generation: Generation,
    labels: Labels,
    qrels: Mapping[str, Mapping[str, int]],
    k: int,
    progress: Progress,
    *,
    exact: bool = False,
) -> Measured:
    """Search every query of ``qrels`` in one generation and score the ranking of documents at rank ``k``."""
    queries = list(qrels)
    progress.start(f"search {generation.revision}", len(queries), unit="queries")
    run: dict[str, list[str]] = {}
    milliseconds: list[float] = []
    for at in range(0, len(queries), ENCODE_ROWS):
        batch = queries[at : at + ENCODE_ROWS]
        for query, vector in zip(
            batch, searcher.encode(generation, [labels.queries[query] for query in batch]), strict=True
        ):
            started = time.perf_counter()
            answer = searcher.search_vector(generation, vector, k, exact=exact)
            milliseconds.append((time.perf_counter() - started) * 1_000)
            run[query] = [] if answer is None else [hit.id for hit in answer.hits]
            progress.advance()
    progress.done()
    return Measured(generation.gen, generation.revision, evaluate(qrels, run, k), run, latency_ms(milliseconds))


def usable_qrels(labels: Labels, known: Any, gate: Gate) -> tuple[dict[str, dict[str, int]], Mapping[str, Any]]:
    """Return the judgements whose documents exist, and what was left out.

    A document that was deleted cannot be found by any model: it leaves both sides. Raises ``LabelError`` for labels
    of another corpus, and for fewer usable queries than the gate demands.
    """
    check = check_against(labels, known)
    unknown = set(check.unknown_ids)
    left = set(check.queries_left)
    qrels = {
        query: {doc: score for doc, score in judged.items() if doc not in unknown}
        for query, judged in labels.qrels.items()
        if query in left
    }
    if len(qrels) < gate.min_queries:
        raise LabelError(
            f"the gate demands at least {gate.min_queries} labelled queries, {labels.name} has {len(qrels)} whose "
            f"documents exist ({len(check.queries_lost)} lost theirs). Nothing was measured; label more queries, or "
            "lower gate.min_queries in the migration file."
        )
    return qrels, {
        "queries": len(qrels),
        "queries_lost": len(check.queries_lost),
        "pairs": check.known_pairs,
        "unknown_documents": len(unknown),
        "unjudged_queries": len(labels.unjudged),
    }


def judge(
    gate: Gate,
    new: Measured,
    old: Measured | None,
    *,
    labels: Labels,
    counts: Mapping[str, Any],
    qrels: Mapping[str, Mapping[str, int]],
    documents: int,
) -> Verdict:
    """Compare recall with the thresholds, by means or, with ``gate.confidence``, by intervals; numbers in, verdict out.

    ``documents`` is how many there are to rank.
    """
    measured = new.interval()
    reasons: list[str] = []
    if measured.mean < gate.min_recall:
        reasons.append(
            f"recall@{gate.k} of revision {new.revision} is {measured.mean:.4f}, at least {gate.min_recall:.4f} is "
            "demanded"
        )
    detail: dict[str, Any] = {
        "k": gate.k,
        "gate": asdict(gate),
        "labels": labels.name,
        "labels_fingerprint": labels.fingerprint,
        **counts,
        "new": _summary(new),
    }
    if old is not None:
        difference = paired_difference(old.metrics["recall"], new.metrics["recall"])
        if -difference.mean > gate.max_drop:
            reasons.append(
                f"recall@{gate.k} falls by {-difference.mean:.4f} against the active revision {old.revision} "
                f"({old.interval().mean:.4f} to {measured.mean:.4f}), at most {gate.max_drop:.4f} is allowed"
            )
        detail |= {"old": _summary(old), "difference": difference._asdict()}
    if gate.confidence is None:
        return Verdict("fail" if reasons else "pass", tuple(reasons), detail)
    comparison = _compare(gate, gate.confidence, new, old, labels=labels, qrels=qrels, documents=documents)
    thresholds = Thresholds(
        max_drop=None if old is None else gate.max_drop,
        min_recall=gate.min_recall or None,
        min_queries=gate.min_queries,
    )
    judged = judgement.judge(comparison, thresholds)
    return Verdict(judged.value.value, tuple(judged.reasons), detail | {"comparison": comparison.as_data()})


def _compare(
    gate: Gate,
    confidence: float,
    new: Measured,
    old: Measured | None,
    *,
    labels: Labels,
    qrels: Mapping[str, Mapping[str, int]],
    documents: int,
) -> Comparison:
    fingerprint = stable_hash({"qrels": qrels, "queries": {query: labels.queries[query] for query in qrels}})
    return compare(
        Scored(new.revision, fingerprint, new.metrics, new.run),
        None if old is None else Scored(old.revision, fingerprint, old.metrics, old.run),
        k=gate.k,
        documents=documents,
        max_drop=None if old is None else gate.max_drop,
        attainable=attainable_recall(qrels, gate.k),
        confidence=confidence,
    )


def _summary(measured: Measured) -> dict[str, Any]:
    means = {metric: sum(values.values()) / len(values) for metric, values in measured.metrics.items()}
    return {
        "generation": measured.generation,
        "revision": measured.revision,
        "recall": measured.interval()._asdict(),
        "means": means,
        "latency_ms": dict(measured.latency_ms),
    }
