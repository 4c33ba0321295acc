"""A collection of a vector store becomes a collection here: proved, copied, read again, and left as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adoption.conftest import Application
from adoption.store_collections import (
    COLLECTIONS,
    DIM,
    Collection,
    InChroma,
    InQdrant,
    InRedis,
    fill,
    lang_of,
)
from adoption.test_copies import COUNT, OTHER, texts, vectors
from outside import ChromaServer, RedisServer, shared
from qdrant_wire import LocalShard, QdrantWire
from revector.adoption import store_places, store_points
from revector.adoption.places import open_place
from revector.adoption.presets import AdoptionRequest
from revector.cli import run
from revector.errors import ConfigError, SourceError
from revector.migration.adoption_plan import AdoptionPlan

KEY = "a-key-that-nobody-may-read"


def request(collection: Collection, **changes: Any) -> AdoptionRequest:
    return AdoptionRequest(**{"source": collection.source, "table": collection.name, "model": "hashing", **changes})


def plan(application: Application, collection: Collection, **changes: Any) -> AdoptionPlan:
    return application.project.adopter("articles").plan(request(collection, **changes))


@pytest.fixture(params=COLLECTIONS)
def collection(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    """An empty one in each store, which is read in small pages."""
    monkeypatch.setattr(store_points, "PAGE", 16)
    return COLLECTIONS[request.param](tmp_path)


@pytest.fixture
def wire() -> Iterator[QdrantWire]:
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: make test-stores")
    wire = QdrantWire(LocalShard)
    yield wire
    wire.stop()


def test_a_collection_is_adopted_with_its_vectors_read_again_and_left_as_it_was(
    application: Application, collection: Collection
) -> None:
    fill(collection)
    before = collection.all()
    adopter = application.project.adopter("articles")
    report = adopter.run(adopter.plan(request(collection)))
    assert (report.documents, report.reused, report.copied.written) == (COUNT, COUNT, COUNT)
    expected = {collection.key(n): (text, {"lang": lang_of(n)}) for n, text in enumerate(texts())}
    assert application.documents() == expected
    assert application.search("apple7 pear7", 1) == [collection.key(7)]
    assert application.project.verify("articles").passed
    assert collection.all() == before

    collection.put(3, "quince", vectors(["quince"])[0], "fr")
    collection.put(100, "medlar", vectors(["medlar"])[0], "en")
    collection.delete(7)
    done = adopter.resume().copied
    assert (done.rows, done.written, done.deleted) == (COUNT, 2, 1)
    expected |= {collection.key(3): ("quince", {"lang": "fr"}), collection.key(100): ("medlar", {"lang": "en"})}
    del expected[collection.key(7)]
    assert application.documents() == expected


def test_a_point_that_stays_is_read_once_whatever_is_deleted_meanwhile(collection: Collection, tmp_path: Path) -> None:
    if collection.source.startswith("milvus:///"):
        pytest.skip("a file of milvus-lite is open in one place at a time")
    place = open_place(request(fill(collection)), tmp_path)
    reading, keys = place.read(place.columns, None), {collection.key(n): n for n in range(COUNT)}
    seen = [str(record[place.key[0]]) for _, record in islice(reading, 20)]
    ahead = next(key for key in sorted(keys, reverse=True) if key not in seen)
    for key in (seen[0], ahead):
        collection.delete(keys[key])
    seen += [str(record[place.key[0]]) for _, record in reading]
    assert sorted({*seen, ahead}) == sorted(keys)
    assert len(set(seen)) == len(seen)


def test_what_is_not_there_or_empty_is_refused(application: Application, collection: Collection) -> None:
    with pytest.raises(ConfigError, match="holds no rows"):
        plan(application, collection)
    with pytest.raises(SourceError, match=rf"has no collection absent; there are: .*{collection.name}"):
        plan(application, collection, table="absent")
    with pytest.raises(ConfigError, match=r"of float numbers; there are: .* name one with --vector"):
        plan(application, collection, vector="absent")


def test_a_server_that_does_not_answer_is_said_by_its_url(application: Application, collection: Collection) -> None:
    if collection.source.startswith("milvus:///"):
        pytest.skip("a file of milvus-lite has no server")
    scheme = collection.source.partition("://")[0]
    with pytest.raises(SourceError, match=rf"Nothing was read there or changed; check {scheme}://127.0.0.1:9,"):
        plan(application, collection, source=f"{scheme}://127.0.0.1:9")


def test_of_many_collections_a_message_names_some_and_says_how_many_more(
    application: Application, wire: QdrantWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_places, "MOST_NAMED", 1)
    made = [InQdrant(wire) for _ in range(3)]
    first = min(one.name for one in made)
    with pytest.raises(SourceError, match=rf"there are: {first} and 2 more\. Nothing was read"):
        plan(application, made[0], table="absent")


# Vectors -------------------------------------------------------------------------------------------------------------


def test_vectors_of_qdrant_are_named_where_there_are_several(application: Application, wire: QdrantWire) -> None:
    models = pytest.importorskip("qdrant_client.models")
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    several = models.VectorParams(
        size=DIM,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    collection = InQdrant(
        wire,
        {"text": params, "other": params, "late": several},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    for n, text in enumerate(texts()):
        made = {"text": vectors([text])[0].tolist(), "other": vectors([text], OTHER)[0].tolist()}
        collection.point(n, {"text": text, "n": n, "tags": ["a"]}, made if n else {"other": made["other"]})
    with pytest.raises(ConfigError, match="several vectors; there are: 'text', 'other', 'late', 'words'"):
        plan(application, collection)
    with pytest.raises(ConfigError, match="no vector 'words' of float numbers"):
        plan(application, collection, vector="words")
    assert plan(application, collection, vector="other").proof.verdict == "other"
    found = plan(application, collection, vector="text")
    assert (found.proof.verdict, found.look.without_vector, found.embeds) == ("same", 1, 1)
    adopter = application.project.adopter("articles")
    assert adopter.run(found).reused == COUNT - 1
    assert application.documents()["7"] == (texts()[7], {"n": 7, "tags": ["a"]})


def test_vectors_of_redis_that_do_not_fit_and_points_without_text_are_counted(application: Application) -> None:
    collection = InRedis(shared(RedisServer).url)
    fill(collection)
    collection.hash(1, embedding=np.ones(32, "<f4").tobytes())
    collection.hash(2, embedding=b"odd")
    collection.hash(3, text="")
    collection.client.hdel(f"{collection.prefix}:d4", "embedding")
    collection.client.hdel(f"{collection.prefix}:d5", "text")
    found = plan(application, collection)
    look = found.look
    assert (look.widths, look.bad_vectors, look.without_vector) == ({DIM: COUNT - 5, 32: 1}, 1, 1)
    assert (look.documents, look.without_text, found.embeds) == (COUNT - 2, 2, 3)
    assert found.as_data()["vector_form"] == "float32 arrays"


def test_vectors_of_chroma_can_be_left(application: Application) -> None:
    collection = InChroma(shared(ChromaServer).url)
    fill(collection)
    collection.record("bare", None, None, np.ones(DIM))
    found = plan(application, collection, vectors=False, meta=("lang",))
    assert (found.embeds, found.look.without_text, found.look.terms.meta) == (COUNT, 1, ("lang",))


def test_an_index_of_redis_over_a_part_of_its_hashes_is_refused(application: Application) -> None:
    collection = InRedis(shared(RedisServer).url, "FILTER", "@lang=='de'")
    with pytest.raises(SourceError, match="has a FILTER"):
        plan(application, collection)


# Texts and metadata --------------------------------------------------------------------------------------------------


def node(n: int, text: str, **more: Any) -> dict[str, Any]:
    """What LlamaIndex writes beside a node's vector."""
    whole = {
        "metadata": {"lang": lang_of(n), "secret": n},
        "excluded_embed_metadata_keys": ["secret"],
        "text": text,
        "text_template": "{metadata_str}\n\n{content}",
        "metadata_template": "{key}: {value}",
    }
    return {**whole["metadata"], "_node_content": json.dumps(whole), "_node_type": "TextNode", **more}  # type: ignore[dict-item]


def filled_by_llamaindex(collection: InQdrant | InChroma) -> dict[str, tuple[str, dict[str, Any]]]:
    """Fill a collection as LlamaIndex does; return what its documents are."""
    documents = {}
    for n, text in enumerate(texts()):
        whole, meta = f"lang: {lang_of(n)}\n\n{text}", {"lang": lang_of(n), "secret": n, "_node_type": "TextNode"}
        documents[collection.key(n)] = (whole, meta)
        [vector] = vectors([whole])
        if isinstance(collection, InChroma):
            collection.record(collection.key(n), text, node(n, ""), vector)
        else:
            collection.point(collection.key(n), node(n, text), vector.tolist())
    return documents


@pytest.mark.parametrize("kind", ["qdrant-local", "chroma"])
def test_nodes_of_llamaindex_are_read_as_it_embedded_them(application: Application, tmp_path: Path, kind: str) -> None:
    collection: Any = COLLECTIONS[kind](tmp_path)
    documents = filled_by_llamaindex(collection)
    adopter = application.project.adopter("articles")
    found = adopter.plan(request(collection))
    assert (found.proof.verdict, found.embeds) == ("same", 0)
    assert adopter.run(found).reused == COUNT
    assert application.documents() == documents


def test_fields_of_qdrant_that_would_be_lost_are_refused(application: Application, wire: QdrantWire) -> None:
    collection = InQdrant(wire)
    fill(collection)
    vector = vectors(["quince"])[0].tolist()
    collection.point(7, {"page_content": "quince", "lang": "en", "metadata": {"lang": "de"}}, vector)
    with pytest.raises(SourceError, match="lang is named in the object `metadata` and beside it"):
        plan(application, collection)
    collection.point(7, {"page_content": "quince", "point_id": 3}, vector)
    with pytest.raises(SourceError, match="the point 7 has a field point_id"):
        plan(application, collection)


def test_an_id_of_the_payload_may_name_points_of_qdrant(application: Application, wire: QdrantWire) -> None:
    collection = InQdrant(wire)
    for n, (text, vector) in enumerate(zip(texts(), vectors(texts()), strict=True)):
        collection.point(n, {"sku": f"s{n}", "name": text}, vector.tolist())
    adopter = application.project.adopter("articles")
    adopter.run(adopter.plan(request(collection, id=("sku",), text=("name",))))
    assert application.documents()["s7"] == (texts()[7], {"point_id": 7})


# Keys and URLs -------------------------------------------------------------------------------------------------------


def test_a_key_of_qdrant_is_kept_nowhere_and_asked_for_again(
    application: Application, wire: QdrantWire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = fill(InQdrant(wire))
    wire.key = KEY
    monkeypatch.chdir(application.root)
    command = ("adopt", "--table", collection.name, "-c", "articles", "--model", "hashing", "--yes", "--json")
    for source in (collection.source, collection.source.replace("://", "://:a-wrong-key@")):
        assert run((*command, source)) == SourceError.exit_code
        said = capsys.readouterr().err
        assert "refuses the key" in said
        assert "a-wrong-key" not in said
    with_key = collection.source.replace("://", f"://:{KEY}@")
    assert run((*command, with_key)) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == COUNT
    kept = "SELECT CAST(jsonb_agg(a) AS text) || (SELECT CAST(jsonb_agg(e) AS text) FROM revector.event e)"
    stored = application.sql(f"{kept} FROM revector.adoption a")[0][0]
    assert "***" in stored
    assert KEY not in stored
    adopter = application.project.adopter("articles")
    with pytest.raises(ConfigError, match="is not kept"):
        adopter.resume()
    assert adopter.resume(request(collection, source=with_key)).copied.rows == COUNT


def test_a_key_of_qdrant_may_be_in_a_variable_which_is_read_each_time(
    application: Application, wire: QdrantWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = fill(InQdrant(wire))
    wire.key, collection.source = KEY, f"{collection.source}?api_key_env=WARES_KEY"
    with pytest.raises(ConfigError, match="names WARES_KEY, and that variable is not set"):
        plan(application, collection)
    monkeypatch.setenv("WARES_KEY", KEY)
    adopter = application.project.adopter("articles")
    adopter.run(adopter.plan(request(collection)))
    assert adopter.resume().copied.rows == COUNT


def test_a_key_of_redis_is_refused_or_taken(application: Application) -> None:
    collection = InRedis(shared(RedisServer).url)
    fill(collection)
    collection.client.execute_command(
        "ACL", "SETUSER", "shop", "on", f">{KEY}", "~*", "+@read", "+ft.info", "+ft._list"
    )
    wrong, right = (collection.source.replace("://", f"://shop:{one}@") for one in ("a-wrong-key", KEY))
    with pytest.raises(SourceError, match="AuthenticationError") as caught:
        plan(application, collection, source=wrong)
    assert "a-wrong-key" not in str(caught.value)
    assert plan(application, collection, source=right).look.documents == COUNT


@pytest.mark.parametrize(
    ("source", "changes", "said"),
    [
        ("qdrant://h", {"table": ""}, "which table or collection of qdrant://h"),
        ("qdrant://h", {"where": "true"}, "--where is for databases"),
        ("qdrant://h", {"texts": "a.csv"}, "--texts is for files of arrays"),
        ("qdrant://h/wares", {}, "name the collection with --table"),
        (f"qdrant://h?api_key={KEY}", {}, "may end with ?api_key_env=VARIABLE"),
        (f"chroma://{KEY}@h", {}, "write a key as chroma://:KEY@HOST"),
        ("milvus+grpc://h", {}, "begins with milvus:// or milvus+https://"),
        ("milvus:///absent.db", {}, "no file of milvus-lite that is there"),
        ("redis:///0", {}, "names no host"),
    ],
    ids=["no collection", "where", "texts", "path", "query", "user", "scheme", "no file", "no host"],
)
def test_a_url_that_cannot_be_meant_is_refused_before_anything_is_asked(
    application: Application, source: str, changes: dict[str, Any], said: str
) -> None:
    given = AdoptionRequest(**{"source": source, "table": "wares", "model": "hashing", **changes})
    with pytest.raises(ConfigError) as caught:
        application.project.adopter("articles").plan(given)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
    assert not Path("absent.db").exists()


# Where the first index lies ------------------------------------------------------------------------------------------


def test_vectors_of_qdrant_may_go_into_a_store_of_ours(
    application: Application, wire: QdrantWire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = fill(InQdrant(wire))
    settings = application.root / "revector.toml"
    settings.write_text(f'{settings.read_text()}\n[stores.vectors]\nkind = "qdrant"\nurl = "{wire.url}"\n')
    application.project.engine.dispose()
    del application.project  # it is read again, with the store
    monkeypatch.chdir(application.root)
    command = ("adopt", collection.source, "--table", collection.name, "-c", "articles", "--model", "hashing", "--json")
    for store, said in (("absent", "must be one of pgvector, memory, vectors"), ("memory", "has index.kind exact")):
        assert run((*command, "--store", store, "--dry-run")) == 2
        assert said in capsys.readouterr().err
    assert run((*command, "--store", "vectors", "--yes")) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == COUNT
    [own] = set(wire.collections) - {collection.name}
    assert wire.collections[own].shard.count() == COUNT + 1  # and the canary
    assert application.search("apple7 pear7", 1) == [collection.key(7)]
    assert application.project.verify("articles").passed
    with pytest.raises(ConfigError, match="say already where the index lies"):
        plan(application, collection, store="vectors")


def test_a_store_is_not_for_a_table_that_is_followed() -> None:
    with pytest.raises(ValueError, match="a store is named for what is copied"):
        AdoptionRequest(table="articles", model="hashing", store="vectors")
