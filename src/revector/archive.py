"""Owns the HDF5 parts that embeddings are kept in: one file per writer, whole or absent, provable by its hash."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from revector.crash import crash_at
from revector.errors import ArchiveError

if TYPE_CHECKING:
    import h5py

FORMAT = "revector-part"
FORMAT_VERSION = 1


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


def write_part(
    path: Path,
    part: Part,
    *,
    attributes: Mapping[str, str | int],
    dtype: Literal["float32", "float16"] = "float32",
) -> str:
    """Write ``part`` to ``path`` and return the file's SHA-256 (hex); ``path`` is whole or untouched at any moment.

    Written to a temporary name in the same folder, fsynced, renamed, folder fsynced; contiguous and unfiltered, because
    embeddings do not compress. ``attributes`` are the fingerprint and provenance. Raises ``ArchiveError`` where
    ``dtype`` cannot hold the values.
    """
    import h5py

    with np.errstate(over="ignore"):
        embeddings = part.embeddings.astype(dtype)
    if not np.isfinite(embeddings).all():
        raise ArchiveError(f"{path}: the embeddings exceed the range of {dtype}. Nothing was written; use float32.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with h5py.File(temporary, "w", libver="v110") as file:
            file.attrs.update({**attributes, "format": FORMAT, "format_version": FORMAT_VERSION})
            file["embeddings"] = embeddings
            file["documents"] = _documents(part)
            file["chunks"] = _chunks(part)
        sha256 = _sha256(temporary)
        crash_at("shard.after_write")
        _fsync(temporary)
        crash_at("shard.after_fsync")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)
    crash_at("shard.after_rename")
    return sha256


def read_part(path: Path, sha256: str | None = None, *, attributes: Mapping[str, str | int] | None = None) -> Part:
    """Return the part in ``path``, embeddings in the type they were written in.

    Raises ``ArchiveError`` for a missing, torn or foreign file, one that does not hash to ``sha256``, and one whose
    attributes differ from those of ``attributes``. Without ``sha256`` a torn file is found, a changed byte is not.
    """
    if sha256 is not None and path.is_file() and (found := _sha256(path)) != sha256:
        raise ArchiveError(f"{path}: recorded was SHA-256 {sha256}, found {found}. {_ADVICE}")
    with _opened(path) as file:
        for name, wanted in (attributes or {}).items():
            if (value := _plain(file.attrs.get(name))) != wanted:
                raise ArchiveError(f"{path}: attribute {name} should be {wanted!r}, found {value!r}. {_ADVICE}")
        documents, chunks = file["documents"][:], file["chunks"][:]
        return Part(
            doc_ids=[doc_id.decode() for doc_id in documents["doc_id"]],
            versions=np.ascontiguousarray(documents["version"]),
            content_hashes=[content_hash.decode() for content_hash in documents["content_hash"]],
            starts=np.ascontiguousarray(documents["start"]),
            counts=np.ascontiguousarray(documents["count"]),
            chunk_starts=np.ascontiguousarray(chunks["start"]),
            chunk_ends=np.ascontiguousarray(chunks["end"]),
            embeddings=file["embeddings"][:],
        )


def read_attributes(path: Path) -> dict[str, str | int]:
    """Return the attributes that ``path`` was written with. Raises ``ArchiveError`` as ``read_part``."""
    with _opened(path) as file:
        return {name: _plain(value) for name, value in file.attrs.items() if name not in ("format", "format_version")}


def remove_temporary(folder: Path, *, older_than_s: float = 3600.0) -> int:
    """Remove what killed writers left in ``folder`` and return how many files; younger ones may still be written."""
    limit = time.time() - older_than_s
    removed = 0
    for leftover in folder.glob(".*.tmp"):
        if leftover.stat().st_mtime <= limit:
            leftover.unlink(missing_ok=True)
            removed += 1
    return removed


_ADVICE = "The file was left as it is and not used; remove it and embed this part again."


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _check_format(path, file)
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        state = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        raise ArchiveError(f"{path}: expected a whole part, found {state} ({error}). {_ADVICE}") from error
    except ArchiveError as error:
        raise error if str(path) in str(error) else ArchiveError(f"{path}: {error}") from error


def _check_format(path: Path, file: h5py.File) -> None:
    found = (_plain(file.attrs.get("format")), _plain(file.attrs.get("format_version")))
    if found != (FORMAT, FORMAT_VERSION):
        raise ArchiveError(f"{path}: expected format {(FORMAT, FORMAT_VERSION)}, found {found}. {_ADVICE}")


def _documents(part: Part) -> npt.NDArray[np.void]:
    import h5py

    text = h5py.string_dtype()
    fields = [("doc_id", text), ("version", "<i8"), ("content_hash", text), ("start", "<i8"), ("count", "<i4")]
    table = np.empty(len(part.doc_ids), dtype=fields)
    table["doc_id"], table["version"], table["content_hash"] = part.doc_ids, part.versions, part.content_hashes
    table["start"], table["count"] = part.starts, part.counts
    return table


def _chunks(part: Part) -> npt.NDArray[np.void]:
    table = np.empty(len(part.chunk_starts), dtype=[("start", "<i4"), ("end", "<i4")])
    table["start"], table["end"] = part.chunk_starts, part.chunk_ends
    return table


def _require(ok: bool, what: str, allowed: str, found: str) -> None:
    if not ok:
        raise ArchiveError(f"the {what} of a part must be {allowed}, found {found}; it was neither written nor used.")


def _strictly_rising(texts: list[str]) -> bool:
    return all(left < right for left, right in pairwise(texts))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
