"""The reference store: indexes in the memory of this process, searched exactly with numpy.

It is the shortest thing that does all that ``stores.seam`` asks, for tests, trials and as a pattern. Other processes do
not see it, and with the process it is gone: then every document becomes work again (``indexing.incarnation``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.errors import IndexGone
from revector.interfaces import Progress, Vectors
from revector.spec import IndexSpec, Metric
from revector.stores.clients import demand_made
from revector.stores.metrics import nearest_rows
from revector.stores.seam import ALL_METRICS, IndexDescription, NearPoint, Points, StoreCosts, StoreTraits
from revector.stores.settings import StoreSettings

FIRST_ROWS = 64
_FIELDS = np.dtype([("id", "V16"), ("attempt", "V16"), ("chunk", "i4"), ("start", "i4"), ("stop", "i4")])

TRAITS = StoreTraits(
    in_sql=False,
    kinds=frozenset({"exact"}),
    storages=frozenset({"vector"}),
    quantizes=frozenset({"none"}),
    metrics=ALL_METRICS,
    max_dim=65_536,
    among=10_000,
    lasting=False,
    costs=StoreCosts(point_bytes=45),
)


class MemoryStore:
    """Indexes by name; any number of threads may use them."""

    traits = TRAITS

    def __init__(self) -> None:
        self._shelves: dict[str, _Shelf] = {}
        self._lock = threading.RLock()

    def open(self, name: str, dim: int, index: IndexSpec) -> MemoryIndex:
        """Return the index of that name, whether it is there or not."""
        return MemoryIndex(name, dim, self._shelves, self._lock, index.metric)

    def ask(self) -> str:
        """Say that it is here."""
        return "the memory of this process"

    def close(self) -> None:
        """Keep what is there: there is no connection."""

    def names(self) -> list[str]:
        """Return the names of all indexes that are there."""
        with self._lock:
            return sorted(self._shelves)


def open_store(name: str, settings: StoreSettings) -> MemoryStore:
    """Return an empty store of this process."""
    del name, settings
    return MemoryStore()


class MemoryIndex:
    """One index of a ``MemoryStore``."""

    traits = TRAITS

    def __init__(self, name: str, dim: int, shelves: dict[str, _Shelf], lock: threading.RLock, metric: Metric) -> None:
        self.name, self._dim, self._metric = name, dim, metric
        self._shelves, self._lock = shelves, lock

    def create(self, encoder_fp: str) -> None:
        """Create it empty. Raises ``EncoderMismatch`` where one of another encoder or width has the name."""
        with self._lock:
            shelf = self._shelves.setdefault(self.name, _Shelf(encoder_fp, self._dim))
        demand_made(self.name, (encoder_fp, self._dim), (shelf.encoder_fp, shelf.dim))

    def describe(self) -> IndexDescription | None:
        """Return what is there of it, or None."""
        with self._lock:
            shelf = self._shelves.get(self.name)
            if shelf is None:
                return None
            return IndexDescription(shelf.encoder_fp, shelf.dim, len(shelf.places), shelf.bytes, ready=True)

    def drop(self) -> None:
        """Forget it."""
        with self._lock:
            self._shelves.pop(self.name, None)

    def put(self, points: Points) -> None:
        """Store points; those that are there stay as they are."""
        with self._lock:
            self._shelf().put(points)

    def remove(self, ids: Sequence[UUID]) -> None:
        """Remove points, also from an index that is not there."""
        with self._lock:
            if self.name in self._shelves:
                self._shelf().remove(ids)

    def near(
        self,
        vector: npt.NDArray[np.float32],
        n: int,
        *,
        exact: bool,
        effort: int = 0,
        among: Sequence[UUID] | None = None,
    ) -> list[NearPoint]:
        """Compare ``vector`` with every point; equal ones are ordered by id. Nothing else changes that."""
        del exact, effort
        with self._lock:
            shelf = self._shelf()
            rows = np.flatnonzero(shelf.taken) if among is None else shelf.rows_of(among)
            vectors, asked = shelf.vectors[rows], np.asarray(vector, np.float64)
            if self._metric == "cosine":
                asked = asked / np.linalg.norm(asked)
            best, similarities = nearest_rows(vectors, asked, n, self._metric, np.linalg.norm(vectors, axis=1))
            found = shelf.fields[rows[best]]
        order = np.lexsort((_bytes(found["id"]), -similarities))[:n]
        return [
            NearPoint(
                UUID(bytes=one["attempt"].tobytes()),
                int(one["chunk"]),
                int(one["start"]),
                int(one["stop"]),
                float(near),
            )
            for one, near in zip(found[order], similarities[order], strict=True)
        ]

    def read(self, ids: Sequence[UUID]) -> Points:
        """Return those of the points that are there."""
        with self._lock:
            shelf = self._shelf()
            rows = shelf.rows_of(ids)
            found, vectors = shelf.fields[rows], shelf.vectors[rows]
        return Points(
            [UUID(bytes=one.tobytes()) for one in found["id"]],
            [UUID(bytes=one.tobytes()) for one in found["attempt"]],
            found["chunk"],
            found["start"],
            found["stop"],
            vectors,
        )

    def finish(self, progress: Progress) -> bool:
        """Return False: there is nothing to build."""
        del progress
        return False

    def _shelf(self) -> _Shelf:
        if self.name not in self._shelves:
            raise IndexGone(
                f"the index {self.name} is not in the store: its generation was retired meanwhile, or the process that "
                "held it has ended. Nothing was changed; a worker makes it again and re-embeds its documents."
            )
        return self._shelves[self.name]


class _Shelf:
    """The arrays of one index; rows of removed points are used again."""

    def __init__(self, encoder_fp: str, dim: int) -> None:
        self.encoder_fp, self.dim = encoder_fp, dim
        self.places: dict[UUID, int] = {}
        self.fields = np.zeros(FIRST_ROWS, _FIELDS)
        self.vectors: Vectors = np.zeros((FIRST_ROWS, dim), np.float32)
        self.taken = np.zeros(FIRST_ROWS, np.bool_)
        self._free = list(range(FIRST_ROWS - 1, -1, -1))

    @property
    def bytes(self) -> int:
        return self.fields.nbytes + self.vectors.nbytes + self.taken.nbytes

    def rows_of(self, ids: Sequence[UUID]) -> npt.NDArray[np.int64]:
        return np.array([self.places[one] for one in ids if one in self.places], dtype=np.int64)

    def put(self, points: Points) -> None:
        for n, one in enumerate(points.ids):
            if one in self.places:
                continue
            if not self._free:
                self._grow()
            row = self.places[one] = self._free.pop()
            self.fields[row] = (
                one.bytes,
                points.attempts[n].bytes,
                points.chunks[n],
                points.starts[n],
                points.stops[n],
            )
            self.vectors[row], self.taken[row] = points.vectors[n], True

    def remove(self, ids: Sequence[UUID]) -> None:
        for one in ids:
            if (row := self.places.pop(one, None)) is not None:
                self.taken[row] = False
                self._free.append(row)

    def _grow(self) -> None:
        rows = len(self.taken)
        self.fields = np.concatenate([self.fields, np.zeros(rows, _FIELDS)])
        self.vectors = np.concatenate([self.vectors, np.zeros((rows, self.dim), np.float32)])
        self.taken = np.concatenate([self.taken, np.zeros(rows, np.bool_)])
        self._free = list(range(2 * rows - 1, rows - 1, -1))


def _bytes(column: npt.NDArray[np.generic]) -> npt.NDArray[np.bytes_]:
    """Return ids as what numpy can order."""
    return np.ascontiguousarray(column).view("S16").reshape(-1)
