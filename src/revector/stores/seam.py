"""Owns the seam between revector and a store of vectors: an index is points by id, and knows nothing of documents.

What a point means, and whether a reader may see it, is decided in SQL (``registry.attempts``). So a store needs no
conditional write, no transaction and no order of requests: a request that arrives late, twice or never does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, get_args, runtime_checkable
from uuid import UUID

import numpy as np
import numpy.typing as npt

from revector.interfaces import Progress, Vectors
from revector.spec import IndexSpec, Metric


@dataclass(frozen=True, slots=True)
class StoreCosts:
    """What a point takes in a store outside of PostgreSQL, as measured; plans reckon with it."""

    point_bytes: float = 0.0
    """Bytes on its disk (or in its memory, where it has no disk) besides the vector and the graph."""
    number_bytes: float = 4.0
    """… for each number of the vector."""
    graph_number_bytes: float = 0.0
    """… for each number once more, in a graph."""
    link_bytes: float = 0.0
    """… for each of the 2 M neighbours in a graph."""
    put_cpu_s: float = 0.0
    """CPU-seconds, of store and client, of publishing it."""
    build_cpu_s: float = 0.0
    """CPU-seconds of putting it into the graph, where that is done at the end."""

    def bytes_of(self, dim: int, index: IndexSpec) -> float:
        """Return the bytes of one point; float16 is reckoned as half of what was measured, int8 as a byte beside it."""
        half = 0.5 if index.storage == "halfvec" else 1.0
        numbers = 1.0 if index.quantize == "int8" else half * self.graph_number_bytes
        graph = numbers * dim + self.link_bytes * 2 * index.m if index.kind == "hnsw" else 0.0
        return self.point_bytes + half * self.number_bytes * dim + graph


ALL_METRICS = frozenset(get_args(Metric))


@dataclass(frozen=True, slots=True)
class StoreTraits:
    """What indexes of a store are like, and what they can be asked for."""

    in_sql: bool
    """Rows of the registry's own database: results and records change in one transaction."""
    kinds: frozenset[str]
    """Values of ``IndexSpec.kind`` that it has."""
    storages: frozenset[str]
    """Values of ``IndexSpec.storage`` that it has."""
    quantizes: frozenset[str]
    """Values of ``IndexSpec.quantize`` that it has."""
    metrics: frozenset[str]
    """Values of ``IndexSpec.metric`` that it has."""
    max_dim: int
    hnsw_max_dim: Mapping[str, int] = field(default_factory=dict)
    """The same for graphs, by what their nodes hold, where that is less."""
    searchable_at_once: bool = True
    """What was put is found by the next search. Elsewhere the points are read back before they count."""
    lasting: bool = True
    """Its indexes outlive the process that made them, and other processes see them."""
    exact_with: frozenset[str] = frozenset({"hnsw", "exact"})
    """Kinds of index that it can search exactly; for the others, revector reads the vectors and compares them."""
    most_near: int | None = None
    """Points that one search returns at most; beyond it, revector compares as well. None: any number."""
    among: int = 0
    """Points named by id that one search of it compares, whatever graph it has. 0: they are read and compared here."""
    ef_per_search: bool = True
    """``ef_search`` is said with each search. Elsewhere it is a property of the index."""
    costs: StoreCosts = StoreCosts()
    warnings: tuple[str, ...] = ()
    """What a person should know before a migration to it."""

    def lacks(self, index: IndexSpec) -> str:
        """Say which setting of ``index`` it has not, with what it has; nothing where it has all."""
        has = {"kind": self.kinds, "storage": self.storages, "quantize": self.quantizes, "metric": self.metrics}
        for setting, allowed in has.items():
            if (found := getattr(index, setting)) not in allowed:
                return f"has index.{setting} {' or '.join(sorted(allowed))}, found {found!r}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Chunks as a store keeps them, by column: ``n`` ids, attempts and integers, ``vectors`` float32 ``(n, dim)``.

    An id is written once and never again with other content. ``attempts`` name the try to embed one version of one
    document that the point belongs to.
    """

    ids: Sequence[UUID]
    attempts: Sequence[UUID]
    chunks: npt.NDArray[np.integer]
    starts: npt.NDArray[np.integer]
    stops: npt.NDArray[np.integer]
    vectors: Vectors

    @classmethod
    def of(cls, rows: Iterable[tuple[UUID, UUID, int, int, int]], vectors: Vectors) -> Points:
        """Return points given as rows of id, attempt, chunk, start and stop."""
        ids, attempts, *numbers = list(zip(*rows, strict=True)) or [()] * 5
        chunks, starts, stops = (np.array(one, np.int32) for one in numbers)
        return cls(list(ids), list(attempts), chunks, starts, stops, vectors)

    def rows(self, wanted: slice) -> Points:
        """Return some of the points."""
        return Points(
            self.ids[wanted],
            self.attempts[wanted],
            self.chunks[wanted],
            self.starts[wanted],
            self.stops[wanted],
            self.vectors[wanted],
        )

    def batches(self, most: int) -> Iterator[Points]:
        """Yield them in parts of at most ``most``."""
        for first in range(0, len(self.ids), most):
            yield self.rows(slice(first, first + most))

    def __iter__(self) -> Iterator[tuple[UUID, UUID, int, int, int]]:
        """Yield id, attempt, chunk, start and stop of each."""
        numbers = (self.chunks.tolist(), self.starts.tolist(), self.stops.tolist())
        return zip(self.ids, self.attempts, *numbers, strict=True)


@dataclass(frozen=True, slots=True)
class NearPoint:
    """A point that was found; ``similarity`` is its score by the index's metric, see ``stores.metrics``."""

    attempt: UUID
    chunk: int
    start: int
    stop: int
    similarity: float


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """What a store says of one index: the fingerprint kept inside it, its width, its points and their bytes."""

    encoder_fp: str
    dim: int
    points: int
    bytes: int
    ready: bool
    """Whether searches are as good as they will be: everything is indexed."""


class Index(Protocol):
    """One physical index. Every call may be repeated; a name is never used again for another index.

    Each raises ``StoreUnavailable`` where the store does not answer, ``StoreRefused`` where a person must act; ``put``,
    ``near`` and ``read`` raise ``IndexGone`` where it has no such index. None of them creates an index but
    ``create``.
    """

    @property
    def name(self) -> str:
        """Its name in the store."""
        ...

    @property
    def traits(self) -> StoreTraits:
        """What it can do."""
        ...

    def create(self, encoder_fp: str) -> None:
        """Create the empty index; one that is there stays as it is. Raises ``EncoderMismatch`` if it is another's."""
        ...

    def describe(self) -> IndexDescription | None:
        """Return what the store says of it, or None where it is not there."""
        ...

    def drop(self) -> None:
        """Drop it; one that is not there counts as dropped."""
        ...

    def put(self, points: Points) -> None:
        """Store points; those that are there are the same already. Returns once the store has acknowledged all."""
        ...

    def remove(self, ids: Sequence[UUID]) -> None:
        """Remove points by id; those that are not there count as removed."""
        ...

    def near(
        self,
        vector: npt.NDArray[np.float32],
        n: int,
        *,
        exact: bool,
        effort: int = 0,
        among: Sequence[UUID] | None = None,
    ) -> list[NearPoint]:
        """Return the ``n`` points nearest to ``vector`` ``(dim,)``, best first; fewer only where there are no more.

        A graph looks at ``effort`` candidates at least. ``among``: of these points alone, at most ``traits.among``,
        and all of them that are there are compared.
        """
        ...

    def read(self, ids: Sequence[UUID]) -> Points:
        """Return those of the points that are there, in any order."""
        ...

    def finish(self, progress: Progress) -> bool:
        """Build what searches need over everything that was put; return whether there was anything to do."""
        ...


class Store(Protocol):
    """A place for indexes, as settings describe it."""

    @property
    def traits(self) -> StoreTraits:
        """What its indexes can do."""
        ...

    def open(self, name: str, dim: int, index: IndexSpec) -> Index:
        """Return the index of that name; nothing is asked of the store yet."""
        ...

    def ask(self) -> str:
        """Return what answers, with its version. Raises ``StoreRefused`` or ``StoreUnavailable``."""
        ...

    def close(self) -> None:
        """Let go of its connections; the store is used no more."""
        ...


@runtime_checkable
class AliasedStore(Store, Protocol):
    """A store with aliases of its own, which readers outside of revector may ask instead of an index."""

    def leads_to(self, alias: str) -> str | None:
        """Return the name of the index that answers to ``alias``, which may be its own; None where none does."""
        ...

    def lead(self, alias: str, index: str | None) -> None:
        """Have ``alias`` lead to an index, from then on or instead of another; None: remove it."""
        ...
