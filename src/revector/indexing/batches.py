"""Owns the columns of a batch: embedded documents as a part of the archive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from revector.archive import Part
from revector.indexing.reuse import EmbeddedPieces
from revector.registry.work import Item


def part_of(found: Sequence[tuple[Item, EmbeddedPieces]], dim: int) -> Part:
    """Return embedded documents as a part, in the order given; vectors are ``dim`` wide."""
    counts = np.array([len(known.vectors) for _, known in found], dtype=np.int32)
    none = np.zeros((0, 2), np.int32)
    locators = np.concatenate([none, *(known.locators for _, known in found)])
    chunk_starts, chunk_ends = np.ascontiguousarray(locators.T)
    return Part(
        doc_ids=[item.doc_id for item, _ in found],
        versions=np.array([item.version for item, _ in found], dtype=np.int64),
        content_hashes=[str(item.content_hash) for item, _ in found],
        starts=(np.cumsum(counts) - counts).astype(np.int64),
        counts=counts,
        chunk_starts=chunk_starts,
        chunk_ends=chunk_ends,
        embeddings=np.concatenate([np.zeros((0, dim), np.float32), *(known.vectors for _, known in found)]),
    )
