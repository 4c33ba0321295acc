"""What a search asks of another store, and what of its answer is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
import sqlalchemy as sa

from revector.errors import StoreUnavailable
from revector.registry import attempts
from revector.registry.attempts import AttemptsLane
from revector.registry.lane import SearchRequest, VisibleHits
from revector.registry.lanes import lane_of
from revector.stores.memory import TRAITS
from worlds import World

WANTED = SearchRequest(3, 20, by_document=True, exact=True)


@pytest.fixture
def stored(world: World) -> World:
    """120 documents are served from a store of this process."""
    model = 'model = ModelSpec(name="hashing", dim=64)'
    world.revision("a100", None, model, 'index = IndexSpec(kind="exact", store="memory")')
    world.put(120)
    world.upgrade("a100")
    return world


def found(world: World, query: str, wanted: SearchRequest) -> VisibleHits:
    generation = world.generation()
    vector = world.project.searcher("docs").encode(generation, [query])[0]
    with world.engine.connect() as connection:
        return lane_of(generation).search(connection, vector, wanted)


def test_a_search_of_an_index_in_sql_says_how_far_its_graph_is_walked_unless_it_is_exact(served: World) -> None:
    generation = served.generation()
    vector, lane = np.ones(64, np.float32), lane_of(generation)
    with served.engine.begin() as connection:
        walks = sa.text("SELECT current_setting('hnsw.iterative_scan', true)")
        lane.search(connection, vector, WANTED)
        assert connection.scalar(walks) != "strict_order"
        assert lane.search(connection, vector, replace(WANTED, exact=False)).needed == 0, "it counts no candidates"
        assert connection.scalar(walks) == "strict_order"


def test_candidates_are_counted_up_to_the_last_that_is_shown(stored: World) -> None:
    hits = found(stored, "apple7 pear7", WANTED)
    assert len(hits.rows) == 3
    assert 3 <= hits.needed <= hits.candidates == 20


def test_an_attempt_that_was_superseded_before_the_search_began_is_not_shown(stored: World) -> None:
    one = replace(WANTED, k=1, candidates=1)
    assert found(stored, "apple7 pear7 some words here number 7", one).rows[0]["doc_id"] == "d00007"
    stored.documents.put("d00007", "quince melon")
    stored.settle()
    hits = found(stored, "apple7 pear7 some words here number 7", one)
    assert (hits.candidates, hits.rows) == (1, []), "its points are still there, and nearest"


@pytest.mark.parametrize(
    ("changes", "asked_for"),
    [
        ({}, 20),
        ({"candidates": 50}, 50),
        ({"candidates": 51}, None),
        ({"few": True}, None),
        ({"candidates": 51, "few": True, "exact": False}, 50),
    ],
)
def test_an_exact_search_is_the_stores_up_to_what_it_returns_at_once_and_ours_above(
    monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any], asked_for: int | None
) -> None:
    compared, lane = Mock(return_value=[]), AttemptsLane(cast("Any", Mock()))
    lane._generation.spec.index.kind = "exact"
    near = Mock(return_value=[])
    lane.__dict__["index"] = SimpleNamespace(traits=replace(TRAITS, most_near=50), near=near)
    monkeypatch.setattr(attempts, "compare", compared)
    lane._near(Mock(), np.ones(4, np.float32), replace(WANTED, **changes))
    assert (near.call_count, compared.call_count) == (int(asked_for is not None), int(asked_for is None))
    assert asked_for is None or near.call_args.args[1] == asked_for


@pytest.mark.parametrize(
    ("told", "size"),
    [(SimpleNamespace(bytes=7), 7), (None, 0), (StoreUnavailable("it is down"), 0)],
)
def test_an_index_that_is_not_there_or_not_reached_takes_no_room(told: object, size: int) -> None:
    lane = AttemptsLane(cast("Any", Mock()))
    lane.__dict__["index"] = SimpleNamespace(describe=Mock(side_effect=[told]))
    assert lane.size_bytes(Mock()) == size
