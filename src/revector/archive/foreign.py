"""Owns vectors in the files of other tools, read: our own exports, and what a team has as arrays or tables."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.archive.part import read_attributes
from revector.archive.shard import OpenPart
from revector.archive.storage import as_bytes
from revector.archive.tables import NOTE_SUFFIX, PROVENANCE, ROWS_SUFFIX, NpyWriter, check_format
from revector.errors import ArchiveError, SourceError
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

WIDEST_ID = 16 << 10
"""Bytes of one id or hash in a foreign array, with its padding; an id itself has at most 512."""

_OPTIONAL = ("chunk", "start", "end", "content_hash")
_BLOCK = 8_192
_FORMS = (
    "X.npy with X.npy.rows.parquet or X.ids.npy beside it, X.npz with `id` and `vector`, X.parquet with columns `id` "
    "and `vector`, or X.h5 from `revector vectors export`"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """A file of ``n`` vectors: ``ids`` (UTF-8, fixed bytes) in memory, ``vectors`` ``(n, dim)`` mapped.

    ``chunk``, ``start``, ``end`` (integers) and ``content_hash`` (fixed bytes) are None where the file has none;
    ``provenance`` is empty where it does not say what its vectors are.
    """

    path: Path
    ids: npt.NDArray[np.bytes_]
    vectors: npt.NDArray[np.generic]
    chunk: npt.NDArray[np.generic] | None
    start: npt.NDArray[np.generic] | None
    end: npt.NDArray[np.generic] | None
    content_hash: npt.NDArray[np.bytes_] | None
    provenance: Mapping[str, str | int]


def open_columns(path: Path, scratch: Path) -> Columns:
    """Open ``path``; what cannot be mapped where it lies is unpacked into the folder ``scratch``, a block at a time.

    Raises ``SourceError`` for a file that is absent, cannot be read, would unpack to out of all proportion, or whose
    columns do not belong together, and ``ArchiveError`` where the note beside an export has another checksum than its
    vectors, and for HDF5 whose columns lie elsewhere.
    """
    check_format(path)
    try:
        columns, provenance = {".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".h5": _hdf5}[path.suffix](
            path, scratch
        )
        hashes = columns.get("content_hash")
        made = Columns(
            path,
            _texts(columns["id"]),
            columns["vector"],
            columns.get("chunk"),
            columns.get("start"),
            columns.get("end"),
            None if hashes is None else _texts(hashes),
            _object(provenance or _noted(path).get(PROVENANCE, {})),
        )
        _check_lengths(made)
    except UNREADABLE as error:
        raise SourceError(f"{path} cannot be read: {error}. Nothing was imported; hand over {_FORMS}.") from error
    _check_note(made)
    return made


def _check_lengths(made: Columns) -> None:
    if made.vectors.ndim != 2 or made.vectors.dtype.kind != "f":
        raise ValueError(f"vectors of shape {made.vectors.shape} and type {made.vectors.dtype}")
    for name in ("ids", *_OPTIONAL):
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
            f"{made.path}: its note records vectors of SHA-256 {recorded}, found {found}. Nothing was imported; export "
            "them again, or remove the note if the file is meant to be another."
        )


def vectors_sha256(vectors: npt.NDArray[np.generic]) -> str:
    """Return the SHA-256 (hex) of the bytes of ``vectors``, row by row, as an export's note has it."""
    digest = hashlib.sha256()
    for first in range(0, len(vectors), _BLOCK):
        digest.update(np.ascontiguousarray(vectors[first : first + _BLOCK]).data)
    return digest.hexdigest()


def _noted(path: Path) -> dict[str, object]:
    note = path.with_name(path.name + NOTE_SUFFIX)
    found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    return found if isinstance(found, dict) else {}


_Read = tuple[dict[str, npt.NDArray[np.generic]], Mapping[str, str | int]]
"""Columns by name, and the provenance that the file holds itself."""


def _npy(path: Path, scratch: Path) -> _Read:
    columns: dict[str, npt.NDArray[np.generic]] = {}
    rows, ids = path.with_name(path.name + ROWS_SUFFIX), path.with_name(f"{path.stem}.ids.npy")
    if rows.is_file():
        columns, _ = _parquet(rows, scratch)
    elif ids.is_file():
        columns["id"] = _mapped(ids)
    return {**columns, "vector": _mapped(path)}, {}


def _npz(path: Path, scratch: Path) -> _Read:
    with zipfile.ZipFile(path) as archive:
        _refuse_doubled(archive.namelist())
        names = {f"{name}.npy" for name in ("id", "vector", PROVENANCE, *_OPTIONAL)} & set(archive.namelist())
        size = sum(archive.getinfo(name).file_size for name in names)  # no more than this is unpacked
        check_unpacked(path, size)
        check_room(scratch, path, size)
        archive.extractall(scratch, names)
    columns = {name.removesuffix(".npy"): _mapped(scratch / name) for name in names}
    said = columns.pop(PROVENANCE, None)
    return columns, {} if said is None else json.loads(str(said))


def _parquet(path: Path, scratch: Path) -> _Read:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _refuse_doubled(file.schema_arrow.names)
        rows = check_parquet(path, file)
        names = [name for name in ("id", *_OPTIONAL) if name in file.schema_arrow.names]
        columns = {}
        if "vector" in file.schema_arrow.names:
            columns["vector"] = _spooled(path, file, scratch / "vector.npy")
        columns |= {name: _column(file, name, rows) for name in names}
        said = (file.schema_arrow.metadata or {}).get(PROVENANCE.encode())
    return columns, {} if said is None else json.loads(said)


def _refuse_doubled(names: Iterable[str]) -> None:
    if (twice := doubled(names)) is not None:
        raise ValueError(f"the column {twice!r} is there twice")


def _column(file: ParquetFile, name: str, rows: int) -> npt.NDArray[np.generic]:
    texts = name in ("id", "content_hash")
    pieces = [np.zeros(0, "S1" if texts else np.int64)]
    for batch in file.iter_batches(rows if texts else _BLOCK, columns=[name]):
        column = batch.column(0)
        if column.null_count:
            raise ValueError(f"{column.null_count} nulls in column `{name}`")
        if texts:
            pieces.append(as_bytes([str(one) for one in column.to_pylist()]))
            _check_width(pieces[-1])
        else:
            pieces.append(column.to_numpy(zero_copy_only=False))
    return np.concatenate(pieces)


def _spooled(source: Path, file: ParquetFile, path: Path) -> npt.NDArray[np.generic]:
    """Return the vectors of a Parquet file, as a mapped array: Parquet cannot be read in another order than its own."""
    writer: NpyWriter | None = None
    numbers = sum(
        column.num_values
        for at in range(file.metadata.num_row_groups)
        for n in range(file.metadata.num_columns)
        if (column := file.metadata.row_group(at).column(n)).path_in_schema.partition(".")[0] == "vector"
    )
    check_unpacked(source, 4 * numbers)
    check_room(path.parent, source, 8 * numbers)
    try:
        for batch in file.iter_batches(_BLOCK, columns=["vector"]):
            column = batch.column(0)
            numbers = column.flatten()
            lengths = set(column.value_lengths().unique().to_pylist())
            if column.null_count or numbers.null_count or len(lengths) != 1:
                raise ValueError(f"vectors of lengths {sorted(map(str, lengths))}, or nulls in column `vector`")
            block = numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)
            if writer is None:
                writer = NpyWriter(path, block.dtype.str, (file.metadata.num_rows, block.shape[1]))
            writer.append(block)
    finally:
        if writer is not None:
            writer.__exit__()
    return np.zeros((0, 0), np.float32) if writer is None else _mapped(path)


def _hdf5(path: Path, scratch: Path) -> _Read:
    shard = OpenPart(path)
    stop = len(shard.chunk_starts)
    firsts = np.repeat(shard.starts, shard.counts)
    vectors: npt.NDArray[np.generic] | None = shard.mapped()
    if vectors is None:  # compressed
        size = stop * shard.dim * shard.dtype.itemsize
        check_unpacked(path, size)
        check_room(scratch, path, size)
        with NpyWriter(scratch / "vector.npy", str(shard.dtype), (stop, shard.dim)) as writer:
            for row in range(0, stop, _BLOCK):
                writer.append(shard.slice(row, min(row + _BLOCK, stop)))
        vectors = _mapped(scratch / "vector.npy")
    columns: dict[str, npt.NDArray[np.generic]] = {
        "id": np.repeat(shard.doc_ids, shard.counts),
        "chunk": np.arange(stop) - firsts,
        "start": shard.chunk_starts,
        "end": shard.chunk_ends,
        "content_hash": np.repeat(shard.content_hashes, shard.counts),
        "vector": vectors,
    }
    return columns, read_attributes(path)


def _mapped(path: Path) -> npt.NDArray[np.generic]:
    """Return an ``.npy`` file as a read-only view, as a plain array: numpy's own class of maps is slow to index.

    Raises ``ValueError`` where its header promises what the file does not hold.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = path.stat().st_size - file.tell()
    wanted = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or any(side < 0 for side in shape) or wanted > held:
        raise ValueError(f"its header promises shape {shape} of {dtype}, and {held:,} bytes follow")
    if not wanted:
        return np.zeros(shape, dtype)
    return np.asarray(np.load(path, mmap_mode="r"))


def _object(found: object) -> Mapping[str, str | int]:
    if not isinstance(found, dict):
        raise ValueError("its provenance is no JSON object")  # noqa: TRY004 - one of UNREADABLE
    return found


def _check_width(column: npt.NDArray[np.generic]) -> None:
    if column.dtype.itemsize > WIDEST_ID:
        raise ValueError(f"ids or hashes of {column.dtype.itemsize:,} bytes each, allowed are {WIDEST_ID:,}")


def _texts(column: npt.NDArray[np.generic]) -> npt.NDArray[np.bytes_]:
    """Return a column of texts as UTF-8 bytes; numbers, which some teams have for ids, as their digits."""
    _check_width(column)
    if column.dtype.kind == "S":
        return np.asarray(column)
    if column.dtype.kind in "Uiu":
        return as_bytes([str(one) for one in column.tolist()])
    raise ValueError(f"ids or hashes of type {column.dtype}")
