"""Owns what a generation's ANN index costs: answers lost against exact search, time of a query, and the better setting.

Everything is asked through ``Searcher.search_vector``, as it is served; only ``ef_search`` differs in a sweep.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.errors import ConfigError
from revector.formats.kept import plain
from revector.gate.explaining import QueryPlan, ask, explain
from revector.interfaces import NoProgress, Progress, Vectors
from revector.measure.exact import Block, Exact, search_exact
from revector.measure.metrics import Interval, Qrels, latency_ms, mean_interval, recall_at_k
from revector.measure.statistics import paired_interval, score_interval
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of
from revector.serving.exporting import changed_since, reading_vectors
from revector.serving.searcher import Answer, Searcher

SWEEP = (10, 20, 40, 80, 100, 160, 320, 640)
MIN_OVERLAP = 0.95
TIE = 1e-6
DEPTH = 4
"""Exact answers are known to this multiple of k, so that a tie with the k-th does not count as a loss."""

WARM_QUERIES = 3
TIMED_QUERIES, BATCH = 100, 32
"""How many queries are encoded alone, as they are served, which is slow, and the batch size for the others."""
NAMED = 100
"""Lost best documents that a report names; it counts all of them."""


@dataclass(frozen=True, slots=True)
class Point:
    """The index at one ``ef_search``, over all queries.

    ``overlap``: mean share (0 to 1) of the exact best k that came back, with its 95 % bootstrap interval.
    ``latency_ms``: p50, p95 and p99 of the search. ``exact_answers``: queries that the searcher answered exactly,
    because the index had given up.
    """

    ef_search: int
    overlap: Interval
    latency_ms: Mapping[str, float]
    exact_answers: int
    plan: QueryPlan


@dataclass(frozen=True, slots=True)
class Loss:
    """Recall at k of the same queries by exact search and as served; ``lost`` is exact - served, 95 % bootstrap."""

    queries: int
    exact: Interval
    served: Interval
    lost: Interval


@dataclass(frozen=True, slots=True)
class LostBest:
    """The document that exact search has at rank 1 for a query, with its score, and that is not among those served.

    ``relevant``: whether it was judged relevant for the query; None where the query was not judged.
    """

    query: str
    document: str
    score: float
    relevant: bool | None


@dataclass(frozen=True, slots=True)
class AnnReport:
    """What the index of a generation costs; ``reasons`` is empty where it reaches ``min_overlap``.

    ``notes`` say what keeps the figures from meaning much. ``served`` is the index as it is configured, ``sweep`` other
    values of ``ef_search``, rising. ``recommended`` is the least of them whose overlap is at least ``min_overlap`` down
    to the low end of its interval; None where none is, and where the planner did not use the index. ``loss`` is None
    without labels. ``lost_best``: of how many queries the index lost the best document, ``lost_relevant`` of how many
    it was a relevant one; ``lost`` names the first ``NAMED``, relevant ones first.
    """

    generation: int
    revision: str
    index: Mapping[str, object]
    k: int
    queries: int
    documents: int
    chunks: int
    min_overlap: float
    encode_ms: Mapping[str, float]
    served: Point
    sweep: tuple[Point, ...]
    recommended: int | None
    loss: Loss | None
    lost_best: int = 0
    lost_relevant: int = 0
    lost: tuple[LostBest, ...] = ()
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_data(self) -> dict[str, object]:
        """Return everything as plain JSON data."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}


def measure_ann(
    engine: sa.Engine,
    searcher: Searcher,
    generation: Generation,
    queries: Mapping[str, str],
    k: int = 10,
    *,
    qrels: Qrels | None = None,
    own: Mapping[str, Collection[str]] | None = None,
    sweep: Sequence[int] = SWEEP,
    min_overlap: float = MIN_OVERLAP,
    progress: Progress | None = None,
) -> AnnReport:
    """Compare the index of a live generation with exact search over all its vectors, as stored, of one snapshot.

    ``queries``: id → text, at least one; the first ``TIMED_QUERIES`` are encoded alone, as they are served, and timed.
    ``qrels`` name some of them, ``own`` the documents that are a query themselves: they are left out of its answers.
    Documents that change meanwhile count for neither. Raises ``ConfigError`` for no queries, for ``k`` above the number
    of documents and settings out of range, ``EncoderError`` as ``Searcher.encode``.
    """
    _check(queries, min_overlap, sweep)
    progress, names = progress or NoProgress(), list(queries)
    vectors, encode_ms = _encode(searcher, generation, list(queries.values()), progress)
    with engine.connect() as connection:
        began = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    left_out = [frozenset((own or {}).get(query, ())) for query in queries]
    truth = _truth(engine, generation, vectors, k, progress)
    configured, plans = _settings(engine, searcher, generation, vectors[0], k, sweep)
    measured = _sweep(searcher, plans, vectors, k, left_out, progress)
    judge = _Judge(truth, k, changed_since(engine, generation, began, _met(truth, measured)), left_out)
    points = [judge.point(asked) for asked in measured]
    served, recommended = points[configured], _recommended(points, min_overlap)
    return AnnReport(
        generation=generation.gen,
        revision=generation.revision,
        index=asdict(generation.spec.index),
        k=k,
        queries=len(queries),
        documents=truth.documents,
        chunks=truth.rows,
        min_overlap=min_overlap,
        encode_ms=latency_ms(encode_ms),
        served=served,
        sweep=tuple(points),
        recommended=recommended,
        loss=None if qrels is None else _loss(qrels, names, judge.rankings, measured[configured], k),
        **_named(judge.lost(measured[configured], names, qrels or {})),
        reasons=_reasons(generation, served, k, min_overlap, recommended),
        notes=_notes(generation, served),
    )


def _check(queries: Collection[str], min_overlap: float, sweep: Sequence[int]) -> None:
    if not queries or not 0 <= min_overlap <= 1 or not all(1 <= ef <= 1_000 for ef in sweep):
        raise ConfigError(
            "an index is measured with at least one query, min_overlap of 0 to 1 and ef_search of 1 to 1,000; found "
            f"{len(queries)} queries, {min_overlap:g} and {list(sweep)}. Nothing was measured."
        )


def _met(truth: Exact, measured: Sequence[_Asked]) -> set[str]:
    return {doc_id for ids in (*truth.doc_ids, *(ids for asked in measured for ids in asked.ids)) for doc_id in ids}


class _Lost(TypedDict):
    lost_best: int
    lost_relevant: int
    lost: tuple[LostBest, ...]


def _named(lost: Sequence[LostBest]) -> _Lost:
    """Return how many best answers were lost, how many of them labelled as relevant, and the first by name."""
    relevant = sum(one.relevant is True for one in lost)
    return {"lost_best": len(lost), "lost_relevant": relevant, "lost": tuple(lost[:NAMED])}


def _recommended(points: Sequence[Point], min_overlap: float) -> int | None:
    """Return the least ``ef_search`` that is enough, of those that were tried."""
    enough = (point.ef_search for point in points if point.plan.hnsw and point.overlap.low >= min_overlap)
    return next(enough, None)


def _encode(
    searcher: Searcher, generation: Generation, texts: list[str], progress: Progress
) -> tuple[Vectors, list[float]]:
    """Encode queries, the first ``TIMED_QUERIES`` one by one; the milliseconds of each of these."""
    progress.start(f"encode for {generation.revision}", len(texts), "queries")
    for text in texts[:WARM_QUERIES]:
        searcher.encode(generation, [text])
    vectors, spent = [], []
    for text in texts[:TIMED_QUERIES]:
        started = time.perf_counter()
        vectors.append(searcher.encode(generation, [text]))
        spent.append((time.perf_counter() - started) * 1_000)
        progress.advance()
    for at in range(TIMED_QUERIES, len(texts), BATCH):
        vectors.append(searcher.encode(generation, texts[at : at + BATCH]))
        progress.advance(len(vectors[-1]))
    progress.done()
    return np.concatenate(vectors), spent


def _truth(engine: sa.Engine, generation: Generation, vectors: Vectors, k: int, progress: Progress) -> Exact:
    with reading_vectors(engine, generation) as (size, parts):
        if not 1 <= k <= size.documents:
            raise ConfigError(
                f"the {k} nearest documents were asked for, and generation {generation.gen} shows {size.documents}. "
                f"Nothing was measured; ask for 1 to {size.documents}."
            )
        progress.start(f"exact search {generation.revision}", size.documents)

        def counted() -> Iterator[Block]:
            for part in parts:
                yield part
                progress.advance(len(part.doc_ids))

        found = search_exact(vectors, counted(), min(k * DEPTH, size.documents), metric=generation.spec.index.metric)
        progress.done()
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """All queries at one ``ef_search``: the ids of each, best first, its milliseconds, and who was answered exactly."""

    plan: QueryPlan
    ids: list[list[str]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)

    def add(self, answer: Answer, k: int, left_out: Collection[str]) -> None:
        self.ids.append([hit.id for hit in answer.hits if hit.id not in left_out][:k])
        self.milliseconds.append(answer.search_ms)
        self.exact.append(answer.exact)


class _Judge:
    """Which answers are among the exact best k, or tie with the last of them.

    ``changed`` documents are left out, and of each query those in ``left_out``.
    """

    def __init__(self, truth: Exact, k: int, changed: set[str], left_out: Sequence[frozenset[str]]) -> None:
        self._k, self._changed = k, changed
        self._best = [
            [(doc_id, float(score)) for doc_id, score in zip(ids, scores, strict=True) if doc_id not in changed | own]
            for ids, scores, own in zip(truth.doc_ids, truth.scores, left_out, strict=True)
        ]

    @property
    def rankings(self) -> list[list[str]]:
        """The exact answers of each query, best first."""
        return [[doc_id for doc_id, _ in best] for best in self._best]

    def lost(self, asked: _Asked, queries: Sequence[str], qrels: Qrels) -> list[LostBest]:
        """Return the best documents that were not served, relevant ones first; none that ties with rank k + 1."""
        found = []
        for query, ids, best in zip(queries, asked.ids, self._best, strict=True):
            if (
                not best
                or best[0][0] in ids
                or (len(best) > self._k and best[0][1] <= best[self._k][1] + _tie(best[0][1]))
            ):
                continue
            judged = qrels.get(query)
            relevant = None if judged is None else judged.get(best[0][0], 0) > 0
            found.append(LostBest(query, *best[0], relevant))
        return sorted(found, key=lambda one: not one.relevant)

    def point(self, asked: _Asked) -> Point:
        """Return the report of one ``ef_search``."""
        overlaps = [self._overlap(ids, best) for ids, best in zip(asked.ids, self._best, strict=True)]
        return Point(
            asked.plan.ef_search,
            mean_interval(overlaps),
            latency_ms(asked.milliseconds),
            sum(asked.exact),
            asked.plan,
        )

    def _overlap(self, ids: Sequence[str], best: Sequence[tuple[str, float]]) -> float:
        wanted = min(self._k - len(self._changed.intersection(ids)), len(best))
        if wanted < 1:
            return 1.0
        last = best[wanted - 1][1]
        good = {doc_id for doc_id, score in best if score >= last - _tie(last)}
        return min(1.0, len(good.intersection(ids)) / wanted)


def _tie(score: float) -> float:
    """Return up to which difference a score equals ``score``: inner products and distances may be any size."""
    return TIE * max(1.0, abs(score))


def _sweep(
    searcher: Searcher,
    pinned: Sequence[tuple[Generation, QueryPlan]],
    vectors: Vectors,
    k: int,
    left_out: Sequence[frozenset[str]],
    progress: Progress,
) -> list[_Asked]:
    """Ask every query at every ``ef_search``, in turns, so that whatever slows the machine slows all of them."""
    generations, found = [one for one, _ in pinned], [_Asked(plan) for _, plan in pinned]
    for vector in vectors[:WARM_QUERIES]:
        for one in generations:
            ask(searcher, one, vector, k)
    progress.start(f"search {generations[0].revision}", len(vectors), unit="queries")
    for n, (vector, own) in enumerate(zip(vectors, left_out, strict=True)):
        for turn in range(len(generations)):
            at = (n + turn) % len(generations)
            found[at].add(ask(searcher, generations[at], vector, k + len(own)), k, own)
        progress.advance()
    progress.done()
    return found


def _settings(
    engine: sa.Engine,
    searcher: Searcher,
    generation: Generation,
    vector: npt.NDArray[np.float32],
    k: int,
    sweep: Sequence[int],
) -> tuple[int, list[tuple[Generation, QueryPlan]]]:
    """Return the generation at every ``ef_search`` that makes a difference, rising, and which is as configured."""
    spec = generation.spec
    configured = spec.index.ef_search
    found: dict[int, tuple[Generation, QueryPlan]] = {}
    place = 0
    tuned = spec.index.kind == "hnsw" and lane_of(generation).traits.ef_per_search
    for ef in sorted({configured, *sweep}) if tuned else [configured]:
        one = replace(generation, spec=replace(spec, index=replace(spec.index, ef_search=ef)))
        plan = explain(engine, searcher, one, vector, k)
        found.setdefault(plan.ef_search, (one, plan))
        if ef == configured:
            place = list(found).index(plan.ef_search)
    return place, list(found.values())


def _loss(qrels: Qrels, queries: Sequence[str], exact: Sequence[Sequence[str]], asked: _Asked, k: int) -> Loss | None:
    judged = {query: qrels[query] for query in queries if query in qrels}
    served = dict(zip(queries, asked.ids, strict=True))
    best = recall_at_k(judged, dict(zip(queries, exact, strict=True)), k)
    found = recall_at_k(judged, served, k)
    if not best:
        return None
    exactly, by_index = list(best.values()), [found[query] for query in best]
    return Loss(len(best), score_interval(exactly), score_interval(by_index), paired_interval(by_index, exactly))


def _reasons(
    generation: Generation, served: Point, k: int, min_overlap: float, recommended: int | None
) -> tuple[str, ...]:
    if served.overlap.mean >= min_overlap:
        return ()
    index = generation.spec.index
    way = (
        f"ef_search = {recommended} reaches it"
        if recommended is not None
        else "no ef_search that was tried surely does: build it with a larger m or ef_construction"
        + (", or set a larger rerank" if index.quantize != "none" else "")
    )
    bits = "" if index.quantize == "none" else f", quantize = {index.quantize}, rerank = {index.rerank}"
    reason = (
        f"the index {generation.physical_name} of revision {generation.revision} ({index.kind}, m = {index.m}, "
        f"ef_construction = {index.ef_construction}, ef_search = {index.ef_search}{bits}) gives "
        f"{served.overlap.mean:.4f} of "
        f"the {k} documents that exact search gives, at least {min_overlap:.4f} is demanded; {way}"
    )
    return (reason,)


def _notes(generation: Generation, served: Point) -> tuple[str, ...]:
    if served.plan.hnsw or generation.spec.index.kind == "exact":
        return ()
    note = (
        f"PostgreSQL's planner does not use the HNSW index of revision {generation.revision} but "
        f"{', '.join(served.plan.nodes) or 'another way'}: the table is small, or it was not analysed since it was "
        "loaded. Answers are exact"
        f"{' but for the bits by which rows are chosen' if generation.spec.index.graph == 'bit' else ''}, and say "
        "nothing of the index"
    )
    return (note,)
