"""Owns a small store of vectors in memory, searched exactly: a list of rows in one file, without ids, server or index.

with VectorStore(384, path="notes.npz") as store:        # saved at the end, unless an error ends it
    store.add(vectors, [{"title": title} for title in titles])
store = VectorStore.open("notes.npz")
for hit in store.cosine_search(query, top_k=5, min_value=0.3): print(hit.value, hit.metadata)

It is for what fits into memory and into one process: some 100,000 rows of 384 numbers are compared in about 10 ms.
Two processes that save one file overwrite each other; a collection of revector is for what is shared and changes.
"""

from __future__ import annotations

import json
import operator
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from revector.archive.foreign import UNREADABLE
from revector.archive.storage import sealing
from revector.errors import ArchiveError, BadVectors, ConfigError
from revector.formats.unpacking import check_unpacked
from revector.interfaces import Vectors
from revector.measure.exact import MemoryBlock, search_exact
from revector.spec import MAX_DIM, Metric
from revector.stores.metrics import ZERO, nearest_rows

FORMAT, FORMAT_VERSION = "revector-vectors", 1
FIELDS = {"format_version", "dimensions", "normalize", "vectors", "metadata"}
"""What the file holds beside ``format``, and one of numpy-vector-store from 0.4 on, in which metadata are an array."""

LENGTHS = (1e-18, 1e18)
"""Lengths of vectors that are kept as they are: beyond, products in float32 overflow or vanish."""

UNIT = 2.0**-22
"""How far from 1 the length of what was divided by its length in float32 can be."""

BLOCK = 256
Rows: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
UNPICKLE = (
    "python -c 'import sys, numpy_vector_store, revector; s = numpy_vector_store.VectorStore.open(sys.argv[1]); "
    "t = revector.VectorStore(s.dimensions, normalize=s.normalize); t.add(s.vectors, s.metadata.tolist()); "
    "t.save(sys.argv[2])' OLD.npz NEW.npz"
)


@dataclass(frozen=True, slots=True)
class VectorHit:
    """A row that was found: its number, its cosine, product or distance, and what was added with it."""

    index: int
    value: float
    metadata: Any


class VectorStore:
    """Rows of ``dimensions`` numbers, float32, each with any metadata; they are only ever appended, or all cleared.

    ``normalize``: rows and queries are taken in length 1, so that all three searches compare directions alone; rows of
    zeros are refused. Else lengths count, and only ``cosine_search`` refuses rows of zeros. ``path``: a file that is
    not there yet, to which ``save`` writes; ``.npz`` is put behind it where it is missing.

    Wrong vectors raise ``BadVectors``, other wrong values ``ConfigError``, files ``ArchiveError``; nothing has changed
    then. Values are those of float64; of equal ones, the lower row comes first. Not for several threads that write.
    """

    def __init__(self, dimensions: int, *, normalize: bool = True, path: str | os.PathLike[str] | None = None) -> None:
        self._dim = _whole(dimensions, "dimensions", 1, MAX_DIM)
        if not isinstance(normalize, bool | np.bool_):
            raise ConfigError(f"normalize is True or False, found {normalize!r:.80}. Nothing was made.")
        self._normalize = bool(normalize)
        self._path = None if path is None else _file(path)
        if self._path is not None and self._path.exists():
            raise ConfigError(f"{self._path} exists. Nothing was made; read it with VectorStore.open, or remove it.")
        self._vectors: Vectors = np.zeros((0, self._dim), np.float32)
        self._lengths = np.zeros(0, np.float32)
        self._metadata: list[Any] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the store that a file holds; ``save`` writes to it again. Nothing in it is unpickled."""
        file = _file(path)
        dimensions, normalize, vectors, metadata = _read(file)
        store = cls(dimensions, normalize=normalize)
        store.add(vectors, metadata)
        store._path = file
        return store

    def __enter__(self) -> Self:
        self._bound("a `with` block")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.save()

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        return self._dim

    @property
    def normalize(self) -> bool:
        """Whether vectors are kept in length 1."""
        return self._normalize

    @property
    def path(self) -> Path | None:
        """The file that ``save`` writes to, absolute; None before there is one."""
        return self._path

    @property
    def vectors(self) -> Vectors:
        """The rows of now, ``(n, dimensions)``, not copied and read-only."""
        view = self._vectors[: len(self)]
        view.flags.writeable = False
        return view

    @property
    def metadata(self) -> tuple[Any, ...]:
        """What was added with the rows of now."""
        return tuple(self._metadata)

    def __len__(self) -> int:
        return len(self._metadata)

    def get(self, index: int) -> tuple[Vectors, Any] | None:
        """Return a copy of a row and its metadata; None where there is none, also for numbers below 0."""
        row = _whole(index, "index")
        return (self._vectors[row].copy(), self._metadata[row]) if 0 <= row < len(self) else None

    def add(self, vectors: npt.ArrayLike, metadata: Sequence[Any] | npt.NDArray[Any]) -> None:
        """Append rows ``(n, dimensions)`` of real numbers, with an object of any kind for each: all, or none."""
        given = [metadata] if isinstance(metadata, str | bytes) else list(metadata)
        rows, lengths = self._checked(vectors, 2, direction=self._normalize)
        if len(given) != len(rows):
            raise ConfigError(
                f"{len(rows):,} vectors came with {len(given):,} metadata. Nothing was added; give each one."
            )
        first, stop = len(self), len(self) + len(rows)
        if stop > len(self._lengths):
            self._vectors, self._lengths = (
                np.concatenate([kept[:first], np.empty((max(stop, 2 * first) - first, *kept.shape[1:]), np.float32)])
                for kept in (self._vectors, self._lengths)
            )
        self._lengths[first:stop] = 1 if self._normalize else lengths
        # What is in length 1 stays as it is, bit by bit.
        divisors = np.where(np.abs(lengths - 1) <= UNIT, 1, lengths) if self._normalize else np.ones(1)
        np.divide(rows, divisors.astype(np.float32)[:, None], out=self._vectors[first:stop])
        self._metadata += given

    def clear(self) -> None:
        """Forget all rows; the file stays as it is until ``save``."""
        self._vectors, self._lengths = np.zeros((0, self._dim), np.float32), np.zeros(0, np.float32)
        self._metadata.clear()

    # Searches ---------------------------------------------------------------------------------------------------------

    def cosine_search(
        self, query: npt.ArrayLike, *, top_k: int = 10, min_value: float | None = None, within_rows: Rows | None = None
    ) -> list[VectorHit]:
        """Return the rows whose directions are nearest, best first: cosines (-1 to 1) of at least ``min_value``.

        ``within_rows``: no others are looked at. A query of zeros is refused, and so is such a row of them.
        """
        return self._search(query, "cosine", top_k, within_rows, min_value)

    def dot_search(
        self, query: npt.ArrayLike, *, top_k: int = 10, min_value: float | None = None, within_rows: Rows | None = None
    ) -> list[VectorHit]:
        """Return the rows of the largest inner products, largest first, of at least ``min_value``."""
        return self._search(query, "dot", top_k, within_rows, min_value)

    def euclidean_search(
        self, query: npt.ArrayLike, *, top_k: int = 10, max_value: float | None = None, within_rows: Rows | None = None
    ) -> list[VectorHit]:
        """Return the rows of the smallest Euclidean distances, smallest first, of at most ``max_value``."""
        return self._search(query, "l2", top_k, within_rows, max_value)

    def search_many(
        self, queries: npt.ArrayLike, *, metric: Metric = "cosine", top_k: int = 10
    ) -> list[list[VectorHit]]:
        """Return for each row of ``queries`` ``(q, dimensions)`` what one search by ``metric`` would, many at a time.

        Values differ from those by no more than the rounding of a query to float32.
        """
        if metric not in ZERO:
            raise ConfigError(f"metric is cosine, dot or l2, found {metric!r:.80}. Nothing was searched.")
        most = min(_whole(top_k, "top_k", 1), len(self))
        asked = self._queries(queries, 2, metric)
        if not (len(asked) and most and self._lengths[: len(self)].all()):  # it refuses zeros by any metric
            return [self._search(one, metric, max(1, most), None, None) for one in asked]
        block = MemoryBlock([""], np.array([len(self)]), self.vectors)
        found = search_exact(asked.astype(np.float32), [block], most, by="chunk", metric=metric)
        return [self._hits(rows, scores, metric) for rows, scores in zip(found.chunks, found.scores, strict=True)]

    def _search(
        self, query: npt.ArrayLike, metric: Metric, top_k: int, within_rows: Rows | None, limit: float | None
    ) -> list[VectorHit]:
        most, least = _whole(top_k, "top_k", 1), _limit(limit, "max_value" if metric == "l2" else "min_value")
        chosen = None if within_rows is None else _row_numbers(within_rows, len(self))
        asked = self._queries(query, 1, metric)
        where: slice | npt.NDArray[np.intp] = slice(len(self)) if chosen is None else chosen
        vectors, lengths = self._vectors[where], None if self._normalize else self._lengths[where]
        if not len(vectors):
            return []
        if metric == "cosine" and lengths is not None and not lengths.all():
            row = int(np.flatnonzero(lengths == 0)[0])
            raise BadVectors(
                f"row {row if chosen is None else chosen[row]} is zero and has no direction. Nothing was searched; "
                "leave it out with within_rows, or search by product or distance."
            )
        rows, scores = nearest_rows(vectors, asked, most, metric, lengths)
        if least is not None:
            good = scores >= (-least if metric == "l2" else least)
            rows, scores = rows[good], scores[good]
        rows = rows if chosen is None else chosen[rows]
        order = np.lexsort((rows, -scores))[:most]
        return self._hits(rows[order], scores[order], metric)

    def _hits(
        self, rows: npt.NDArray[np.integer[Any]], scores: npt.NDArray[np.float64], metric: Metric
    ) -> list[VectorHit]:
        values: list[float] = np.abs(scores).tolist() if metric == "l2" else scores.tolist()
        if metric == "cosine" and values and not -1 <= values[-1] <= values[0] <= 1:
            values = [min(1.0, max(-1.0, value)) for value in values]
        found = rows.tolist()
        return [VectorHit(*hit) for hit in zip(found, values, map(self._metadata.__getitem__, found), strict=True)]

    def _queries(self, query: npt.ArrayLike, axes: int, metric: Metric) -> npt.NDArray[np.float64]:
        """Return queries as float64, in length 1 where directions are compared."""
        directions = self._normalize or metric == "cosine"
        single, lengths = self._checked(query, axes, direction=directions)
        return single / lengths.reshape(*lengths.shape, 1) if directions else single.astype(np.float64)

    def _checked(self, given: npt.ArrayLike, axes: int, *, direction: bool) -> tuple[Vectors, npt.NDArray[np.float64]]:
        """Return vectors as float32, and their lengths: none is 0 where ``direction`` is wanted."""
        try:
            array = np.asarray(given)
        except ValueError as error:  # lists of several lengths
            raise BadVectors(f"these are no vectors: {error}. Nothing was changed.") from error
        if array.dtype.kind not in "fiu":
            raise BadVectors(f"vectors are of real numbers, found {array.dtype}. Nothing was changed.")
        if array.ndim != axes or array.shape[-1] != self._dim:
            wanted = f"({self._dim},)" if axes == 1 else f"(n, {self._dim})"
            raise BadVectors(f"vectors of shape {wanted} were wanted, found {array.shape}. Nothing was changed.")
        single = array
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):
                single = array.astype(np.float32)
        lengths = _lengths(single.reshape(-1, self._dim)).reshape(single.shape[:-1])
        shortest, longest = lengths.min(initial=1), lengths.max(initial=1)
        if not longest < np.inf:  # NaN is not, either
            raise BadVectors("a vector holds NaN, infinity, or what float32 cannot hold. Nothing was changed.")
        if direction and shortest == 0:
            raise BadVectors("a vector is zero and has no direction. Nothing was changed.")
        least, most = LENGTHS
        if not self._normalize and (longest > most or ((lengths < least) & (lengths > 0)).any()):
            raise BadVectors(
                f"lengths are 0, or {least:g} to {most:g}; found {shortest:g} to {longest:g}. Nothing was changed; "
                "scale them, or take them in length 1 with normalize=True."
            )
        return single, lengths

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write all rows to ``path``, or where they were written last: the file is the old or the new one, whole.

        Metadata must be what JSON gives back equal, else ``ConfigError`` names the first row that is not.
        """
        file = self._bound("save()") if path is None else _file(path)
        text = _as_json(self._metadata)
        try:
            with sealing(file) as temporary, temporary.open("xb") as stream:
                np.savez(
                    stream,
                    format=np.array(FORMAT),
                    format_version=np.array(FORMAT_VERSION),
                    dimensions=np.array(self._dim),
                    normalize=np.array(self._normalize),
                    vectors=self.vectors,
                    metadata=np.frombuffer(text, np.uint8),
                )
        except OSError as error:
            raise ArchiveError(f"{file} cannot be written: {error}. It is as it was, and so is the store.") from error
        self._path = file

    def reload(self) -> None:
        """Read the file again, which must be of like vectors; where it cannot be read, the rows stay as they are."""
        other = type(self).open(self._bound("reload()"))
        if (other._dim, other._normalize) != (self._dim, self._normalize):
            raise ArchiveError(
                f"{self._path} holds vectors of {other._dim} numbers, normalize={other._normalize}; this store has "
                f"{self._dim}, {self._normalize}. Its rows stay as they are; use VectorStore.open."
            )
        self._vectors, self._lengths, self._metadata = other._vectors, other._lengths, other._metadata

    def _bound(self, what: str) -> Path:
        if self._path is None:
            raise ConfigError(f"{what} needs a file, and this store has none. Nothing has run; give it a path.")
        return self._path


def _lengths(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Return the lengths of ``(n, dim)`` by float64, a block that stays in the processor's cache at a time."""
    squares = np.empty(len(vectors))
    for at in range(0, len(vectors), BLOCK):
        wide = vectors[at : at + BLOCK].astype(np.float64)
        np.vecdot(wide, wide, out=squares[at : at + BLOCK])
    return np.sqrt(squares, out=squares)


def _whole(value: object, name: str, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number. Raises ``ConfigError`` for another kind, and outside of its limits."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_ | np.ndarray):
        raise ConfigError(f"{name} is a whole number, found {value!r:.80}. Nothing was changed.")
    if (least is not None and number < least) or (most is not None and number > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most:,}"
        raise ConfigError(f"{name} is {allowed}, found {number}. Nothing was changed.")
    return number


def _limit(value: float | None, name: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise ConfigError(f"{name} is a finite number, found {value!r:.80}. Nothing was searched.")
    return float(value)


def _row_numbers(given: Rows, count: int) -> npt.NDArray[np.intp]:
    """Return row numbers below ``count``, each once. Raises ``ConfigError``."""
    if not isinstance(given, np.ndarray):
        given = np.array([_whole(row, "a row of within_rows") for row in given], np.intp)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        raise ConfigError(f"within_rows is a list of row numbers, found shape {given.shape} of {given.dtype}.")
    rows = given.astype(np.intp)
    if len(np.unique(rows)) != len(rows) or (len(rows) and not 0 <= rows.min() <= rows.max() < count):
        raise ConfigError(f"within_rows names rows 0 to {count - 1}, each once, found {given!r:.80}.")
    return rows


def _file(path: str | os.PathLike[str]) -> Path:
    name = os.fspath(path)
    if not name:
        raise ConfigError("the path is empty. Nothing was changed; name a file.")
    return Path(name if name.endswith(".npz") else f"{name}.npz").absolute()


def _as_json(metadata: Sequence[Any], first: int = 0) -> bytes:
    """Return metadata as JSON in UTF-8. Raises ``ConfigError`` for the first row that it would not give back equal."""
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
        if json.loads(text) == metadata:
            return text.encode()
    except (TypeError, ValueError, RecursionError):
        pass
    for row, one in enumerate(metadata if len(metadata) > 1 else ()):
        _as_json([one], row)
    raise ConfigError(
        f"the metadata of row {first}, {metadata[0]!r:.80}, are not what JSON holds: texts, numbers, true, false, "
        "null, lists, and objects by text. Nothing was written; change them, or keep them elsewhere by row number."
    )


def _read(file: Path) -> tuple[int, bool, npt.NDArray[Any], Sequence[Any]]:
    """Return dimensions, ``normalize``, vectors and metadata. Raises ``ArchiveError``, also for what is pickled."""
    try:
        with zipfile.ZipFile(file) as archive:
            check_unpacked(file, sum(one.file_size for one in archive.infolist()))
        with np.load(file, allow_pickle=False) as data:
            found = (str(data["format"]) if set(data.files) != FIELDS else FORMAT, int(data["format_version"]))
            if found != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is {found}")
            told = data["metadata"]
            metadata = told.tolist() if set(data.files) == FIELDS else json.loads(told.tobytes())
            return int(data["dimensions"]), bool(data["normalize"]), data["vectors"], metadata
    except UNREADABLE as error:
        if "allow_pickle" in str(error):
            raise ArchiveError(
                f"{file} holds pickled Python objects, which can run code and are not opened. Nothing was read; where "
                f"you trust it, rewrite it once with the library that wrote it: {UNPICKLE}"
            ) from error
        raise ArchiveError(f"{file} is no store of vectors that can be read: {error}. Nothing was read.") from error
