"""The verdicts before a swap: that the index equals the documents, and that recall on the labelled queries holds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from revector.errors import LabelError
from revector.interfaces import Progress
from revector.labels import Labels, check_against
from revector.metrics import Interval, MetricName, evaluate, latency_ms, mean_interval, paired_difference
from revector.registry.collections import Generation
from revector.registry.moves import index_of
from revector.searcher import Searcher
from revector.spec import Gate

ENCODE_ROWS = 64
NORM_TOLERANCE = 0.01
"""Stored unit vectors may differ from length 1 by this much: float16 storage rounds to about 0.001."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement with its evidence; ``reasons`` is empty when it passed."""

    passed: bool
    reasons: tuple[str, ...]
    detail: Mapping[str, Any]


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


def judge(gate: Gate, new: Measured, old: Measured | None, *, labels: Labels, counts: Mapping[str, Any]) -> Verdict:
    """Compare recall with the thresholds; numbers in, verdict out."""
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
    return Verdict(not reasons, tuple(reasons), detail)


def _summary(measured: Measured) -> dict[str, Any]:
    means = {metric: sum(values.values()) / len(values) for metric, values in measured.metrics.items()}
    return {
        "generation": measured.generation,
        "revision": measured.revision,
        "recall": measured.interval()._asdict(),
        "means": means,
        "latency_ms": dict(measured.latency_ms),
    }


def verify(connection: sa.Connection, generation: Generation) -> Verdict:
    """Prove from the tables themselves that the index equals the documents, but for what waits in the work set.

    Nothing missing or ahead (invariants I1, I2), chunks exactly as the ledger says, vectors finite, non-zero and of
    unit length where the model normalises, the ANN index valid, the encoder's fingerprint inside the index.
    """
    index = index_of(generation)
    norm = "l2_norm" if index.spec.storage == "halfvec" else "vector_norm"
    wrong_norm = (
        f"abs({norm}(embedding) - 1) > {NORM_TOLERANCE}"
        if generation.spec.model.normalize
        else f"NOT {norm}(embedding) > 0"
    )
    checks = {
        "lost": "SELECT count(*) FROM i1_lost WHERE gen = :gen",
        "ahead": "SELECT count(*) FROM i2_ahead WHERE gen = :gen",
        "chunks_unlike_ledger": (
            "SELECT count(*) FROM (SELECT doc_id, count(*) AS n, min(chunk) AS lowest, max(chunk) AS highest FROM "
            f"{index.name} GROUP BY doc_id) i FULL JOIN (SELECT doc_id, n_chunks FROM ledger WHERE gen = :gen AND "
            "n_chunks > 0) l USING (doc_id) WHERE (i.n, i.lowest, i.highest) IS DISTINCT FROM (l.n_chunks, 0, "
            "l.n_chunks - 1)"
        ),
        "bad_vectors": f"SELECT count(*) FROM {index.name} WHERE {wrong_norm}",
    }
    found = {name: int(connection.scalar(sa.text(sql), {"gen": generation.gen}) or 0) for name, sql in checks.items()}
    reasons = [f"{count} documents or rows are {name.replace('_', ' ')}" for name, count in found.items() if count]
    if index.encoder_fp(connection) != generation.encoder_fp:
        reasons.append(f"the fingerprint inside {index.name} is not the generation's")
    if not index.is_built(connection):
        reasons.append(f"the HNSW index of {index.name} is missing or invalid")
    if not generation.seeded:
        reasons.append("the backfill did not reach every document")
    totals = connection.execute(
        sa.text(
            "SELECT count(*) FILTER (WHERE NOT deleted) AS documents, coalesce(sum(n_chunks), 0)::bigint AS chunks "
            "FROM ledger WHERE gen = :gen"
        ),
        {"gen": generation.gen},
    ).one()
    return Verdict(not reasons, tuple(reasons), {**found, **totals._mapping})
