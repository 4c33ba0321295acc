"""Owns the columns of a batch: embedded documents as a part of the archive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from revector.archive import Part
from revector.indexing.reuse import EmbeddedText
from revector.registry.work import Item


def part_of(found: Sequence[tuple[Item, EmbeddedText]], dim: int) -> Part:
    """Return embedded documents as a part, in the order given; vectors are ``dim`` wide."""
    counts = np.array([len(known.vectors) for _, known in found], dtype=np.int32)
    none = np.zeros(0, np.int32)
    return Part(
        doc_ids=[item.doc_id for item, _ in found],
        versions=np.array([item.version for item, _ in found], dtype=np.int64),
        content_hashes=[str(item.content_hash) for item, _ in found],
        starts=(np.cumsum(counts) - counts).astype(np.int64),
        counts=counts,
        chunk_starts=np.concatenate([none, *(known.starts for _, known in found)]),
        chunk_ends=np.concatenate([none, *(known.ends for _, known in found)]),
        embeddings=np.concatenate([np.zeros((0, dim), np.float32), *(known.vectors for _, known in found)]),
    )
