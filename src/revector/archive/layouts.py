"""Owns how other tools lay ids, vectors and texts out in HDF5 and .npz: names, several vectors an id, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revector.archive.storage import as_bytes, check_own
from revector.archive.tables import NpyWriter

if TYPE_CHECKING:
    import h5py

IDS = ("id", "ids", "asset_id", "asset_ids")
VECTORS = ("vector", "vectors", "embedding", "embeddings")
"""Names of columns, in the order in which they are looked for."""

TABLE = "metadata"
"""A table (asset_id, start_idx, count): several vectors an id, one after the other."""

START, COUNT, GROUP = "start_idx", "count", "group"
BLOCK = 8_192
WIDEST_ID = 16 << 10
"""Bytes of one id or hash in a foreign array, with its padding; an id itself has at most 512."""


@dataclass(frozen=True, slots=True)
class FileField:
    """A column beside the vectors: how long it is, and its values from one row to before another."""

    rows: int
    read: Callable[[int, int], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Assets:
    """Ids with several vectors each: ``ids`` UTF-8 bytes, ``starts`` and ``counts`` int64, all (m,)."""

    ids: npt.NDArray[np.bytes_]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def check(self, vectors: int) -> None:
        """Raise ``ValueError`` unless each of so many vectors is of just one of them."""
        bad = np.flatnonzero((self.starts < 0) | (self.counts < 1) | (self.starts + self.counts > vectors))
        if len(bad):
            n = int(bad[0])
            raise ValueError(
                f"{TABLE} gives {self.ids[n].decode('utf-8', 'replace')!r} {int(self.counts[n])} vectors from row "
                f"{int(self.starts[n])} on, and there are {vectors:,}"
            )
        order = np.argsort(self.starts, kind="stable")
        stops = (self.starts + self.counts)[order]
        expected = np.concatenate([[0], stops[:-1]])
        if len(wrong := np.flatnonzero(self.starts[order] != expected)):
            row = int(min(self.starts[order][wrong[0]], expected[wrong[0]]))
            raise ValueError(f"{TABLE} gives row {row} of the vectors to two ids, or to none")
        if len(stops) == 0 or int(stops[-1]) != vectors:
            raise ValueError(f"{TABLE} speaks of {int(self.counts.sum()):,} vectors, and there are {vectors:,}")

    def by_vector(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]:
        """Return id and number of each vector, in the vectors' own order."""
        order = np.argsort(self.starts, kind="stable")
        counts = self.counts[order]
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.ids[order], counts), np.arange(int(counts.sum())) - firsts


def first_of(names: Sequence[str], there: Mapping[str, object] | Sequence[str]) -> str | None:
    """Return the first of ``names`` that is there."""
    return next((name for name in names if name in there), None)


def id_bytes(column: npt.NDArray[np.generic]) -> npt.NDArray[np.bytes_]:
    """Return a column of texts as UTF-8 bytes; numbers, which some teams have for ids, as their digits.

    Raises ``ValueError`` for another type, and for what is too wide to be ids.
    """
    if column.dtype.kind == "O":
        texts = [_text(one) for one in column.tolist()]
        if any(not isinstance(one, str) for one in texts):
            raise ValueError("ids or hashes that are no texts")
        column = as_bytes([str(one) for one in texts])
    if column.dtype.kind in "iu":
        return as_bytes([str(one) for one in column.tolist()])
    if column.dtype.itemsize > WIDEST_ID:
        raise ValueError(f"ids or hashes of {column.dtype.itemsize:,} bytes each, allowed are {WIDEST_ID:,}")
    if column.dtype.kind == "S":
        return np.asarray(column).view(column.dtype.str)  # without what h5py notes on a type
    if column.dtype.kind == "U":
        return as_bytes([str(one) for one in column.tolist()])
    raise ValueError(f"ids or hashes of type {column.dtype}")


def field_of(array: npt.NDArray[np.generic]) -> FileField:
    """Return a column that is an array; texts in bytes are UTF-8."""
    return FileField(len(array), lambda first, stop: [_text(one) for one in array[first:stop].tolist()])


def joined(fields: Sequence[FileField]) -> FileField:
    """Return columns one after the other as one."""
    ends = np.cumsum([one.rows for one in fields]).tolist()

    def read(first: int, stop: int) -> Sequence[object]:
        found: list[object] = []
        for one, end in zip(fields, ends, strict=True):
            begin = end - one.rows
            if first < end and stop > begin:
                found += one.read(max(first - begin, 0), min(stop, end) - begin)
        return found

    return FileField(ends[-1] if ends else 0, read)


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


# HDF5 ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hdf5Columns:
    """What an HDF5 file of another tool holds: fields by name, the vectors spooled, and its table if it has one."""

    vectors: Path
    fields: Mapping[str, FileField]
    assets: Assets | None
    aside: tuple[str, ...]
    """Names of what else it holds."""


def read_hdf5(path: Path, scratch: Path) -> Hdf5Columns | None:
    """Return what ``path`` holds, in the file itself or in a group per language; None where it holds no vectors.

    Vectors are written to ``scratch`` one block after the other. Raises ``ValueError`` for columns that do not fit each
    other, ``ArchiveError`` for what lies in other files, and what h5py raises for damage.
    """
    import h5py

    with h5py.File(path, "r") as file:
        groups = [name for name, kind in _kinds(file) if kind is h5py.Group and _vectors_of(file[name]) is not None]
        places = ["/"] if _vectors_of(file) is not None else groups
        if not places:
            return None
        found = [_place(path, file, place) for place in places]
        left = [] if places == ["/"] else [name for name, _ in _kinds(file) if name not in groups]
        shapes = {place: file[one.vectors].shape for place, one in zip(places, found, strict=True)}
        widths = {place: shape[1:] for place, shape in shapes.items()}
        if any(len(width) != 1 for width in widths.values()) or len(set(widths.values())) > 1:
            raise ValueError(f"vectors of shapes {', '.join(f'{name}: {shape}' for name, shape in shapes.items())}")
        target = scratch / "vector.npy"
        rows, dim = sum(shape[0] for shape in shapes.values()), next(iter(widths.values()))[0]
        kinds = {np.dtype(file[one.vectors].dtype) for one in found}
        dtype = np.result_type(*kinds) if len(kinds) > 1 else next(iter(kinds))
        if dtype.kind != "f":
            raise ValueError(f"vectors of type {dtype}")
        with NpyWriter(target, dtype.str, (rows, dim)) as writer:
            for one in found:
                for block in _blocks(file[one.vectors]):
                    writer.append(block)
    names = [name for name in found[0].fields if all(name in one.fields for one in found)]
    fields = {name: joined([one.fields[name] for one in found]) for name in names}
    every = [*left, *(name for one in found for name in (*one.fields, *one.aside))]
    aside = tuple(dict.fromkeys(name for name in every if name not in names))
    if places != ["/"]:
        fields[GROUP] = joined([_same(place, one.rows) for place, one in zip(places, found, strict=True)])
    return Hdf5Columns(target, fields, _assets(found), aside)


@dataclass(frozen=True, slots=True)
class _Place:
    """One group: the path of its vectors, its fields, and its table as arrays; ``rows`` of the fields."""

    vectors: str
    fields: Mapping[str, FileField]
    count: int
    table: npt.NDArray[np.void] | None
    rows: int
    aside: tuple[str, ...]


def _kinds(file: h5py.Group) -> Iterator[tuple[str, object]]:
    import h5py

    for name in sorted(file):
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            yield name, type(file[name])


def _vectors_of(group: h5py.Group) -> str | None:
    return first_of(VECTORS, list(group))


def _place(path: Path, file: h5py.File, place: str) -> _Place:
    import h5py

    group, prefix = file[place], "" if place == "/" else f"{place}/"
    vectors = f"{prefix}{_vectors_of(group)}"
    check_own(path, file, vectors)
    fields = dict[str, FileField]()
    table, aside = None, list[str]()
    for name, kind in _kinds(group):
        if f"{prefix}{name}" == vectors:
            continue
        if kind is not h5py.Dataset:
            aside.append(name)
            continue
        check_own(path, file, f"{prefix}{name}")
        dataset = group[name]
        if name == TABLE and dataset.dtype.names:
            table = dataset[:]
            own = table_of(table)
            fields[first_of(IDS, table.dtype.names) or ""] = field_of(own.ids)
        elif dataset.ndim == 1 and not dataset.dtype.names:
            fields[name] = _dataset(path, f"{prefix}{name}", len(dataset))
        else:
            aside.append(name)
    count = int(file[vectors].shape[0]) if file[vectors].ndim else 0
    return _Place(vectors, fields, count, table, count if table is None else len(table), tuple(aside))


def _dataset(path: Path, name: str, rows: int) -> FileField:
    """Return a column of a file that is opened again for each block: nothing is held open while others work."""

    def read(first: int, stop: int) -> Sequence[object]:
        import h5py

        with h5py.File(path, "r") as file:
            return [_text(one) for one in file[name][first:stop].tolist()]

    return FileField(rows, read)


def _same(value: str, rows: int) -> FileField:
    return FileField(rows, lambda first, stop: [value] * (min(stop, rows) - first))


def _blocks(dataset: h5py.Dataset) -> Iterator[npt.NDArray[np.generic]]:
    for first in range(0, len(dataset), BLOCK):
        yield dataset[first : first + BLOCK]


def _assets(found: Sequence[_Place]) -> Assets | None:
    tables = [one.table for one in found if one.table is not None]
    if not tables:
        return None
    if len(tables) < len(found):
        raise ValueError(f"some groups have a table {TABLE!r}, others have none")
    own = [table_of(table) for table in tables]
    for one, place in zip(own, found, strict=True):
        one.check(place.count)
    before = np.cumsum([0, *(place.count for place in found)])[:-1]
    starts = np.concatenate([one.starts + at for one, at in zip(own, before, strict=True)])
    counts = np.concatenate([one.counts for one in own])
    return Assets(np.concatenate([one.ids for one in own]), starts, counts)


def table_of(table: npt.NDArray[Any]) -> Assets:
    """Return a structured array (asset_id, start_idx, count). Raises ``ValueError`` for another."""
    names = table.dtype.names or ()
    name = first_of(IDS, names)
    if name is None or START not in names or COUNT not in names:
        raise ValueError(f"{TABLE} has the columns {', '.join(names) or 'none'}, wanted are asset_id, {START}, {COUNT}")
    return Assets(id_bytes(table[name]), table[START].astype(np.int64), table[COUNT].astype(np.int64))
