"""The gate before a swap: old and new measured on the same labelled queries, and the verdict on what was measured."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from revector.documents.own import OwnDocuments
from revector.errors import LabelError, StateError
from revector.gate import judgement
from revector.gate.judgement import Thresholds
from revector.interfaces import Progress
from revector.labels import Labels, Span, check_against, item_qrels, placed, ranked_items
from revector.measure.comparison import Comparison, ScoredRun, check_rank, compare, plain
from revector.measure.metrics import Interval, MetricName, attainable_recall, evaluate, latency_ms, mean_interval
from revector.measure.slices import Slices, query_slices
from revector.registry.collections import Generation
from revector.serving.queries import named
from revector.serving.searcher import Answer, Searcher
from revector.spec import Gate, stable_hash

CHUNKS_PER_ITEM = 4
MOST_CHUNKS = 1_000
"""Chunks that are looked through for k judged spans; what is not among them counts as not found."""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """A judgement with its evidence; ``reasons`` is empty when it passed."""

    value: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...]
    detail: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the alias may move."""
        return self.value == "pass"


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The labelled queries that can be measured, with the judgements of documents that exist.

    ``qrels`` judges documents, ``items`` what was judged: documents and spans of them (``labels.items``). ``own`` are
    the documents that are a query themselves and not judged relevant for it: they are no answers, and are left out of
    what is found, as BEIR does. ``fingerprint`` changes with any text and judgement of them. ``counts`` says what was
    left out.
    """

    labels: Labels
    qrels: Mapping[str, Mapping[str, int]]
    items: Mapping[str, Mapping[str, int]]
    fingerprint: str
    counts: Mapping[str, int]
    own: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Query id → text."""
        return {query: self.labels.queries[query] for query in self.qrels}

    def slices(self, names: Collection[str] = ()) -> Slices:
        """Return the queries by fields of their metadata; see ``slices.query_slices``."""
        return query_slices(self.texts, self.labels.meta, names)


@dataclass(frozen=True, slots=True)
class GateMeasurement:
    """One generation measured on labelled queries through the production search path.

    ``run`` holds the first k items of each query, ``fingerprint`` is that of the ``QuerySet``. ``refused``: the queries
    that a search refuses, and why; they found nothing.
    """

    generation: int
    revision: str
    metrics: Mapping[MetricName, Mapping[str, float]]
    run: Mapping[str, list[str]]
    latency_ms: Mapping[str, float]
    fingerprint: str
    refused: Mapping[str, str] = field(default_factory=dict)

    def interval(self, metric: MetricName = "recall") -> Interval:
        """Mean and 95 % bootstrap interval over queries of one metric."""
        return mean_interval(list(self.metrics[metric].values()))

    @property
    def scored(self) -> ScoredRun:
        """What is compared with another generation."""
        return ScoredRun(self.revision, self.fingerprint, self.metrics, self.run)


class JudgedCorpus(Protocol):
    """The documents that labels are matched with; ``documents.documents.Documents`` is one."""

    def known(self, doc_ids: Iterable[str], /) -> set[str]:
        """Return those of ``doc_ids`` that exist."""
        ...

    def texts(self, doc_ids: Iterable[str], /) -> Mapping[str, str]:
        """Return the cleaned texts of those of ``doc_ids`` that exist."""
        ...

    def own(self, queries: Mapping[str, str], /) -> OwnDocuments:
        """Return the documents that are one of ``queries``, id → text, themselves."""
        ...


def usable_queries(labels: Labels, corpus: JudgedCorpus) -> QuerySet:
    """Return the queries with a relevant document that exists, and the judgements of such documents.

    A document that was deleted cannot be found by any model: it leaves both sides. Raises ``LabelError`` for labels
    of another corpus, and for spans whose quoted text is not in their document.
    """
    labels = placed(labels, corpus.texts)
    check = check_against(labels, corpus.known)
    unknown, left = set(check.unknown_ids), set(check.queries_left)
    qrels = {
        query: {doc: score for doc, score in judged.items() if doc not in unknown}
        for query, judged in labels.qrels.items()
        if query in left
    }
    items = item_qrels(labels, qrels)
    texts = {query: labels.queries[query] for query in qrels}
    found = corpus.own(texts)
    own = {
        query: itself
        for query, ids in found.documents.items()
        if (itself := frozenset(doc for doc in ids if qrels[query].get(doc, 0) < 1))
    }
    counts = {
        "queries": len(qrels),
        "queries_lost": len(check.queries_lost),
        "pairs": check.known_pairs,
        "unknown_documents": len(unknown),
        "unjudged_queries": len(labels.unjudged),
        "own_documents": len(own),
        "same_ids": found.other,
    }
    told: dict[str, Any] = {"qrels": items, "queries": texts}
    if own:
        told["own"] = {query: sorted(ids) for query, ids in own.items()}
    return QuerySet(labels, qrels, items, stable_hash(told), counts, own)


def refuse_unmeasurable(gate: Gate, queries: QuerySet, documents: int) -> None:
    """Refuse a gate that these labels over that number of documents could never pass: before the work, not after it.

    Raises ``LabelError`` for fewer queries than it demands, a slice that no query is in, and a recall that no ranking
    reaches; ``ConfigError`` for ``k`` above the number of documents.
    """
    if (found := len(queries.qrels)) < gate.min_queries:
        raise LabelError(
            f"the gate demands at least {gate.min_queries} labelled queries, {queries.labels.name} has {found} whose "
            f"documents exist ({queries.counts['queries_lost']} lost theirs). Nothing was measured; label more "
            "queries, or lower gate.min_queries in the migration file."
        )
    check_rank(gate.k, documents)
    queries.slices(gate.slices)
    best = list(attainable_recall(queries.items, gate.k).values())
    judgement.check_attainable(gate.min_recall, sum(best) / len(best), gate.k)


def measure(
    searcher: Searcher,
    generation: Generation,
    queries: QuerySet,
    k: int,
    progress: Progress,
    *,
    exact: bool = False,
) -> GateMeasurement:
    """Search every query in one generation and score its first ``k`` items.

    A query with judged spans is answered by chunks, one without by documents, as they are served; so one that would be
    refused finds nothing. Documents that are the query itself are left out.
    """
    texts, refused = searcher.askable(generation, queries.texts)
    progress.start(f"search {generation.revision}", len(texts), unit="queries")
    run: dict[str, list[str]] = {query: [] for query in queries.texts}
    milliseconds: list[float] = []
    for query, vector in searcher.encode_all(generation, texts):
        spans, own = queries.labels.spans.get(query, ()), queries.own.get(query, frozenset())
        started = time.perf_counter()
        run[query] = _items(searcher, generation, vector, k, spans, own, exact=exact)
        milliseconds.append((time.perf_counter() - started) * 1_000)
        progress.advance()
    progress.done()
    return GateMeasurement(
        generation.gen,
        generation.revision,
        evaluate(queries.items, run, k),
        run,
        latency_ms(milliseconds) if milliseconds else {},
        queries.fingerprint,
        refused,
    )


def judge(
    gate: Gate,
    queries: QuerySet,
    new: GateMeasurement,
    old: GateMeasurement | None,
    *,
    documents: int,
    index: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | None = None,
) -> GateVerdict:
    """Judge what was measured; the verdict's detail is all that its page needs, but for the texts.

    ``documents``: how many there are to rank. ``index``: ``AnnReport.as_data`` of the new index, None where no answer
    comes from an HNSW index; ``latency``: ``LatencyReport.as_data``, None where it was not measured.

    Raises ``LabelError`` as ``compare`` and ``judgement.judge``, ``ConfigError`` if ``gate.k`` is above ``documents``.
    """
    comparison = compare(
        new.scored,
        None if old is None else old.scored,
        k=gate.k,
        documents=documents,
        max_drop=None if old is None else gate.max_drop,
        max_slice_drop=gate.max_slice_drop,
        slices=queries.slices(gate.slices),
        attainable=attainable_recall(queries.items, gate.k),
        confidence=gate.confidence,
    )
    judged = judgement.judge(
        comparison,
        _thresholds(gate, measured_index=index is not None),
        overlap=None if index is None else index["served"]["overlap"]["mean"],
        latency_ratio=None if latency is None else latency["ratio"]["p95"]["mean"],
    )
    detail = {
        "k": gate.k,
        "gate": plain(gate),
        "labels": queries.labels.name,
        "labels_fingerprint": queries.labels.fingerprint,
        **queries.counts,
        **described(comparison, new, old),
        "findings": plain(judged.findings),
        "ann": index,
        "latency": latency,
    }
    passed = judged.value is judgement.Value.PASS
    reasons = () if passed else tuple(reason.removesuffix(".") for reason in judged.reasons)
    return GateVerdict(judged.value.value, reasons, detail)


def _thresholds(gate: Gate, *, measured_index: bool) -> Thresholds:
    return Thresholds(
        max_drop=gate.max_drop,
        min_recall=gate.min_recall or None,
        min_queries=gate.min_queries,
        max_slice_drop=gate.max_slice_drop,
        min_overlap=gate.min_overlap if measured_index else None,
        max_latency_ratio=gate.max_latency_ratio,
    )


def described(comparison: Comparison, new: GateMeasurement, old: GateMeasurement | None) -> dict[str, Any]:
    """Return what was compared as plain data: in short (``new``, ``old``, ``difference``), whole, and per query."""
    recall = comparison.metrics["recall"]
    sides = {"new": (new, recall.new)} | ({} if old is None else {"old": (old, recall.old)})
    brief = {
        role: {
            "generation": one.generation,
            "revision": one.revision,
            "recall": plain(interval),
            "means": {metric: plain(getattr(change, role).mean) for metric, change in comparison.metrics.items()},
            "latency_ms": dict(one.latency_ms),
            **({"refused_queries": named(one.refused)} if one.refused else {}),
        }
        for role, (one, interval) in sides.items()
    }
    difference = {} if recall.difference is None else {"difference": plain(recall.difference)}
    scores = {role: dict(one.metrics["recall"]) for role, (one, _) in sides.items()}
    return {**brief, **difference, "comparison": comparison.as_data(), "scores": scores}


def _items(
    searcher: Searcher,
    generation: Generation,
    vector: npt.NDArray[np.float32],
    k: int,
    spans: Collection[Span],
    own: Collection[str],
    *,
    exact: bool,
) -> list[str]:
    """Return the best ``k`` items; several chunks may be of one item, so for spans it asks until there are enough."""
    if not spans:
        answer = searcher.search_vector(generation, vector, min(k + len(own), MOST_CHUNKS), exact=exact)
        return [hit.id for hit in _answer(answer, generation).hits if hit.id not in own][:k]
    wanted = k
    while True:
        wanted = min(wanted * CHUNKS_PER_ITEM, MOST_CHUNKS)
        answer = searcher.search_vector(generation, vector, wanted, by="chunk", exact=exact)
        hits = _answer(answer, generation).hits
        places = ((hit.id, hit.start, hit.stop) for hit in hits if hit.id not in own)
        found: Sequence[str] = ranked_items(places, spans)
        if len(found) >= k or len(hits) < wanted or wanted == MOST_CHUNKS:
            return list(found[:k])


def _answer(answer: Answer | None, generation: Generation) -> Answer:
    if answer is None:
        raise StateError(f"generation {generation.gen} did not answer; it must be live. Nothing was measured.")
    return answer
