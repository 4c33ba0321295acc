"""Owns the time of a query in two generations, measured in turns in one run on one machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError, QueryRefused, StateError
from revector.formats.kept import plain
from revector.gate.pipeline import Pipeline
from revector.measure.metrics import Interval, latency_ms
from revector.registry.collections import Generation
from revector.serving.one_generation import BoundSearcher
from revector.serving.searcher import Searcher

WARM_QUERIES = 3
DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class QueryTimes:
    """Milliseconds of a query in one generation, p50, p95 and p99: to encode it, to search, and both together.

    Through a pipeline it is timed as a whole, and to encode it counts 0.
    """

    generation: int
    revision: str
    encode_ms: Mapping[str, float]
    search_ms: Mapping[str, float]
    total_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Two generations measured in turns on one machine; ``ratio`` is new / old of the total, with 95 % intervals.

    ``ratio`` holds ``p50``, ``p95`` and ``p99``, as measured in ``mean``; above 1 means that the new one is slower.
    """

    queries: int
    old: QueryTimes
    new: QueryTimes
    ratio: Mapping[str, Interval]

    def as_data(self) -> dict[str, object]:
        """Return everything as plain JSON data."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}


def compare_latency(
    searcher: Searcher,
    old: Generation,
    new: Generation,
    queries: Sequence[str],
    k: int = 10,
    *,
    seed: int = 0,
    pipeline: Pipeline | None = None,
) -> LatencyReport:
    """Time every query in both generations, as it is served, in turns; who is first changes with every query.

    The interval is a percentile bootstrap over queries, which are drawn as pairs. Raises ``ConfigError`` without
    queries, ``EncoderError`` as ``Searcher.encode``, ``PipelineError`` as ``Pipeline.answer``.
    """
    if not queries:
        raise ConfigError("latency was asked for over no queries. Nothing was measured; name at least one.")
    pair = (old, new)
    for text in queries[:WARM_QUERIES]:
        for generation in pair:
            _timed(searcher, generation, text, k, pipeline)
    spent = np.empty((len(queries), 2, 2))  # query, generation, (encode, search)
    for n, text in enumerate(queries):
        for side in (n % 2, 1 - n % 2):
            spent[n, side] = _timed(searcher, pair[side], text, k, pipeline)
    total = spent.sum(axis=2)
    sides = [
        QueryTimes(
            one.gen, one.revision, latency_ms(spent[:, n, 0]), latency_ms(spent[:, n, 1]), latency_ms(total[:, n])
        )
        for n, one in enumerate(pair)
    ]
    return LatencyReport(len(queries), sides[0], sides[1], _ratios(total, seed))


def _timed(
    searcher: Searcher, generation: Generation, text: str, k: int, pipeline: Pipeline | None
) -> tuple[float, float]:
    started = time.perf_counter()
    if pipeline is not None:
        with suppress(QueryRefused):
            pipeline.answer(text, BoundSearcher(searcher, generation), k)
        return 0.0, (time.perf_counter() - started) * 1_000
    vector = searcher.encode(generation, [text])[0]
    encoded = (time.perf_counter() - started) * 1_000
    answer = searcher.search_vector(generation, vector, k)
    if answer is None:
        raise StateError(f"generation {generation.gen} did not answer; it must be live. Nothing was measured.")
    return encoded, answer.search_ms


def _ratios(total: npt.NDArray[np.float64], seed: int) -> dict[str, Interval]:
    """Return new / old of each percentile; ``total`` is ``(queries, 2)``."""
    names, shares = ("p50", "p95", "p99"), (50, 95, 99)
    measured = np.percentile(total, shares, axis=0)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [np.percentile(total[rng.integers(0, len(total), len(total))], shares, axis=0) for _ in range(DRAWS)]
    )
    low, high = np.quantile(drawn[:, :, 1] / drawn[:, :, 0], (0.025, 0.975), axis=0)
    ratio = measured[:, 1] / measured[:, 0]
    return {name: Interval(float(ratio[n]), float(low[n]), float(high[n])) for n, name in enumerate(names)}
