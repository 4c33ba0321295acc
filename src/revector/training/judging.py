"""Owns the judgement of a trained model: recall on queries held out, before and after, and what mixing both costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from revector.interfaces import Encoder, Progress, Vectors, whole_texts
from revector.measure.changes import Bounds, MetricChange, change_of
from revector.measure.exact import MemoryBlock, search_exact
from revector.measure.metrics import recall_at_k
from revector.measure.statistics import CONFIDENCE
from revector.spec import Metric
from revector.training.corpus import Corpus
from revector.training.pairs import Pair, same_query

K = 10
BATCH = 256

Verdict = Literal["gain", "no detectable gain", "loss"]


@dataclass(frozen=True, slots=True)
class ModelVectors:
    """The corpus and the queries held out, by one model: float32 ``(documents, dim)`` and ``(queries, dim)``."""

    documents: Vectors
    queries: Vectors


@dataclass(frozen=True, slots=True)
class HeldOutRecall:
    """Recall@``k`` on the queries held out, of base (``old``) and trained model (``new``), among ``documents``.

    ``new_queries_old_index``, ``old_queries_new_index``: recall where queries and documents are of different models.
    """

    k: int
    documents: int
    recall: MetricChange
    new_queries_old_index: float
    old_queries_new_index: float

    @property
    def verdict(self) -> Verdict:
        """What the interval of the difference says: it lies above 0, below 0, or on both sides."""
        difference = self.recall.difference
        assert difference is not None  # there is always a base
        return "gain" if difference.low > 0 else "loss" if difference.high < 0 else "no detectable gain"


def embed(encoder: Encoder, side: Literal["query", "document"], texts: Sequence[str], progress: Progress) -> Vectors:
    """Return the vectors of ``texts``: float32 ``(n, dim)``."""
    blocks = [np.empty((0, encoder.dim), np.float32)]
    for at in range(0, len(texts), BATCH):
        blocks.append(encoder.encode(side, whole_texts(texts[at : at + BATCH])))
        progress.advance(len(blocks[-1]))
    return np.concatenate(blocks)


def judge(
    held_out: Sequence[Pair], corpus: Corpus, base: ModelVectors, tuned: ModelVectors, metric: Metric
) -> HeldOutRecall:
    """Measure both models on the queries held out, in the order of ``queries_of``, by exact search in ``corpus``."""
    qrels: dict[str, dict[str, int]] = {query: {} for query in queries_of(held_out)}
    for pair in held_out:
        qrels[same_query(pair.query)][pair.doc_id] = 1
    k = min(K, len(corpus.ids))
    ones = np.ones(len(corpus.ids), np.int64)

    def recall(queries: Vectors, documents: Vectors) -> Mapping[str, float]:
        found = search_exact(queries, [MemoryBlock(corpus.ids, ones, documents)], k, metric=metric)
        return recall_at_k(qrels, dict(zip(qrels, found.doc_ids, strict=True)), k)

    old, new = recall(base.queries, base.documents), recall(tuned.queries, tuned.documents)
    mixed = [recall(tuned.queries, base.documents), recall(base.queries, tuned.documents)]
    means = [sum(one.values()) / len(one) for one in mixed]
    change = change_of(list(qrels), new, old, Bounds(CONFIDENCE, CONFIDENCE, None))
    return HeldOutRecall(k, len(corpus.ids), change, *means)


def queries_of(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return each query once: what all its spellings share → its first spelling."""
    found: dict[str, str] = {}
    for pair in pairs:
        found.setdefault(same_query(pair.query), pair.query)
    return found
