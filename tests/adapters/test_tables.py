"""The tables of frameworks, made, filled and written by their own packages, are adopted by the preset alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from adoption.conftest import Application, Call, caller

pytest.importorskip("langchain_postgres", reason="`make test-adapters` installs it")
pytest.importorskip("llama_index.vector_stores.postgres", reason="`make test-adapters` installs it")
pytest.importorskip("django", reason="`make test-adapters` installs it")

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from adapters.frameworks import FRAMEWORKS, Framework, LangChainPGVector, LlamaIndexHybrid, text_of
from revector.adapters.llama_index import NoEmbedding, RevectorVectorStore
from revector.adoption.nodes import NODE, embedded_text, node_text


@pytest.fixture
def application(tmp_path: Path, database_url: str) -> Iterator[Application]:
    made = Application(tmp_path, database_url)
    yield made
    made.close()


@pytest.fixture
def call(application: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(application, monkeypatch, capsys)


@pytest.fixture(params=FRAMEWORKS, ids=lambda one: one.__name__)
def framework(request: pytest.FixtureRequest, application: Application) -> Iterator[Framework]:
    made = request.param(application)
    made.fill(range(30))
    yield made
    made.close()


def test_the_table_of_a_package_is_adopted_followed_and_given_back(
    application: Application, framework: Framework, call: Call
) -> None:
    before = application.catalogue(framework.table.rpartition(".")[2])
    code, out, err = call("adopt", framework.table, "--like", framework.like, "-c", "articles", "--model", "hashing",
                          "--yes", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert (done["documents"], done["reused"]) == (30, 30), "nothing was embedded"
    by_text = dict(application.documents().values())
    text, meta = framework.expected(7)
    assert {name: by_text[text][name] for name in meta} == meta

    framework.fill([30, 31])
    framework.update(3, "quince medlar and more")
    framework.delete(4)
    application.settle()
    for asked, n in ((text_of(7), 7), (text_of(31), 31)):
        [found] = application.search(asked, 1)
        assert application.documents()[found][0] == framework.expected(n)[0]
    [found] = application.search("quince medlar and more", 1)
    assert application.documents()[found][0].replace("\n", " ").endswith("quince medlar and more")
    assert len(application.documents()) == 31
    assert not any(text_of(4) in one.replace("\n", " ") for one, _ in application.documents().values())
    code, out, _ = call("verify", "-c", "articles", "--json")
    assert (code, json.loads(out)["passed"]) == (0, True)

    assert call("unadopt", "-c", "articles")[0] == 0
    assert application.catalogue(framework.table.rpartition(".")[2]) == before
    framework.delete(7)


def test_an_adopted_node_comes_back_as_it_was_put(application: Application, call: Call) -> None:
    framework = LlamaIndexHybrid(application)
    framework.fill(range(20))
    words = ("--like", "llamaindex", "-c", "articles", "--model", "hashing", "--yes")
    assert call("adopt", framework.table, *words)[0] == 0
    [own] = framework.index.as_retriever(similarity_top_k=1).retrieve(framework.expected(7)[0])
    index = VectorStoreIndex.from_vector_store(
        RevectorVectorStore("articles", project=application.project), embed_model=NoEmbedding()
    )
    [ours] = index.as_retriever(similarity_top_k=1).retrieve(framework.expected(7)[0])
    assert ours.node == own.node
    assert ours.node.get_content() == text_of(7)
    framework.close()


NODES: dict[str, TextNode] = {
    "no metadata": TextNode(text="plain"),
    "templates of its own": TextNode(
        text="a {metadata_str} b", metadata={"{key}": "{content}", "x": "{value}"}, metadata_template="<{key}={value}>",
        metadata_separator=" ; ", text_template="T: {content} | {metadata_str}",
    ),
    "all is left out": TextNode(text=" kept as it is ", metadata={"a": 1}, excluded_embed_metadata_keys=["a"]),
    "blanks around": TextNode(text="t \n", metadata={"a": " b "}),
    "numbers": TextNode(text="t", metadata={"f": 1.0, "big": 1e16, "small": 1e-7, "nested": {"k": ["v", 1]}, "e": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_the_text_that_llamaindex_embeds_is_made_of_the_row_alone(application: Application, case: str) -> None:
    node = NODES[case]
    meta = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    made = node_text("r.m", "r.t").replace(":", "\\:")
    for kind in ("json", "jsonb"):
        row = f"(SELECT CAST(CAST(:m AS text) AS {kind}) AS m, CAST(:t AS text) AS t) r"
        [(text,)] = application.sql(f"SELECT {made} FROM {row}", m=json.dumps(meta), t=node.text)
        assert text == node.get_content(MetadataMode.EMBED)
    for whole in (meta, node_to_metadata_dict(node, remove_text=False, flat_metadata=False)):  # as stores hold it
        assert embedded_text(whole[NODE], node.text if whole is meta else None) == node.get_content(MetadataMode.EMBED)


@pytest.mark.parametrize(
    "meta", ["null", "3", "[]", "{}", '{"_node_content": 1}', '{"_node_content": "{"}', '{"_node_content": "[1]"}',
             '{"_node_content": "{\\"metadata\\": 3, \\"excluded_embed_metadata_keys\\": {}}"}']
)  # fmt: skip
def test_a_row_that_is_no_node_has_its_plain_text_and_never_fails(application: Application, meta: str) -> None:
    made = node_text("r.m", "r.t").replace(":", "\\:")
    row = "(SELECT CAST(CAST(:m AS text) AS json) AS m, 'plain' AS t) r"
    assert application.sql(f"SELECT {made} FROM {row}", m=meta) == [("plain",)]
    for said in (meta, json.loads(meta)):
        assert embedded_text(said.get(NODE) if isinstance(said, dict) else said, "plain") == "plain"


def test_several_collections_of_langchain_in_one_table_are_told_apart(application: Application, call: Call) -> None:
    framework = LangChainPGVector(application)
    framework.fill(range(20))
    other = LangChainPGVector(application)
    other.store.collection_name = "faq"
    other.store.create_collection()
    other.store.add_texts(["of another collection"], ids=["other"])
    words = ("adopt", framework.table, "--like", "langchain", "-c", "articles", "--model", "hashing", "--yes")
    code, _, err = call(*words)
    assert (code, "holds 2 collections of LangChain" in err, "'docs', 20 rows" in err) == (2, True, True)
    where = err.split('--where "')[1].split('"')[0]
    assert call(*words, "--where", where)[0] == 0
    assert len(application.documents()) == 20
    other.store.add_texts(["of another collection again"], ids=["second"])
    framework.store.delete_collection()
    application.settle()
    assert application.documents() == {}, "a foreign key's cascade is followed"
    framework.close()
    other.close()
