"""Owns exact search: the best of a stream of vectors for many queries at once, in memory that the stream does not grow.

A block of vectors meets all queries in one matrix product of low precision. What that product cannot rule out, by the
bound of its error, is scored again in float64, and only this joins the running best. So rankings are those of float64,
however the stream is cut and whatever computes the products. By L2, half of a vector's squared length is taken off the
product: what is left falls as the distance grows, |q - v|² = |q|² - 2 (q·v - |v|²/2).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from revector.archive.storage import as_bytes, as_texts
from revector.encoders.check import check_vectors
from revector.errors import BadVectors, ConfigError
from revector.interfaces import Vectors
from revector.spec import Metric
from revector.stores.metrics import pair_scores, product_error

BLOCK_ROWS = 2_048
"""Vectors of one matrix product: fastest of 512 to 8,192 measured, at 384 dimensions on 1 MiB of L2 per core."""

TILE_QUERIES = 1_024
RESCORED_ROWS = 1_024
PENDING_SHARE = 2
"""Survivors per query to collect before they join the best: a sort costs more than what a stale bound lets by."""

By = Literal["document", "chunk"]


class Block(Protocol):
    """Documents with their vectors, as ``archive.Part`` is.

    Document ``i`` owns ``counts[i]`` rows of ``embeddings`` (float32 or float16, ``(rows, dim)``), in this order and
    without gaps. A document is in one block; ids hold no NUL.
    """

    @property
    def doc_ids(self) -> Sequence[str]:
        """Ids of ``n`` documents."""
        ...

    @property
    def counts(self) -> npt.NDArray[np.generic]:
        """Integers ``(n,)``, at least 0."""
        ...

    @property
    def embeddings(self) -> npt.NDArray[np.generic]:
        """The vectors of all documents, one after the other."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBlock:
    """A ``Block`` in memory."""

    doc_ids: Sequence[str]
    counts: npt.NDArray[np.generic]
    embeddings: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """The ``k`` best of each of ``q`` queries, best first; equal scores are in order of document id, then chunk.

    ``doc_ids``: ``q`` lists of ``k``. ``chunks`` int64 ``(q, k)``: which chunk of the document. ``scores`` float64
    ``(q, k)``: by the metric, as ``stores.metrics`` says. ``documents`` and ``rows`` were searched.
    """

    doc_ids: list[list[str]]
    chunks: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    documents: int
    rows: int


def search_exact(
    queries: Vectors, blocks: Iterable[Block], k: int, *, by: By = "document", metric: Metric = "cosine"
) -> Exact:
    """Return the ``k`` nearest documents (their best chunk each) or chunks of every query, by ``metric``.

    ``queries`` is float32 ``(q, dim)``. ``blocks`` is read once; memory is that of one block, of ``TILE_QUERIES`` ×
    ``BLOCK_ROWS`` products, and of ``q`` × ``k`` results. All the threads that BLAS may use are used.

    Raises ``ConfigError`` for a ``k`` below 1 or above what was in the stream, ``BadVectors`` for vectors, here or
    there, that are NaN, infinite, zero or of another width.
    """
    if k < 1 or by not in ("document", "chunk"):
        raise ConfigError(
            f"k must be at least 1, and by document or chunk; found k={k}, by {by!r}. Nothing was searched."
        )
    dim = queries.shape[-1]
    checked = check_vectors(queries, len(queries), dim)
    tiles = [_Best(checked[at : at + TILE_QUERIES], k, by, metric) for at in range(0, len(checked), TILE_QUERIES)]
    units = np.empty((BLOCK_ROWS, dim), np.float32)
    documents = rows = 0
    for block in blocks:
        if block.embeddings.ndim != 2 or block.embeddings.shape[1] != dim:
            raise BadVectors(
                f"the queries have {dim} numbers, the vectors from document {next(iter(block.doc_ids), '')!r} on have "
                f"shape {block.embeddings.shape}. The search was given up; encode the queries with the model of the "
                "vectors."
            )
        documents += int(np.count_nonzero(block.counts))
        rows += len(block.embeddings)
        for piece in _pieces(block, units, metric):
            for tile in tiles:
                tile.see(piece)
    found = documents if by == "document" else rows
    if k > found:
        raise ConfigError(
            f"the {k} nearest {by}s were asked for, and there are {found}. Nothing was measured; lower k to at most "
            f"{found}, or wait until more {by}s are embedded."
        )
    for tile in tiles:
        tile.settle()
    return Exact(
        [as_texts(row) for tile in tiles for row in tile.ids],
        np.concatenate([tile.chunks for tile in tiles]) if tiles else np.zeros((0, k), np.int64),
        np.concatenate([tile.scores for tile in tiles]) if tiles else np.zeros((0, k)),
        documents,
        rows,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Up to ``BLOCK_ROWS`` rows: ``vectors`` as they came, the document and the chunk of each row.

    ``factors`` float32: by cosine the vectors in length 1, else themselves. ``lengths``: theirs, ``(rows,)``.
    """

    factors: Vectors
    lengths: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.generic]
    doc_ids: Sequence[str]
    owners: npt.NDArray[np.intp]
    chunks: npt.NDArray[np.int64]


def _pieces(block: Block, units: Vectors, metric: Metric) -> Iterator[_Piece]:
    """Cut a block into pieces that stay in the processor's cache; each overwrites ``units``. Raises ``BadVectors``."""
    counts = np.asarray(block.counts, np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    chunks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    for at in range(0, len(owners), BLOCK_ROWS):
        some = slice(at, at + BLOCK_ROWS)
        vectors = block.embeddings[some]
        single = np.ascontiguousarray(vectors, np.float32)
        lengths = np.sqrt(np.vecdot(single, single))
        if (bad := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))).size:
            raise BadVectors(
                f"chunk {chunks[at + bad[0]]} of document {block.doc_ids[owners[at + bad[0]]]!r} has a vector that is "
                "NaN, infinite or zero. The search was given up; run `revector verify --repair`."
            )
        factors = single
        if metric == "cosine":
            factors, lengths = np.divide(single, lengths[:, None], out=units[: len(single)]), np.ones_like(lengths)
        yield _Piece(factors, lengths, vectors, block.doc_ids, owners[some], chunks[some])


class _Products:
    """Products of a tile of queries with rows, in float32, each within ``error`` × both lengths of the true one."""

    def __init__(self, queries: Vectors) -> None:
        self._queries = queries
        self._out = np.empty((len(queries), BLOCK_ROWS), np.float32)
        self.error = product_error(queries.shape[1])

    def with_(self, factors: Vectors) -> Vectors:
        """Return the products ``(q, rows)``, which the next call overwrites."""
        return np.matmul(self._queries, factors.T, out=self._out[:, : len(factors)])


class _BfloatProducts(_Products):
    """The same in bfloat16: where the processor has it, a third of the time, for more to be scored again."""

    def __init__(self, queries: Vectors) -> None:
        import torch

        super().__init__(queries)
        self._rounded = torch.from_numpy(queries).bfloat16()
        self._torch, self._single = torch, torch.from_numpy(self._out)
        # Both factors and the result are rounded to 8 bits.
        self.error += 3 * 2.0**-8 + 2.0**-15

    def with_(self, factors: Vectors) -> Vectors:
        products = self._rounded @ self._torch.from_numpy(factors).bfloat16().T
        self._single[:, : len(factors)] = products
        return self._out[:, : len(factors)]


def _has_bfloat16() -> bool:
    """Whether products in bfloat16 cost nothing extra: torch is loaded already, for a model, and the processor can."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cpu._is_avx512_bf16_supported())


class _Best:
    """The running best of a tile of queries.

    ``scores`` float64, ``ids`` fixed bytes and ``chunks`` int64, all ``(q, k)``; -inf where nothing was found yet.
    """

    def __init__(self, queries: Vectors, k: int, by: By, metric: Metric) -> None:
        exact = queries.astype(np.float64)
        if metric == "cosine":
            exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        self._exact, self._k, self._by, self._metric = exact, k, by, metric
        self._squares = np.vecdot(exact, exact)
        self._products = (_BfloatProducts if _has_bfloat16() else _Products)(exact.astype(np.float32))
        shape = (len(queries), k)
        self.scores = np.full(shape, -np.inf)
        self.ids = np.zeros(shape, "S1")
        self.chunks = np.zeros(shape, np.int64)
        self._pending: list[tuple[npt.NDArray[np.generic], ...]] = []
        self._waiting = 0

    def see(self, piece: _Piece) -> None:
        """Let a piece's rows compete."""
        products = self._products.with_(piece.factors)
        if self._metric == "l2":
            products -= piece.lengths * piece.lengths / 2
        rows, columns = self._survivors(products, piece)
        for at in range(0, len(rows), RESCORED_ROWS):
            row, column = rows[at : at + RESCORED_ROWS], columns[at : at + RESCORED_ROWS]
            scores = pair_scores(self._exact[row], piece.vectors[column].astype(np.float64), self._metric)
            good = scores >= self.scores[row, -1]
            row, column = row[good], column[good]
            ids = as_bytes([piece.doc_ids[owner] for owner in piece.owners[column].tolist()])
            self._pending.append((row, scores[good], ids, piece.chunks[column]))
            self._waiting += len(row)
            if self._waiting > PENDING_SHARE * len(self._exact):
                self.settle()
        if self._unfilled:
            self.settle()

    def _error(self, piece: _Piece) -> npt.NDArray[np.float64]:
        """Return how far what is compared may be from the truth, for each query: ``(q,)``."""
        longest = float(piece.lengths.max())
        lengths = np.sqrt(self._squares) + (longest if self._metric == "l2" else 0.0)
        return np.asarray(self._products.error * longest * lengths)

    @property
    def _unfilled(self) -> bool:
        return bool(np.isneginf(self.scores[:, -1]).any())

    def _survivors(
        self, products: npt.NDArray[np.float32], piece: _Piece
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return (query, row) of what may be among the best."""
        if self._unfilled:
            rows, columns = np.nonzero(products >= self._first_limits(products, piece))
            return rows, columns
        last = self.scores[:, -1]
        if self._metric == "l2":
            last = (self._squares - last * last) / 2
        least = (last - self._error(piece)).astype(np.float32)
        hot = np.flatnonzero(products.max(axis=1) >= least)
        at = np.flatnonzero(products[hot] >= least[hot, None])
        rows, columns = np.divmod(at, products.shape[1])
        return hot[rows], columns

    def _first_limits(self, products: npt.NDArray[np.float32], piece: _Piece) -> npt.NDArray[np.float32]:
        """Return limits ``(q, rows)`` while there are no ``k`` yet: the best of each document, down to the ``k``-th."""
        if self._by == "chunk":
            best = own = products
        else:
            starts = np.flatnonzero(np.diff(piece.owners, prepend=-1))
            best = np.maximum.reduceat(products, starts, axis=1)
            own = np.repeat(best, np.diff(starts, append=len(piece.owners)), axis=1)
        slack = (2 * self._error(piece)).astype(np.float32)[:, None]
        if best.shape[1] < self._k:
            return own - slack
        kth = -np.partition(-best, self._k - 1, axis=1)[:, self._k - 1, None]
        return np.maximum(own, kth) - slack

    def settle(self) -> None:
        """Merge what has survived since into the best."""
        if not self._pending:
            return
        rows, scores, ids, chunks = (np.concatenate(columns) for columns in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        touched = np.unique(rows)
        rows = np.concatenate([np.repeat(touched, self._k), rows])
        scores = np.concatenate([self.scores[touched].ravel(), scores])
        ids = np.concatenate([self.ids[touched].ravel(), ids])
        chunks = np.concatenate([self.chunks[touched].ravel(), chunks])
        # Sorts are stable, and a document's chunks come in their order: no key for them.
        if self._by == "document" and chunks.any():
            order = np.lexsort((-scores, ids, rows))
            another = (np.diff(rows[order], prepend=-1) != 0) | (ids[order] != np.roll(ids[order], 1))
            kept = order[another | np.isneginf(scores[order])]
            rows, scores, ids, chunks = rows[kept], scores[kept], ids[kept], chunks[kept]
        order = np.lexsort((ids, -scores, rows))
        in_order = rows[order]
        best = order[np.arange(len(order)) - np.searchsorted(in_order, in_order) < self._k]
        shape = (len(touched), self._k)
        self.ids = self.ids.astype(ids.dtype, copy=False)
        self.scores[touched] = scores[best].reshape(shape)
        self.ids[touched] = ids[best].reshape(shape)
        self.chunks[touched] = chunks[best].reshape(shape)
