"""Exact search: what brute force in float64 finds, however the stream is cut, and with either kind of product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revector.archive import Archive, Part
from revector.errors import BadVectors, ConfigError
from revector.measure import exact
from revector.measure.exact import MemoryBlock, search_exact
from revector.serving.exporting import reading_vectors
from worlds import World


@pytest.fixture(params=["float32", "bfloat16"])
def products(request, monkeypatch) -> str:
    monkeypatch.setattr(exact, "_has_bfloat16", lambda: request.param == "bfloat16")
    return request.param


def corpus(counts, dim: int, seed: int, *, dtype="float32", distinct: int | None = None) -> MemoryBlock:
    """Documents d000, d001 … with so many chunks each; ``distinct`` vectors in all, so that there are ties."""
    rng = np.random.default_rng(seed)
    rows = int(sum(counts))
    vectors = rng.standard_normal((distinct or rows, dim)) * rng.lognormal(1, 1, (distinct or rows, 1))
    vectors = vectors.astype(dtype)
    if distinct:
        vectors = vectors[rng.integers(0, distinct, rows)]
    return MemoryBlock([f"d{n:03d}" for n in range(len(counts))], np.array(counts), vectors)


def cut(block: MemoryBlock, sizes) -> Iterator[MemoryBlock]:
    """The same documents in blocks of these sizes, over and over."""
    at, turn = 0, 0
    ends = np.concatenate([[0], np.cumsum(block.counts)])
    while at < len(block.doc_ids):
        stop = min(at + sizes[turn % len(sizes)], len(block.doc_ids))
        yield MemoryBlock(block.doc_ids[at:stop], block.counts[at:stop], block.embeddings[ends[at] : ends[stop]])
        at, turn = stop, turn + 1


def scores_of(query, wide, metric: str):
    if metric == "l2":
        return -np.linalg.norm(wide - query, axis=1)
    return wide @ query / (np.linalg.norm(wide, axis=1) * np.linalg.norm(query) if metric == "cosine" else 1)


def brute_force(queries, block: MemoryBlock, k: int, by: str, metric="cosine") -> list[list[tuple[str, int, float]]]:
    wide = block.embeddings.astype(np.float64)
    names = [(doc, chunk) for doc, count in zip(block.doc_ids, block.counts, strict=True) for chunk in range(count)]
    found = []
    for query in queries.astype(np.float64):
        # Rounded, so that ties are ties; the vectors of these tests are never this near by chance.
        scores = np.round(scores_of(query, wide, metric), 10)
        ranked = sorted((-score, *name) for score, name in zip(scores.tolist(), names, strict=True))
        best = {}
        for score, doc, chunk in ranked:
            best.setdefault(doc if by == "document" else (doc, chunk), (doc, chunk, -score))
        found.append(list(best.values())[:k])
    return found


def assert_equal(found: exact.Exact, wanted) -> None:
    for n, ranking in enumerate(wanted):
        assert found.doc_ids[n] == [doc for doc, _, _ in ranking]
        assert found.chunks[n].tolist() == [chunk for _, chunk, _ in ranking]
        assert found.scores[n] == pytest.approx([score for _, _, score in ranking], abs=1e-6)


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=60).filter(any),
    dim=st.integers(2, 40),
    asked=st.integers(1, 9),
    share=st.floats(0, 1),
    by=st.sampled_from(["document", "chunk"]),
    dtype=st.sampled_from(["float32", "float16"]),
    distinct=st.one_of(st.none(), st.integers(1, 4)),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    rows=st.integers(1, 40),
    rounded=st.booleans(),
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(["cosine", "dot", "l2"]),
)
def test_it_equals_brute_force(
    counts, dim, asked, share, by, dtype, distinct, sizes, rows, rounded, seed, metric
) -> None:
    block = corpus(counts, dim, seed, dtype=dtype, distinct=distinct)
    queries = np.random.default_rng(seed + 1).standard_normal((asked, dim)).astype(np.float32)
    there = int(np.count_nonzero(block.counts)) if by == "document" else int(block.counts.sum())
    k = 1 + int(share * (there - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_ROWS", rows)
        patch.setattr(exact, "TILE_QUERIES", 4)
        patch.setattr(exact, "_has_bfloat16", lambda: rounded)
        found = search_exact(queries, cut(block, sizes), k, by=by, metric=metric)
    assert_equal(found, brute_force(queries, block, k, by, metric))
    assert (found.documents, found.rows) == (np.count_nonzero(block.counts), block.counts.sum())


@pytest.mark.parametrize("by", ["document", "chunk"])
def test_many_vectors_in_blocks_of_the_usual_size(products: str, by: str) -> None:
    block = corpus([n % 4 for n in range(6_000)], 32, seed=1)
    queries = np.random.default_rng(2).standard_normal((20, 32)).astype(np.float32)
    assert_equal(search_exact(queries, cut(block, [700]), 50, by=by), brute_force(queries, block, 50, by))


def test_ties_are_in_order_of_document_id_whatever_the_order_of_the_stream(products: str) -> None:
    vectors = np.tile(np.array([[0.3, 0.4, 0.5]], np.float32), (40, 1))
    ids = [f"d{n:02d}" for n in range(40)]
    order = np.random.default_rng(3).permutation(40)
    shuffled = [MemoryBlock([ids[n]], np.array([1]), vectors[:1]) for n in order]
    found = search_exact(vectors[:2], shuffled, 7)
    assert found.doc_ids == [ids[:7], ids[:7]]
    assert found.scores == pytest.approx(np.ones((2, 7)))


def test_a_document_of_many_equal_chunks_is_found_once_by_its_first(products: str) -> None:
    block = corpus([3_000, 1, 2], 8, seed=4, distinct=1)
    found = search_exact(block.embeddings[:1], [block], 3)
    assert found.doc_ids == [["d000", "d001", "d002"]]
    assert found.chunks.tolist() == [[0, 0, 0]]


def test_scores_are_told_apart_far_below_the_precision_of_the_products(products: str) -> None:
    rng = np.random.default_rng(5)
    query = rng.standard_normal(64)
    query /= np.linalg.norm(query)
    others = rng.standard_normal((500, 64))
    others -= (others @ query)[:, None] * query
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cosines = 0.6 - 1e-6 * np.arange(500)
    vectors = (cosines[:, None] * query + np.sqrt(1 - cosines**2)[:, None] * others).astype(np.float32)
    order = rng.permutation(500)
    block = MemoryBlock([f"d{n:03d}" for n in order], np.ones(500, int), vectors[order])
    wanted = [f"d{n:03d}" for n in range(20)]
    assert search_exact(query[None].astype(np.float32), cut(block, [25]), 20).doc_ids == [wanted]


def test_ids_beyond_ascii_and_of_any_length_come_back(products: str) -> None:
    ids = ["a", "ä" * 30, "文書", "z" * 200]
    found = search_exact(
        np.eye(4, dtype=np.float32),
        [MemoryBlock([i], np.array([1]), np.eye(4)[n, None].astype("f4")) for n, i in enumerate(ids)],
        1,
    )
    assert found.doc_ids == [[one] for one in ids]


# What there is to search ----------------------------------------------------------------------------------------------


def part(block: MemoryBlock) -> Part:
    n, m = len(block.doc_ids), len(block.embeddings)
    starts = np.cumsum(block.counts) - block.counts
    zeros = np.zeros(m, np.int32)
    return Part(
        list(block.doc_ids),
        np.ones(n, np.int64),
        ["h"] * n,
        starts,
        block.counts.astype(np.int32),
        zeros,
        zeros + 1,
        block.embeddings,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_archive_of_several_shards_is_searched_as_a_stream(tmp_path, dtype) -> None:
    block = corpus([n % 3 for n in range(90)], 16, seed=6, dtype=dtype)
    archive = Archive.create(tmp_path / "archive", dtype=dtype)
    for piece in reversed(list(cut(block, [25]))):
        archive.append(part(piece))
    queries = np.random.default_rng(7).standard_normal((5, 16)).astype(np.float32)
    assert_equal(search_exact(queries, archive.batches(10), 10), brute_force(queries, block, 10, "document"))


def test_an_index_is_searched_without_its_deleted_documents(served: World) -> None:
    searcher = served.project.searcher("docs")
    generation = served.generation()
    queries = searcher.encode(generation, ["apple7 pear7", "some words here", "apple8"])
    gone = [f"d{n:05d}" for n in (7, 8, 30)]
    served.documents.delete_many(gone)  # no worker has applied it: the index still holds them
    with reading_vectors(served.engine, generation) as (size, parts):
        found = search_exact(queries, parts, 20)
    assert size.documents == found.documents == 117
    for vector, ids, scores in zip(queries, found.doc_ids, found.scores, strict=True):
        assert not set(ids) & set(gone)
        answer = searcher.search_vector(generation, vector, 20, exact=True)
        assert scores == pytest.approx([hit.score for hit in answer.hits], abs=1e-6)


# Bad questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "there"), [("document", 3), ("chunk", 6)])
def test_more_than_there_is_is_refused(by, there) -> None:
    block = corpus([1, 2, 3], 4, seed=8)
    assert search_exact(block.embeddings, [block], there, by=by).scores.shape == (6, there)
    with pytest.raises(ConfigError, match=f"the {there + 1} nearest {by}s were asked for, and there are {there}"):
        search_exact(block.embeddings, [block], there + 1, by=by)


@pytest.mark.parametrize("options", [{"k": 0}, {"k": -1}, {"k": 1, "by": "page"}])
def test_options_out_of_range_are_refused(options) -> None:
    block = corpus([1], 4, seed=9)
    with pytest.raises(ConfigError, match="Nothing was searched"):
        search_exact(block.embeddings, [block], **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0], ids=str)
def test_vectors_without_a_direction_are_refused_by_name(bad) -> None:
    block = corpus([1, 2, 1], 4, seed=10)
    block.embeddings[2] = bad
    with pytest.raises(BadVectors, match="chunk 1 of document 'd001'"):
        search_exact(np.ones((1, 4), np.float32), [block], 1)
    with pytest.raises(BadVectors):
        search_exact(np.full((1, 4), bad, np.float32), [corpus([1], 4, seed=11)], 1)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(BadVectors, match="queries have 5 numbers, the vectors from document 'd000' on have shape"):
        search_exact(np.ones((1, 5), np.float32), [corpus([1], 4, seed=12)], 1)


def test_no_queries_find_nothing() -> None:
    found = search_exact(np.zeros((0, 4), np.float32), [corpus([2], 4, seed=13)], 1)
    assert (found.doc_ids, found.scores.shape, found.rows) == ([], (0, 1), 2)
