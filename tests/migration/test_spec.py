"""Promises of the spec classes: limits are named, hashes cover what they say, data survives storage."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest

from revector import Chunking, Gate, IndexSpec, ModelSpec
from revector.errors import SpecError
from revector.spec import Revision, revision_from_data, stable_hash

REVISION = Revision("7c41d2e09b3a", "4f0a9d1c2b77", ModelSpec("hashing", 384), message="Größer", path="x.py")


def of_dim(dim: int, index: IndexSpec) -> Revision:
    return Revision("7c41", None, ModelSpec("hashing", dim), index=index)


@pytest.mark.parametrize(
    ("dim", "index"),
    [
        (2000, IndexSpec()),
        (4000, IndexSpec(storage="halfvec")),
        (16000, IndexSpec(kind="exact")),
        (16000, IndexSpec(kind="exact", storage="halfvec")),
        (16000, IndexSpec(quantize="bit")),
    ],
)
def test_the_largest_dimension_is_accepted(dim: int, index: IndexSpec) -> None:
    assert of_dim(dim, index).model.dim == dim


@pytest.mark.parametrize(
    ("dim", "index", "finding"),
    [
        (2001, IndexSpec(), r"over vector takes at most 2,000 .* is 2,001.*storage=\"halfvec\""),
        (4001, IndexSpec(), r"over vector takes at most 2,000 .*cut the dimension .* or set index kind=\"exact\""),
        (4001, IndexSpec(), r"takes at most 2,000 .*set index quantize=\"bit\""),
        (4001, IndexSpec(storage="halfvec"), r"over halfvec takes at most 4,000 .* is 4,001.*kind=\"exact\""),
    ],
)
def test_a_dimension_that_hnsw_cannot_index_is_refused_with_a_way_out(dim: int, index: IndexSpec, finding: str) -> None:
    with pytest.raises(SpecError, match=finding):
        of_dim(dim, index)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: ModelSpec(" ", 8), "model.name"),
        (lambda: ModelSpec("x", 0), "model.dim"),
        (lambda: ModelSpec("x", 16_001), "model.dim"),
        (lambda: ModelSpec("x", 8, max_tokens=7), "model.max_tokens"),
        (lambda: ModelSpec("x", 8, dtype="int4"), "model.dtype"),  # type: ignore[arg-type]
        (lambda: Chunking(unit="words"), "chunking.unit"),  # type: ignore[arg-type]
        (lambda: Chunking(max_tokens=7), "chunking.max_tokens"),
        (lambda: Chunking(max_tokens=64, overlap_tokens=33), "chunking.overlap_tokens"),
        (lambda: Chunking(min_sentences=6), "chunking.min_sentences"),
        (lambda: IndexSpec(kind="ivf"), "index.kind"),  # type: ignore[arg-type]
        (lambda: IndexSpec(storage="bit"), "index.storage"),  # type: ignore[arg-type]
        (lambda: IndexSpec(quantize="pq"), "index.quantize"),  # type: ignore[arg-type]
        (lambda: IndexSpec(kind="exact", quantize="bit"), "index.quantize"),
        (lambda: IndexSpec(quantize="bit", rerank=0), "index.rerank"),
        (lambda: IndexSpec(quantize="bit", rerank=101), "index.rerank"),
        (lambda: IndexSpec(m=1), "index.m"),
        (lambda: IndexSpec(m=64, ef_construction=127), "index.ef_construction"),
        (lambda: IndexSpec(ef_search=1001), "index.ef_search"),
        (lambda: Gate(min_recall=1.01), "gate.min_recall"),
        (lambda: Gate(max_drop=-0.1), "gate.max_drop"),
        (lambda: Gate(k=0), "gate.k"),
        (lambda: Gate(min_queries=0), "gate.min_queries"),
        (lambda: Gate(confidence=None), "gate.confidence"),
        (lambda: Gate(confidence=1.0), "gate.confidence"),
        (lambda: Gate(slices="language"), "gate.slices"),
        (lambda: Gate(slices=("",)), "gate.slices"),
        (lambda: Gate(max_slice_drop=1.1), "gate.max_slice_drop"),
        (lambda: Gate(min_overlap=-0.1), "gate.min_overlap"),
        (lambda: Gate(max_latency_ratio=0.0), "gate.max_latency_ratio"),
        (lambda: Gate(max_latency_ratio=math.nan), "gate.max_latency_ratio"),
        (lambda: replace(REVISION, chunking=Chunking(max_tokens=257)), "chunking.max_tokens"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(build: Callable[[], object], field: str) -> None:
    with pytest.raises(SpecError, match=field.replace(".", r"\.")) as refused:
        build()
    assert "Nothing was changed" in str(refused.value)


@pytest.mark.parametrize("field", ["storage", "quantize"])
def test_int8_is_refused_with_the_reason_and_what_there_is_instead(field: str) -> None:
    with pytest.raises(SpecError, match=r"has no int8 type .*halfvec.*quantize=\"bit\".*Nothing was changed"):
        IndexSpec(**{field: "int8"})  # type: ignore[arg-type]


def test_an_index_without_bits_keeps_the_hash_that_it_had_before_there_were_any() -> None:
    """Else every index that exists would count as edited after an upgrade of revector."""
    assert IndexSpec(rerank=9).as_identity() == {
        "kind": "hnsw",
        "storage": "vector",
        "m": 16,
        "ef_construction": 100,
        "ef_search": 100,
    }
    assert IndexSpec(quantize="bit").as_identity()["rerank"] == 4


def test_the_config_hash_ignores_the_gate_the_message_and_the_line() -> None:
    other = replace(
        REVISION, gate=Gate(min_recall=0.9), message="other", path="y.py", revision="abcd", down_revision=None
    )
    assert other.config_hash == REVISION.config_hash


@pytest.mark.parametrize(
    "change",
    [
        {"model": ModelSpec("hashing", 383)},
        {"model": ModelSpec("hashing", 384, query_prompt="query: ")},
        {"chunking": Chunking(overlap_tokens=31)},
        {"index": IndexSpec(m=17)},
        {"index": IndexSpec(quantize="bit")},
    ],
)
def test_the_config_hash_changes_with_what_shapes_vectors_and_index(change: dict[str, object]) -> None:
    assert replace(REVISION, **change).config_hash != REVISION.config_hash  # type: ignore[arg-type]


def test_the_chunker_fingerprint_covers_the_chunking_alone() -> None:
    assert replace(REVISION, model=ModelSpec("other", 8)).chunker_fp == REVISION.chunker_fp
    assert replace(REVISION, chunking=Chunking(unit="document")).chunker_fp != REVISION.chunker_fp


def test_a_revision_survives_storage_as_json() -> None:
    stored = json.loads(json.dumps(REVISION.as_data()))
    assert revision_from_data(stored, path="x.py") == REVISION
    assert "path" not in stored


@pytest.mark.parametrize("change", [{"colour": "red"}, {"model": {"name": "x", "dim": 8, "size": 3}}])
def test_stored_data_of_another_version_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="cannot be read by this version"):
        revision_from_data(REVISION.as_data() | change)


def test_a_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert stable_hash({"a": 1, "b": "ü"}) == stable_hash({"b": "ü", "a": 1})


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        REVISION.model.dim = 8  # type: ignore[misc]


def test_a_gate_that_an_earlier_version_stored_is_read_and_one_of_today_comes_back_equal() -> None:
    data = json.loads(json.dumps(REVISION.as_data()))
    data["gate"] = {"min_recall": 0.4, "max_drop": 0.02, "k": 5, "min_queries": 9, "confidence": None}
    assert revision_from_data(data).gate == Gate(min_recall=0.4, k=5, min_queries=9)
    now = replace(REVISION, gate=Gate(slices=("language", "length"), max_slice_drop=0.1, min_overlap=None))
    assert revision_from_data(json.loads(json.dumps(now.as_data()))).gate == now.gate
