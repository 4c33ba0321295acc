"""The LlamaIndex adapter: nodes go in and come back whole, are asked for by text, and the answer follows the swap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from revector.errors import ConfigError, NotCaughtUp
from revector.registry import cutoffs
from revector.registry.control import control
from worlds import World, working

pytest.importorskip("llama_index", reason="the extra `llama-index` is not installed")

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from revector.adapters.llama_index import NoEmbedding, RevectorVectorStore


def node(n: int, source: str, **meta: Any) -> TextNode:
    made = TextNode(id_=f"node-{n}", text=f"quince{n} melon{n} and more", metadata={"n": n, **meta})
    made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=source)
    return made


@pytest.fixture
def index(served: World) -> Iterator[tuple[World, RevectorVectorStore, VectorStoreIndex]]:
    """An index over a served collection, with a worker beside it, and 20 nodes of two documents."""
    store = RevectorVectorStore("docs", project=served.project)
    with working(served):
        found = VectorStoreIndex.from_vector_store(store, embed_model=NoEmbedding())
        found.insert_nodes([node(n, f"source-{n % 2}", lang="en" if n < 10 else "de") for n in range(20)])
        yield served, store, found


Index = tuple[World, RevectorVectorStore, VectorStoreIndex]


def where(*conditions: tuple[str, Any, FilterOperator], by: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    filters = [MetadataFilter(key=key, value=value, operator=operator) for key, value, operator in conditions]
    return MetadataFilters(filters=filters, condition=by)  # type: ignore[arg-type]


def test_nodes_are_found_by_text_and_come_back_whole(index: Index) -> None:
    world, store, found = index
    [best] = found.as_retriever(similarity_top_k=1).retrieve("quince7 melon7")
    assert best.node == node(7, "source-1", lang="en")
    assert 0 < best.score <= 1
    assert store.get_nodes(["node-3", "nobody"]) == [node(3, "source-1", lang="en")]
    [plain] = found.as_retriever(similarity_top_k=1).retrieve("apple7 pear7")
    assert plain.node == TextNode(id_="d00007", text="apple7 pear7 some words here number 7", metadata={"n": 7})
    world.upgrade("b200")
    assert found.as_retriever(similarity_top_k=1).retrieve("quince7 melon7")[0].node_id == "node-7"


def test_filters_hold_and_those_that_cannot_be_are_refused(index: Index) -> None:
    _, store, found = index
    filters = where(("lang", "de", FilterOperator.EQ), ("n", 12, FilterOperator.GTE), ("n", 14, FilterOperator.LT))
    hits = found.as_retriever(similarity_top_k=10, filters=filters).retrieve("quince and melon")
    assert {hit.node_id for hit in hits} == {"node-12", "node-13"}
    assert [one.node_id for one in store.get_nodes(filters=filters)] == ["node-12", "node-13"]
    for refused in (
        where(("n", 1, FilterOperator.NE)),
        where(("n", 1, FilterOperator.EQ), ("n", 2, FilterOperator.EQ)),
        where(("n", 1, FilterOperator.EQ), ("lang", "de", FilterOperator.EQ), by=FilterCondition.OR),
        where(("n", 1, FilterOperator.EQ), by=FilterCondition.NOT),
    ):
        with pytest.raises(ConfigError, match="Nothing was done"):
            store.query(VectorStoreQuery(query_str="quince", filters=refused))


def test_hits_below_a_cut_off_are_left_out(index: Index) -> None:
    served, _, found = index
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    every = found.as_retriever(similarity_top_k=20).retrieve("quince7 and melon7")
    wanted = [hit.node_id for hit in every if hit.score >= 0.5]
    assert 0 < len(wanted) < len(every)
    retriever = found.as_retriever(similarity_top_k=20, vector_store_kwargs={"min_score": "support"})
    assert [hit.node_id for hit in retriever.retrieve("quince7 and melon7")] == wanted


def test_nodes_are_deleted_by_document_id_or_filter(index: Index) -> None:
    _, store, found = index
    found.delete_ref_doc("source-1")
    left = {hit.node_id for hit in found.as_retriever(similarity_top_k=20).retrieve("quince and melon")}
    assert {f"node-{n}" for n in range(0, 20, 2)} <= left
    assert not {f"node-{n}" for n in range(1, 20, 2)} & left
    store.delete_nodes(["node-0", "nobody"])
    store.delete_nodes(filters=where(("lang", "de", FilterOperator.EQ)))
    assert {one.node_id for one in store.get_nodes(filters=where(("lang", "en", FilterOperator.EQ)))} == {
        "node-2", "node-4", "node-6", "node-8"
    }  # fmt: skip
    assert store.get_nodes(["node-0", "node-10"]) == []
    with pytest.raises(ConfigError, match="name one"):
        store.delete_nodes()
    with pytest.raises(ConfigError, match="name the nodes"):
        store.delete_nodes(filters=MetadataFilters(filters=[]))


def test_a_vector_without_its_text_and_other_modes_are_refused(served: World) -> None:
    store = RevectorVectorStore("docs", project=served.project, wait_s=0.1)
    with pytest.raises(ConfigError, match="which model made it"):
        store.query(VectorStoreQuery(query_embedding=[1.0] * 64))
    with pytest.raises(ConfigError, match="not offered"):
        store.query(VectorStoreQuery(query_str="a", mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(NotCaughtUp, match="They are stored"):
        store.add([node(1, "source")])
