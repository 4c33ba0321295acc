"""Owns the merged file of an archive: one HDF5 file of everything, or a view whose vectors stay in the shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from revector.archive.shard import OpenPart
from revector.archive.storage import opened, plain, sealing
from revector.errors import ArchiveError

if TYPE_CHECKING:
    import h5py

MERGED = "revector-merged"
ROWS, COPIED_ROWS = 262_144, 8_192
RESERVE_BYTES = 64 << 20


def write_merged(
    path: Path,
    groups: Mapping[str, Sequence[tuple[Path, OpenPart]]],
    *,
    attributes: Mapping[str, str | int],
    virtual: bool = False,
) -> None:
    """Write ``path`` with one HDF5 group per group of shards; sealed as every file, memory flat.

    ``<group>/embeddings`` ``(chunks, dim)``, ``<group>/chunks/{start,end}`` and
    ``<group>/documents/{doc_id,content_hash,version,start,count}``, in the order of the shards; ``start`` counts over
    the whole group. With ``virtual``, embeddings and chunks stay in the shards, which are found relative to ``path``:
    read such a file by ``open_merged``, for HDF5 itself reads NaN (offsets: -1) where a shard is gone.
    Raises ``ArchiveError`` where the disk has no room; nothing is written then.
    """
    import h5py

    if not virtual:
        _refuse_full_disk(path, [shard for shards in groups.values() for _, shard in shards])
    with sealing(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        file.attrs.update({**attributes, "format": MERGED, "format_version": 1})
        for name, shards in groups.items():
            for column, fillvalue in (("embeddings", np.nan), ("chunks/start", -1), ("chunks/end", -1)):
                if virtual:
                    _virtual(file, f"{name}/{column}", path, shards, fillvalue)
                else:
                    _copied(file, f"{name}/{column}", [shard for _, shard in shards])
            _documents(file.create_group(f"{name}/documents"), [shard for _, shard in shards])


@contextmanager
def open_merged(path: Path) -> Iterator[h5py.File]:
    """Open a merged file for reading.

    Raises ``ArchiveError`` for a file that is absent or no merged one, and where a shard that a virtual one needs is
    gone, torn or smaller than it was.
    """
    import h5py

    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            if plain(file.attrs.get("format")) != MERGED:
                raise ArchiveError(f"{path} is no merged archive. It was not read; make one with `Archive.merge`.")
            for name in file:
                for column in ("embeddings", "chunks/start", "chunks/end"):
                    if file[name][column].is_virtual:
                        _check_sources(path, file[name][column], column)
        except (OSError, KeyError) as error:
            raise ArchiveError(f"{path} cannot be read as a merged archive: {error}. Nothing was read.") from error
        yield file


def _check_sources(path: Path, dataset: h5py.Dataset, column: str) -> None:
    for source in dataset.virtual_sources():
        shard = path.parent / source.file_name
        first, last = source.vspace.get_select_bounds()
        wanted = int(last[0] - first[0]) + 1
        try:
            with opened(shard) as file:
                found = len(file[column])
        except ArchiveError as error:
            raise ArchiveError(
                f"{path} is a view of {shard}, which cannot be read: {error} Nothing was read; bring the archive's "
                "folder back beside it, or merge without `virtual`."
            ) from error
        if found < wanted:
            raise ArchiveError(
                f"{path} shows {wanted:,} rows of {shard}, which has {found:,}. Nothing was read; merge again."
            )


def _refuse_full_disk(path: Path, shards: Sequence[OpenPart]) -> None:
    wanted = sum(
        len(shard.chunk_starts) * (shard.dim * shard.dtype.itemsize + 8)
        + len(shard.doc_ids) * (shard.doc_ids.itemsize + shard.content_hashes.itemsize + 20)
        for shard in shards
    )
    if (free := shutil.disk_usage(path.parent).free) < wanted + RESERVE_BYTES:
        raise ArchiveError(
            f"{path} takes {wanted:,} bytes, and {free:,} are free on its disk. Nothing was written; free space, write "
            "it elsewhere, or merge with `virtual`."
        )


def _copied(file: h5py.File, name: str, shards: Sequence[OpenPart]) -> None:
    """Write one dataset of a group, block by block."""
    inner = name.partition("/")[2]
    vectors = inner == "embeddings"
    width, dtype = ((shards[0].dim,), shards[0].dtype) if vectors else ((), np.dtype("<i4"))
    length = sum(len(shard.chunk_starts) for shard in shards)
    dataset = file.create_dataset(name, (length, *width), dtype, fill_time="never")
    row, rows = 0, COPIED_ROWS if vectors else ROWS
    for shard in shards:
        for first in range(0, len(shard.chunk_starts), rows):
            end = min(first + rows, len(shard.chunk_starts))
            column = shard.chunk_starts if inner == "chunks/start" else shard.chunk_ends
            dataset[row : row + end - first] = shard.slice(first, end) if vectors else column[first:end]
            row += end - first


def _virtual(file: h5py.File, name: str, path: Path, shards: Sequence[tuple[Path, OpenPart]], fillvalue: float) -> None:
    import h5py

    inner = name.partition("/")[2]
    first = shards[0][1]
    width, dtype = ((first.dim,), first.dtype) if inner == "embeddings" else ((), np.dtype("<i4"))
    layout = h5py.VirtualLayout((sum(len(shard.chunk_starts) for _, shard in shards), *width), dtype)
    row = 0
    for source, shard in shards:
        if stop := len(shard.chunk_starts):
            relative = os.path.relpath(source, path.parent)
            layout[row : row + stop] = h5py.VirtualSource(relative, inner, (stop, *width), dtype)
            row += stop
    file.create_virtual_dataset(name, layout, fillvalue=fillvalue)


def _documents(group: h5py.Group, shards: Sequence[OpenPart]) -> None:
    length = sum(len(shard.doc_ids) for shard in shards)
    columns = {"doc_id": "doc_ids", "content_hash": "content_hashes", "version": "versions", "count": "counts"}
    for name, of in columns.items():
        dtype = max((getattr(shard, of).dtype for shard in shards), key=lambda one: one.itemsize)
        group.create_dataset(name, (length,), dtype, fill_time="never")
    group.create_dataset("start", (length,), "<i8", fill_time="never")
    at = row = 0
    for shard in shards:
        for first in range(0, len(shard.doc_ids), ROWS):
            some = slice(first, first + ROWS)
            end = at + len(shard.doc_ids[some])
            for name, of in columns.items():
                group[name][at:end] = getattr(shard, of)[some]
            group["start"][at:end] = shard.starts[some] + row
            at = end
        row += len(shard.chunk_starts)
