"""Owns the merged view of an archive: one HDF5 file whose vectors stay in the shards, by virtual datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from revector.archive.shard import Shard
from revector.archive.storage import sealing

if TYPE_CHECKING:
    import h5py

ROWS = 262_144


def write_merged(
    path: Path, groups: Mapping[str, Sequence[tuple[Path, Shard]]], *, attributes: Mapping[str, str | int]
) -> None:
    """Write ``path`` with one HDF5 group per group of shards; sealed as every file, memory flat.

    ``<group>/embeddings`` ``(chunks, dim)`` and ``<group>/chunks/{start,end}`` are virtual: their values stay in the
    shards, which are found relative to ``path``, and one that is gone reads as NaN (offsets: -1).
    ``<group>/documents/{doc_id,content_hash,version,start,count}`` are in the file, in the order of the shards;
    ``start`` counts over the whole group.
    """
    import h5py

    with sealing(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        file.attrs.update({**attributes, "format": "revector-merged", "format_version": 1})
        for name, shards in groups.items():
            _virtual(file, f"{name}/embeddings", path, shards, np.nan)
            _virtual(file, f"{name}/chunks/start", path, shards, -1)
            _virtual(file, f"{name}/chunks/end", path, shards, -1)
            _documents(file.create_group(f"{name}/documents"), [shard for _, shard in shards])


def _virtual(file: h5py.File, name: str, path: Path, shards: Sequence[tuple[Path, Shard]], fillvalue: float) -> None:
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


def _documents(group: h5py.Group, shards: Sequence[Shard]) -> None:
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
