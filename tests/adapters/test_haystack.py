"""The Haystack adapter passes Haystack's own suite for document stores, and its retriever follows the swap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from revector.errors import ConfigError, DocumentError, NotCaughtUp
from revector.registry import cutoffs
from revector.registry.control import control
from worlds import World, working

pytest.importorskip("haystack", reason="the extra `haystack` is not installed")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.testing.document_store import DocumentStoreBaseTests

from revector.adapters.haystack import RevectorDocumentRetriever, RevectorDocumentStore


class TestStandard(DocumentStoreBaseTests):
    """Haystack's suite. Vectors that documents bring are not kept, and the order is that of ids."""

    @pytest.fixture
    def document_store(self, world: World) -> RevectorDocumentStore:
        return RevectorDocumentStore("docs", project=world.project, wait_s=None)

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        wanted = [replace(one, embedding=None) for one in expected]
        assert received == sorted(wanted, key=lambda one: one.id)

    def test_write_documents(self, document_store: RevectorDocumentStore) -> None:
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])


@pytest.fixture
def store(served: World) -> Iterator[RevectorDocumentStore]:
    """A store over a served collection, with a worker beside it."""
    with working(served):
        yield RevectorDocumentStore("docs", project=served.project)


def test_a_pipeline_finds_what_was_written_by_what_serves_and_follows_the_swap(
    served: World, store: RevectorDocumentStore
) -> None:
    written = [Document(id=f"h{n}", content=f"quince{n} melon{n}", meta={"n": 1_000 + n}) for n in range(12)]
    assert store.write_documents(written, DuplicatePolicy.OVERWRITE) == 12
    pipeline = Pipeline()
    pipeline.add_component("retriever", RevectorDocumentRetriever(store, top_k=3))
    for revision in ("a100", "b200"):
        [best, *_] = pipeline.run({"retriever": {"query": "quince7 melon7"}})["retriever"]["documents"]
        assert (best.id, best.content, best.meta) == ("h7", "quince7 melon7", {"n": 1_007})
        assert 0 < best.score <= 1
        assert served.generation().revision == revision
        if revision == "a100":
            served.upgrade("b200")
    filters = {
        "operator": "AND",
        "conditions": [
            {"field": "meta.n", "operator": ">=", "value": 1_003},
            {"field": "meta.n", "operator": "<", "value": 1_005},
        ],
    }
    found = RevectorDocumentRetriever(store).run("quince7", filters=filters)["documents"]
    assert {one.id for one in found} == {"h3", "h4"}
    for refused in (
        {"operator": "OR", "conditions": filters["conditions"]},
        {"field": "meta.n", "operator": "!=", "value": 1},
        {"conditions": []},
    ):
        with pytest.raises(ConfigError, match="Nothing was searched"):
            RevectorDocumentRetriever(store).run("quince7", filters=refused)


def test_documents_below_a_cut_off_are_left_out(served: World, store: RevectorDocumentStore) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    every = RevectorDocumentRetriever(store, top_k=50).run("apple7 pear7")["documents"]
    wanted = [one.id for one in every if one.score >= 0.5]
    assert 0 < len(wanted) < len(every)
    by_number = RevectorDocumentRetriever(store, top_k=50).run("apple7 pear7", min_score=0.5)["documents"]
    named = RevectorDocumentRetriever(store, top_k=50, min_score="support")
    by_name = RevectorDocumentRetriever.from_dict(named.to_dict()).run("apple7 pear7")["documents"]
    assert [one.id for one in by_name] == [one.id for one in by_number] == wanted


def test_a_pipeline_is_written_down_and_read_again_without_a_password(store: RevectorDocumentStore) -> None:
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever", RevectorDocumentRetriever(store, {"field": "meta.n", "operator": "==", "value": 7}, 2)
    )
    said = pipeline.dumps()
    assert "postgresql" not in said
    again: Any = Pipeline.loads(said, allowed_modules=["revector.adapters.haystack"]).get_component("retriever")
    assert [one.id for one in again.run("apple7")["documents"]] == ["d00007"]
    assert (again.top_k, again.document_store.collection) == (2, "docs")


def test_what_cannot_be_kept_is_refused_before_anything_is_written(served: World) -> None:
    store = RevectorDocumentStore("docs", project=served.project, wait_s=0.1)
    before = store.count_documents()
    with pytest.raises(DocumentError, match="more than text"):
        store.write_documents([Document(content="a"), Document(blob=ByteStream(b"x"))])
    with pytest.raises(DocumentError):
        store.write_documents([Document(id="empty", content=None)])
    assert store.count_documents() == before
    with pytest.raises(NotCaughtUp, match="They are stored"):
        store.write_documents([Document(content="late")])
