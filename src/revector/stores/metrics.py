"""Owns what a score is by each metric: the larger, the nearer.

``cosine``: the cosine of the angle, -1 to 1. ``dot``: the inner product, any number. ``l2``: minus the Euclidean
distance, at most 0. A distance is ``ZERO`` less the score, as pgvector's operators return it: 1 less the cosine, minus
the product, the distance itself (https://github.com/pgvector/pgvector#distances).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from revector.interfaces import Vectors
from revector.spec import Metric

ZERO: Mapping[Metric, float] = {"cosine": 1.0, "dot": 0.0, "l2": 0.0}
"""The score at distance 0."""

_RANGES: Mapping[Metric, tuple[str, float, float]] = {
    "cosine": ("a cosine similarity is -1 to 1", -1.0, 1.0),
    "dot": ("an inner product is a finite number", -sys.float_info.max, sys.float_info.max),
    "l2": ("a score by distance is at most 0", -sys.float_info.max, 0.0),
}

OPERATORS: Mapping[Metric, str] = {"cosine": "<=>", "dot": "<#>", "l2": "<->"}
"""pgvector's operators of distance."""

CLASSES: Mapping[Metric, str] = {"cosine": "cosine_ops", "dot": "ip_ops", "l2": "l2_ops"}
"""What the names of pgvector's operator classes end with; ``vector_`` or ``halfvec_`` comes before it."""


def scores(vectors: Vectors, query: npt.NDArray[np.float32], metric: Metric) -> npt.NDArray[np.float32]:
    """Return the score of each row of ``vectors`` ``(n, dim)`` for ``query`` ``(dim,)``: float32 ``(n,)``."""
    if metric == "l2":
        return np.asarray(-np.linalg.norm(vectors - query, axis=1), np.float32)
    products = vectors @ query
    if metric == "cosine":
        products /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(products, np.float32)


def score_table(
    queries: npt.NDArray[np.floating], vectors: npt.NDArray[np.floating], metric: Metric
) -> npt.NDArray[np.floating]:
    """Return the score of each row of ``vectors`` ``(n, dim)`` for each of ``queries`` ``(q, dim)``: ``(q, n)``."""
    if metric == "l2":
        return np.stack([-np.linalg.norm(vectors - query, axis=1) for query in queries])
    return comparable(queries, metric) @ comparable(vectors, metric).T


def no_score(value: float, metric: Metric) -> str:
    """Say why ``value`` cannot be a score by ``metric``; nothing where it can."""
    what, least, most = _RANGES[metric]
    return "" if least <= value <= most else f"{what}, found {value:g}"


def nearest_score(value: float, metric: Metric) -> float:
    """Return ``value``, or the nearest number that can be a score by ``metric``."""
    _, least, most = _RANGES[metric]
    return min(most, max(least, value))


def cosine_of(score: float, metric: Metric) -> float:
    """Return the cosine of two vectors of length 1 by their score: |a - b|² = 2 - 2 a·b."""
    return 1 - score * score / 2 if metric == "l2" else score


def minus_root(square: float) -> float:
    """Return the score by ``l2`` of a squared distance, which rounding may have made negative."""
    return -math.sqrt(max(0.0, square))


def comparable(vectors: npt.NDArray[np.floating], metric: Metric) -> npt.NDArray[np.floating]:
    """Return ``vectors`` ``(n, dim)`` as ``metric`` compares them: by cosine, in length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if metric == "cosine" else vectors
