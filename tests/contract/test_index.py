"""What every kind of physical index must do, on real tables: exact or HNSW, float32, float16 or bits, any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from revector.database.driver import analyze
from revector.interfaces import Document
from revector.registry import ledgers
from revector.registry.in_sql import InSqlLane
from revector.registry.lane import SearchRequest, VisibleHits
from revector.spec import IndexSpec
from revector.stores.metrics import ZERO
from revector.stores.pgvector import PgVectorIndex, Rows
from worlds import World

COUNT, DIM = 5_000, 128
KINDS = {
    "exact": IndexSpec(kind="exact"),
    "exact-halfvec": IndexSpec(kind="exact", storage="halfvec"),
    "hnsw": IndexSpec(),
    "hnsw-halfvec": IndexSpec(storage="halfvec"),
    "bit": IndexSpec(quantize="bit"),
    "bit-halfvec": IndexSpec(quantize="bit", storage="halfvec"),
    "hnsw-dot": IndexSpec(metric="dot"),
    "hnsw-halfvec-dot": IndexSpec(storage="halfvec", metric="dot"),
    "hnsw-l2": IndexSpec(metric="l2"),
    "hnsw-halfvec-l2": IndexSpec(storage="halfvec", metric="l2"),
}


def unit_vectors(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Points around 50 centres, as topics make them."""
    centres = np.random.default_rng(0).standard_normal((50, DIM))
    rng = np.random.default_rng(seed)
    found = centres[rng.integers(0, 50, count)] + 0.7 * rng.standard_normal((count, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = unit_vectors(COUNT, 1), unit_vectors(40, 2)
LENGTHS = np.random.default_rng(4).lognormal(0, 0.3, (COUNT, 1)).astype(np.float32)

Scores = Callable[[Any, Any], Any]
SCORES: dict[str, Scores] = {
    "cosine": lambda vectors, query: vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query),
    "dot": lambda vectors, query: vectors @ query,
    "l2": lambda vectors, query: -np.linalg.norm(vectors - query, axis=1),
}


def ids(numbers: Any) -> list[str]:
    return [f"d{n:05d}" for n in numbers]


@pytest.fixture(scope="module")
def place(databases, template, tmp_path_factory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("place"), databases.url(databases.create(template)))
    with world.engine.begin() as connection:
        ledgers.create(connection, 0, 0)
    world.documents.put_many([Document(ids([n])[0], f"text {n}", {"half": n % 2}) for n in range(COUNT)])
    world.documents.delete_many(ids(range(0, COUNT, 10)))
    yield world
    world.engine.dispose()


@dataclass
class Built:
    """An index with ``VECTORS`` of documents of which every tenth is deleted; where lengths count, of any length."""

    index: PgVectorIndex
    world: World

    @property
    def vectors(self) -> Any:
        return VECTORS if self.index.spec.metric == "cosine" else VECTORS * LENGTHS

    def scores(self, query: Any) -> Any:
        return SCORES[self.index.spec.metric](self.vectors, query)

    def nearest(self, query: Any, k: int, *, where: Any = True) -> list[str]:
        living = np.arange(COUNT)[(np.arange(COUNT) % 10 > 0) & where]
        return ids(living[np.argsort(-self.scores(query)[living], kind="stable")][:k])

    def search(self, query: Any, k: int = 10, **options: Any) -> tuple[VisibleHits, int]:
        """What is found, and how often the HNSW index was scanned for it."""
        asked: dict[str, Any] = {"candidates": k, "by_document": False, "exact": self.index.spec.kind == "exact"}
        spec = SimpleNamespace(model=SimpleNamespace(dim=self.index.dim), index=self.index.spec)
        lane = InSqlLane(
            SimpleNamespace(cid=self.world.collection.cid, gen=0, physical_name=self.index.name, spec=spec)
        )
        with self.world.engine.connect() as connection:
            before = self._scans(connection)
            found = lane.search(connection, query, SearchRequest(k, **asked | options))
            return found, self._scans(connection) - before

    def _scans(self, connection: sa.Connection) -> int:
        """Scans that this session counted and has not handed to the server's statistics yet."""
        scans = "SELECT pg_stat_get_xact_numscans(to_regclass(:name))"
        return connection.scalar(sa.text(scans), {"name": f"{self.index.name}_hnsw"}) or 0


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, place: World) -> Built:
    index = PgVectorIndex(f"idx_{request.param.replace('-', '_')}", DIM, KINDS[request.param])
    numbers = np.arange(COUNT)
    with place.engine.begin() as connection:
        index.create(connection, "fingerprint")
        versions = np.full(COUNT, 2**40)
        built = Built(index, place)
        index.replace(connection, [], Rows(ids(numbers), numbers * 0, versions, numbers, numbers + 7, built.vectors))
        assert index.is_built(connection) == (index.spec.kind == "exact")
    assert index.build(place.engine) == (index.spec.kind == "hnsw")
    analyze(place.engine, (index.name, "document", ledgers.table(0)))
    return built


def test_an_index_is_built_once_and_knows_its_encoder(built: Built) -> None:
    assert not built.index.build(built.world.engine)
    with built.world.engine.connect() as connection:
        assert built.index.is_built(connection)
        assert built.index.encoder_fp(connection) == "fingerprint"


def test_what_was_stored_is_read_back_to_the_precision_of_its_storage(built: Built) -> None:
    with built.world.engine.connect() as connection:
        [(doc_id, locators, vectors)] = built.index.read(connection, ["d00042", "absent"])
    assert (doc_id, locators.tolist()) == ("d00042", [[42, 49]])
    rtol = 2**-11 if built.index.spec.storage == "halfvec" else 0
    np.testing.assert_allclose(vectors, built.vectors[42:43], rtol=rtol, atol=1e-7)


def test_a_sample_is_of_stored_vectors_and_about_as_large_as_asked_for(built: Built) -> None:
    def drawn(rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        with built.world.engine.connect() as connection:
            return np.concatenate(list(built.index.sample(connection, rows)))

    assert drawn(10 * COUNT).shape == (COUNT, DIM)
    some = drawn(COUNT // 4)
    assert COUNT // 16 < len(some) < COUNT // 2
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    np.testing.assert_allclose((some @ VECTORS.T).max(axis=1), 1, atol=1e-3)


def test_the_planner_uses_the_hnsw_index_and_nothing_else_does(built: Built) -> None:
    hnsw = built.index.spec.kind == "hnsw"
    assert bool(built.search(QUERIES[0])[1]) == hnsw
    assert built.search(QUERIES[0], exact=True)[1] == 0


def test_an_exact_search_is_that_of_numpy(built: Built) -> None:
    for query in QUERIES[:5]:
        found, _ = built.search(query, exact=True)
        assert {row["doc_id"] for row in found.rows} == set(built.nearest(query, 10))


def test_the_nearest_are_found_best_first_with_their_scores_by_the_metric(built: Built) -> None:
    shares, zero = [], ZERO[built.index.spec.metric]
    for query in QUERIES:
        found, _ = built.search(query, candidates=40)
        distances = [row["distance"] for row in found.rows]
        assert distances == sorted(distances)
        places = [int(row["doc_id"][1:]) for row in found.rows]
        np.testing.assert_allclose(zero - np.array(distances), built.scores(query)[places], atol=1e-3)
        shares.append(len({row["doc_id"] for row in found.rows} & set(built.nearest(query, 10))) / 10)
    assert np.mean(shares) >= 0.95


def test_as_many_candidates_as_were_asked_for_come_back_filtered_or_not(built: Built) -> None:
    filtered = {"filter_sql": "d.meta @> CAST(:half AS jsonb)", "filter_params": {"half": '{"half": 1}'}}
    for options in ({}, filtered):
        for candidates in (10, 100, 400):
            found, _ = built.search(QUERIES[0], candidates=candidates, **options)
            assert found.candidates == candidates
            assert len(found.rows) == 10
            assert not options or all(int(row["doc_id"][1:]) % 2 for row in found.rows)
    shares = [
        len(
            {row["doc_id"] for row in built.search(query, candidates=40, **filtered)[0].rows}
            & set(built.nearest(query, 10, where=np.arange(COUNT) % 2 == 1))
        )
        / 10
        for query in QUERIES
    ]
    assert np.mean(shares) >= 0.95


def test_what_was_deleted_is_not_found_though_the_index_holds_it(built: Built) -> None:
    found, _ = built.search(VECTORS[70], k=100, candidates=100)
    assert len(found.rows) == 100
    assert all(int(row["doc_id"][1:]) % 10 for row in found.rows)


def test_a_written_document_is_found_at_once_and_replaced_whole(built: Built) -> None:
    near = QUERIES[:2] * (9 if built.index.spec.metric == "dot" else 1)
    rows = Rows(["d00001"] * 2, np.array([0, 1]), np.full(2, 2**40), np.zeros(2, int), np.ones(2, int), near)
    with built.world.engine.begin() as connection:
        built.index.replace(connection, ["d00001"], rows)
    for query in QUERIES[:2]:
        assert built.search(query)[0].rows[0]["doc_id"] == "d00001"
    old = Rows(["d00001"], np.array([0]), np.full(1, 2**40), np.array([1]), np.array([8]), built.vectors[1:2])
    with built.world.engine.begin() as connection:
        built.index.replace(connection, ["d00001"], old)
    found, _ = built.search(QUERIES[0], candidates=40)
    assert {row["doc_id"] for row in found.rows[:1]} <= set(built.nearest(QUERIES[0], 3))


def test_bits_index_what_is_too_wide_for_float16(place: World) -> None:
    wide = np.random.default_rng(3).standard_normal((60, 9_000)).astype(np.float32)
    index, numbers = PgVectorIndex("idx_wide", 9_000, KINDS["bit"]), np.arange(60)
    with place.engine.begin() as connection:
        index.create(connection, "fingerprint")
        index.replace(connection, [], Rows(ids(numbers), numbers * 0, numbers + 2**40, numbers, numbers + 7, wide))
    assert index.build(place.engine)
    found, _ = Built(index, place).search(wide[7] + wide[21] / 2, k=2, candidates=10)
    assert [row["doc_id"] for row in found.rows] == ["d00007", "d00021"]


def test_dropping_twice_is_no_error(place: World) -> None:
    for spec in KINDS.values():
        index = PgVectorIndex("idx_dropped", DIM, spec)
        with place.engine.begin() as connection:
            index.create(connection, "fingerprint")
            index.drop(connection)
            index.drop(connection)
            assert index.encoder_fp(connection) is None
