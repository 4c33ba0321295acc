"""The LangChain adapter passes LangChain's own suite, and keeps to the model that serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from copies import Databases
from revector.encoders.check import fingerprint_of
from revector.encoders.hashing import HashingEncoder
from revector.errors import ConfigError, EncoderMismatch, NotCaughtUp, StateError
from revector.indexing.encoding import Encoders
from revector.interfaces import Piece, Side, Vectors
from revector.registry import cutoffs
from revector.registry.control import control
from worlds import World

pytest.importorskip("langchain_core", reason="the extra `langchain` is not installed")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from revector.adapters.langchain import RevectorEmbeddings, RevectorRetriever, RevectorStore

try:
    from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
except ImportError:
    VectorStoreIntegrationTests = RetrieversIntegrationTests = None  # type: ignore[assignment,misc]

WIDTH = 6
"""Of the model that LangChain's suite brings."""


class FakeEncoder:
    """LangChain's fake embeddings as an encoder of ours."""

    dim, kinds = WIDTH, ("text",)

    def __init__(self, inner: HashingEncoder) -> None:
        self._inner, self._fake = inner, DeterministicFakeEmbedding(size=WIDTH)
        self.components = {**inner.components, "kind": "langchain-fake"}
        self.fingerprint = fingerprint_of(self.components)
        self.tokenizer = inner.tokenizer

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        return np.asarray(self._fake.embed_documents([piece.text for piece in pieces]), dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        return self._inner.count_tokens(text)


def injected(world: World) -> World:
    """The world, whose model is LangChain's fake."""
    world.project.__dict__["encoders"] = Encoders(lambda model: FakeEncoder(HashingEncoder(model)))
    return world


@pytest.fixture(scope="module")
def empty(databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database whose collection serves the fake's index, without a document."""
    name = databases.create(template)
    world = World(tmp_path_factory.mktemp("empty"), databases.url(name))
    world.settings(qrels=None)
    injected(world)
    world.revision("a100", None, f'model = ModelSpec(name="hashing", dim={WIDTH}, normalize=False)')
    world.documents.put("seed", "an empty collection has nothing to migrate")
    world.upgrade("a100")
    world.documents.delete("seed")
    world.settle()
    world.close()
    return name


@pytest.fixture
def fresh(databases: Databases, empty: str, tmp_path: Path) -> Iterator[World]:
    """Such a collection of the test's own, with a worker beside it."""
    name = databases.create(empty)
    world = injected(World(tmp_path, databases.url(name), init=False))
    stop = threading.Event()
    thread = threading.Thread(target=world.project.worker().run, args=(stop,))
    thread.start()
    try:
        yield world
    finally:
        stop.set()
        thread.join()
        world.close()
        databases.drop(name)


if VectorStoreIntegrationTests is not None:

    class TestStandard(VectorStoreIntegrationTests):
        """LangChain's suite for vector stores."""

        @pytest.fixture
        def vectorstore(self, fresh: World) -> VectorStore:  # type: ignore[override]
            return RevectorStore("docs", project=fresh.project, embedding=self.get_embeddings())

    class TestStandardRetriever(RetrieversIntegrationTests):
        """LangChain's suite for retrievers."""

        @pytest.fixture(autouse=True)
        def _world(self, fresh: World) -> None:
            self._store = RevectorStore("docs", project=fresh.project)
            self._store.add_texts(["one text", "another text", "a third"])

        @property
        def retriever_constructor(self) -> Any:
            return lambda **options: RevectorRetriever(store=self._store, **options)

        @property
        def retriever_constructor_params(self) -> dict[str, Any]:
            return {}

        @property
        def retriever_query_example(self) -> str:
            return "one text"

else:

    @pytest.mark.skip(reason="langchain-tests is not installed")
    def test_langchains_own_suite() -> None:
        pass


def test_a_store_with_another_model_than_the_one_that_serves_does_not_open(served: World) -> None:
    with pytest.raises(EncoderMismatch, match="Nothing was started"):
        RevectorStore("docs", project=served.project, embedding=DeterministicFakeEmbedding(size=64))


def test_vectors_of_the_application_are_searched_until_a_swap_and_refused_from_then_on(served: World) -> None:
    embeddings = RevectorEmbeddings("docs", project=served.project)
    store = RevectorStore("docs", project=served.project, embedding=embeddings)
    vector = embeddings.embed_query("apple7 pear7")
    assert store.similarity_search_by_vector(vector, 1)[0].id == "d00007"
    with pytest.raises(ConfigError, match="which model made it"):
        RevectorStore("docs", project=served.project).similarity_search_by_vector(vector, 1)
    served.upgrade("b200")
    with pytest.raises(StateError):
        store.similarity_search_by_vector(vector, 1)
    assert store.similarity_search("apple7 pear7", 1)[0].id == "d00007", "text follows the swap"
    now = embeddings.embed_query("apple7 pear7")
    assert now != vector
    fp = served.generation().encoder_fp
    assert store.similarity_search_by_vector(now, 1, encoder_fp=fp)[0].id == "d00007"


def test_filters_scores_retrievers_and_whole_documents(served: World) -> None:
    long = "\n\n".join(" ".join(f"{fruit}{n}" for n in range(90)) for fruit in ("medlar", "quince", "sloe"))
    served.documents.put("long", long, {"kind": "long"})
    served.settle()
    store = RevectorStore("docs", project=served.project, wait_s=None)
    [(found, score)] = store.similarity_search_with_score("quince3 quince4", 1, filter={"kind": "long"})
    assert (found.id, found.page_content, found.metadata) == ("long", long, {"kind": "long"})
    assert 0 < score <= 1
    chunk = RevectorStore("docs", project=served.project, content="chunk").similarity_search("quince3 quince4", 1)[0]
    assert chunk.page_content in long
    assert len(chunk.page_content) < len(long)
    assert store.similarity_search_with_relevance_scores("quince3", 1, score_threshold=0.999) == []
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"n": {"lt": 9}}})
    assert retriever.invoke("apple7 pear7")[0].id == "d00007"
    own: BaseRetriever = RevectorRetriever(store=store, k=1, where={"n": 3})
    assert [one.id for one in own.invoke("apple7 pear7")] == ["d00003"]
    with pytest.raises(ConfigError, match="not an option"):
        store.similarity_search("apple7", 1, namespace="x")


def test_hits_below_a_cut_off_are_left_out_by_its_name_and_by_number(served: World) -> None:
    with control(served.engine, served.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    store = RevectorStore("docs", project=served.project, wait_s=None)
    every = store.similarity_search_with_score("apple7 pear7", 50)
    wanted = [one.id for one, score in every if score >= 0.5]
    assert 0 < len(wanted) < len(every)
    fp, vector = served.generation().encoder_fp, store.embeddings.embed_query("apple7 pear7")
    for least in ("support", 0.5):
        assert [one.id for one in store.similarity_search("apple7 pear7", 50, min_score=least)] == wanted
        by_vector = store.similarity_search_by_vector(vector, 50, encoder_fp=fp, min_score=least)
        assert [one.id for one in by_vector] == wanted
        for retriever in (
            store.as_retriever(search_kwargs={"k": 50, "min_score": least}),
            RevectorRetriever(store=store, k=50, min_score=least),
        ):
            assert [one.id for one in retriever.invoke("apple7 pear7")] == wanted
    with pytest.raises(ConfigError, match="no cut-off"):
        store.similarity_search("apple7", 1, min_score="faq")


@pytest.mark.parametrize("normalize", [True, False])
def test_a_relevance_is_the_cosine_also_by_another_metric_and_refused_where_scores_have_no_bounds(
    world: World, normalize: bool
) -> None:
    model = f'model = ModelSpec(name="hashing", dim=64, normalize={normalize})'
    world.revision("a100", None, model, 'index = IndexSpec(metric="l2")')
    world.put(60)
    world.upgrade("a100")
    store = RevectorStore("docs", project=world.project)
    [(found, score)] = store.similarity_search_with_score("apple7 pear7", 1)
    assert score <= 0
    if not normalize:
        with pytest.raises(StateError, match="have no bounds"):
            store.similarity_search_with_relevance_scores("apple7 pear7", 1)
        return
    [(same, relevance)] = store.similarity_search_with_relevance_scores("apple7 pear7", 1)
    assert same.id == found.id == "d00007"
    assert relevance == pytest.approx(1 - score * score / 2)


def test_what_is_added_is_found_or_said_to_be_stored_and_not_shown_yet(served: World) -> None:
    with pytest.raises(NotCaughtUp, match="They are stored"):
        RevectorStore("docs", project=served.project, wait_s=0.1).add_texts(["quince melon"], ids=["new"])
    store = RevectorStore("docs", project=served.project, wait_s=None)
    assert store.get_by_ids(["new", "nobody"]) == [Document(id="new", page_content="quince melon")]
    store.add_texts(["sloe", "medlar"], [{"n": 1}, {"n": 2}], ids=["x", "y"])
    served.settle()
    assert {one.id for one in store.similarity_search("quince melon sloe medlar", 3)} == {"new", "x", "y"}
    with pytest.raises(ConfigError, match="name the ids"):
        store.delete()
    with pytest.raises(ValueError, match="argument"):
        store.add_texts(["a", "b"], ids=["only"])
