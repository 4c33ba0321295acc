"""Owns plain files of ids and vectors, written: whole or not at all, and read back before they get their names.

``.npz`` has ``id``, ``vector`` and the other columns; so has ``.npy``, as ``X.NAME.npy`` beside it, and Parquet. Texts
of arrays are UTF-8 bytes. HDF5 has ``embeddings`` and ``asset_ids``, or, where an id has several vectors, a table
``metadata`` (asset_id, start_idx, count); by itself, or in a group for each value of a column. Beside each lies
``OUT.json``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector.archive.foreign import open_columns
from revector.archive.layouts import BLOCK, COUNT, START, TABLE
from revector.archive.storage import as_bytes, as_texts, embedding_options, fsync, working_folder
from revector.archive.tables import NOTE_SUFFIX, PROVENANCE, ROWS_SUFFIX, NpyWriter, check_format
from revector.errors import ArchiveError, ConfigError
from revector.formats.unpacking import check_room

if TYPE_CHECKING:
    import h5py

Column = npt.NDArray[Any]
CHUNK = "chunk"


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Vectors of several arrays in one order: row ``n`` is row ``row[n]`` of ``arrays[array[n]]``, of ``ids[n]``.

    ``ids`` are UTF-8 bytes; ``columns`` have a value for each row. ``repeated``: ids that were there more than once.
    """

    ids: npt.NDArray[np.bytes_]
    arrays: Sequence[npt.NDArray[np.generic]]
    array: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    columns: Mapping[str, Column]
    repeated: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest type that holds all vectors, in the byte order of this machine."""
        return np.result_type(*(one.dtype.newbyteorder("=") for one in self.arrays))

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.arrays[0].shape[1])

    def take(self, order: npt.NDArray[np.intp]) -> PlainRows:
        """Return some of the rows, in another order."""
        columns = {name: column[order] for name, column in self.columns.items()}
        return PlainRows(self.ids[order], self.arrays, self.array[order], self.row[order], columns, self.repeated)

    def vectors(self, some: npt.NDArray[np.intp]) -> npt.NDArray[np.generic]:
        """Return the vectors of some rows, ``(len(some), dim)``."""
        found = np.empty((len(some), self.dim), self.dtype)
        for n, one in enumerate(self.arrays):
            mine = self.array[some] == n
            found[mine] = one[self.row[some][mine]]
        return found

    def blocks(self) -> Iterator[npt.NDArray[np.generic]]:
        """Yield all vectors, a block at a time."""
        for first in range(0, len(self.ids), BLOCK):
            yield self.vectors(np.arange(first, min(first + BLOCK, len(self.ids))))


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was written: ``files`` in full, how many ids and vectors, their width and type, and the other columns.

    ``repeated``: ids that several files had, alike, and that were taken once. ``vectors_sha256``: as exports note it.
    """

    files: tuple[str, ...]
    ids: int
    vectors: int
    dim: int
    dtype: str
    columns: tuple[str, ...]
    repeated: int
    vectors_sha256: str


def check_target(path: Path, *, force: bool) -> None:
    """Raise ``ConfigError`` for an unknown ending, a folder that is not there, and a file that is, unless ``force``."""
    check_format(path)
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Nothing was written; make it.")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists. Nothing was written; name another file, or replace it with --force.")


def write_plain(
    path: Path,
    rows: PlainRows,
    *,
    gzip: bool = False,
    group: str | None = None,
    provenance: Mapping[str, str | int] | None = None,
) -> ConvertReport:
    """Write ``rows`` to ``path``; ``group``, of HDF5: a column of which each value becomes a group.

    Raises ``ConfigError`` for what would be read together with it, ``SourceError`` where the disk is too small.
    """
    if gzip and path.suffix != ".h5":
        raise ConfigError(f"gzip is for .h5, and {path} was asked for. Nothing was written.")
    check_room(path.parent, path, len(rows.ids) * (rows.dim * rows.dtype.itemsize + rows.ids.itemsize))
    several = len(np.unique(rows.ids)) < len(rows.ids)
    if path.suffix == ".h5":
        rows = _ordered(path, rows, group, several=several)
    digest = hashlib.sha256()
    for block in rows.blocks():
        digest.update(np.ascontiguousarray(block).data)
    with working_folder(path.parent, path.name) as folder:
        if path.suffix == ".h5":
            _hdf5(folder / path.name, rows, group, gzip=gzip, several=several)
        elif path.suffix == ".parquet":
            _parquet(folder / path.name, rows, provenance or {})
        else:
            _arrays(folder, path, rows, provenance or {})
        files = sorted(one.name for one in folder.iterdir())
        _refuse_neighbours(path, files)
        report = ConvertReport(
            files=tuple(str(path.with_name(name)) for name in (*files, path.name + NOTE_SUFFIX)),
            ids=len(np.unique(rows.ids)),
            vectors=len(rows.ids),
            dim=rows.dim,
            dtype=str(rows.dtype),
            columns=tuple(rows.columns),
            repeated=rows.repeated,
            vectors_sha256=digest.hexdigest(),
        )
        note = {**asdict(report), "files": [*files, path.name + NOTE_SUFFIX], PROVENANCE: dict(provenance or {})}
        (folder / f"{path.name}{NOTE_SUFFIX}").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        _read_back(folder, path, rows)
        for name in note["files"]:
            fsync(folder / name)
        for name in note["files"]:
            (folder / name).replace(path.with_name(name))
    fsync(path.parent)
    return report


def _refuse_neighbours(path: Path, files: Sequence[str]) -> None:
    """Raise ``ConfigError`` where something lies beside an ``.npy`` that would be read as its column."""
    if path.suffix != ".npy":
        return
    beside = [*path.parent.glob(f"{path.stem}.*.npy"), path.with_name(path.name + ROWS_SUFFIX)]
    if wrong := [one.name for one in beside if one.exists() and one.name not in files]:
        raise ConfigError(
            f"{', '.join(sorted(wrong))} beside {path} would be read as columns of it. Nothing was written; remove "
            "them, or name another file."
        )


def _read_back(folder: Path, path: Path, rows: PlainRows) -> None:
    """Raise ``ArchiveError`` unless the file holds what it should; vectors are compared by the checksum of its note."""
    scratch = folder / "scratch"
    scratch.mkdir()
    back = open_columns(folder / path.name, scratch)
    if as_texts(back.ids) != as_texts(rows.ids):
        raise ArchiveError(f"{path}: other ids were read back than were written. Nothing was kept; report this.")


def _ordered(path: Path, rows: PlainRows, group: str | None, *, several: bool) -> PlainRows:
    """Return rows as HDF5 has them: by group, the vectors of an id together and in the order of their numbers."""
    _, firsts, which = np.unique(rows.ids, return_index=True, return_inverse=True)
    keys: list[Column] = [rows.columns[CHUNK], firsts[which]] if several else [firsts[which]]
    if group is not None:
        values = as_bytes(_names(rows.columns[group]))
        keys.append(values)
        if len(np.unique(np.rec.fromarrays([which, values]))) > len(firsts):
            raise ArchiveError(f"{path}: an id is in two groups by {group!r}. Nothing was written; use another column.")
    ordered = rows.take(np.lexsort(keys))
    if several:
        _, starts, counts = np.unique(ordered.ids, return_index=True, return_counts=True)
        numbers = np.arange(len(rows.ids)) - np.repeat(np.sort(starts), counts[np.argsort(starts)])
        if len(wrong := np.flatnonzero(ordered.columns[CHUNK] != numbers)):
            raise ArchiveError(
                f"{path}: the vectors of {ordered.ids[wrong[0]].decode()!r} are not numbered from 0 on, and a table of "
                "HDF5 has no other numbers. Nothing was written; choose another format."
            )
    return ordered


def _names(column: Column) -> list[str]:
    """Return the values of a column as texts."""
    return as_texts(column) if column.dtype.kind == "S" else [str(one) for one in column.tolist()]


# Formats --------------------------------------------------------------------------------------------------------------


def _arrays(folder: Path, path: Path, rows: PlainRows, provenance: Mapping[str, str | int]) -> None:
    """Write ``.npy`` files: the members of an ``.npz``, or the vectors and what lies beside them."""
    packed = path.suffix == ".npz"
    inner = folder / "columns" if packed else folder
    inner.mkdir(exist_ok=True)

    def named(column: str) -> Path:
        return inner / (f"{column}.npy" if packed else f"{path.stem}.{column}.npy")

    for name, column in {"id": rows.ids, **rows.columns}.items():
        np.save(named(name), column)
    with NpyWriter(named("vector") if packed else inner / path.name, rows.dtype.str, (len(rows.ids), rows.dim)) as file:
        for block in rows.blocks():
            file.append(block)
    if packed:
        np.save(named(PROVENANCE), np.array(json.dumps(dict(provenance))))
        with zipfile.ZipFile(folder / path.name, "w", allowZip64=True) as archive:
            for member in sorted(inner.iterdir()):
                archive.write(member, member.name)
                member.unlink()
        inner.rmdir()


def _parquet(path: Path, rows: PlainRows, provenance: Mapping[str, str | int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    every = {"id": rows.ids, **rows.columns}
    kinds = {
        name: pa.string() if one.dtype.kind == "S" else pa.from_numpy_dtype(one.dtype) for name, one in every.items()
    }
    kinds["vector"] = pa.list_(pa.from_numpy_dtype(rows.dtype), rows.dim)
    schema = pa.schema(list(kinds.items()), metadata={PROVENANCE: json.dumps(dict(provenance))})
    plain = [name for name in kinds if name != "vector"]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=plain) as writer:
        for n, block in enumerate(rows.blocks()):
            some = slice(n * BLOCK, n * BLOCK + len(block))
            columns = [pa.array(column[some]).cast(kinds[name]) for name, column in every.items()]
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), rows.dim))
            writer.write_table(pa.table(columns, schema=schema))


def _hdf5(path: Path, rows: PlainRows, group: str | None, *, gzip: bool, several: bool) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        if group is None:
            _place(file, rows, gzip=gzip, several=several)
            return
        values = _names(rows.columns[group])
        for name in dict.fromkeys(values):
            if not name or "/" in name or name.strip(".") == "":
                raise ArchiveError(f"{name!r} of {group!r} cannot name a group of HDF5. Nothing was written.")
            mine = rows.take(np.flatnonzero(np.array(values) == name))
            rest = {one: kept for one, kept in mine.columns.items() if one != group}
            part = PlainRows(mine.ids, mine.arrays, mine.array, mine.row, rest)
            _place(file.create_group(name), part, gzip=gzip, several=several)


def _place(group: h5py.Group, rows: PlainRows, *, gzip: bool, several: bool) -> None:
    import h5py

    shape = (len(rows.ids), rows.dim)
    options = embedding_options("gzip" if gzip else "contiguous", shape, "float32")
    vectors = group.create_dataset("embeddings", shape, rows.dtype, **options)
    for n, block in enumerate(rows.blocks()):
        vectors[n * BLOCK : n * BLOCK + len(block)] = block
    columns = dict(rows.columns)
    if several:
        columns.pop(CHUNK, None)  # the table says it
        ids, starts, counts = np.unique(rows.ids, return_index=True, return_counts=True)
        order = np.argsort(starts)
        table = np.zeros(len(ids), [("asset_id", ids.dtype), (START, "<i8"), (COUNT, "<i8")])
        table["asset_id"], table[START], table[COUNT] = ids[order], starts[order], counts[order]
        group[TABLE] = table
    else:
        columns["asset_ids"] = rows.ids
    for name, column in columns.items():
        if column.dtype.kind == "S":
            group.create_dataset(name, data=as_texts(column), dtype=h5py.string_dtype())
        else:
            group[name] = column
