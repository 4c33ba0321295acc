"""What every store outside of PostgreSQL must do: an index is points by id, each call may be repeated."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID, uuid4, uuid5

import numpy as np
import pytest

from outside import STORES, Given, of_kind, opened
from revector.errors import EncoderMismatch, IndexGone, StoreUnavailable
from revector.interfaces import NoProgress
from revector.spec import IndexSpec
from revector.stores.seam import Index, Points, Store

DIM, COUNT = 32, 300
VECTORS = np.random.default_rng(1).standard_normal((COUNT, DIM)).astype(np.float32)


SERVER = {"elsewhere": pytest.mark.server}


@pytest.fixture(params=[pytest.param(name, marks=SERVER.get(name, ())) for name in STORES if name != "limited"])
def store(request: pytest.FixtureRequest, given: Given) -> Iterator[Store]:
    with opened(request.param, given) as store:
        yield store


@pytest.fixture(params=["exact", "hnsw"])
def index(request: pytest.FixtureRequest, store: Store) -> Iterator[Index]:
    if request.param not in store.traits.kinds:
        pytest.skip(f"it has no index of kind {request.param}")
    index = store.open(f"idx_docs_g1_{uuid4().hex[:8]}", DIM, IndexSpec(kind=request.param))
    index.create("fp1")
    yield index
    index.drop()


def points(rows: slice = slice(None), scale: float = 1.0) -> Points:
    """Two chunks of each attempt; any length, as a model that does not normalise gives."""
    numbers = np.arange(COUNT, dtype=np.int32)
    attempts = [UUID(int=n // 2 + 1) for n in numbers.tolist()]
    ids = [uuid5(attempt, str(n % 2)) for n, attempt in enumerate(attempts)]
    return Points(ids, attempts, numbers % 2, numbers * 10, numbers * 10 + 9, VECTORS * scale).rows(rows)


def cosines(query: np.ndarray) -> np.ndarray:
    return VECTORS @ query / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(query)


def test_what_answers_is_said(store: Store) -> None:
    assert store.ask()


def test_points_are_counted_and_read_as_they_were_put(index: Index) -> None:
    put = points()
    index.put(put)
    index.put(points(slice(0, 50)))  # a request that arrives twice
    there = index.describe()
    assert there is not None
    assert (there.encoder_fp, there.dim, there.points) == ("fp1", DIM, COUNT)
    assert there.bytes > COUNT * DIM * 4
    read = index.read([*put.ids[10:20], uuid4()])
    order = np.argsort([put.ids.index(one) for one in read.ids])
    np.testing.assert_allclose(read.vectors[order], put.vectors[10:20], rtol=1e-6)
    for field in ("chunks", "starts", "stops"):
        assert getattr(read, field)[order].tolist() == getattr(put, field)[10:20].tolist()
    assert [read.attempts[n] for n in order] == put.attempts[10:20]
    assert index.read([]).vectors.shape == (0, DIM)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": lambda vectors, query: vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query),
    "dot": lambda vectors, query: vectors @ query,
    "l2": lambda vectors, query: -np.linalg.norm(vectors - query, axis=1),
}


@pytest.mark.parametrize("metric", SCORES)
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_what_is_nearest_comes_first_with_its_score_by_the_metric(store: Store, kind: str, metric: str) -> None:
    assert store.traits.metrics == SCORES.keys(), "a store that lacks a metric needs a test that plan refuses it"
    if kind not in store.traits.kinds:
        pytest.skip(f"it has no index of kind {kind}")
    index = store.open(f"idx_docs_g1_{uuid4().hex[:8]}", DIM, IndexSpec(kind=kind, metric=metric))
    index.create("fp1")
    lengths = np.random.default_rng(2).lognormal(0, 0.5, (COUNT, 1)).astype(np.float32)
    put = replace(points(), vectors=VECTORS * lengths)
    index.put(put)
    index.finish(NoProgress())
    query = 2 * VECTORS[7] + 0.1 * VECTORS[8]
    scores = SCORES[metric](put.vectors, query)
    best = np.argsort(-scores)[:20]
    near = index.near(query, 20, exact=True)
    assert [(one.attempt, one.chunk, one.start, one.stop) for one in near][:5] == [
        (put.attempts[n], int(put.chunks[n]), int(put.starts[n]), int(put.stops[n])) for n in best[:5]
    ]
    np.testing.assert_allclose([one.similarity for one in near][:5], scores[best[:5]], rtol=1e-4, atol=1e-5)
    assert len(near) == 20
    # A graph by inner products or distances may not lead to a vector that is far from all others.
    every = COUNT if kind == "exact" or metric == "cosine" else 0.95 * COUNT
    assert every <= len(index.near(query, COUNT + 50, exact=False)) <= COUNT
    read = index.read(put.ids[10:20])
    order = np.argsort([put.ids.index(one) for one in read.ids])
    np.testing.assert_allclose(read.vectors[order], put.vectors[10:20], rtol=1e-6)
    index.drop()


@pytest.mark.parametrize(("setting", "value"), [("storage", "halfvec"), ("quantize", "int8")])
def test_smaller_numbers_find_what_whole_ones_find(store: Store, setting: str, value: str) -> None:
    if value not in (store.traits.storages if setting == "storage" else store.traits.quantizes):
        pytest.skip(f"it has no {setting} {value}")
    spec = IndexSpec(store="tested", **{setting: value})
    index = store.open(f"idx_docs_g1_{uuid4().hex[:8]}", DIM, spec)
    index.create("fp1")
    put = points()
    index.put(put)
    index.finish(NoProgress())
    wide = 1e-3 if setting == "storage" else 1e-5  # of bytes, what is found is compared by its whole numbers
    for query in VECTORS[:20]:
        near, alike = index.near(query, 10, exact=False), cosines(query)
        best = {(put.attempts[n], int(put.chunks[n])) for n in np.argsort(-alike)[:10]}
        assert len({(one.attempt, one.chunk) for one in near} & best) >= 9
        score_of = {(put.attempts[n], int(put.chunks[n])): float(alike[n]) for n in range(COUNT)}
        np.testing.assert_allclose(
            [one.similarity for one in near], [score_of[one.attempt, one.chunk] for one in near], atol=wide
        )
    read = index.read(put.ids[10:20])
    order = np.argsort([put.ids.index(one) for one in read.ids])
    np.testing.assert_allclose(read.vectors[order], put.vectors[10:20], atol=3e-3 if setting == "storage" else 1e-6)
    index.drop()


def test_a_graph_that_was_built_finds_what_exact_search_finds(index: Index) -> None:
    index.put(points())
    index.finish(NoProgress())
    assert index.describe().ready
    found = [{(one.attempt, one.chunk) for one in index.near(query, 10, exact=False)} for query in VECTORS[:20]]
    put = points()
    for query, ids in zip(VECTORS[:20], found, strict=True):
        best = {(put.attempts[n], int(put.chunks[n])) for n in np.argsort(-cosines(query))[:10]}
        assert len(ids & best) >= 9


def test_among_points_that_are_named_all_are_compared(index: Index) -> None:
    if not index.traits.among:
        pytest.skip("it compares no points by id: they are read and compared here")
    put = points()
    index.put(put)
    index.finish(NoProgress())
    named = list(range(3, COUNT, 7))
    for query in (VECTORS[3], VECTORS[4], -VECTORS[3]):
        alike = cosines(query)[named]
        near = index.near(query, 5, exact=True, among=[put.ids[n] for n in named])
        np.testing.assert_allclose([one.similarity for one in near], np.sort(alike)[::-1][:5], atol=1e-4)
        best = [named[n] for n in np.argsort(-alike)[:5]]
        assert [(one.attempt, one.chunk) for one in near] == [(put.attempts[n], put.chunks[n]) for n in best]
    assert len(index.near(VECTORS[3], 10, exact=True, among=[put.ids[3], put.ids[4], uuid4()])) == 2


def test_effort_changes_how_well_a_graph_looks_and_not_how_much_it_returns(index: Index) -> None:
    index.put(points())
    index.finish(NoProgress())
    near = index.near(VECTORS[3], 10, exact=False, effort=COUNT)
    np.testing.assert_allclose([one.similarity for one in near], np.sort(cosines(VECTORS[3]))[::-1][:10], atol=1e-4)


def test_a_removed_point_is_not_found_and_removing_it_again_is_nothing(index: Index) -> None:
    put = points()
    index.put(put)
    for _ in range(2):
        index.remove([*put.ids[:30], uuid4()])
    assert index.describe().points == COUNT - 30
    assert not index.read(put.ids[:30]).ids
    near = index.near(VECTORS[3], 10, exact=False)
    assert not {one.attempt for one in near} & set(put.attempts[:30])
    index.put(points(slice(0, 30)))  # arrives late
    assert index.describe().points == COUNT
    assert len(index.read(put.ids[:30]).ids) == 30


def test_what_is_not_there_is_said_and_made_only_by_create(index: Index, store: Store) -> None:
    index.put(points())
    index.drop()
    index.drop()
    assert index.describe() is None
    index.remove(points().ids[:3])
    for ask in (
        lambda: index.put(points(slice(0, 2))),
        lambda: index.near(VECTORS[0], 3, exact=False),
        lambda: index.read(points().ids[:2]),
    ):
        with pytest.raises(IndexGone):
            ask()
    assert index.describe() is None
    index.create("fp1")
    index.create("fp1")
    assert index.describe().points == 0
    index.put(points())
    assert len(index.near(VECTORS[0], 3, exact=False)) == 3


def test_an_index_of_another_encoder_or_width_is_refused_and_left_alone(index: Index, store: Store) -> None:
    index.put(points())
    spec = IndexSpec(kind=next(iter(store.traits.kinds)))
    with pytest.raises(EncoderMismatch, match="fp2"):
        index.create("fp2")
    with pytest.raises(EncoderMismatch):
        store.open(index.name, DIM + 1, spec).create("fp1")
    assert index.describe().points == COUNT


@pytest.mark.parametrize(
    ("kind", "scheme", "client"),
    [("chroma", "http", "httpx"), ("qdrant", "http", "qdrant_client"), ("redis", "redis", "redis")],
)
def test_a_server_that_never_answers_is_given_up(kind: str, scheme: str, client: str) -> None:
    pytest.importorskip(client, reason=f"{client} is not installed: make test-stores")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = of_kind(kind, f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1)
        with pytest.raises(StoreUnavailable, match=f"(?i){kind} at .*time"):
            store.ask()
        store.close()
