"""The small store in memory: the cases that users of numpy-vector-store know, by brute force in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revector import VectorStore
from revector.errors import ArchiveError, BadVectors, ConfigError
from revector.measure import vector_store
from revector.measure.vector_store import VectorHit

RNG = np.random.default_rng(7)
DIM, COUNT = 24, 700
ROWS = (RNG.standard_normal((COUNT, DIM)) * RNG.lognormal(0, 1, (COUNT, 1))).astype(np.float32)
ROWS[600:650] = ROWS[:50]  # ties
QUERIES = RNG.standard_normal((6, DIM)).astype(np.float32)
NAMES = {"cosine": "cosine_search", "dot": "dot_search", "l2": "euclidean_search"}


def store(*, normalize: bool = True, rows: Any = ROWS) -> VectorStore:
    made = VectorStore(DIM, normalize=normalize)
    made.add(rows[:3], [0, 1, 2])  # in pieces: there is room to make
    made.add(rows[3:], list(range(3, len(rows))))
    return made


def wanted(metric: str, query: Any, rows: Any, *, normalize: bool) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Rows by brute force, best first, the lower of equal ones before; and all values."""
    q, v = query.astype(np.float64), rows.astype(np.float64)
    if normalize or metric == "cosine":
        q, v = q / np.linalg.norm(q), v / np.linalg.norm(v, axis=1, keepdims=True)
    values = np.linalg.norm(v - q, axis=1) if metric == "l2" else v @ q
    keys = np.round(values if metric == "l2" else -values, 6)
    return np.lexsort((np.arange(len(rows)), keys)).tolist(), values


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("metric", NAMES)
def test_what_is_found_is_what_brute_force_finds_one_query_or_many(metric: str, normalize: bool) -> None:
    made = store(normalize=normalize)
    many = made.search_many(QUERIES, metric=metric, top_k=80)
    for query, others in zip(QUERIES, many, strict=True):
        order, values = wanted(metric, query, ROWS, normalize=normalize)
        hits = getattr(made, NAMES[metric])(query, top_k=80)
        for found in (hits, others):
            assert [one.index for one in found] == order[:80]
            assert [one.metadata for one in found] == order[:80]
            assert [one.value for one in found] == pytest.approx(values[order[:80]].tolist(), rel=1e-5, abs=1e-6)
        assert len(getattr(made, NAMES[metric])(query, top_k=10 * COUNT)) == COUNT


@pytest.mark.parametrize("scale", [1e-17, 1e16])
def test_lengths_of_any_size_that_is_kept_change_no_ranking(scale: float) -> None:
    rows = (ROWS[:200] * RNG.choice([1.0, scale], (200, 1))).astype(np.float32)
    made = store(normalize=False, rows=rows)
    for metric, name in NAMES.items():
        order, values = wanted(metric, QUERIES[0], rows, normalize=False)
        found = getattr(made, name)(QUERIES[0], top_k=200)
        got = values[[one.index for one in found]]
        assert got.tolist() == pytest.approx(values[order].tolist(), rel=1e-9)
        assert getattr(made, name)(QUERIES[0], top_k=20) == found[:20]


def test_a_limit_leaves_out_what_is_worse_and_keeps_what_equals_it() -> None:
    made = store(normalize=False)
    for name, limit in (("cosine_search", "min_value"), ("dot_search", "min_value"), ("euclidean_search", "max_value")):
        search = getattr(made, name)
        whole = search(QUERIES[0], top_k=9)
        assert search(QUERIES[0], top_k=9, **{limit: whole[4].value}) == whole[:5]
        with pytest.raises(TypeError):
            search(QUERIES[0], **{"max_value" if limit == "min_value" else "min_value": 0.5})
        for wrong in (True, "1", math.nan, math.inf):
            with pytest.raises(ConfigError, match="finite number"):
                search(QUERIES[0], **{limit: wrong})


def test_only_the_rows_that_are_named_are_searched() -> None:
    made, rows = store(), [40, 7, 612, 3]
    best = made.cosine_search(ROWS[12], within_rows=rows)
    assert [one.index for one in best] == [
        12 + 600,
        *(one for one in wanted("cosine", ROWS[12], ROWS, normalize=True)[0] if one in (40, 7, 3)),
    ]
    assert (
        made.cosine_search(ROWS[12], within_rows=np.array(rows, np.uint8) if max(rows) < 256 else np.array(rows))
        == best
    )
    assert made.euclidean_search(ROWS[12], within_rows=[]) == []
    for wrong in (
        [1, 1],
        [COUNT],
        [-1],
        [True],
        [1.0],
        ["1"],
        [[1]],
        np.array([[1]]),
        np.array([True]),
        np.array([0.5]),
    ):
        with pytest.raises(ConfigError, match="within_rows"):
            made.dot_search(ROWS[12], within_rows=wrong)
    with pytest.raises(BadVectors, match="zero"):
        made.cosine_search(np.zeros(DIM), within_rows=[])


WRONG = {
    "one axis": (ROWS[0], "shape"),
    "another width": (ROWS[:, :5], "shape"),
    "NaN": (np.where(np.arange(DIM) == 3, np.nan, ROWS[:2]), "NaN"),
    "infinite": (ROWS[:2] * np.inf, "NaN"),
    "too large for float32": (np.full((1, DIM), 1e39), "float32 cannot hold"),
    "complex": (ROWS[:2] * 1j, "real numbers"),
    "texts": ([["a"] * DIM], "real numbers"),
    "truths": (ROWS[:2] > 0, "real numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "no vectors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_vectors_are_refused_and_nothing_is_added(case: str) -> None:
    vectors, said = WRONG[case]
    made = store()
    with pytest.raises(BadVectors, match=said):
        made.add(vectors, ["x"] * len(vectors))
    assert (len(made), len(made.metadata)) == (COUNT, COUNT)


def test_wrong_values_are_refused_and_nothing_changes() -> None:
    for wrong in (0, -1, True, 2.0, "3", None, np.array([3]), 10**9):
        with pytest.raises(ConfigError, match="dimensions"):
            VectorStore(wrong)
    with pytest.raises(ConfigError, match="normalize"):
        VectorStore(3, normalize=1)
    made = store()
    for metadata in ("ab", ["a"], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match="metadata"):
            made.add(ROWS[:2], metadata)
    for top_k in (0, -3, True, 1.5):
        with pytest.raises(ConfigError, match="top_k"):
            made.cosine_search(ROWS[0], top_k=top_k)
    with pytest.raises(ConfigError, match="metric"):
        made.search_many(QUERIES, metric="cosines")
    assert len(made) == COUNT


def test_zeros_have_no_direction() -> None:
    zero = np.zeros((1, DIM))
    with pytest.raises(BadVectors, match="zero"):
        store().add(zero, ["nothing"])
    empty = VectorStore(DIM)
    assert empty.cosine_search(ROWS[0]) == empty.search_many(ROWS[:1])[0] == []
    with pytest.raises(BadVectors, match="zero"):
        empty.euclidean_search(zero[0])
    raw = store(normalize=False)
    raw.add(zero, ["nothing"])
    assert raw.dot_search(zero[0], top_k=1)[0].value == 0
    assert raw.euclidean_search(zero[0], top_k=1) == [VectorHit(COUNT, 0.0, "nothing")]
    assert raw.search_many(zero, metric="l2", top_k=1) == [[VectorHit(COUNT, 0.0, "nothing")]]
    with pytest.raises(BadVectors, match=f"row {COUNT} is zero"):
        raw.cosine_search(ROWS[0], within_rows=[5, COUNT])
    assert raw.cosine_search(ROWS[5], top_k=1, within_rows=[5])[0].index == 5
    for length in (1e-19, 1e19):
        with pytest.raises(BadVectors, match="1e-18 to 1e"):
            raw.add(ROWS[:1] / np.linalg.norm(ROWS[0]) * length, ["x"])


def test_a_row_is_given_as_a_copy_and_the_rows_as_a_view_that_cannot_be_written() -> None:
    made = store(normalize=False)
    vector, metadata = made.get(np.int64(4)) or (None, None)
    assert (vector.tolist(), metadata) == (ROWS[4].tolist(), 4)
    vector[:] = 0
    assert (made.vectors.tolist(), made.metadata[4]) == (ROWS.tolist(), 4)
    with pytest.raises(ValueError, match="read-only"):
        made.vectors[0, 0] = 1
    assert made.get(-1) is made.get(COUNT) is None
    with pytest.raises(ConfigError, match="index"):
        made.get(True)
    made.clear()
    assert (len(made), made.vectors.shape, made.metadata, made.get(0)) == (0, (0, DIM), (), None)
    made.add(ROWS[:1], ["again"])
    assert made.metadata == ("again",)


# The file -------------------------------------------------------------------------------------------------------------

PAYLOADS = [None, True, 3, 2.5, "ä", [1, [2]], {"title": "x", "n": {"deep": None}}] * 100


@pytest.mark.parametrize("normalize", [True, False])
def test_a_file_gives_back_the_same_bits_and_says_what_it_is(tmp_path: Path, normalize: bool) -> None:
    made = VectorStore(DIM, normalize=normalize, path=tmp_path / "notes")
    made.add(ROWS[: len(PAYLOADS)], PAYLOADS)
    made.save()
    again = VectorStore.open(tmp_path / "notes.npz")
    assert (again.dimensions, again.normalize, again.path) == (DIM, normalize, tmp_path / "notes.npz")
    assert (again.vectors.tolist(), again.metadata) == (made.vectors.tolist(), tuple(PAYLOADS))
    with np.load(tmp_path / "notes.npz", allow_pickle=False) as data:
        assert {name: data[name].item() for name in ("format", "format_version", "dimensions", "normalize")} == {
            "format": "revector-vectors",
            "format_version": 1,
            "dimensions": DIM,
            "normalize": normalize,
        }
    made.add(ROWS[:1], ["later"])
    made.save()
    again.reload()
    assert again.metadata == (*PAYLOADS, "later")
    assert [one.name for one in tmp_path.iterdir()] == ["notes.npz"]


def emptied_and_failed(made: VectorStore) -> None:
    made.clear()
    raise KeyError


def test_a_block_saves_where_it_ends_and_not_where_it_fails(tmp_path: Path) -> None:
    with VectorStore(DIM, path=tmp_path / "x.npz") as made:
        made.add(ROWS[:2], ["a", "b"])
    before = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(KeyError), VectorStore.open(tmp_path / "x.npz") as made:
        emptied_and_failed(made)
    assert (tmp_path / "x.npz").read_bytes() == before
    with VectorStore.open(tmp_path / "x") as made:
        made.add(ROWS[2:3], ["c"])
    assert VectorStore.open(tmp_path / "x").metadata == ("a", "b", "c")
    with pytest.raises(ConfigError, match="exists"):
        VectorStore(DIM, path=tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="needs a file"), VectorStore(DIM):
        pytest.fail("what cannot be saved must not begin")


@pytest.mark.parametrize("payload", [(1, 2), {1: "a"}, math.nan, {"a", "b"}, np.float32(1), object()])
def test_metadata_that_json_would_change_are_named_and_the_file_stays(tmp_path: Path, payload: object) -> None:
    made = store()
    made.save(tmp_path / "x")
    before = (tmp_path / "x.npz").read_bytes()
    made.add(ROWS[:2], ["fine", payload])
    with pytest.raises(ConfigError, match=f"row {COUNT + 1},"):
        made.save()
    assert (tmp_path / "x.npz").read_bytes() == before


def test_a_file_that_cannot_be_read_leaves_the_rows(tmp_path: Path) -> None:
    made = store()
    made.save(tmp_path / "x")
    good = (tmp_path / "x.npz").read_bytes()
    for damaged in (b"", good[:500], good[:-300], good.replace(b"r\0\0\0e\0\0\0v\0\0\0", b"x\0\0\0e\0\0\0v\0\0\0")):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(ArchiveError):
            made.reload()
    (tmp_path / "x.npz").unlink()
    with pytest.raises(ArchiveError):
        made.reload()
    other = VectorStore(DIM, normalize=False)
    other.save(tmp_path / "x")
    with pytest.raises(ArchiveError, match="normalize=False"):
        made.reload()
    assert len(made) == COUNT
    with pytest.raises(ArchiveError, match="cannot be written"):
        made.save(tmp_path / "absent" / "x")
    assert made.path == tmp_path / "x.npz"


def test_archives_of_numpy_vector_store_are_read_unless_they_are_pickled(tmp_path: Path) -> None:
    fields = {"format_version": 1, "dimensions": DIM, "normalize": False, "vectors": ROWS[:2]}
    np.savez_compressed(tmp_path / "x.npz", **fields, metadata=np.array(["a", "b"]))
    found = VectorStore.open(tmp_path / "x")
    assert (found.vectors.tolist(), found.metadata) == (ROWS[:2].tolist(), ("a", "b"))
    np.savez_compressed(tmp_path / "y.npz", **fields, metadata=np.array([{"a": 1}, None], object))
    with pytest.raises(ArchiveError, match=r"can run code and are not opened.*numpy_vector_store\.VectorStore\.open"):
        VectorStore.open(tmp_path / "y")
    np.savez(tmp_path / "old.npz", vectors=ROWS[:2], metadata=np.array(["a", "b"]))  # of 0.3
    with pytest.raises(ArchiveError, match="format"):
        VectorStore.open(tmp_path / "old")


def test_a_file_that_would_unpack_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", vectors=np.zeros((50_000, DIM), np.float32))
    monkeypatch.setattr("revector.formats.unpacking.FREE_BYTES", 1 << 20)
    with pytest.raises(Exception, match="unpack to"):
        vector_store.VectorStore.open(tmp_path / "x")
