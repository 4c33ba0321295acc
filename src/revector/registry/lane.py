"""Owns what the protocol asks of a generation's index, wherever it is: how results become visible and are read again.

There are two lanes. ``InSqlLane`` keeps vectors in the registry's own database: results, records and searches are one
transaction or statement. ``AttemptsLane`` keeps them in another store, and SQL decides which of its points are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.archive import Part
from revector.interfaces import Progress, Vectors
from revector.stores.pgvector import Build
from revector.stores.seam import StoreTraits

NORM_TOLERANCE = 0.01
"""Stored vectors may differ from their length by this share: float16 storage rounds to about 0.0005."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What was brought near an index: attempts by document, none where the index is in SQL.

    ``canary``: the one that counted before the points were put. They are shown only while it still does.
    """

    attempts: Mapping[str, UUID] = field(default_factory=dict)
    canary: UUID | None = None


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a search asks for: the ``k`` best of the ``candidates`` nearest that are visible.

    ``by_document`` keeps the best chunk of each document. ``filter_sql`` is a condition on the document ``d``.
    """

    k: int
    candidates: int
    by_document: bool
    exact: bool
    few: bool = False
    """The filter keeps so few documents that all of them are compared."""
    effort: int = 0
    """How many candidates a graph in a store outside of PostgreSQL looks at, at least."""
    filter_sql: str = ""
    filter_params: Mapping[str, object] = field(default_factory=dict)
    check_time: Callable[[], None] = lambda: None
    """Called between requests; raises ``SearchTooLong``."""


@dataclass(frozen=True, slots=True)
class VisibleHits:
    """An answer: who was active in its snapshot, how many candidates the index had, and the best rows.

    Fewer candidates than were asked for: there are no more, or none is better. ``needed``: those up to the last row,
    where the lane counts them.
    """

    active_gen: int | None
    candidates: int
    rows: list[Mapping[str, object]]
    needed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class IndexedDocument:
    """What an index holds of a document: ``locators`` of its pieces int32 ``(c, 2)``, vectors float32 ``(c, dim)``."""

    doc_id: str
    locators: npt.NDArray[np.int32]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class SqlRelation:
    """Rows for a statement: SQL and the values that it names."""

    sql: str
    values: Mapping[str, object] = field(default_factory=dict)


class Lane(Protocol):
    """The index of one generation as the protocol sees it. Contract: tests/contract/test_lane.py."""

    @property
    def traits(self) -> StoreTraits:
        """What its store can do."""
        ...

    # From the first day to the last -----------------------------------------------------------------------------------

    def register(self, connection: sa.Connection, encoder_fp: str) -> None:
        """Make, in the transaction that registers the generation, what of the index is in this database."""
        ...

    def ensure(self, engine: sa.Engine) -> None:
        """Make, after that transaction, what is elsewhere, and begin to watch it for a loss.

        Called for an index that is new, or whose loss is dealt with (``indexing.keeping``): it counts as whole then.
        """
        ...

    def build(self, engine: sa.Engine, progress: Progress, given: Build) -> bool:
        """Build what searches need over what was loaded; return whether there was anything to do."""
        ...

    def analyze(self, engine: sa.Engine) -> None:
        """Tell the planner how large the tables of a search are now."""
        ...

    def faults(self, connection: sa.Connection, *, built: bool) -> list[str]:
        """Say what is wrong with what of it is in this database; ``built``: searches need it by now."""
        ...

    def demand(self, engine: sa.Engine) -> None:
        """Raise ``IndexGone`` or ``StoreUnavailable`` where what is elsewhere is not as it should be, or not whole.

        Asked outside of any transaction, for a store may be slow.
        """
        ...

    def is_whole(self, connection: sa.Connection) -> bool:
        """Whether the store still has what it acknowledged, as far as one look at a point of ours shows."""
        ...

    def renew(self, engine: sa.Engine) -> None:
        """Have that look find a store that was put back to what it was a while ago."""
        ...

    def drop(self, connection: sa.Connection) -> None:
        """Drop it; what is gone counts as dropped."""
        ...

    # Writing ----------------------------------------------------------------------------------------------------------

    def stage(self, engine: sa.Engine, part: Part) -> Staged:
        """Bring embedded documents near the index, outside any transaction; nobody sees them yet."""
        ...

    def reveal(self, connection: sa.Connection, part: Part, staged: Staged, held: set[str]) -> set[str]:
        """Show what was staged of the documents in ``held``, and nothing of those without vectors; return which.

        The others were given up meanwhile: their work stays due.
        """
        ...

    def remove(self, attempts: Sequence[tuple[UUID, int]]) -> None:
        """Remove the points of attempts that were given up, given with their numbers of chunks."""
        ...

    # Reading ----------------------------------------------------------------------------------------------------------

    def search(self, connection: sa.Connection, query: npt.NDArray[np.float32], wanted: SearchRequest) -> VisibleHits:
        """Return the rows nearest to ``query``, float32 ``(dim,)``, that a reader may see."""
        ...

    def direction(self, connection: sa.Connection, doc_id: str) -> npt.NDArray[np.float32] | None:
        """Return the mean of a document's chunks as the metric compares them, ``(dim,)``: by cosine, of directions.

        None where the index shows none of them.
        """
        ...

    def read(self, connection: sa.Connection, doc_ids: Sequence[str]) -> Iterator[IndexedDocument]:
        """Yield what the index holds of each document that is there, as the transaction's snapshot names it."""
        ...

    def sample(self, connection: sa.Connection, rows: int) -> Iterator[Vectors]:
        """Yield vectors of random places, about ``rows`` in all, in blocks float32 ``(n, dim)``."""
        ...

    def facts(self, connection: sa.Connection, page: SqlRelation) -> SqlRelation:
        """Return a relation ``c`` of what the index holds, to be joined to documents ``p`` with their ledger ``l``.

        ``page``: the clause of a WITH that names the ids, ``page(doc_id)``. Columns: ``attempt, n, kinds, lowest,
        highest, oldest, newest, stop, unlike, bad, outside``: the number of chunks, of different numbers, the least and
        largest number and version, the last end, how many vectors are of another width, of a bad length, and how many
        chunks have impossible offsets.
        """
        ...

    def strays(self) -> str:
        """Return SQL for further ids above ``:after`` that only the index knows, or nothing."""
        ...

    def signs(self, connection: sa.Connection, dims: int) -> SqlRelation:
        """Return ``(doc_id, chunk, start, stop, key)`` of chunks; ``key``: the signs of the first ``dims`` numbers.

        Those whose key no other chunk has may be left out.
        """
        ...

    def size_bytes(self, connection: sa.Connection) -> int:
        """Return its size in bytes, with all that belongs to it."""
        ...

    def rows(self, connection: sa.Connection) -> int:
        """Return about how many chunks it holds."""
        ...
