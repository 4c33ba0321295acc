"""Owns ids with vectors in files that any tool reads: saved, loaded, looked up, and converted into one file.

save_vectors("v.npz", ids, vectors)                       # .npy, .npz, .h5 or .parquet
vectors = get_vectors("v.npz", ["d7", "d3"])              # in that order
convert_vectors(["rank0.h5", "rank1.h5"], "all.parquet")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from revector.archive.foreign import OPTIONAL, Columns, open_columns
from revector.archive.layouts import COUNT, GROUP, IDS, START, VECTORS, first_of
from revector.archive.plain_writing import CHUNK, Column, ConvertReport, PlainRows, check_target, write_plain
from revector.archive.storage import as_bytes, as_texts
from revector.errors import ConfigError, SourceError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PlainVectors:
    """``ids``, a text for each row of ``vectors`` ``(n, dim)``; an id with several vectors stands several times."""

    ids: list[str]
    vectors: npt.NDArray[np.generic]


def save_vectors(path: PathLike, ids: Sequence[str], vectors: npt.ArrayLike, *, gzip: bool = False) -> ConvertReport:
    """Write ``vectors`` ``(n, dim)`` of floats with an id for each; an old file is replaced. ``gzip``: HDF5, level 4.

    Raises ``SourceError`` for what does not fit each other or an id that stands twice, ``ConfigError`` for the path.
    """
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(ids):
        raise SourceError(
            f"{len(ids):,} ids came with vectors of shape {array.shape} and type {array.dtype}. Nothing was written; "
            "give each row of floats an id."
        )
    target = Path(path)
    check_target(target, force=True)
    rows = PlainRows(as_bytes(list(ids)), [array], *_places([len(array)]), {})
    _refuse_twice(rows.ids, None, target)
    return write_plain(target, rows, gzip=gzip)


def load_vectors(path: PathLike) -> PlainVectors:
    """Return all ids and vectors of a file, in memory. Raises ``SourceError`` for what cannot be read."""
    with _opened(Path(path)) as columns:
        return PlainVectors(as_texts(columns.ids), np.array(columns.vectors))


def list_ids(path: PathLike) -> list[str]:
    """Return the ids of a file, each once, in their order."""
    with _opened(Path(path)) as columns:
        return list(dict.fromkeys(as_texts(columns.ids)))


def get_vector(path: PathLike, doc_id: str) -> npt.NDArray[np.generic]:
    """Return the vector of an id, ``(dim,)``. Raises ``SourceError`` where it has none, or several."""
    return np.asarray(get_vectors(path, [doc_id])[0])


def get_vectors(path: PathLike, ids: Sequence[str]) -> npt.NDArray[np.generic]:
    """Return the vectors of ids, ``(len(ids), dim)``, in their order; of an ``.npy``, no others are read.

    Raises ``SourceError`` for ids that the file has not, or that have several vectors.
    """
    with _opened(Path(path)) as columns:
        wanted, rows = set(ids), dict[str, list[int]]()
        for row, one in enumerate(as_texts(columns.ids)):
            if one in wanted:
                rows.setdefault(one, []).append(row)
        wrong = {one: len(rows.get(one, ())) for one in ids if len(rows.get(one, ())) != 1}
        if wrong:
            named = ", ".join(f"{one!r} has {count}" for one, count in list(wrong.items())[:5])
            raise SourceError(f"{path}: ids with one vector each were asked for, and {named}. Nothing was read.")
        return np.array(columns.vectors[[rows[one][0] for one in ids]])


def vector_batches(path: PathLike, rows: int = 4_096) -> Iterator[PlainVectors]:
    """Yield ids and vectors of a file, so many rows at a time; memory is that of the ids and of one batch."""
    with _opened(Path(path)) as columns:
        for first in range(0, len(columns.ids), rows):
            some = slice(first, first + rows)
            yield PlainVectors(as_texts(columns.ids[some]), np.array(columns.vectors[some]))


def convert_vectors(
    sources: Sequence[PathLike],
    target: PathLike,
    *,
    gzip: bool = False,
    limit: int | None = None,
    group: str | None = None,
    drop: Sequence[str] = (),
    force: bool = False,
) -> ConvertReport:
    """Write the ids, vectors and other columns of one or more files to ``target``, whose ending names the format.

    ``limit``: the first so many ids. ``group``: a column of which each value becomes a group of HDF5; default:
    ``group``, where there is one. ``drop``: columns to leave out. ``force``: replace a file. What is written is read
    back and compared before it gets its name. Ids and other columns are held in memory, vectors are not.

    Raises ``ConfigError`` for names and options, ``SourceError`` for files that cannot be read or do not fit each
    other, ``ArchiveError`` for what the format cannot hold; nothing is written then.
    """
    path, files = Path(target), [Path(one) for one in sources]
    check_target(path, force=force)
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is at least 1, found {limit}. Nothing was written.")
    if path.absolute() in [one.absolute() for one in files]:
        raise ConfigError(f"{path} is read and cannot be written as well. Nothing was written; name another.")
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(one)) for one in files]
        rows = _joined(opened, [_columns_of(one, drop) for one in opened])
        rows = rows if limit is None else rows.take(_of_first_ids(rows.ids, limit))
        if group is not None and (path.suffix != ".h5" or group not in rows.columns):
            raise ConfigError(
                f"groups by {group!r} are for .h5 and for a column that is there, {', '.join(rows.columns) or 'none'}; "
                f"{path} was asked for. Nothing was written."
            )
        named = group or (GROUP if GROUP in rows.columns else None)
        same = all(one.provenance == opened[0].provenance for one in opened)
        provenance = opened[0].provenance if same else {}
        return write_plain(path, rows, gzip=gzip, group=named, provenance=provenance)


@contextmanager
def _opened(path: Path) -> Iterator[Columns]:
    with tempfile.TemporaryDirectory(prefix="revector-") as scratch:
        yield open_columns(path, Path(scratch))


def _places(lengths: Sequence[int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return of which array each row is, and of which of its rows."""
    return np.repeat(np.arange(len(lengths)), lengths), np.concatenate([np.arange(n) for n in lengths])


def _of_first_ids(ids: npt.NDArray[np.bytes_], limit: int) -> npt.NDArray[np.intp]:
    _, firsts, which = np.unique(ids, return_index=True, return_inverse=True)
    kept = np.isin(which, np.argsort(firsts)[:limit])
    return np.flatnonzero(kept)


# Columns --------------------------------------------------------------------------------------------------------------


def _columns_of(columns: Columns, drop: Sequence[str]) -> dict[str, Column]:
    """Return every column of a file but ids and vectors, a value for each vector. Raises ``SourceError``."""
    count, assets = len(columns.vectors), columns.assets
    if strange := [name for name in columns.aside if name not in drop]:
        raise SourceError(
            f"{columns.path}: {', '.join(strange)} are no columns of ids, vectors, texts or numbers. Nothing was "
            f"written; leave them out with {' '.join(f'--drop {name}' for name in strange)}."
        )
    skipped = {first_of(IDS, columns.fields), first_of(VECTORS, columns.fields), *OPTIONAL, *drop}
    skipped |= set() if assets is None else {START, COUNT}
    found = dict[str, Column]()
    for name in OPTIONAL:
        own = getattr(columns, name)
        if own is not None and name not in drop:
            found[name] = np.array(own)
    for name, field in columns.fields.items():
        if name in skipped:
            continue
        if field.rows == count:
            found[name] = _column(columns.path, name, field.read(0, count))
        elif assets is not None and field.rows == len(assets.ids):
            order = np.argsort(assets.starts, kind="stable")
            found[name] = _column(columns.path, name, field.read(0, field.rows))[np.repeat(order, assets.counts[order])]
        else:
            raise SourceError(
                f"{columns.path}: the column {name!r} has {field.rows:,} rows beside {count:,} vectors. Nothing was "
                f"written; leave it out with --drop {name}."
            )
    return found


def _column(path: Path, name: str, values: Sequence[object]) -> Column:
    """Return values of one kind as an array; texts as UTF-8 bytes. Raises ``SourceError`` for others."""
    kinds = {type(one) for one in values}
    if kinds <= {str}:
        return as_bytes([str(one) for one in values])
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return np.array(values)
    said = ", ".join(sorted("null" if one is type(None) else one.__name__ for one in kinds))
    raise SourceError(
        f"{path}: the column {name!r} holds {said}; texts, whole numbers, other numbers or truths are carried, of one "
        f"kind and without nulls. Nothing was written; leave it out with --drop {name}."
    )


def _refuse_twice(ids: npt.NDArray[np.bytes_], chunk: Column | None, path: Path) -> None:
    """Raise ``SourceError`` for an id that stands twice where nothing says which of its vectors is which."""
    keys = ids if chunk is None else np.rec.fromarrays([ids, chunk])
    found, counts = np.unique(keys, return_counts=True)
    if (twice := np.flatnonzero(counts > 1)).size:
        one = found[twice[0]] if chunk is None else found[twice[0]][0]
        raise SourceError(
            f"{path} has the id {one.decode()!r} twice, and nothing says which vector is which. Nothing was written; "
            f"each id must occur once, or have numbers in a column `{CHUNK}`."
        )


# Several files --------------------------------------------------------------------------------------------------------


def _joined(opened: Sequence[Columns], columns: Sequence[dict[str, Column]]) -> PlainRows:
    """Return the rows of files one after the other; an id of several files counts once where its vectors are equal."""
    if not opened:
        raise ConfigError("no file to read was named. Nothing was written.")
    for one, own in zip(opened, columns, strict=True):
        _refuse_unlike(opened[0], columns[0], one, own)
        _refuse_twice(one.ids, own.get(CHUNK), one.path)
    ids = np.concatenate([one.ids for one in opened])
    array, row = _places([len(one.ids) for one in opened])
    every = {name: np.concatenate([own[name] for own in columns]) for name in columns[0]}
    rows = PlainRows(ids, [one.vectors for one in opened], array, row, every)
    _, which = np.unique(ids, return_inverse=True)
    first_file = np.full(which.max(initial=-1) + 1, len(opened))
    np.minimum.at(first_file, which, array)
    repeated = np.flatnonzero(array != first_file[which])
    for again in repeated.tolist():
        _refuse_other(
            rows, again, np.flatnonzero((which == which[again]) & (array == first_file[which[again]])), opened
        )
    kept = rows.take(np.setdiff1d(np.arange(len(ids)), repeated))
    return PlainRows(kept.ids, kept.arrays, kept.array, kept.row, kept.columns, len(np.unique(which[repeated])))


def _refuse_unlike(first: Columns, wanted: dict[str, Column], other: Columns, found: dict[str, Column]) -> None:
    if first.vectors.shape[1] != other.vectors.shape[1]:
        raise SourceError(
            f"{first.path} has vectors of {first.vectors.shape[1]} numbers, {other.path} of {other.vectors.shape[1]}. "
            "Nothing was written; files of one model belong together."
        )
    kinds = [{name: column.dtype.kind for name, column in one.items()} for one in (wanted, found)]
    if kinds[0] != kinds[1]:
        names = sorted({name for name, _ in set(kinds[0].items()) ^ set(kinds[1].items())})
        raise SourceError(
            f"{first.path} and {other.path} differ in the columns {', '.join(names)}. Nothing was written; leave them "
            f"out with {' '.join(f'--drop {name}' for name in names)}."
        )


def _refuse_other(rows: PlainRows, again: int, before: npt.NDArray[np.intp], opened: Sequence[Columns]) -> None:
    """Raise ``SourceError`` unless a row that an earlier file has as well is the same there, all columns included."""
    chunk = rows.columns.get(CHUNK)
    same = [n for n in before.tolist() if chunk is None or chunk[n] == chunk[again]]
    equal = len(same) == 1 and all(column[same[0]] == column[again] for column in rows.columns.values())
    if not equal or rows.vectors(np.array(same)).tobytes() != rows.vectors(np.array([again])).tobytes():
        named = [opened[rows.array[n]].path for n in (int(before[0]), again)]
        raise SourceError(
            f"the id {rows.ids[again].decode()!r} is in {named[0]} and in {named[1]}, and not the same. Nothing was "
            "written; leave one of them out."
        )
