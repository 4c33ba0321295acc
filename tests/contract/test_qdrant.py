"""What Qdrant may answer beside what was asked for, and what is made of it; its interface is answered on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from evaluation.reliability.late import LateNetwork

import qdrant_wire
from outside import of_kind
from qdrant_wire import LocalShard, QdrantWire
from revector.errors import EncoderMismatch, StoreRefused, StoreUnavailable
from revector.interfaces import NoProgress
from revector.spec import IndexSpec
from revector.stores import qdrant
from revector.stores.seam import Index, Points

KEY = "a-key-that-nobody-may-read"


@pytest.fixture
def wire() -> Iterator[QdrantWire]:
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: make test-stores")
    wire = QdrantWire(LocalShard)
    yield wire
    wire.stop()


def created(wire: QdrantWire, kind: Any = "hnsw") -> Index:
    index = of_kind("qdrant", wire.url).open("idx_docs_g1", 4, IndexSpec(kind=kind))
    index.create("fp1")
    return index


def one_point(dim: int = 4) -> Points:
    none = np.zeros(1, np.int32)
    return Points([uuid4()], [uuid4()], none, none, none + 1, np.ones((1, dim), np.float32))


def test_a_write_that_is_not_applied_yet_is_no_acknowledgement(wire: QdrantWire) -> None:
    index, wire.status = created(wire), "acknowledged"
    with pytest.raises(StoreUnavailable, match="'acknowledged' instead of 'completed'"):
        index.put(one_point())
    wire.status = "wait_timeout"
    with pytest.raises(StoreUnavailable, match="wait_timeout"):
        index.remove([uuid4()])


def test_vectors_of_another_width_are_refused_with_what_the_server_says(wire: QdrantWire) -> None:
    index = created(wire)
    with pytest.raises(StoreRefused, match=r"400: .*4"):
        index.put(one_point(dim=5))
    assert index.describe().points == 0


def test_a_key_that_is_refused_is_said_and_not_shown(wire: QdrantWire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.key = KEY
    monkeypatch.setenv("VECTORS_KEY", f"{KEY}-but-wrong")
    with pytest.raises(StoreRefused, match="refuses the key") as raised:
        of_kind("qdrant", wire.url, api_key_env="VECTORS_KEY").ask()
    assert KEY not in str(raised.value)
    monkeypatch.setenv("VECTORS_KEY", KEY)
    assert "not tested on a server" in of_kind("qdrant", wire.url, api_key_env="VECTORS_KEY").ask()


def test_a_database_which_qdrant_does_not_have_is_refused(wire: QdrantWire) -> None:
    with pytest.raises(StoreRefused, match="has no databases"):
        of_kind("qdrant", wire.url, database="docs").ask()


def test_a_server_whose_collections_have_no_metadata_is_refused(
    wire: QdrantWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_wire, "VERSION", "1.15.4")
    with pytest.raises(StoreRefused, match=r"1\.15\.4.*1\.16 and newer"):
        of_kind("qdrant", wire.url).ask()


def test_a_collection_of_somebody_else_is_neither_used_nor_dropped(wire: QdrantWire) -> None:
    index = created(wire)
    del wire.collections[index.name].config["metadata"]
    with pytest.raises(StoreRefused, match="left alone"):
        index.drop()
    with pytest.raises(EncoderMismatch, match="encoder ''"):
        index.create("fp1")
    assert index.name in wire.collections


@pytest.mark.parametrize(("kind", "exact"), [("hnsw", False), ("hnsw", True), ("exact", False)])
def test_a_search_looks_at_enough_of_the_graph_or_compares_all(wire: QdrantWire, kind: str, exact: bool) -> None:
    index = created(wire, kind)
    for wanted, ef in ((10, 100), (500, 500)):
        index.near(np.ones(4, np.float32), wanted, exact=exact)
        asked = wire.searched[-1]
        assert (asked["hnsw_ef"], asked["exact"]) == (ef, exact or kind == "exact")
    graph = wire.collections[index.name].config["hnsw_config"]
    assert (graph["m"], graph["ef_construct"]) == (16 if kind == "hnsw" else 0, 100)


def test_a_write_whose_answer_is_lost_is_unavailable_and_may_be_repeated(wire: QdrantWire) -> None:
    index, put = created(wire), one_point()
    wire.network = LateNetwork(fails=1.0, twice=0.0)
    with pytest.raises(StoreUnavailable, match="Qdrant at"):
        index.put(put)
    wire.network = LateNetwork(fails=0.0)
    index.put(put)
    index.put(put)
    assert index.describe().points == 1
    np.testing.assert_allclose(index.read(put.ids).vectors, put.vectors, rtol=1e-6)


def test_the_optimizer_is_waited_for_and_told_to_go_on_unless_it_has_failed(
    wire: QdrantWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "POLL_S", 0.0)
    index, wire.health = created(wire), ["grey", "yellow", "yellow", "green"]
    assert index.finish(NoProgress())
    assert (wire.prodded, wire.health) == (1, ["green"])
    wire.health = ["red"]
    with pytest.raises(StoreRefused, match="is red"):
        index.finish(NoProgress())


def test_bytes_are_asked_for_when_it_is_made_and_its_own_vectors_rank_what_they_find(wire: QdrantWire) -> None:
    index = of_kind("qdrant", wire.url).open("idx_docs_g1", 4, IndexSpec(store="tested", quantize="int8", rerank=3))
    index.create("fp1")
    assert wire.collections["idx_docs_g1"].config["quantization_config"] == {"scalar": {"type": "int8"}}
    index.near(np.ones(4, np.float32), 2, exact=False)
    index.near(np.ones(4, np.float32), 2, exact=True)
    assert [one["quantization"] for one in wire.searched] == [
        {"ignore": False, "rescore": True, "oversampling": 3.0},
        {"ignore": True, "rescore": True, "oversampling": 3.0},
    ]
