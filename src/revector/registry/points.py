"""Owns points as columns: those of a batch, those that a search found, and what is counted of an attempt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np

from revector.archive import Part
from revector.registry import intents
from revector.registry.lane import NORM_TOLERANCE
from revector.spec import Metric
from revector.stores.metrics import ZERO
from revector.stores.seam import NearPoint, Points


def points_of(part: Part, of: Mapping[str, UUID]) -> Points:
    """Return the points of all documents of a part, with their attempts, their chunks numbered from 0."""
    attempts = [attempt for doc_id, n in zip(part.doc_ids, part.counts, strict=True) for attempt in [of[doc_id]] * n]
    chunks = np.concatenate([np.arange(n, dtype=np.int32) for n in part.counts])
    at = np.concatenate([np.arange(first, first + n) for first, n in zip(part.starts, part.counts, strict=True)])
    return Points(
        [intents.point_id(attempt, chunk) for attempt, chunk in zip(attempts, chunks, strict=True)],
        attempts,
        chunks,
        part.chunk_starts[at],
        part.chunk_ends[at],
        part.embeddings[at],
    )


def columns_of(near: Sequence[NearPoint], metric: Metric) -> dict[str, list[Any]]:
    """Return what was found near as columns, with distances as pgvector's operator for ``metric`` returns them."""
    return {
        "attempts": [one.attempt for one in near],
        "chunks": [one.chunk for one in near],
        "starts": [one.start for one in near],
        "stops": [one.stop for one in near],
        "distances": [ZERO[metric] - one.similarity for one in near],
    }


def counts_of(of: Iterable[Points | None], *, normalize: bool) -> dict[str, list[Any]]:
    """Return what is counted of each attempt's points as columns, by the names that verification gives them."""
    columns = list(zip(*(_count_of(points, normalize=normalize) for points in of), strict=True)) or [()] * 6
    names = ("f_n", "f_lowest", "f_highest", "f_stop", "f_bad", "f_outside")
    return dict(zip(names, map(list, columns), strict=True))


def _count_of(points: Points | None, *, normalize: bool) -> tuple[int, int | None, int | None, int | None, int, int]:
    """Return number, least and largest chunk, last end, bad lengths and impossible offsets of one attempt's points."""
    if points is None:
        return 0, None, None, None, 0, 0
    norms = np.linalg.norm(points.vectors, axis=1)
    good = np.abs(norms - 1) <= NORM_TOLERANCE if normalize else (norms > 0) & np.isfinite(norms)
    outside = (points.starts < 0) | (points.stops <= points.starts)
    return (
        len(points.ids),
        int(points.chunks.min()),
        int(points.chunks.max()),
        int(points.stops.max()),
        int((~good).sum()),
        int(outside.sum()),
    )
