"""Proof by sample that vectors are those of their texts: enough rows that no shifted block stays unseen."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from revector.errors import EncoderMismatch
from revector.interfaces import Encoder, NoProgress, Piece, Progress

COMPARED = 500
"""Rows of a file that are embedded and compared: drawn at random, they miss a block of 1 % once in 150 times."""

COMPARED_SHARE = 0.001
"""Of larger files, this share."""

BLOCK_SHARE = 0.01
"""The block that a comparison is meant to find."""

MIN_COSINE = 0.999
MOST_STRETCH = 0.05
"""How far lengths may differ, as a share: at that cosine the ends of vectors of length 1 are 0.045 apart."""

BATCH = 64
"""Texts that are embedded between two words of progress."""


@dataclass(frozen=True, slots=True)
class SpotCheck:
    """How many of the ``rows`` of a file were embedded and compared, and the lowest cosine (-1 to 1) of them.

    ``finds``: chance (0 to 1) that ``rows`` of which any ``BLOCK_SHARE`` are shifted would have been found out.
    """

    compared: int
    rows: int
    lowest: float | None
    finds: float


@dataclass(frozen=True, slots=True, order=True)
class _SampledRow:
    """A row that was drawn: the file's row of vectors, and the piece that it should be of."""

    draw: float
    row: int
    doc_id: str
    piece: Piece


class RowSample:
    """A random sample of the rows that pass by: those that draw the lowest numbers, whatever is left out between.

    Memory is that of the sample. ``rows``: how many there are at most.
    """

    def __init__(self, rows: int, *, seed: int | None = None) -> None:
        self._size = max(COMPARED, int(rows * COMPARED_SHARE))
        self._random = np.random.default_rng(seed)
        self._held: list[_SampledRow] = []  # a heap with the highest draw first, as its negative
        self._seen = 0

    def offer(self, doc_id: str, rows: npt.NDArray[np.int64], pieces: Sequence[Piece]) -> None:
        """Let the pieces of a document take part; ``rows`` are theirs in the file."""
        self._seen += len(rows)
        draws = self._random.random(len(rows))
        most = -self._held[0].draw if len(self._held) >= self._size else 1.0
        for n in np.flatnonzero(draws < most).tolist():
            drawn = _SampledRow(-float(draws[n]), int(rows[n]), doc_id, pieces[n])
            if len(self._held) < self._size:
                heapq.heappush(self._held, drawn)
            else:
                heapq.heappushpop(self._held, drawn)

    def compare(
        self,
        path: Path,
        vectors: npt.NDArray[np.generic],
        encoder: Encoder,
        revision: str,
        progress: Progress | None = None,
        *,
        lengths: bool = False,
    ) -> SpotCheck:
        """Embed the sample and compare it with ``vectors``, all of the file's, ``(n, dim)``.

        ``lengths``: whether these must be alike, too. Raises ``EncoderMismatch`` naming the row that is furthest off.
        """
        held = sorted(self._held, key=lambda one: one.row)
        if not held:
            return SpotCheck(0, self._seen, None, 0.0)
        progress = progress or NoProgress()
        progress.start(f"compare {path.name} with what revision {revision} embeds", len(held), "vectors")
        embedded = []
        for at in range(0, len(held), BATCH):
            embedded.append(encoder.encode("document", [one.piece for one in held[at : at + BATCH]]))
            progress.advance(len(embedded[-1]))
        progress.done()
        ours = np.concatenate(embedded).astype(np.float64)
        theirs = np.asarray(vectors[[one.row for one in held]], np.float64)
        size, other = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
        both = size * other
        cosines = np.divide((ours * theirs).sum(axis=1), both, out=np.full(len(held), -1.0), where=both > 0)
        alike, stretches = cosines >= MIN_COSINE, np.divide(other, size, out=np.zeros(len(held)), where=size > 0)
        if lengths:
            alike &= np.abs(stretches - 1) <= MOST_STRETCH
        if off := int((~alike).sum()):
            worst = int(np.argmin(np.where(alike, np.inf, cosines)))
            stretched = f" ({1 - MOST_STRETCH} to {1 + MOST_STRETCH} of its length, found {stretches[worst]:.4f})"
            raise EncoderMismatch(
                f"{path}: the vector of document {held[worst].doc_id!r} (row {held[worst].row:,}) has cosine "
                f"{cosines[worst]:.4f} to what revision {revision} embeds its text as, {MIN_COSINE}"
                f"{stretched if lengths else ''} is needed; so are {off:,} of {len(held):,} that were compared: "
                "another model, prompt or text made it, or rows are shifted. Nothing was imported; name the revision "
                "that made them, or embed again."
            )
        return SpotCheck(len(held), self._seen, float(cosines.min()), found_with(len(held), self._seen))


def found_with(compared: int, rows: int) -> float:
    """Return the chance that ``compared`` of ``rows``, drawn at random, meet a block of ``BLOCK_SHARE`` of them.

    >>> round(found_with(500, 1_000_000), 4), found_with(162, 162)
    (0.9934, 1.0)
    """
    block = max(1, int(np.ceil(rows * BLOCK_SHARE)))
    if compared > rows - block:
        return 1.0
    return 1.0 - float(np.prod(1 - block / (rows - np.arange(compared))))
