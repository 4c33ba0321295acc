"""Owns what a score is by each metric, the larger, the nearer, and which rows in memory are nearest to one query.

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


def pair_scores(
    queries: npt.NDArray[np.float64], vectors: npt.NDArray[np.float64], metric: Metric
) -> npt.NDArray[np.float64]:
    """Return the score of each row of ``vectors`` ``(n, dim)`` for its query: of ``(n, dim)``, or one of ``(dim,)``.

    By cosine, queries have length 1.
    """
    if metric == "l2":
        away = queries - vectors
        return np.asarray(-np.sqrt(np.vecdot(away, away)))
    products = np.vecdot(queries, vectors)
    if metric == "cosine":
        products /= np.sqrt(np.vecdot(vectors, vectors))
    return np.asarray(products)


def product_error(dim: int) -> float:
    """Return how far a product in float32 may be from the true one, as a share of both lengths.

    The product's own bound (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1), half of it
    again for lengths and their squares, and the rounding of both factors.
    """
    return (1.5 * dim + 8) * 2.0**-24


def nearest_rows(
    vectors: Vectors,
    query: npt.NDArray[np.float64],
    k: int,
    metric: Metric,
    lengths: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the rows of ``vectors`` ``(n, dim)`` that score as high as the ``k``-th, and their scores; in no order.

    Scores are those of float64: one product in float32 leaves out what cannot be among them, by the bound of its error.
    Ties with the ``k``-th are all returned. ``query`` ``(dim,)`` has length 1 by cosine, and so have rows without
    ``lengths``. Lengths are 1e-18 to 1e18, or 0: beyond, products of float32 overflow or vanish.
    """
    near, dim, square = vectors @ query.astype(np.float32), len(query), float(np.vecdot(query, query))
    error = product_error(dim)
    slack: npt.NDArray[np.floating] | float = error * math.sqrt(square)
    if metric == "cosine":
        if lengths is not None:
            near /= lengths
    elif metric == "l2":
        squares = 1.0 if lengths is None else lengths * lengths
        near -= np.float32(0.5) * squares
        # The last: distances that are equal in float64 are ties, however short the rows are beside the query.
        slack = slack * (1.0 if lengths is None else lengths) + error * squares + dim * 2.0**-50 * square
    elif lengths is not None:
        slack = slack * lengths
    if (first := len(near) - k) > 0:
        least = near - slack
        least.partition(first)
        rows = (near >= least[first] - slack).nonzero()[0]
    else:
        rows = np.arange(len(near))
    found = pair_scores(query, vectors[rows].astype(np.float64), metric)
    if (first := len(rows) - k) > 0:
        best = found >= np.partition(found, first)[first]
        rows, found = rows[best], found[best]
    return rows, found


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
