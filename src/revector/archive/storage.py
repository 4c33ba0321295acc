"""Owns how a file of the archive reaches the disk: sealed whole or not at all, its layout, and what kills leave."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from revector.crash import crash_at
from revector.errors import ArchiveError

if TYPE_CHECKING:
    import h5py

COLUMNS = (
    "documents/doc_id",
    "documents/content_hash",
    "documents/version",
    "documents/start",
    "documents/count",
    "chunks/start",
    "chunks/end",
    "embeddings",
)
"""The datasets of a part."""

FORMAT = "revector-part"
FORMAT_VERSION = 2

Dtype = Literal["float32", "float16"]
Layout = Literal["contiguous", "gzip", "zstd"]
LAYOUTS: tuple[Layout, ...] = ("contiguous", "gzip", "zstd")

ADVICE = "The file was left as it is and not used; remove it and embed this part again."

_LEFT_S = 24 * 3600.0

_BLOCK_BYTES = 64 << 10
"""Size of a compressed block: a random read unpacks a whole one, and below this the ratio suffers."""

_GZIP_LEVEL, _ZSTD_LEVEL = 4, 3
_ZSTD_FILTER = 32015
"""Registered number of the filter (https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md)."""


@contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path`` to write to, then give it that name.

    The file is fsynced, renamed, and the folder fsynced: ``path`` is whole or untouched at any moment. After an error
    nothing is left; after a kill, a temporary file that ``remove_temporary`` finds.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        crash_at("shard.after_write")
        fsync(temporary)
        crash_at("shard.after_fsync")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)
    crash_at("shard.after_rename")


def remove_temporary(folder: Path, *, older_than_s: float = 3600.0) -> int:
    """Remove what killed writers left in ``folder`` and return how many files; younger ones may still be written."""
    limit = time.time() - older_than_s
    removed = 0
    for leftover in folder.glob(".*.tmp"):
        if leftover.stat().st_mtime <= limit:
            leftover.unlink(missing_ok=True)
            removed += 1
    return removed


@contextmanager
def working_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in ``parent`` to prepare files in; removed at the end, and after a kill by a later call.

    What is called ``name`` may be prepared by several at once: only folders a day old count as left behind.
    """
    for left in parent.glob(f".{glob.escape(name)}.*.work"):
        if left.stat().st_mtime <= time.time() - _LEFT_S:
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f".{name}.{uuid.uuid4().hex}.work"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a part. Raises ``ArchiveError`` with its name where it is missing, torn, foreign or cannot be decoded.

    So does a part whose columns lie elsewhere: links, virtual datasets and external storage would read other files.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _check_format(path, file)
            for name in COLUMNS:
                check_own(path, file, name)
            _load_filters(file["embeddings"])
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        state = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        raise ArchiveError(f"{path}: expected a whole part, found {state} ({error}). {ADVICE}") from error
    except ArchiveError as error:
        raise error if str(path) in str(error) else ArchiveError(f"{path}: {error}") from error


def _check_format(path: Path, file: h5py.File) -> None:
    found = (plain(file.attrs.get("format")), plain(file.attrs.get("format_version")))
    if found != (FORMAT, FORMAT_VERSION):
        raise ArchiveError(f"{path}: expected format {(FORMAT, FORMAT_VERSION)}, found {found}. {ADVICE}")


def check_own(path: Path, file: h5py.File, name: str) -> None:
    """Raise ``ArchiveError`` unless all of the dataset ``name`` is in this very file."""
    import h5py

    steps, place = name.split("/"), file
    for step in steps:
        if not isinstance(place.get(step, getlink=True), h5py.HardLink):
            raise ArchiveError(f"{path}: {name} is a link to elsewhere, which is not followed. {ADVICE}")
        place = place[step]
    if not isinstance(place, h5py.Dataset) or place.is_virtual or place.external:
        raise ArchiveError(f"{path}: the numbers of {name} lie in other files, which are not read. {ADVICE}")


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ``ArchiveError`` unless the file hashes to ``sha256`` (hex); a missing one is left to ``opened``."""
    if path.is_file() and (found := sha256_of(path)) != sha256:
        raise ArchiveError(f"{path}: recorded was SHA-256 {sha256}, found {found}. {ADVICE}")


def embedding_options(layout: Layout, shape: tuple[int, int], dtype: Dtype) -> dict[str, Any]:
    """Return h5py's options for vectors of ``shape``: none, or blocks of 64 KiB, shuffled and compressed.

    Raises ``ArchiveError`` for a layout that does not exist and for zstd without its package.
    """
    if layout not in LAYOUTS:
        raise ArchiveError(f"layout {layout!r} was asked for, there are {', '.join(LAYOUTS)}. Nothing was written.")
    if layout == "zstd":
        _load_zstd("Nothing was written")
    if layout == "contiguous" or 0 in shape:
        return {"fill_time": "never"}
    rows = max(1, _BLOCK_BYTES // (shape[1] * np.dtype(dtype).itemsize))
    options = {"chunks": (min(rows, shape[0]), shape[1]), "shuffle": True}
    if layout == "gzip":
        return {**options, "compression": "gzip", "compression_opts": _GZIP_LEVEL}
    return {**options, "compression": _ZSTD_FILTER, "compression_opts": (_ZSTD_LEVEL,)}


def _load_filters(dataset: h5py.Dataset) -> None:
    plist = dataset.id.get_create_plist()
    if any(plist.get_filter(n)[0] == _ZSTD_FILTER for n in range(plist.get_nfilters())):
        _load_zstd("Nothing was read")


def _load_zstd(state: str) -> None:
    if find_spec("hdf5plugin") is None:
        raise ArchiveError(f"zstd needs the package hdf5plugin. {state}; run: pip install 'revector[zstd]'")
    importlib.import_module("hdf5plugin")  # registers its filters with HDF5


def as_bytes(texts: list[str], width: int | None = None) -> npt.NDArray[np.bytes_]:
    """Return ``texts`` in UTF-8 as one array of fixed ``width`` bytes (default: of the longest), which can be mapped.

    Raises ``ArchiveError`` for NUL characters, which pad such arrays, and for texts above ``width``.
    """
    joined = "".join(texts)
    encoded: list[str] | list[bytes] = texts if joined.isascii() else [text.encode() for text in texts]
    longest = max(map(len, encoded), default=0)
    if longest > (width := max(longest if width is None else width, 1)) or "\0" in joined:
        raise ArchiveError(f"ids and hashes take up to {width} bytes without NUL; found others. Nothing was written.")
    return np.array(encoded, dtype=f"S{width}")


def longest_bytes(texts: list[str]) -> int:
    """Return the bytes in UTF-8 of the longest of ``texts``, at least 1."""
    return max(1, max(map(len, texts if "".join(texts).isascii() else [text.encode() for text in texts]), default=1))


def as_texts(encoded: npt.NDArray[np.bytes_]) -> list[str]:
    """Return what ``as_bytes`` was given."""
    return [one.decode() for one in encoded.tolist()]


def plain(value: Any) -> Any:
    """Return a numpy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
