"""Owns how many candidates an index is asked for: few at first, and more until enough of them are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import sqlalchemy as sa

from revector.registry.collections import Generation
from revector.registry.lane import SearchRequest, VisibleHits
from revector.registry.lanes import lane_of

EXACT_SHARE = 0.05
"""A filter that keeps less than this share is searched exactly, for HNSW filters after its scan.

Measured: of a filter that kept 2 % of the rows, 0.4 of 10 came back.
"""

EXACT_ROWS = 20_000
MOST_CANDIDATES = 1_000

PER_DOCUMENT = 4
"""Candidates of a wanted document, for it may have several chunks near."""

FILTERED_EFFORT = 4
"""How many times its ``ef_search`` a store's graph looks at where a filter leaves only some of what it finds.

Measured on 3,000 random directions and a filter that keeps half: recall@10 0.95 at 100, 0.997 and more at 400.
"""

_SLOWLY = 8
"""Searches after which what is needed less than before is believed."""


class Widths:
    """How many candidates a document took of late in each generation; any number of threads may use it.

    A candidate that is not needed costs a row of the store's answer and three look-ups in SQL.
    """

    def __init__(self) -> None:
        self._took: dict[int, float] = {}

    def first(self, pinned: Generation, k: int, *, by_document: bool, filtered: bool) -> int:
        """Return how many to ask for at first; in SQL, and where bytes are ranked again, that decides recall too."""
        if not by_document:
            return k
        if filtered or lane_of(pinned).traits.in_sql or pinned.spec.index.quantize != "none":
            return PER_DOCUMENT * k
        return min(PER_DOCUMENT * k, max(k, math.ceil(k * self._took.get(pinned.gen, PER_DOCUMENT))))

    def widen(
        self, pinned: Generation, ask: Callable[[SearchRequest], VisibleHits], wanted: SearchRequest
    ) -> tuple[VisibleHits, SearchRequest, int]:
        """Ask for more candidates until ``k`` are found; return the last answer, what was asked, and how often."""
        asked = 0
        while True:
            wanted.check_time()
            found = ask(wanted)
            asked += 1
            exhausted = found.candidates < wanted.candidates
            if len(found.rows) >= wanted.k or (wanted.exact and exhausted):
                self._learn(pinned, wanted, found)
                return found, wanted, asked
            if not wanted.exact and (exhausted or wanted.candidates >= MOST_CANDIDATES):
                wanted = replace(wanted, exact=True)  # the scan gave up before k were found
            else:
                wanted = replace(wanted, candidates=wanted.candidates * 4)

    def _learn(self, pinned: Generation, wanted: SearchRequest, found: VisibleHits) -> None:
        """Note what an answer took: more at once, less slowly, so that few searches have to ask again."""
        if not wanted.by_document or wanted.exact or wanted.filter_sql or len(found.rows) < wanted.k:
            return
        took, before = found.needed / wanted.k, self._took.get(pinned.gen, float(PER_DOCUMENT))
        self._took[pinned.gen] = max(took, before + (took - before) / _SLOWLY)


def keeps_few(
    connection: sa.Connection, pinned: Generation, filter_sql: str, filter_params: Mapping[str, object]
) -> bool:
    """Whether a filter keeps so few documents that all of them are compared; counts no further than it must."""
    limit = max(1_000, min(EXACT_ROWS, int(EXACT_SHARE * lane_of(pinned).rows(connection))))
    kept = connection.scalar(
        sa.text(
            f"SELECT count(*) FROM (SELECT 1 FROM document d WHERE d.cid = :cid AND NOT d.deleted AND {filter_sql} "
            f"LIMIT {limit}) kept"
        ),
        {"cid": pinned.cid, **filter_params},
    )
    return int(kept or 0) < limit


def effort(pinned: Generation, k: int, *, by_document: bool, filtered: bool) -> int:
    """Return how many candidates a graph in a store must look at, however many of them are asked for."""
    least = FILTERED_EFFORT * pinned.spec.index.ef_search if filtered else 0
    return max(least, PER_DOCUMENT * k if by_document else k)
