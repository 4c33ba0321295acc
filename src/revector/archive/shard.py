"""Owns random access to one sealed part: columns mapped at their place in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from revector.archive.part import Part, check_attributes
from revector.archive.storage import ADVICE, as_texts, check_sha256, opened
from revector.errors import ArchiveError

if TYPE_CHECKING:
    import h5py

_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class _Column(Generic[_Kind]):
    """A contiguous dataset: ``array`` is a read-only view of the file, for rows here and there."""

    path: Path
    offset: int
    array: npt.NDArray[_Kind]

    def read(self, first: int, end: int) -> npt.NDArray[_Kind]:
        """Return rows in memory, by reading: what a map has touched would stay in the process's memory."""
        rows = len(self.array[first:end])
        width = self.array.shape[1:]
        at = self.offset + first * math.prod(width) * self.array.itemsize
        return np.fromfile(self.path, self.array.dtype, rows * math.prod(width), offset=at).reshape(rows, *width)


class OpenPart:
    """A part, opened for reading. Memory does not depend on its size: the system's page cache holds what is used.

    ``doc_ids`` and ``content_hashes`` are fixed bytes, ``versions`` and ``starts`` int64, ``counts`` int32, all
    ``(documents,)``; ``chunk_starts`` and ``chunk_ends`` int32 ``(chunks,)``; see ``Part``.
    """

    def __init__(
        self, path: Path, sha256: str | None = None, *, attributes: Mapping[str, str | int] | None = None
    ) -> None:
        """Open ``path``; with ``sha256``, read it whole to prove it is that one. Raises ``ArchiveError``."""
        self.path = path
        if sha256 is not None:
            check_sha256(path, sha256)
        with opened(path) as file:
            check_attributes(path, file, attributes or {})
            self._ids = _column(path, file["documents/doc_id"], np.bytes_)
            self._hashes = _column(path, file["documents/content_hash"], np.bytes_)
            self._versions = _column(path, file["documents/version"], np.int64)
            self._starts = _column(path, file["documents/start"], np.int64)
            self._counts = _column(path, file["documents/count"], np.int32)
            self._chunk_starts = _column(path, file["chunks/start"], np.int32)
            self._chunk_ends = _column(path, file["chunks/end"], np.int32)
            vectors = file["embeddings"]
            self.dim, self.dtype = int(vectors.shape[1]), vectors.dtype
            self._embeddings = _column(path, vectors, np.floating) if vectors.chunks is None else None
        self.doc_ids, self.content_hashes = self._ids.array, self._hashes.array
        self.versions, self.starts, self.counts = self._versions.array, self._starts.array, self._counts.array
        self.chunk_starts, self.chunk_ends = self._chunk_starts.array, self._chunk_ends.array

    def find(self, doc_ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Return the place of each id (UTF-8, fixed bytes), -1 where it is not here, by binary search."""
        if not len(self.doc_ids):
            return np.full(len(doc_ids), -1, np.int64)
        # Of the column's own type, or numpy would convert the column, not the question.
        narrow = doc_ids.astype(self.doc_ids.dtype)
        at = np.minimum(np.searchsorted(self.doc_ids, narrow), len(self.doc_ids) - 1)
        return np.where(self.doc_ids[at] == doc_ids, at, -1)

    def embeddings(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        """Return the vectors of ``rows`` in the order given: ``(len(rows), dim)``; any order, repeats allowed.

        Mapped, each row is one memory access. Compressed, each block is unpacked once: HDF5 takes no unsorted rows.
        """
        if self._embeddings is not None:
            return self._embeddings.array[rows]
        found = np.empty((len(rows), self.dim), self.dtype)
        with opened(self.path) as file:
            vectors = file["embeddings"]
            block = vectors.chunks[0]
            order = np.argsort(rows, kind="stable")
            blocks = rows[order] // block
            for some in np.split(order, np.flatnonzero(np.diff(blocks)) + 1) if len(rows) else ():
                first = int(rows[some[0]]) // block * block
                found[some] = vectors[first : first + block][rows[some] - first]
        return found

    def part(self, first: int, end: int) -> Part:
        """Return the documents ``first`` to ``end`` (exclusive) with all that belongs to them, in memory."""
        starts, counts = self._starts.read(first, end), self._counts.read(first, end)
        row = int(starts[0]) if len(starts) else 0
        stop = row + int(counts.sum(dtype=np.int64))
        return Part(
            doc_ids=self.ids(first, end),
            versions=self._versions.read(first, end),
            content_hashes=as_texts(self._hashes.read(first, end)),
            starts=starts - row,
            counts=counts,
            chunk_starts=self._chunk_starts.read(row, stop),
            chunk_ends=self._chunk_ends.read(row, stop),
            embeddings=self.slice(row, stop),
        )

    def ids(self, first: int, end: int) -> list[str]:
        """Return the ids of the documents ``first`` to ``end`` (exclusive)."""
        return as_texts(self._ids.read(first, end))

    def mapped(self) -> npt.NDArray[np.floating] | None:
        """Return all vectors as a read-only view of the file, or None where they are compressed."""
        return None if self._embeddings is None else self._embeddings.array

    def slice(self, row: int, stop: int) -> npt.NDArray[np.floating]:
        """Return the vectors ``row`` to ``stop`` (exclusive), in memory."""
        if self._embeddings is not None:
            return self._embeddings.read(row, stop)
        with opened(self.path) as file:
            return np.asarray(file["embeddings"][row:stop])


def _column(path: Path, dataset: h5py.Dataset, kind: type[_Kind]) -> _Column[_Kind]:
    if not np.issubdtype(dataset.dtype, kind):
        raise ArchiveError(f"{path}: {dataset.name} should be {kind.__name__}, found {dataset.dtype}. {ADVICE}")
    offset = dataset.id.get_offset()
    if 0 in dataset.shape:
        return _Column(path, 0, np.zeros(dataset.shape, dataset.dtype))
    if offset is None or offset + dataset.nbytes > path.stat().st_size:
        raise ArchiveError(f"{path}: {dataset.name} is not whole within the file. {ADVICE}")
    # A plain array over the map: numpy's memmap class costs microseconds at every access.
    return _Column(path, offset, np.asarray(np.memmap(path, dataset.dtype, "r", offset, dataset.shape)))
