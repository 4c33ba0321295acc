"""Owns the HDF5 parts that embeddings are kept in: one file per writer, whole or absent, provable by its hash.

The layout, every column contiguous so that it can be memory-mapped at its offset in the file:

    embeddings                                        float32 or float16 (chunks, dim), contiguous, gzip-4 or zstd
    documents/doc_id, content_hash                    fixed bytes (documents,), UTF-8; sorted by doc_id
    documents/version, start int64, count int32       (documents,)
    chunks/start, end                                 int32 (chunks,), characters of the document
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector.archive.storage import (
    ADVICE,
    FORMAT,
    FORMAT_VERSION,
    Dtype,
    Layout,
    as_bytes,
    as_texts,
    check_sha256,
    embedding_options,
    longest_bytes,
    opened,
    plain,
    sealing,
    sha256_of,
)
from revector.errors import ArchiveError

if TYPE_CHECKING:
    import h5py

CONVERTED_ROWS = 4_096
RESERVE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Documents, their chunks and vectors; ``n`` documents sorted by id (code points), ``m`` chunks in their order.

    ``doc_ids`` and ``content_hashes``: ``n`` strings. ``versions`` int64 ``(n,)``. Document ``i`` owns the chunks
    ``starts[i]`` (int64) to ``starts[i] + counts[i]`` (int32), without gaps. ``chunk_starts`` and ``chunk_ends`` int32
    ``(m,)``: offsets in characters of the document. ``embeddings`` float32 or float16 ``(m, dim)``, finite.
    Raises ``ArchiveError`` for anything else.
    """

    doc_ids: list[str]
    versions: npt.NDArray[np.int64]
    content_hashes: list[str]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    chunk_starts: npt.NDArray[np.int32]
    chunk_ends: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.float32] | npt.NDArray[np.float16]

    def __post_init__(self) -> None:
        for what, texts in (("doc_ids", self.doc_ids), ("content_hashes", self.content_hashes)):
            _require(all(isinstance(text, str) for text in texts), what, "strings", "other types")
        _require(_strictly_rising(self.doc_ids), "doc_ids", "sorted and without duplicates", "another order")
        n, m = len(self.doc_ids), len(self.embeddings)
        for what, wanted, found in (
            ("content_hashes", n, len(self.content_hashes)),
            ("versions", (n,), self.versions.shape),
            ("starts", (n,), self.starts.shape),
            ("counts", (n,), self.counts.shape),
            ("chunk_starts", (m,), self.chunk_starts.shape),
            ("chunk_ends", (m,), self.chunk_ends.shape),
            ("embeddings dimensions", 2, self.embeddings.ndim),
        ):
            _require(found == wanted, what, str(wanted), str(found))
        ends = np.cumsum(self.counts, dtype=np.int64)
        gapless = np.array_equal(self.starts, ends - self.counts) and (ends[-1] if n else 0) == m
        _require(
            bool(gapless) and bool((self.counts >= 0).all()), "starts and counts", f"without gaps up to {m}", "gaps"
        )
        _require(bool(np.isfinite(self.embeddings).all()), "embeddings", "finite", "NaN or infinite values")


@dataclass(frozen=True, slots=True)
class Size:
    """What a part will hold, known before it is written: documents, chunks, width, and bytes of the longest id."""

    documents: int
    chunks: int
    dim: int
    id_bytes: int
    hash_bytes: int = 64

    @classmethod
    def of(cls, part: Part) -> Size:
        """Return the size of one part."""
        n, (m, dim) = len(part.doc_ids), part.embeddings.shape
        return cls(n, m, dim, longest_bytes(part.doc_ids), longest_bytes(part.content_hashes))


class PartWriter:
    """A part that is being written piece by piece, in id order; made by ``writing_part``."""

    def __init__(
        self, file: h5py.File, path: Path, size: Size, *, dtype: Dtype, layout: Layout, descriptor: int
    ) -> None:
        self._file, self._path, self._size, self._dtype = file, path, size, dtype
        self._descriptor = descriptor
        self._documents = self._chunks = 0
        self._last = ""
        n, m = size.documents, size.chunks
        for name, kind, length in (
            ("documents/doc_id", f"S{max(1, size.id_bytes)}", n),
            ("documents/content_hash", f"S{max(1, size.hash_bytes)}", n),
            ("documents/version", "<i8", n),
            ("documents/start", "<i8", n),
            ("documents/count", "<i4", n),
            ("chunks/start", "<i4", m),
            ("chunks/end", "<i4", m),
        ):
            file.create_dataset(name, (length,), kind, fill_time="never", dcpl=_allocated())
        shape = (m, size.dim)
        options = embedding_options(layout, shape, dtype)
        # Compressed blocks have no place of their own before they are written.
        place = {} if "chunks" in options else {"dcpl": _allocated()}
        file.create_dataset("embeddings", shape, dtype, **options, **place)
        file.flush()

    def _write(self, name: str, first: int, values: npt.NDArray[np.generic]) -> None:
        """Write rows where HDF5 has set them aside, around it: on a full disk it would end the whole process."""
        column = self._file[name]
        start = column.id.get_offset()
        if start is None:
            column[first : first + len(values)] = values
            return
        row_bytes = column.dtype.itemsize * int(np.prod(column.shape[1:]))
        left = memoryview(np.ascontiguousarray(values, dtype=column.dtype).view(np.uint8).reshape(-1).data)
        at = start + first * row_bytes
        while left:
            done = os.pwrite(self._descriptor, left, at)
            left, at = left[done:], at + done

    def append(self, part: Part) -> None:
        """Write the next documents; their ids lie above those before. Raises ``ArchiveError`` if they do not fit."""
        if not part.doc_ids:
            return
        if part.doc_ids[0] <= self._last or part.embeddings.shape[1] != self._size.dim:
            raise ArchiveError(
                f"{self._path}: expected ids above {self._last!r} and vectors of {self._size.dim} numbers, found id "
                f"{part.doc_ids[0]!r} and {part.embeddings.shape[1]} numbers. Nothing was written."
            )
        first, end = self._documents, self._documents + len(part.doc_ids)
        row, stop = self._chunks, self._chunks + len(part.embeddings)
        if end > self._size.documents or stop > self._size.chunks:
            raise ArchiveError(f"{self._path}: expected {self._size}, found more. Nothing was written.")
        self._write("documents/doc_id", first, as_bytes(part.doc_ids, self._size.id_bytes))
        self._write("documents/content_hash", first, as_bytes(part.content_hashes, self._size.hash_bytes))
        self._write("documents/version", first, part.versions)
        self._write("documents/start", first, part.starts + row)
        self._write("documents/count", first, part.counts)
        self._write("chunks/start", row, part.chunk_starts)
        self._write("chunks/end", row, part.chunk_ends)
        # Block by block, so that what is converted stays in the processor's cache.
        for at in range(0, len(part.embeddings), CONVERTED_ROWS):
            block = converted(part.embeddings[at : at + CONVERTED_ROWS], self._dtype, self._path)
            self._write("embeddings", row + at, block)
        self._documents, self._chunks, self._last = end, stop, part.doc_ids[-1]

    def check_full(self) -> None:
        """Raise ``ArchiveError`` unless everything that was announced was written."""
        if (self._documents, self._chunks) != (self._size.documents, self._size.chunks):
            raise ArchiveError(
                f"{self._path}: expected {self._size.documents:,} documents with {self._size.chunks:,} chunks, found "
                f"{self._documents:,} with {self._chunks:,}. Nothing was written."
            )


@dataclass(slots=True)
class SealedHash:
    """The SHA-256 (hex) of a file, known once it is sealed."""

    sha256: str = ""


@contextmanager
def writing_part(
    path: Path,
    size: Size,
    *,
    attributes: Mapping[str, str | int],
    dtype: Dtype = "float32",
    layout: Layout = "contiguous",
) -> Iterator[tuple[PartWriter, SealedHash]]:
    """Yield a writer of ``size`` documents and chunks; at the end of the block the file is sealed as ``path``.

    For parts larger than memory. After an error nothing is written. Raises ``ArchiveError`` as ``write_part``.
    """
    import h5py

    written = SealedHash()
    with sealing(path) as temporary:
        _refuse_full_disk(path, size, dtype)
        try:
            with h5py.File(temporary, "w", libver="v110") as file:
                file.attrs.update({**attributes, "format": FORMAT, "format_version": FORMAT_VERSION})
                descriptor = os.open(temporary, os.O_WRONLY)
                try:
                    writer = PartWriter(file, path, size, dtype=dtype, layout=layout, descriptor=descriptor)
                    yield writer, written
                finally:
                    os.close(descriptor)
                writer.check_full()
        except RuntimeError as error:  # HDF5 could not store its own few bytes
            raise ArchiveError(
                f"{path} could not be written: {error}. Nothing was written; is its disk full?"
            ) from error
        written.sha256 = sha256_of(temporary)


def _allocated() -> Any:
    """Return the property of a dataset that has its place in the file from the beginning."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    return properties


def _refuse_full_disk(path: Path, size: Size, dtype: Dtype) -> None:
    """Raise ``ArchiveError`` where a file of ``size`` cannot fit: HDF5 itself does not survive a full disk."""
    wanted = size.chunks * (size.dim * np.dtype(dtype).itemsize + 8)
    wanted += size.documents * (size.id_bytes + size.hash_bytes + 20)
    if (free := shutil.disk_usage(path.parent).free) < wanted + RESERVE_BYTES:
        raise ArchiveError(
            f"{path} needs {wanted:,} bytes, and {free:,} are free on its disk. Nothing was written; free space, or "
            "write it elsewhere."
        )


def write_part(
    path: Path,
    part: Part,
    *,
    attributes: Mapping[str, str | int],
    dtype: Dtype = "float32",
    layout: Layout = "contiguous",
) -> str:
    """Write ``part`` to ``path`` and return the file's SHA-256 (hex); ``path`` is whole or untouched at any moment.

    Written to a temporary name in the same folder, fsynced, renamed, folder fsynced. Contiguous and unfiltered unless
    ``layout`` says otherwise, because embeddings hardly compress. ``attributes`` are the fingerprint and provenance.
    Raises ``ArchiveError`` where ``dtype`` cannot hold the values, and for zstd without its package, ``OSError`` where
    the disk is full or the folder cannot be written to.
    """
    with writing_part(path, Size.of(part), attributes=attributes, dtype=dtype, layout=layout) as (writer, written):
        writer.append(part)
    return written.sha256


def read_part(path: Path, sha256: str | None = None, *, attributes: Mapping[str, str | int] | None = None) -> Part:
    """Return the part in ``path``, embeddings in the type they were written in.

    Raises ``ArchiveError`` for a missing, torn or foreign file, one that does not hash to ``sha256``, and one whose
    attributes differ from those of ``attributes``. Without ``sha256`` a torn file is found, a changed byte is not.
    """
    if sha256 is not None:
        check_sha256(path, sha256)
    with opened(path) as file:
        check_attributes(path, file, attributes or {})
        documents, chunks = file["documents"], file["chunks"]
        return Part(
            doc_ids=as_texts(documents["doc_id"][:]),
            versions=documents["version"][:],
            content_hashes=as_texts(documents["content_hash"][:]),
            starts=documents["start"][:],
            counts=documents["count"][:],
            chunk_starts=chunks["start"][:],
            chunk_ends=chunks["end"][:],
            embeddings=file["embeddings"][:],
        )


def read_attributes(path: Path) -> dict[str, str | int]:
    """Return the attributes that ``path`` was written with. Raises ``ArchiveError`` as ``read_part``."""
    with opened(path) as file:
        return {name: plain(value) for name, value in file.attrs.items() if name not in ("format", "format_version")}


def check_attributes(path: Path, file: h5py.File, wanted: Mapping[str, str | int]) -> None:
    """Raise ``ArchiveError`` naming the first attribute that is not the wanted one."""
    for name, value in wanted.items():
        if (found := plain(file.attrs.get(name))) != value:
            raise ArchiveError(f"{path}: attribute {name} should be {value!r}, found {found!r}. {ADVICE}")


def converted(embeddings: npt.NDArray[np.generic], dtype: Dtype, path: Path) -> npt.NDArray[np.generic]:
    """Return finite ``embeddings`` as ``dtype``. Raises ``ArchiveError`` where they exceed its range."""
    if embeddings.dtype == dtype:
        return embeddings
    limit = float(np.finfo(dtype).max)
    if embeddings.size and max(embeddings.max(), -embeddings.min()) > limit:
        raise ArchiveError(f"{path}: the embeddings exceed the range of {dtype}. Nothing was written; use float32.")
    return embeddings.astype(dtype)


def _require(ok: bool, what: str, allowed: str, found: str) -> None:
    if not ok:
        raise ArchiveError(f"the {what} of a part must be {allowed}, found {found}; it was neither written nor used.")


def _strictly_rising(texts: list[str]) -> bool:
    return all(left < right for left, right in pairwise(texts))
