"""How far two rankings agree without any labels: overlap and rank-biased overlap, and sums of both that add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError, LabelError
from revector.measure.metrics import Interval, Run, mean_interval

PERSISTENCE = 0.9
"""RBO's p: the top ten then carry 86 % of the weight (Webber et al. 2010, section 5)."""

BUCKETS_PER_OCTAVE, FASTEST_OCTAVE, BUCKETS = 4, -4, 88
"""Latencies are counted in buckets of 2^(1/4): 1/16 ms to 4 minutes, percentiles within 9 %."""

NORMAL_95 = 1.959963984540054


def overlap_at_k(old: Sequence[str], new: Sequence[str], k: int) -> float:
    """Return the share (0 to 1) of the ``k`` best documents that two rankings have in common, in any order.

    Where fewer than ``k`` were found, the longer ranking counts as the whole; two empty rankings agree.

    Raises ``ConfigError`` for ``k`` below 1, ``LabelError`` for a ranking with a document twice or an id that is no
    text, such as NaN.

    >>> overlap_at_k(["a", "b", "c"], ["c", "a", "x"], k=3)
    0.6666666666666666

    """
    if k < 1:
        raise ConfigError(f"overlap was asked for at rank k={k}; k must be at least 1. Nothing was measured.")
    _check_ranking(old)
    _check_ranking(new)
    longest = min(k, max(len(old), len(new)))
    return 1.0 if not longest else len({*old[:k]} & {*new[:k]}) / longest


def rank_biased_overlap(old: Sequence[str], new: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return RBO_ext (0 to 1) of two rankings: 1 for equal ones, 0 for ones that share nothing; the top counts most.

    ``p`` in (0, 1) is the chance that a reader goes on to the next rank. What lies below the rankings' ends is taken
    to agree as much as what was seen. Lengths may differ; two empty rankings agree. Without ties. Errors are those of
    ``overlap_at_k``, for ``p``.

    Source:
        Webber, Moffat & Zobel, *A Similarity Measure for Indefinite Rankings* (ACM TOIS 28(4), 2010), equation 32.

    >>> rank_biased_overlap(["a", "b"], ["b", "a"], p=0.5)
    0.5

    """
    if not 0 < p < 1:
        raise ConfigError(f"rank-biased overlap was asked for with p={p}; p must lie between 0 and 1.")
    _check_ranking(old)
    _check_ranking(new)
    short, long = sorted((old, new), key=len)
    if not short:
        return float(not long)
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = common_at_short = 0
    total = 0.0
    for depth, document in enumerate(long, start=1):
        seen_long.add(document)
        common += document in seen_short
        if depth <= len(short):
            seen_short.add(short[depth - 1])
            common += short[depth - 1] in seen_long
            common_at_short = common
        beyond = max(0, depth - len(short)) * common_at_short / len(short)
        total += (common + beyond) / depth * p**depth
    rest = (common - common_at_short) / len(long) + common_at_short / len(short)
    return (1 - p) / p * total + rest * p ** len(long)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models on the same queries: per query, in the order of the old run, both measures in [0, 1]."""

    k: int
    p: float
    overlap: Mapping[str, float]
    rbo: Mapping[str, float]

    def as_data(self) -> dict[str, object]:
        """Return means with their 95 % bootstrap intervals over queries, and how many queries gave the same ``k``."""
        return {
            "k": self.k,
            "p": self.p,
            "queries": len(self.overlap),
            "unchanged": sum(value == 1.0 for value in self.overlap.values()),
            "overlap": mean_interval(list(self.overlap.values()))._asdict(),
            "rbo": mean_interval(list(self.rbo.values()))._asdict(),
        }


def agree(old: Run, new: Run, k: int = 10, p: float = PERSISTENCE) -> Agreement:
    """Compare the ``k`` best documents of two models for each query; what lies below them counts for neither measure.

    Raises ``LabelError`` where the runs hold different queries or none, and as ``overlap_at_k`` does.
    """
    if old.keys() != new.keys():
        differing = sorted(old.keys() ^ new.keys())
        raise LabelError(
            f"old and new must have answered the same queries; {len(differing)} of {len(old.keys() | new.keys())} are "
            f"in one only, such as {differing[0]!r}. Nothing was compared; ask both the same queries."
        )
    if not old:
        raise LabelError("agreement was asked for over no queries; at least one is needed. Nothing was compared.")
    return Agreement(
        k,
        p,
        {query: overlap_at_k(old[query], new[query], k) for query in old},
        {query: rank_biased_overlap(old[query][:k], new[query][:k], p) for query in old},
    )


def _check_ranking(ranked: Sequence[str]) -> None:
    if wrong := [document for document in ranked if not isinstance(document, str)]:
        raise LabelError(
            f"a ranking lists {wrong[0]!r} as a document; ids are text. Nothing was compared; check how it was read."
        )
    if len(set(ranked)) != len(ranked):
        twice = next(document for i, document in enumerate(ranked) if document in ranked[:i])
        raise LabelError(
            f"a ranking lists document {twice!r} twice; each may appear once. Nothing was compared; keep the best rank "
            "of each document."
        )


def _no_latencies() -> npt.NDArray[np.int64]:
    return np.zeros(BUCKETS, dtype=np.int64)


@dataclass(slots=True)
class AgreementTally:
    """Comparisons of two models on live queries as sums: of bounded size, and two of them add up to one.

    ``tenths`` counts the comparisons by overlap, rounded to a tenth; ``old_ms`` and ``new_ms`` by latency, see
    ``BUCKETS_PER_OCTAVE``. Not compared: ``shed`` (no room in the queue), ``skipped`` (cannot be compared), ``gone``
    (the generation went while it waited) and ``errors``.
    """

    compared: int = 0
    shed: int = 0
    skipped: int = 0
    gone: int = 0
    errors: int = 0
    overlap_sum: float = 0.0
    overlap_squares: float = 0.0
    rbo_sum: float = 0.0
    rbo_squares: float = 0.0
    tenths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(11, dtype=np.int64))
    old_ms: npt.NDArray[np.int64] = field(default_factory=_no_latencies)
    new_ms: npt.NDArray[np.int64] = field(default_factory=_no_latencies)

    def note(self, overlap: float, rbo: float, *, old_ms: float, new_ms: float) -> None:
        """Count one comparison: two shares in [0, 1] and two latencies in milliseconds. Raises ``LabelError``."""
        old_bucket, new_bucket = _bucket(old_ms), _bucket(new_ms)
        self.compared += 1
        self.overlap_sum += overlap
        self.overlap_squares += overlap**2
        self.rbo_sum += rbo
        self.rbo_squares += rbo**2
        self.tenths[round(overlap * 10)] += 1
        self.old_ms[old_bucket] += 1
        self.new_ms[new_bucket] += 1

    def add(self, other: AgreementTally) -> None:
        """Count what ``other`` counted, too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def as_row(self) -> dict[str, object]:
        """Return the sums as numbers and lists of numbers, to be stored and added to."""
        return {
            each.name: value.tolist() if isinstance(value := getattr(self, each.name), np.ndarray) else value
            for each in fields(self)
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> AgreementTally:
        """Return what ``as_row`` described."""
        values: dict[str, Any] = {each.name: row[each.name] for each in fields(cls)}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = np.array(value, dtype=np.int64)
        return cls(**values)

    def as_data(self) -> dict[str, object]:
        """Return counts; means of overlap and RBO with 95 % intervals; p50, p95 and p99 of both latencies (ms).

        Figures are None where nothing was compared. The intervals are the normal approximation (mean ± 1.96 standard
        errors, cut at 0 and 1): below some thirty comparisons they are too narrow.
        """
        counts = {name: getattr(self, name) for name in ("compared", "shed", "skipped", "gone", "errors")}
        figures: dict[str, object] = dict.fromkeys(("overlap", "rbo", "old_latency_ms", "new_latency_ms"))
        if self.compared:
            figures = {
                "overlap": _normal_interval(self.compared, self.overlap_sum, self.overlap_squares)._asdict(),
                "rbo": _normal_interval(self.compared, self.rbo_sum, self.rbo_squares)._asdict(),
                "old_latency_ms": _percentiles(self.old_ms),
                "new_latency_ms": _percentiles(self.new_ms),
            }
        return {**counts, **figures, "overlap_tenths": self.tenths.tolist()}


def _normal_interval(n: int, total: float, squares: float) -> Interval:
    mean = total / n
    spread = max(0.0, squares - n * mean**2) / max(1, n - 1)
    reach = NORMAL_95 * math.sqrt(spread / n)
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def _bucket(ms: float) -> int:
    if not 0 <= ms < math.inf:
        raise LabelError(f"a latency of {ms} ms cannot be counted; it must be finite and at least 0.")
    octave = math.log2(max(ms, 2.0**FASTEST_OCTAVE)) - FASTEST_OCTAVE
    return min(BUCKETS - 1, int(octave * BUCKETS_PER_OCTAVE))


def _percentiles(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the middle, by ratio, of the bucket that holds each percentile."""
    cumulative = np.cumsum(counts)
    buckets = {name: int(np.searchsorted(cumulative, share * cumulative[-1])) for name, share in _SHARES.items()}
    return {name: 2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE + FASTEST_OCTAVE) for name, bucket in buckets.items()}


_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
