"""The routes below /v1/ in OpenAI's shape, by the real `openai` client: embeddings, vector stores, models, errors."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from extras import Lazy, needs
from revector.interfaces import whole_texts
from revector.registry import cutoffs
from revector.registry.control import control
from services import JSON_TYPE, SEARCH, key_for, listening, serve
from worlds import World

needs("openai")
openai = Lazy("openai")

PROMPTS = 'model = ModelSpec(name="hashing", dim=64, query_prompt="query: ", document_prompt="passage: ")'


def client_of(address: str, key: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


def secret_of(made: tuple[str, dict[str, str]]) -> str:
    return made[1]["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def asked(served: World) -> Iterator[tuple[World, Any]]:
    """A client, with a key, of a service over 120 documents."""
    with listening(served.project, is_open=False) as address:
        yield served, client_of(address, secret_of(key_for(served, "read")))


def test_embeddings_are_those_of_the_encoder_that_serves_in_every_format(asked: tuple[World, Any]) -> None:
    world, client = asked
    generation = world.generation()
    texts = ["apple7 pear7", "quince\r\nmelon"]
    wanted = world.loader(generation.spec.model).encode("query", whole_texts(["apple7 pear7", "quince\nmelon"]))
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 64, "user": "me"}):
        answer = client.embeddings.create(model="docs", input=texts, **options)
        rows = [
            np.frombuffer(base64.b64decode(row.embedding), dtype="<f4")
            if options.get("encoding_format") == "base64"
            else row.embedding
            for row in answer.data
        ]
        assert np.array_equal(np.asarray(rows, dtype=np.float32), wanted)
        assert [row.index for row in answer.data] == [0, 1]
        assert (answer.revision, answer.generation, answer.encoder_fp) == (
            "a100",
            generation.gen,
            generation.encoder_fp,
        )
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 2
        assert answer.model == "docs"
    one = client.embeddings.create(model="docs:query", input=texts[0]).data
    assert len(one) == 1
    assert np.array_equal(np.asarray(one[0].embedding, dtype=np.float32), wanted[0])


def test_a_side_must_be_named_where_the_two_are_embedded_differently(world: World) -> None:
    world.revision("a100", None, PROMPTS)
    world.put(60)
    world.upgrade("a100")
    encoder = world.loader(world.generation().spec.model)
    query, document = (encoder.encode(side, whole_texts(["apple7"]))[0] for side in ("query", "document"))
    assert not np.array_equal(query, document)
    with listening(world.project, is_open=False) as address:
        client = client_of(address, secret_of(key_for(world, "read")))

        def made(model: str, **options: Any) -> Any:
            found = client.embeddings.create(model=model, input="apple7", **options)
            return np.asarray(found.data[0].embedding, dtype=np.float32)

        assert np.array_equal(made("docs:query"), query)
        assert np.array_equal(made("docs:document"), document)
        assert np.array_equal(made("docs", extra_body={"input_type": "document"}), document)
        assert np.array_equal(made("docs", extra_body={"input_type": "query"}), query)
        with pytest.raises(openai.BadRequestError, match="say which side"):
            made("docs")
        with pytest.raises(openai.BadRequestError, match="different sides"):
            made("docs:query", extra_body={"input_type": "document"})


def test_a_vector_with_its_fingerprint_finds_what_its_text_finds_and_a_swap_changes_both(
    asked: tuple[World, Any],
) -> None:
    world, client = asked
    for revision in ("a100", "b200"):
        made = client.embeddings.create(model="docs:query", input="apple7 pear7")
        assert made.revision == revision
        body = {"vector": made.data[0].embedding, "encoder_fp": made.encoder_fp, "k": 5}
        address = str(client.base_url).removesuffix("/v1/")
        by_vector = httpx.post(
            address + SEARCH, json=body, headers={"Authorization": f"Bearer {client.api_key}"}
        ).json()
        by_text = client.vector_stores.search("docs", query="apple7 pear7", max_num_results=5)
        assert [hit["id"] for hit in by_vector["hits"]] == [one.file_id for one in by_text.data]
        assert by_text.data[0].file_id == "d00007"
        assert by_text.model_extra["encoder_fp"] == made.encoder_fp == world.generation().encoder_fp
        if revision == "a100":
            world.upgrade("b200")


def test_a_vector_store_is_searched_as_the_searcher_does(asked: tuple[World, Any]) -> None:
    world, client = asked
    world.put(20, 200, lang="de", tags=["a", "b"])
    world.settle()
    searcher = world.project.searcher("docs")
    cases: list[tuple[Any, Any]] = [
        (None, None),
        ({"type": "eq", "key": "lang", "value": "de"}, {"lang": "de"}),
        ({"type": "in", "key": "n", "value": [3, 4, 203]}, {"n": [3, 4, 203]}),
        (
            {
                "type": "and",
                "filters": [{"type": "gte", "key": "n", "value": 5}, {"type": "lt", "key": "n", "value": 9}],
            },
            {"n": {"gte": 5, "lt": 9}},
        ),
    ]
    for filters, where in cases:
        options = {} if filters is None else {"filters": filters}
        found = client.vector_stores.search("docs", query="some words here", max_num_results=20, **options).data
        wanted = searcher.search("some words here", 20, where=where).hits
        assert [(one.file_id, one.content[0].text) for one in found] == [(hit.id, hit.text) for hit in wanted]
        assert [one.score for one in found] == pytest.approx([hit.score for hit in wanted])
        assert [dict(one.attributes) for one in found] == [dict(hit.meta) for hit in wanted]
    best = client.vector_stores.search("docs", query=["apple7 pear7"], ranking_options={"score_threshold": 0.5}).data
    assert best[0].file_id == "d00007"
    assert all(one.score >= 0.5 for one in best)
    every = client.vector_stores.search("docs", query=["apple7 pear7"], ranking_options={"score_threshold": -1}).data
    assert len(every) == 10
    with control(world.engine, world.collection.cid, actor="tester") as held:
        cutoffs.choose(held, {"support": 0.5})
    named = client.vector_stores.search("docs", query=["apple7 pear7"], ranking_options={"score_threshold": "support"})
    assert [one.file_id for one in named.data] == [one.file_id for one in best]
    assert named.model_extra["cutoffs"] == {"support": 0.5}
    for least in (-99, "faq"):
        with pytest.raises(openai.BadRequestError, match="min_score"):
            client.vector_stores.search("docs", query="apple7 pear7", ranking_options={"score_threshold": least})


@pytest.mark.parametrize(
    "options",
    [
        {"filters": {"type": "ne", "key": "n", "value": 1}},
        {"filters": {"type": "or", "filters": [{"type": "eq", "key": "n", "value": 1}]}},
        {"filters": {"type": "eq", "key": "n", "value": [1]}},
        {"filters": {"type": "in", "key": "n", "value": 1}},
        {"filters": {"type": "and", "filters": [{"type": "eq", "key": "n", "value": v} for v in (1, 2)]}},
        {"rewrite_query": True},
        {"ranking_options": {"ranker": "default-2024-11-15"}},
        {"max_num_results": 51},
        {"query": ["a", "b"]},
        {"query": " "},
        {"extra_body": {"new_option": 1}},
    ],
    ids=str,
)
def test_what_a_search_here_cannot_do_is_refused_and_not_left_out(asked: tuple[World, Any], options: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        asked[1].vector_stores.search("docs", **{"query": "apple7", **options})
    assert caught.value.type == "invalid_request_error"
    assert caught.value.body["message"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input": [[1, 2, 3]]}, "input"),
        ({"input": []}, "1 to 2,048"),
        ({"input": ["a"] * 2_049}, "1 to 2,048"),
        ({"input": ["good", " "]}, "no visible characters"),
        ({"input": "a", "dimensions": 32}, "64 dimensions"),
        ({"input": "word " * 400, "model": "docs:document"}, "send it in chunks"),
    ],
    ids=str,
)
def test_texts_that_cannot_be_embedded_are_refused_with_the_reason(
    asked: tuple[World, Any], options: Any, says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        asked[1].embeddings.create(**{"model": "docs", **options})


def test_errors_have_openais_shape_whatever_refuses(served: World) -> None:
    other = secret_of(key_for(served, "read", collections=["other"]))
    writer = secret_of(key_for(served, "write"))
    reader = secret_of(key_for(served, "read", collections=["docs"]))
    with listening(served.project, is_open=False) as address:
        with pytest.raises(openai.AuthenticationError) as caught:
            client_of(address, "wrong").models.list()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
        for one in (other, writer):
            with pytest.raises(openai.PermissionDeniedError):
                client_of(address, one).embeddings.create(model="docs", input="a")
            with pytest.raises(openai.PermissionDeniedError):
                client_of(address, one).vector_stores.search("docs", query="a")
        good = client_of(address, reader)
        assert good.embeddings.create(model="docs", input="a").data
        assert client_of(address, other).models.list().data == []
        for call in (
            lambda: good.models.retrieve("docs:passage"),
            lambda: good.post("/nowhere", cast_to=object),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        with pytest.raises(openai.PermissionDeniedError):  # as for a collection that is there: it tells nothing
            good.models.retrieve("unknown")
        with pytest.raises(openai.APIStatusError) as large:
            good.embeddings.create(model="docs", input=["a" * 1_000] * 1_100)
        assert large.value.status_code == 413
        sent = JSON_TYPE | {"Authorization": f"Bearer {reader}"}
        raw = httpx.post(f"{address}/v1/embeddings", content=b"{", headers=sent)
        assert (raw.status_code, raw.json()["error"]["type"]) == (400, "invalid_request_error")


def test_models_are_the_collections_that_serve_something_and_name_their_encoder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(world.project) as client:
        assert client.get("/v1/models").json() == {"object": "list", "data": []}
        assert client.get("/v1/models/docs").status_code == 404
        assert client.get("/v1/models/unknown").json()["error"]["code"] == "not_found"
        nothing = client.post("/v1/embeddings", json={"model": "docs", "input": "a"})
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "StateError")
        world.put(60)
        world.upgrade("a100")
        found = client.get("/v1/models").json()["data"]
        assert [one["id"] for one in found] == ["docs", "docs:query", "docs:document"]
        one = client.get("/v1/models/docs:query").json()
        assert (one["revision"], one["dimensions"]) == ("a100", 64)
        assert one["encoder_fp"] == world.generation().encoder_fp
        monkeypatch.setattr("revector.service.openai_routes._active", lambda *_: 1 / 0)
        unknown = client.get("/v1/models")
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (500, "server_error")
