"""Owns where rows are copied from: a file, another database or a vector store, opened as records with their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from revector.adoption.presets import AdoptionRequest
from revector.adoption.store_places import is_store, open_rows
from revector.archive import Columns, open_columns
from revector.errors import ConfigError
from revector.sources import ALL, ColumnType, Fields, RecordSource, file_records
from revector.sources.files import Record
from revector.sources.sql import look_at_table, read_sql, shown

ARRAYS, RECORDS = (".npy", ".npz", ".h5", ".hdf5"), (".parquet", ".jsonl", ".ndjson", ".csv", ".jsonl.gz", ".csv.gz")
"""Endings of files: of arrays, whose texts may lie in another file, and of records."""

VECTOR = "vector"
"""What the vectors of a file of arrays are called, whatever it calls them."""

CHUNK = "chunk"
"""The number of a vector among those of its id."""

BLOCK = 256


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Rows that can be read again and again. ``key``: what names a row by itself; empty where nothing is known to.

    ``read`` yields the records of some columns, all or the first so many; vectors of arrays are ``(c, dim)``.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str], int | None], Iterator[Record]]
    key: tuple[str, ...] = ()
    cells: Mapping[str, ColumnType] | None = None
    by_id: VectorsById | None = None
    """Vectors that lie in another file than the texts."""
    text: tuple[str, ...] = ()
    """Columns that are the text, where that is known; so with those that become metadata, and that of vectors."""
    meta: tuple[str, ...] = ()
    vector: str | None = None

    def records(self, fields: Fields, columns: Sequence[str]) -> RecordSource:
        """Return the rows as a source of documents."""
        return RecordSource(self.name, lambda: self.read(columns, None), fields, cells=self.cells)


def is_place(text: str) -> bool:
    """Whether a text names a file or another database, and no table of the project's own."""
    return "://" in text or text.lower().endswith((*ARRAYS, *RECORDS))


def place_name(request: AdoptionRequest) -> str:
    """Return how the place of a request is shown and recorded: without a password. Raises ``SourceError``."""
    source = str(request.source)
    if "://" in source:
        return f"{request.table} of {shown(source)}"
    return source if request.texts is None else f"{source} with {request.texts}"


def open_place(request: AdoptionRequest, scratch: Path) -> SourcePlace:
    """Open the place that a request names; arrays that cannot be mapped are unpacked into ``scratch``.

    Raises ``ConfigError`` for a request that does not fit the place, and ``SourceError`` for what cannot be read.
    """
    source, name = str(request.source), place_name(request)
    if "://" in source:
        return _database(request, name)
    for option, said in (("--table", request.table), ("--where", request.where)):
        if said:
            raise ConfigError(f"{option} is for databases, and {source} is a file. Nothing was changed; leave it out.")
    if not Path(source).is_file():
        raise ConfigError(f"there is no file {source}. Nothing was changed; correct its name.")
    if source.lower().endswith(ARRAYS):
        columns = open_columns(Path(source), scratch)
        return _arrays(name, columns) if request.texts is None else _beside(name, columns, request.texts)
    if request.texts is not None:
        raise ConfigError(
            f"--texts is for files of arrays ({', '.join(ARRAYS)}), and {source} has texts of its own. Nothing was "
            "changed; leave it out."
        )
    return _file(name, source)


def _database(request: AdoptionRequest, name: str) -> SourcePlace:
    if not request.table:
        raise ConfigError(
            f"which table or collection of {shown(str(request.source))} is adopted was not said. Nothing was changed; "
            "name it with --table."
        )
    if request.texts is not None:
        raise ConfigError("--texts is for files of arrays. Nothing was changed; leave it out.")
    if is_store(str(request.source)):
        rows = open_rows(request)
        return SourcePlace(name, rows.columns, rows.read, rows.key, text=rows.text, meta=(ALL,), vector=rows.vector)
    table = look_at_table(str(request.source), request.table)

    def read(columns: Sequence[str], limit: int | None) -> Iterator[Record]:
        return read_sql(table.url, table.query(columns, request.where, limit))

    return SourcePlace(name, table.columns, read, table.key)


def _file(name: str, source: str) -> SourcePlace:
    records = file_records(Path(source), Fields((), (), ()))

    def read(columns: Sequence[str], limit: int | None) -> Iterator[Record]:
        del columns
        return islice(records.read(), limit)

    first = next(read((), 1), None)
    if first is None:
        raise ConfigError(f"{source} holds no rows. Nothing was changed.")
    return SourcePlace(name, tuple(first[1]), read, cells=records.cells)


# Arrays --------------------------------------------------------------------------------------------------------------


def _arrays(name: str, columns: Columns) -> SourcePlace:
    """Return a file of arrays by its own columns: a row for each id, or for each vector where the texts are theirs."""
    of_ids = None if columns.assets is None else len(columns.assets.ids)
    fields = {one: field for one, field in columns.fields.items() if field.rows in (len(columns.ids), of_ids)}
    if columns.assets is not None and columns.assets.ids.shape != columns.ids.shape:
        per_vector = [one for one, field in fields.items() if field.rows == len(columns.ids)]
        if per_vector:
            fields = {one: fields[one] for one in per_vector}
            return _rows(name, columns, fields, None)
    return _rows(name, columns, fields, columns)


def _rows(name: str, columns: Columns, fields: Mapping[str, Any], grouped: Columns | None) -> SourcePlace:
    assets = None if grouped is None else grouped.assets
    ids = columns.ids if assets is None else assets.ids
    starts = np.arange(len(ids)) if assets is None else assets.starts
    counts = np.ones(len(ids), np.int64) if assets is None else assets.counts
    numbers = columns.chunk if assets is None else None

    def read(wanted: Sequence[str], limit: int | None) -> Iterator[Record]:
        rows = len(ids) if limit is None else min(limit, len(ids))
        for first in range(0, rows, BLOCK):
            stop = min(first + BLOCK, rows)
            values = {one: fields[one].read(first, stop) for one in wanted if one in fields}
            for n in range(first, stop):
                record: dict[str, Any] = {one: column[n - first] for one, column in values.items()}
                record |= {"id": ids[n].decode()} if "id" not in record else {}
                record |= {} if numbers is None else {CHUNK: int(numbers[n])}
                record[VECTOR] = columns.vectors[int(starts[n]) : int(starts[n] + counts[n])]
                yield f"row {n}", record

    named = tuple(dict.fromkeys((*fields, "id", *(() if numbers is None else (CHUNK,)), VECTOR)))
    return SourcePlace(name, named, read, ("id",) if numbers is None else ("id", CHUNK))


def _beside(name: str, columns: Columns, texts: str) -> SourcePlace:
    """Return a file of texts, whose vectors are found by their ids."""
    if not texts.lower().endswith(RECORDS) or not Path(texts).is_file():
        raise ConfigError(
            f"--texts {texts}: a file is wanted that ends in {', '.join(RECORDS)}. Nothing was changed; correct it."
        )
    return replace(_file(name, texts), by_id=VectorsById(columns))


class VectorsById:
    """The vectors of a file of arrays, looked up by id; several of one id in the order of their numbers."""

    def __init__(self, columns: Columns) -> None:
        chunk = np.zeros(len(columns.ids), np.int8) if columns.chunk is None else columns.chunk
        self._order = np.lexsort((chunk, columns.ids))
        self._ids, self._vectors = columns.ids[self._order], columns.vectors
        if columns.chunk is None and (twice := np.flatnonzero(self._ids[1:] == self._ids[:-1])).size:
            raise ConfigError(
                f"{columns.path} has the id {self._ids[twice[0]].decode()!r} twice, and nothing says which vector is "
                "which. Nothing was changed; each id must occur once, or have numbers in a column `chunk`."
            )
        self.count = len(np.unique(self._ids))

    def find(self, doc_id: str) -> npt.NDArray[Any] | None:
        """Return the vectors of a document, ``(c, dim)``; None where there are none."""
        wanted = doc_id.encode()
        if len(wanted) > self._ids.dtype.itemsize:
            return None
        bounds = [int(np.searchsorted(self._ids, np.bytes_(wanted), side)) for side in ("left", "right")]
        rows = self._order[bounds[0] : bounds[1]]
        return self._vectors[rows] if len(rows) else None
