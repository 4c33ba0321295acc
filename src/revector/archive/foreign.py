"""Owns vectors in the files of other tools, read: our own exports, and what a team has as arrays or tables."""

from __future__ import annotations

import glob
import hashlib
import json
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector.archive.layouts import (
    BLOCK,
    COUNT,
    IDS,
    START,
    TABLE,
    VECTORS,
    Assets,
    FileField,
    field_of,
    first_of,
    id_bytes,
    read_hdf5,
    table_of,
)
from revector.archive.part import read_attributes
from revector.archive.shard import OpenPart
from revector.archive.storage import FORMAT, as_bytes, plain
from revector.archive.tables import FORMATS, NOTE_SUFFIX, PROVENANCE, ROWS_SUFFIX, NpyWriter
from revector.errors import ArchiveError, ConfigError, SourceError
from revector.formats.strict_json import doubled
from revector.formats.unpacking import check_parquet, check_room, check_unpacked

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError),
    *(SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    tokenize.TokenError,
)
"""What the readers of foreign files raise for damage, or for what was made to deceive them."""

SAFE = (
    'python -c "import sys, numpy as np; d = np.load(sys.argv[1], allow_pickle=True); d = d.item() if '
    "isinstance(d, np.ndarray) else d; np.savez(sys.argv[2], ids=np.array(list(d)), vectors=np.stack(list("
    'd.values())))" OLD NEW.npz'
)
"""How a dict of vectors by id that was pickled becomes arrays, in a process of those who trust it."""

PICKLED = f"Python objects, which can run code and are not opened; a dict that you trust becomes arrays by: {SAFE}"
PICKLES = (".pkl", ".pickle", ".p")

OPTIONAL = ("chunk", "start", "end", "content_hash")
_FORMS = (
    "X.npy with X.npy.rows.parquet, X.ids.npy or asset_ids.npy beside it, or rows with fields; X.npz "
    "or X.parquet with `id` and `vector`; "
    "X.h5 from `revector vectors export`, or with `embeddings` and `asset_ids` or `metadata` (asset_id, start_idx, "
    "count), each by itself or in a group per language"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """A file of ``n`` vectors: ``ids`` (UTF-8, fixed bytes) in memory, ``vectors`` ``(n, dim)`` mapped.

    ``chunk``, ``start``, ``end`` (integers) and ``content_hash`` (fixed bytes) are None where the file has none;
    ``provenance`` is empty where it does not say what its vectors are. ``fields``: its other columns by name, with a
    row for each vector or, where ``assets`` says which vectors are of an id, for each id. ``aside``: names of what else
    the file holds, which is no column.
    """

    path: Path
    ids: npt.NDArray[np.bytes_]
    vectors: npt.NDArray[np.generic]
    chunk: npt.NDArray[np.generic] | None
    start: npt.NDArray[np.generic] | None
    end: npt.NDArray[np.generic] | None
    content_hash: npt.NDArray[np.bytes_] | None
    provenance: Mapping[str, str | int]
    fields: Mapping[str, FileField]
    assets: Assets | None
    aside: tuple[str, ...] = ()


def open_columns(path: Path, scratch: Path) -> Columns:
    """Open ``path``; what cannot be mapped where it lies is unpacked into the folder ``scratch``, a block at a time.

    Raises ``SourceError`` for a file that is absent, cannot be read, would unpack to out of all proportion, or whose
    columns do not belong together, and ``ArchiveError`` where the note beside an export has another checksum than its
    vectors, and for HDF5 whose columns lie elsewhere.
    """
    if path.suffix in PICKLES:
        raise SourceError(f"{path} holds {PICKLED}. Nothing was read.")
    reader = {".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".h5": _hdf5, ".hdf5": _hdf5}.get(path.suffix)
    if reader is None:
        raise ConfigError(
            f"{path}: the file's ending must be {', '.join(FORMATS)} or .hdf5. Nothing has run; rename it."
        )
    try:
        read = reader(path, scratch)
        columns = read.columns
        if read.assets is not None:
            read.assets.check(len(columns["vector"]))
            columns["id"], columns["chunk"] = read.assets.by_vector()
        hashes = columns.get("content_hash")
        made = Columns(
            path,
            id_bytes(_there(columns, "id")),
            _there(columns, "vector"),
            columns.get("chunk"),
            columns.get("start"),
            columns.get("end"),
            None if hashes is None else id_bytes(hashes),
            _object(read.provenance or _noted(path).get(PROVENANCE, {})),
            read.fields,
            read.assets,
            read.aside,
        )
        _check_lengths(made)
    except UNREADABLE as error:
        raise SourceError(f"{path} cannot be read: {error}. Nothing was changed; give {_FORMS}.") from error
    _check_note(made)
    return made


def _there(columns: Mapping[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    if name not in columns:
        raise ValueError(f"there is no column {name!r}, nor one of its other names")
    return columns[name]


def _check_lengths(made: Columns) -> None:
    if made.vectors.ndim != 2 or made.vectors.dtype.kind != "f":
        raise ValueError(f"vectors of shape {made.vectors.shape} and type {made.vectors.dtype}")
    for name in ("ids", *OPTIONAL):
        column = getattr(made, name)
        if column is not None and column.shape != (len(made.vectors),):
            raise ValueError(f"{name} has shape {column.shape} beside {len(made.vectors):,} vectors")
    if (made.start is None) != (made.end is None):
        raise ValueError("one of start and end is there, the other is not")


def _check_note(made: Columns) -> None:
    """Compare with the checksum beside the file, where there is one."""
    recorded = _noted(made.path).get("vectors_sha256")
    if recorded is not None and (found := vectors_sha256(made.vectors)) != recorded:
        raise ArchiveError(
            f"{made.path}: its note records vectors of SHA-256 {recorded}, found {found}. Nothing was changed; export "
            "them again, or remove the note if the file is meant to be another."
        )


def vectors_sha256(vectors: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 (hex) of the bytes of ``vectors``, row by row, as an export's note has it."""
    digest = hashlib.sha256()
    for first in range(0, len(vectors), BLOCK):
        digest.update(np.ascontiguousarray(vectors[first : first + BLOCK]).data)
    return digest.hexdigest()


def _noted(path: Path) -> dict[str, object]:
    note = path.with_name(path.name + NOTE_SUFFIX)
    found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """Columns by our names for them, what the file says of itself, and what else it holds."""

    columns: dict[str, npt.NDArray[np.generic]]
    provenance: Mapping[str, str | int]
    fields: Mapping[str, FileField] = field(default_factory=dict)
    assets: Assets | None = None
    aside: tuple[str, ...] = ()


def _npy(path: Path, scratch: Path) -> _ReadFile:
    rows = path.with_name(path.name + ROWS_SUFFIX)
    if rows.is_file():
        read = _parquet(rows, scratch)
        return _ReadFile({**read.columns, "vector": _mapped(path)}, {}, read.fields)
    beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.npy"))
    arrays = {one.name[len(path.stem) + 1 : -len(".npy")]: _mapped(one) for one in beside}
    if first_of(IDS, arrays) is None:
        arrays |= {name: _mapped(one) for name in IDS if (one := path.with_name(f"{name}.npy")).is_file()}
    return _of_arrays({**arrays, "vector": _mapped(path)}, {})


def _npz(path: Path, scratch: Path) -> _ReadFile:
    with zipfile.ZipFile(path) as archive:
        _refuse_doubled(archive.namelist())
        names = [name for name in archive.namelist() if name.endswith(".npy") and "/" not in name and "\\" not in name]
        size = sum(archive.getinfo(name).file_size for name in names)  # no more than this is unpacked
        check_unpacked(path, size)
        check_room(scratch, path, size)
        archive.extractall(scratch, names)
    arrays = {name.removesuffix(".npy"): _mapped(scratch / name) for name in names}
    said = arrays.pop(PROVENANCE, None)
    return _of_arrays(arrays, {} if said is None else json.loads(str(said)))


def _of_arrays(arrays: Mapping[str, npt.NDArray[np.generic]], provenance: Mapping[str, str | int]) -> _ReadFile:
    """Return arrays as columns: those that have our names or usual ones for ids and vectors, and the others.

    An array of rows with fields, the vector among them, is as many arrays as it has fields.
    """
    rows = [(name, one) for name, one in arrays.items() if one.dtype.names and first_of(VECTORS, one.dtype.names)]
    if len(rows) == 1:
        whole: npt.NDArray[Any] = rows[0][1]
        fields = {name: whole[name] for name in whole.dtype.names or ()}
        arrays = {name: one for name, one in arrays.items() if name != rows[0][0]} | fields
    columns = {name: arrays[name] for name in OPTIONAL if name in arrays}
    ids, vectors = first_of(IDS, arrays), first_of(VECTORS, arrays)
    columns |= {name: arrays[own] for name, own in (("id", ids), ("vector", vectors)) if own is not None}
    others = {name: one for name, one in arrays.items() if one.ndim == 1 and not one.dtype.names}
    table = arrays.get(TABLE)
    if table is not None and table.dtype.names:
        assets = table_of(table)
        others[first_of(IDS, table.dtype.names) or "asset_id"] = assets.ids
    elif ids is not None and START in arrays and COUNT in arrays:
        assets = Assets(id_bytes(arrays[ids]), arrays[START].astype(np.int64), arrays[COUNT].astype(np.int64))
    else:
        assets = None
    aside = tuple(name for name in arrays if name not in {*others, ids, vectors, *(() if assets is None else (TABLE,))})
    return _ReadFile(columns, provenance, {name: field_of(one) for name, one in others.items()}, assets, aside)


def _parquet(path: Path, scratch: Path) -> _ReadFile:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _refuse_doubled(file.schema_arrow.names)
        rows, named = check_parquet(path, file), file.schema_arrow.names
        ids, vectors = first_of(IDS, named), first_of(VECTORS, named)
        columns = dict[str, npt.NDArray[np.generic]]()
        if vectors is not None:
            columns["vector"] = _spooled(path, file, vectors, scratch / "vector.npy")
        if ids is not None:
            columns["id"] = _column(file, ids, rows)
        columns |= {name: _column(file, name, rows) for name in OPTIONAL if name in named}
        said = (file.schema_arrow.metadata or {}).get(PROVENANCE.encode())
        others = [name for name in named if name not in (ids, vectors)]
        fields = {name: FileField(file.metadata.num_rows, partial(_values, path, name)) for name in others}
    return _ReadFile(columns, {} if said is None else json.loads(said), fields)


def _values(path: Path, name: str, first: int, stop: int) -> list[object]:
    import pyarrow.parquet as pq

    found: list[object] = pq.read_table(path, columns=[name]).column(0)[first:stop].to_pylist()
    return found


def _refuse_doubled(names: Iterable[str]) -> None:
    if (twice := doubled(names)) is not None:
        raise ValueError(f"the column {twice!r} is there twice")


def _column(file: ParquetFile, name: str, rows: int) -> npt.NDArray[np.generic]:
    texts = name not in ("chunk", "start", "end")
    pieces = [np.zeros(0, "S1" if texts else np.int64)]
    for batch in file.iter_batches(rows if texts else BLOCK, columns=[name]):
        column = batch.column(0)
        if column.null_count:
            raise ValueError(f"{column.null_count} nulls in column `{name}`")
        if texts:
            pieces.append(as_bytes([str(one) for one in column.to_pylist()]))
            id_bytes(pieces[-1])  # for its width
        else:
            pieces.append(column.to_numpy(zero_copy_only=False))
    return np.concatenate(pieces)


def _spooled(source: Path, file: ParquetFile, name: str, path: Path) -> npt.NDArray[np.generic]:
    """Return the vectors of a Parquet file, as a mapped array: Parquet cannot be read in another order than its own."""
    writer: NpyWriter | None = None
    numbers = sum(
        column.num_values
        for at in range(file.metadata.num_row_groups)
        for n in range(file.metadata.num_columns)
        if (column := file.metadata.row_group(at).column(n)).path_in_schema.partition(".")[0] == name
    )
    check_unpacked(source, 4 * numbers)
    check_room(path.parent, source, 8 * numbers)
    try:
        for batch in file.iter_batches(BLOCK, columns=[name]):
            column = batch.column(0)
            numbers = column.flatten()
            lengths = set(column.value_lengths().unique().to_pylist())
            if column.null_count or numbers.null_count or len(lengths) != 1:
                raise ValueError(f"vectors of lengths {sorted(map(str, lengths))}, or nulls in column `{name}`")
            block = numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)
            if writer is None:
                writer = NpyWriter(path, block.dtype.str, (file.metadata.num_rows, block.shape[1]))
            writer.append(block)
    finally:
        if writer is not None:
            writer.__exit__()
    return np.zeros((0, 0), np.float32) if writer is None else _mapped(path)


def _hdf5(path: Path, scratch: Path) -> _ReadFile:
    import h5py

    with h5py.File(path, "r") as file:
        ours = plain(file.attrs.get("format")) == FORMAT
    if not ours:
        check_room(scratch, path, path.stat().st_size)
        found = read_hdf5(path, scratch)
        if found is None:
            raise ValueError(f"no dataset of it is called {', '.join(VECTORS)}")
        columns: dict[str, npt.NDArray[np.generic]] = {"vector": _mapped(found.vectors)}
        name = first_of(IDS, found.fields)
        if found.assets is None and name is not None:
            columns["id"] = id_bytes(np.array(found.fields[name].read(0, found.fields[name].rows), object))
            for own in OPTIONAL:
                if own in found.fields and found.fields[own].rows == len(columns["vector"]):
                    columns[own] = np.array(found.fields[own].read(0, found.fields[own].rows))
        return _ReadFile(columns, {}, found.fields, found.assets, found.aside)
    shard = OpenPart(path)
    stop = len(shard.chunk_starts)
    firsts = np.repeat(shard.starts, shard.counts)
    vectors: npt.NDArray[np.generic] | None = shard.mapped()
    if vectors is None:  # compressed
        size = stop * shard.dim * shard.dtype.itemsize
        check_unpacked(path, size)
        check_room(scratch, path, size)
        with NpyWriter(scratch / "vector.npy", str(shard.dtype), (stop, shard.dim)) as writer:
            for row in range(0, stop, BLOCK):
                writer.append(shard.slice(row, min(row + BLOCK, stop)))
        vectors = _mapped(scratch / "vector.npy")
    columns = {
        "id": np.repeat(shard.doc_ids, shard.counts),
        "chunk": np.arange(stop) - firsts,
        "start": shard.chunk_starts,
        "end": shard.chunk_ends,
        "content_hash": np.repeat(shard.content_hashes, shard.counts),
        "vector": vectors,
    }
    return _ReadFile(columns, read_attributes(path))


def _mapped(path: Path) -> npt.NDArray[np.generic]:
    """Return an ``.npy`` file as a read-only view, as a plain array: numpy's own class of maps is slow to index.

    Raises ``ValueError`` where its header promises what the file does not hold.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = path.stat().st_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"{path.name} holds {PICKLED}; texts are saved with dtype=str")
    wanted = math.prod(shape) * dtype.itemsize
    if any(side < 0 for side in shape) or wanted > held:
        raise ValueError(f"its header promises shape {shape} of {dtype}, and {held:,} bytes follow")
    if not wanted:
        return np.zeros(shape, dtype)
    return np.asarray(np.load(path, mmap_mode="r"))


def _object(found: object) -> Mapping[str, str | int]:
    if not isinstance(found, dict):
        raise ValueError("its provenance is no JSON object")  # noqa: TRY004 - one of UNREADABLE
    return found
