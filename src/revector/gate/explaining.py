"""How PostgreSQL answers a search: the plan of exactly the statement that the searcher sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.errors import StateError
from revector.registry.collections import Generation
from revector.registry.lanes import lane_of
from revector.serving.searcher import Answer, Searcher


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """How PostgreSQL answers a search: ``nodes`` of its plan that read the index's table, outermost first.

    ``hnsw`` is whether the HNSW index is among them; on small tables, and for ``kind="exact"``, it is not, and then
    the answer is exact and says nothing of the index. ``ef_search`` is what was in force: never below the candidates
    that the search wants; 0 for ``kind="exact"``.
    """

    hnsw: bool
    nodes: tuple[str, ...]
    ef_search: int


def ask(searcher: Searcher, generation: Generation, vector: npt.NDArray[np.float32], k: int) -> Answer:
    """Search a generation as it is served. Raises ``StateError`` where it is not live."""
    answer = searcher.search_vector(generation, vector, k)
    if answer is None:
        raise StateError(f"generation {generation.gen} did not answer; it must be live. Nothing was measured.")
    return answer


def explain(
    engine: sa.Engine, searcher: Searcher, generation: Generation, vector: npt.NDArray[np.float32], k: int
) -> QueryPlan:
    """Return the plan of exactly the statement that ``search_vector`` sends: it is overheard, and sent as EXPLAIN.

    A store outside of PostgreSQL has no plan to show; it is named instead.
    """
    if not lane_of(generation).traits.in_sql:
        index = generation.spec.index
        return QueryPlan(index.kind == "hnsw", (index.store,), index.ef_search if index.kind == "hnsw" else 0)
    with _overheard(engine) as said:
        ask(searcher, generation, vector, k)
    search = next(at for at, (statement, _) in enumerate(said) if statement.lstrip().startswith("WITH hits"))
    with engine.connect() as connection:
        indexes = set(
            connection.scalars(
                sa.text(
                    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON "
                    "a.oid = c.relam WHERE i.indrelid = to_regclass(:name) AND a.amname = 'hnsw'"
                ),
                {"name": generation.physical_name},
            )
        )
        for statement, values in said[:search]:
            connection.exec_driver_sql(statement, values)
        ef = connection.scalar(sa.text("SELECT current_setting('hnsw.ef_search', true)")) if search else None
        statement, values = said[search]
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
    nodes = [node for node in _nodes(plan[0]["Plan"]) if _reads(node, generation.physical_name, indexes)]
    named = tuple(" ".join(filter(None, (node["Node Type"], node.get("Index Name")))) for node in nodes)
    return QueryPlan(any(node.get("Index Name") in indexes for node in nodes), named, int(ef or 0))


def _reads(node: Mapping[str, object], table: str, indexes: set[str]) -> bool:
    return node.get("Relation Name") == table or node.get("Index Name") in indexes


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@contextmanager
def _overheard(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """Yield the statements that this thread sends, with their values, as the driver gets them."""
    said: list[tuple[str, Any]] = []
    mine = threading.get_ident()

    def listen(_: object, __: object, statement: str, values: object, *___: object) -> None:
        if threading.get_ident() == mine:
            said.append((statement, values))

    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        yield said
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)
