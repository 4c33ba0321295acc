"""The service's OpenAPI description: complete, with examples, and true under fuzzing (schemathesis)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from revector.service import create_app
from services import HERE, SEARCH, UPLOAD, serve
from worlds import World

DOCUMENT = "/collections/{collection}/documents/{doc_id}"
EXAMPLES = int(os.environ.get("REVECTOR_TEST_FUZZ", "12"))
"""Requests that are made up per route and mode; set the variable for a long run."""


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_description_has_every_route_with_examples_problems_and_its_scope(served: World) -> None:
    with serve(served.project) as client:
        described = client.get("/openapi.json").json()
    found = {(path, method): operation for path, method, operation in operations(described)}
    scopes = {key: next(iter(one.get("security", [{}])[0].values()), None) for key, one in found.items()}
    assert {key: scope for key, scope in scopes.items() if key[0] != "/metrics"} == {
        ("/health", "get"): None,
        ("/ready", "get"): [],
        ("/collections/{collection}", "get"): ["admin"],
        ("/collections/{collection}/shadow", "get"): ["admin"],
        ("/collections/{collection}/search", "post"): ["read"],
        ("/collections/{collection}/search/image", "post"): ["read"],
        ("/collections/{collection}/documents", "post"): ["write"],
        (DOCUMENT, "get"): ["read"],
        (DOCUMENT, "put"): ["write"],
        (DOCUMENT, "delete"): ["write"],
        ("/v1/embeddings", "post"): ["read"],
        ("/v1/models", "get"): ["read"],
        ("/v1/models/{model}", "get"): ["read"],
        ("/v1/vector_stores/{collection}/search", "post"): ["read"],
    }
    for (path, _), one in found.items():
        assert one["description"], path
        if path == "/metrics":
            continue
        assert one["responses"]["200"]["content"]["application/json"]["example"], path
        problems = {code: answer for code, answer in one["responses"].items() if code != "200"}
        assert set(problems) >= ({"401", "429", "503"} if path != "/health" else set()), path
        for answer in problems.values():
            if path.startswith("/v1/"):
                assert answer["content"]["application/json"]["example"]["error"]["message"]
            else:
                assert answer["content"]["application/problem+json"]["example"]["status"]
        for parameter in one.get("parameters", []):
            assert parameter["description"], (path, parameter["name"])
    assert found[DOCUMENT, "put"]["requestBody"]["content"]["application/json"]
    assert described["components"]["schemas"]["DocumentIn"]["example"]
    asked = found["/collections/{collection}/search", "post"]["requestBody"]["content"]["application/json"]
    assert set(asked["examples"]) == {"text", "document", "vector"}


def test_the_examples_of_the_description_work(served: World) -> None:
    with serve(served.project) as client:
        described = client.get("/openapi.json").json()
        document = described["components"]["schemas"]["DocumentIn"]["example"]
        upload = described["paths"]["/collections/{collection}/documents"]["post"]["requestBody"]["content"]
        for media_type, one in upload.items():
            answer = client.post(UPLOAD, content=one["example"], headers={"content-type": media_type})
            assert answer.json()["written"] == 2
        assert client.put(f"{UPLOAD}/guide-7", json=document).status_code == 200
        served.settle()
        search = described["paths"]["/collections/{collection}/search"]["post"]["requestBody"]["content"]
        examples = {name: one["value"] for name, one in search["application/json"]["examples"].items()}
        assert client.post(SEARCH, json=examples["text"]).json()["hits"][0]["id"] == "guide-7"
        assert client.post(SEARCH, json=examples["document"]).json()["hits"]
        assert client.post(SEARCH, json=examples["vector"]).status_code == 409


# Fuzzing --------------------------------------------------------------------------------------------------------------

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ROUTES = [
    ("/collections/{collection}/search", "POST"),
    ("/collections/{collection}/documents", "POST"),
    (DOCUMENT, "GET"),
    (DOCUMENT, "PUT"),
    (DOCUMENT, "DELETE"),
    ("/collections/{collection}", "GET"),
    ("/collections/{collection}/shadow", "GET"),
    ("/ready", "GET"),
    ("/v1/embeddings", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/v1/vector_stores/{collection}/search", "POST"),
]


# Lines that are nearly documents; what schemathesis makes up for a string never is.
LINES = st.lists(
    st.one_of(
        st.text(max_size=10),
        st.fixed_dictionaries(
            {},
            optional={"id": st.text(max_size=4), "text": st.text(max_size=9), "version": st.integers(), "meta": JSON},
        ).map(json.dumps),
    ),
    max_size=5,
).map("\n".join)


@schemathesis.serializer("application/x-ndjson")
def _ndjson(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(("path", "method"), ROUTES, ids=lambda part: part.rpartition("/")[2])
def test_whatever_is_sent_the_answer_is_as_described_and_a_refusal_writes_nothing(
    served: World, path: str, method: str
) -> None:
    app, ours = create_app(served.project, is_open=True), {"host": urlsplit(HERE).netloc}
    operation = schemathesis.openapi.from_asgi("/openapi.json", app, headers=ours)[path][method]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode])

    @settings(
        max_examples=2 * EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, lines=LINES, known=st.sampled_from([True, True, True, False]))
    def check(case: Any, lines: str, known: bool) -> None:
        if case.media_type == "application/x-ndjson" and known:
            case.body = lines
        if known and "collection" in (case.path_parameters or {}):
            case.path_parameters["collection"] = "docs"
        if (case.query or {}).get("wait") == "active":
            case.query["timeout_s"] = 0.01  # nobody works here
        before = served.state()
        answer = case.call(base_url=HERE)
        case.validate_response(answer, checks=CHECKS)
        stored_all_the_same = answer.status_code == 409 and "They are stored" in answer.text
        if answer.status_code >= 400 and not stored_all_the_same:
            assert served.state() == before

    check()
