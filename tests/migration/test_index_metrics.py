"""An index by inner product or distance is searched, measured, verified and migrated by that metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pgvector import Vector

from outside import LimitedStore
from revector.errors import ConfigError, SpecError
from revector.gate.ann import measure_ann
from revector.interfaces import Document
from revector.registry import cutoffs
from revector.registry.control import control
from revector.serving.exporting import reading_vectors
from revector.stores.memory import TRAITS, MemoryStore
from revector.stores.opening import added
from worlds import World

MODEL = 'model = ModelSpec(name="hashing", dim=64, normalize=False)'
COUNT = 90
SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "dot": lambda vectors, query: vectors @ query,
    "l2": lambda vectors, query: -np.linalg.norm(vectors - query, axis=1),
}
QUERY = "apple7 pear7 apple8 some words"


def made(world: World, index: str) -> World:
    """Documents of which each tenth says its words many times, so that its vector is long, and an index over them."""
    world.revision("a100", None, MODEL, f"index = IndexSpec({index})")
    world.documents.put_many(
        Document(f"d{n:05d}", f"apple{n} pear{n} some words here " * (1 + 6 * (n % 10 == 7)), {"n": n})
        for n in range(COUNT)
    )
    world.upgrade("a100")
    return world


def stored(world: World) -> tuple[list[str], Any]:
    with reading_vectors(world.engine, world.generation()) as (_, parts):
        found = [(part.doc_ids, part.embeddings) for part in parts]
    return [one for ids, _ in found for one in ids], np.concatenate([vectors for _, vectors in found])


def by_numpy(world: World, metric: str, query: Any, k: int, without: str = "") -> list[tuple[str, float]]:
    ids, vectors = stored(world)
    scores = SCORES[metric](vectors, query)
    order = [n for n in np.argsort(-scores, kind="stable") if ids[n] != without][:k]
    return [(ids[n], float(scores[n])) for n in order]


def agree(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], rtol=2e-3, atol=1e-4)
    assert found[0][0] == wanted[0][0]


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("index", ["", 'storage="halfvec"', 'kind="exact", store="tested"', 'store="limited"'])
def test_every_way_of_asking_gives_the_answers_of_numpy_with_their_lengths(
    world: World, index: str, metric: str
) -> None:
    with added("tested", MemoryStore()), added("limited", LimitedStore()):
        made(world, f'{index}{", " if index else ""}metric="{metric}"')
        searcher, generation = world.project.searcher("docs"), world.generation()
        query = searcher.encode(generation, [QUERY])[0]
        wanted = by_numpy(world, metric, query, 10)
        answer = searcher.search(QUERY)
        assert answer.metric == metric
        agree([(hit.id, hit.score) for hit in answer.hits], wanted)
        least = (wanted[2][1] + wanted[3][1]) / 2
        assert searcher.search(QUERY, min_score=least).hits == answer.hits[:3]
        given = searcher.search_given((3 * query).tolist(), generation.encoder_fp)
        agree([(hit.id, hit.score) for hit in given.hits], by_numpy(world, metric, 3 * query, 10))
        ids, vectors = stored(world)
        like = searcher.search_like("d00008", 5)
        own = by_numpy(world, metric, vectors[ids.index("d00008")], 5, without="d00008")
        agree([(hit.id, hit.score) for hit in like.hits], own)
        assert world.project.verify("docs", actor="tester").generations[0].faults == []
        if "store" not in index:
            rows = in_sql(world, 3 * query)
            assert [row[0] for row in rows] == [hit.id for hit in given.hits]
            np.testing.assert_allclose([row[1] for row in rows], [hit.score for hit in given.hits], rtol=1e-6)


def in_sql(world: World, vector: Any) -> list[Any]:
    fp = world.generation().encoder_fp
    text = "SELECT doc_id, score FROM revector.search('docs', CAST(:vector AS vector), :fp)"
    return list(world.sql(text, vector=Vector(vector).to_text(), fp=fp))


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_what_an_index_loses_is_measured_by_its_metric(world: World, metric: str) -> None:
    made(world, f'kind="exact", metric="{metric}"')
    queries = {f"q{n}": f"apple{n} pear{n} some words" for n in range(20)}
    report = measure_ann(world.engine, world.project.searcher("docs"), world.generation(), queries, sweep=())
    assert report.served.overlap.mean == 1.0
    assert report.lost_best == 0


def test_a_change_of_metric_embeds_nothing_maps_cut_offs_and_goes_back(served: World) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.2})
    served.revision("b200", "a100", 'model = ModelSpec(name="hashing", dim=64)', 'index = IndexSpec(metric="l2")')
    before = served.project.searcher("docs").search(QUERY)
    plan = served.migrator.plan("b200")
    assert "re-embed nothing: copy every vector" in plan.action
    steps = {one.step: one for one in served.upgrade("b200")}
    assert steps["backfill"].facts["reused"] == 120
    after = served.project.searcher("docs").search(QUERY)
    assert (after.revision, after.metric) == ("b200", "l2")
    # Vectors of length 1 have one order by all metrics: |a - b|² = 2 - 2 a·b.
    distances = [-np.sqrt(max(0.0, 2 - 2 * hit.score)) for hit in before.hits]
    np.testing.assert_allclose([hit.score for hit in after.hits], distances, atol=1e-5)
    assert served.value("SELECT distance FROM revector.active('docs')") == "l2"
    assert after.cutoffs["support"] == pytest.approx(-np.sqrt(2 - 2 * 0.2), abs=0.1)
    served.migrator.rollback("a test")
    assert served.project.searcher("docs").search(QUERY).hits == before.hits


def test_a_vector_of_twice_its_length_is_damaged_where_lengths_are_kept(world: World) -> None:
    made(world, 'metric="dot"')
    name = world.generation().physical_name
    world.unguarded(f"UPDATE revector.{name} SET embedding = embedding + embedding WHERE doc_id = 'd00003'")
    found = world.project.verify("docs", actor="tester").generations[0]
    [wrong] = found.first["damaged"]
    assert (wrong.id, found.wrong) == ("d00003", {"damaged": 1})
    assert "2.0000 of the length" in wrong.reason


def test_a_vector_that_half_precision_cannot_hold_is_refused_everywhere(world: World) -> None:
    made(world, 'storage="halfvec", metric="dot"')
    large = np.full(64, 7e4, np.float32)
    with pytest.raises(ConfigError, match="64 finite numbers up to 65"):
        world.project.searcher("docs").search_given(large.tolist(), world.generation().encoder_fp)
    with pytest.raises(sa.exc.DBAPIError, match="the index keeps numbers"):
        in_sql(world, large)


def test_a_cut_off_is_any_score_that_the_metric_has(world: World) -> None:
    made(world, 'metric="l2"')
    searcher = world.project.searcher("docs")
    with pytest.raises(ConfigError, match=r"a score by distance is at most 0, found 0\.5"):
        searcher.search(QUERY, min_score=0.5)
    hits = searcher.search(QUERY).hits
    least = (hits[2].score + hits[3].score) / 2
    assert least < -1
    with control(world.engine, world.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": least})
    assert searcher.search(QUERY, min_score="support").hits == hits[:3]
    said = pytest.raises(ConfigError, match="cut-off support: a score by distance is at most 0")
    with said, control(world.engine, world.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})


def test_plan_refuses_a_metric_that_the_store_has_not(world: World) -> None:
    store = MemoryStore()
    store.traits = replace(TRAITS, metrics=frozenset({"cosine", "dot"}))
    world.revision("a100", None, MODEL, 'index = IndexSpec(kind="exact", store="tested", metric="l2")')
    world.put(5)
    with added("tested", store), pytest.raises(SpecError, match="metric cosine or dot, found"):
        world.migrator.plan("a100")
