"""Owns the exact search of what matches a filter in an index outside of PostgreSQL: SQL names the points.

The store compares them, or they are read and compared here. So a filter that keeps few documents costs few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.registry import intents, ledgers
from revector.registry.collections import Generation
from revector.registry.in_sql import visible
from revector.registry.lane import SearchRequest
from revector.spec import Metric
from revector.stores.clients import batches
from revector.stores.metrics import scores
from revector.stores.seam import Index, NearPoint, Points

PAGE = 2_000
"""Documents of one look into the ledger."""

READ_POINTS = 2_000
"""Points of one request to the store."""


def compare(
    connection: sa.Connection,
    generation: Generation,
    index: Index,
    query: npt.NDArray[np.float32],
    wanted: SearchRequest,
) -> list[NearPoint]:
    """Return the ``wanted.candidates`` points nearest to ``query`` of those that a reader may see now, best first."""
    best, metric = list[NearPoint](), generation.spec.index.metric
    for attempts in _pages(connection, generation, wanted):
        ids = intents.point_ids(attempts)
        for some in batches(ids, index.traits.among or READ_POINTS):
            wanted.check_time()
            best += (
                index.near(query, wanted.candidates, exact=True, among=some)
                if index.traits.among
                else _near(index.read(some), query, wanted.candidates, metric)
            )
        best = sorted(best, key=lambda one: -one.similarity)[: wanted.candidates]
    return best


def _pages(
    connection: sa.Connection, generation: Generation, wanted: SearchRequest
) -> Iterator[Sequence[tuple[UUID, int]]]:
    also, after = f" AND {wanted.filter_sql}" if wanted.filter_sql else "", ""
    statement = sa.text(
        f"SELECT i.doc_id, i.attempt, i.n_chunks FROM {ledgers.table(generation.gen)} l "
        f"JOIN {intents.table(generation.gen)} i ON i.gen = :gen AND i.attempt = l.attempt "
        "JOIN document d ON d.cid = :cid AND d.doc_id = l.doc_id "
        f"WHERE l.doc_id > :after AND {visible()}{also} ORDER BY l.doc_id LIMIT {PAGE}"
    )
    values = {"gen": generation.gen, "cid": generation.cid, **wanted.filter_params}
    while rows := connection.execute(statement, {**values, "after": after}).all():
        yield [(row.attempt, row.n_chunks) for row in rows]
        after = rows[-1].doc_id


def _near(points: Points, query: npt.NDArray[np.float32], n: int, metric: Metric) -> list[NearPoint]:
    if not len(points.ids):
        return []
    similarities = scores(points.vectors, query, metric)
    places = np.argsort(-similarities, kind="stable")[:n]
    return [
        NearPoint(
            points.attempts[at],
            int(points.chunks[at]),
            int(points.starts[at]),
            int(points.stops[at]),
            float(similarities[at]),
        )
        for at in places
    ]
