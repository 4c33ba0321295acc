"""The HTTP service over a real project and database: documents, search, readiness, access, and never a 500."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revector.config import Project, load_project
from revector.errors import ConfigError
from revector.indexing.encoding import Encoders
from revector.service import create_app, run
from revector.service.state import Service
from revector.settings import Settings
from services import DOCUMENT, HERE, JSON_TYPE, SEARCH, UPLOAD, refused, serve, until, working
from worlds import World


@pytest.fixture
def client(served: World) -> Iterator[TestClient]:
    with serve(served.project) as client:
        yield client


# Documents and search -------------------------------------------------------------------------------------------------


def test_a_written_document_is_read_back_searched_and_deleted(served: World) -> None:
    with working(served), serve(served.project) as client:
        path = "/collections/docs/documents/" + quote("a/b c%ü.txt")
        written = client.put(path, params={"wait": "active"}, json={"text": "quince medlar", "meta": {"n": -1}})
        assert written.status_code == 200
        receipt = {"id": "a/b c%ü.txt", "version": 0, "changed": True, "deleted": False, "older": None}
        assert written.json() | {"version": 0} == receipt
        assert client.get(path).json() == {
            "id": "a/b c%ü.txt",
            "version": written.json()["version"],
            "text": "quince medlar",
            "meta": {"n": -1},
            "external_version": None,
            "image": None,
            "refused": None,
        }
        answer = client.post(SEARCH, json={"query": "quince medlar", "k": 3}).json()
        active = served.generation()
        assert answer["hits"][0]["id"] == "a/b c%ü.txt"
        assert len(answer["hits"]) == 3
        assert (answer["generation"], answer["revision"]) == (active.gen, "a100")
        assert answer["encoder_fp"] == active.encoder_fp
        assert client.delete(path, params={"wait": "active"}).json()["changed"]
        assert refused(client.get(path), 404, "NotFound")
        found = client.post(SEARCH, json={"query": "quince medlar"}).json()["hits"]
        assert "a/b c%ü.txt" not in [hit["id"] for hit in found]


def test_a_filter_and_grouping_reach_the_searcher(client: TestClient) -> None:
    where = {"n": {"gte": 10, "lt": 13}}
    hits = client.post(SEARCH, json={"query": "apple7", "where": where, "by": "chunk"}).json()["hits"]
    assert sorted(hit["id"] for hit in hits) == ["d00010", "d00011", "d00012"]


def test_an_older_write_and_an_unchanged_one_change_nothing(client: TestClient) -> None:
    first = client.put(DOCUMENT, json={"text": "new", "version": 5}).json()
    older = {"version": 4, "stored": 5, "differs": True}
    late = client.put(DOCUMENT, json={"text": "old", "version": 4}).json()
    assert late == first | {"changed": False, "older": older}
    assert client.put(DOCUMENT, json={"text": "new", "version": 5}).json() == first | {"changed": False}
    gone = client.delete(DOCUMENT, params={"version": 4}).json()
    assert gone == {"id": "d00007", "version": None, "changed": False, "deleted": False, "older": older}
    assert client.get(DOCUMENT).json()["text"] == "new"
    assert client.delete("/collections/docs/documents/nobody").json()["changed"] is False


def test_waiting_without_a_worker_answers_409_and_keeps_the_write_also_when_repeated(client: TestClient) -> None:
    for _ in range(2):
        answer = client.put(DOCUMENT, params={"wait": "active", "timeout_s": 0.1}, json={"text": "waiting"})
        assert "They are stored" in refused(answer, 409, "NotCaughtUp")
        assert answer.json()["retryable"]
    assert client.get(DOCUMENT).json()["text"] == "waiting"


def test_answers_come_from_the_generation_that_is_live(served: World) -> None:
    with serve(served.project) as client:
        assert client.post(SEARCH, json={"query": "apple3"}).json()["revision"] == "a100"
        served.upgrade("b200")
        answer = client.post(SEARCH, json={"query": "apple3"}).json()
        assert (answer["revision"], answer["hits"][0]["id"]) == ("b200", "d00003")
        assert client.get("/collections/docs").json()["slots"]["active"]["revision"] == "b200"


# Refusals -------------------------------------------------------------------------------------------------------------


def test_an_unknown_collection_is_404_and_names_those_that_exist(client: TestClient) -> None:
    for answer in (
        client.get("/collections/nope"),
        client.put("/collections/nope/documents/x", json={"text": "x"}),
        client.post("/collections/nope/search", json={"query": "x"}),
        client.delete("/collections/a%00b/documents/x"),
    ):
        assert "docs" in refused(answer, 404, "NotFound")


def test_unknown_routes_and_methods_are_problems_too(client: TestClient) -> None:
    refused(client.get("/nothing"), 404, "NotFound")
    answer = client.post(DOCUMENT)
    refused(answer, 405, "MethodNotAllowed")
    assert answer.headers["allow"]


def test_a_collection_that_serves_nothing_answers_409_and_holds_nobody_up(world: World) -> None:
    with serve(world.project) as client:
        assert client.get("/ready").status_code == 200
        assert "revector upgrade" in refused(client.post(SEARCH, json={"query": "x"}), 409, "StateError")


def test_ids_that_cannot_be_are_refused_by_every_method(client: TestClient) -> None:
    for doc_id in ("a%00b", "%07", "x" * 513, "%20x", ""):
        path = f"/collections/docs/documents/{doc_id}"
        for answer in (client.get(path), client.put(path, json={"text": "x"}), client.delete(path)):
            refused(answer, 422, "DocumentError")


BAD_DOCUMENTS: list[Any] = [
    {"text": ""},
    {"text": "  \n"},
    {"text": None},
    {"text": "x", "meta": {"a": "\0"}},
    {"text": "x", "meta": [1]},
    {"text": "x", "version": -1},
    {"text": "x", "version": 2**63},
    {"text": "x", "surprise": 1},
    {},
    [],
    "x",
]


def test_documents_that_cannot_be_stored_are_422_and_change_nothing(client: TestClient) -> None:
    before = client.get(DOCUMENT).json()
    for body in BAD_DOCUMENTS:
        assert client.put(DOCUMENT, json=body).status_code == 422, body
    assert client.get(DOCUMENT).json() == before


BAD_JSON = [
    '{"text": "x", "meta": {"a": NaN}}',
    '{"text": "x", "meta": {"a": "\\ud800"}}',
    '{"text": "x", "meta": {"\\ud800": 1}}',
    '{"text": "\\ud800"}',
    '{"text": "x", "meta": {"a": ' + "[" * 900 + "]" * 900 + "}}",
    '{"text": "x", "meta": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}",
    '{"text": "x", "meta": {"a": ' + "9" * 5_000 + "}}",
    '{"text": ',
    "\udcff",
    "",
]


def test_json_beyond_the_rules_never_ends_in_500(client: TestClient) -> None:
    for raw in BAD_JSON:
        sent = raw.encode("utf-8", "surrogateescape")
        answer = client.put(DOCUMENT, content=sent, headers=JSON_TYPE)
        assert answer.status_code in (200, 400, 422), raw[:60] + answer.text
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"


BAD_SEARCHES: list[str] = [
    '{"query": ""}',
    '{"query": "x", "k": -1}',
    '{"query": "x", "k": 0}',
    '{"query": "x", "k": 1001}',
    '{"query": "x", "k": "many"}',
    '{"query": "x", "by": "page"}',
    '{"query": "x", "where": {"": 1}}',
    '{"query": "x", "where": {"a": []}}',
    '{"query": "x", "where": {"a": {"like": "x"}}}',
    '{"query": "x", "where": {"a": {"gte": NaN}}}',
    '{"query": "x", "where": {"a": "\\u0000"}}',
    '{"query": "x", "where": {"a\\u0000": {"gte": 1}}}',
    '{"query": "x", "where": {"a": "\\ud800"}}',
    '{"query": "\\ud800"}',
    '{"query": 7}',
]


def test_searches_that_make_no_sense_are_422(client: TestClient) -> None:
    for raw in BAD_SEARCHES:
        answer = client.post(SEARCH, content=raw, headers=JSON_TYPE)
        assert answer.status_code == 422, raw + answer.text
        assert answer.headers["content-type"] == "application/problem+json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=JSON, meta=JSON, text=st.text(max_size=20), k=st.integers(), doc_id=st.text(max_size=10))
def test_no_input_ends_in_500(client: TestClient, where: Any, meta: Any, text: str, k: int, doc_id: str) -> None:
    path = "/collections/docs/documents/" + quote(doc_id, safe="")
    bodies = [
        ("PUT", path, {"text": text, "meta": meta}),
        ("POST", SEARCH, {"query": text or "x", "where": where, "k": k}),
        ("POST", SEARCH, {"query": "x", "where": {"n": where}}),
    ]
    # Our own JSON: the client's would refuse NaN and the like.
    calls = [client.request(method, url, content=json.dumps(body), headers=JSON_TYPE) for method, url, body in bodies]
    calls += [client.get(path), client.delete(path)]
    assert [answer.text for answer in calls if answer.status_code >= 500] == []


def test_an_error_that_nobody_foresaw_is_a_problem_without_its_traceback(served: World) -> None:
    def load(model: Any) -> Any:
        return 1 / 0

    served.project.__dict__["encoders"] = Encoders(load)
    client = TestClient(
        create_app(served.project, is_open=True), base_url=HERE, raise_server_exceptions=False
    )  # without its thread
    assert "division" not in refused(client.post(SEARCH, json={"query": "x"}), 500, "Internal")


def test_a_body_above_the_limit_is_413_whether_its_length_is_declared_or_not(client: TestClient) -> None:
    size = 3 * (4 << 20) + (1 << 20) + 1
    assert "13,631,488" in refused(client.put(DOCUMENT, content=b" " * size, headers=JSON_TYPE), 413, "TooLarge")
    parts = (b" " * (1 << 20) for _ in range(14))
    refused(client.put(DOCUMENT, content=parts, headers=JSON_TYPE), 413, "TooLarge")


def test_a_text_above_its_own_limit_fits_the_body_limit_and_is_refused_as_a_document(client: TestClient) -> None:
    refused(client.put(DOCUMENT, json={"text": "é" * (2 << 20) + "x"}), 422, "DocumentError")


# Readiness ------------------------------------------------------------------------------------------------------------


def test_ready_waits_for_the_encoder_of_what_is_served(served: World) -> None:
    free = threading.Event()

    def load(model: Any) -> Any:
        assert free.wait(20)
        return served.loader(model)

    served.project.__dict__["encoders"] = Encoders(load)
    with serve(served.project) as client:
        assert client.get("/health").json() == {"status": "alive"}
        answer = client.get("/ready")
        assert "still being loaded" in refused(answer, 503, "NotReady")
        assert len(answer.json()["reasons"]) == 1
        free.set()
        until(lambda: client.get("/ready").status_code == 200)


def test_ready_says_what_is_wrong_with_an_encoder(served: World) -> None:
    def load(model: Any) -> Any:
        raise ConfigError("the model's folder is gone. Bring it back.")

    served.project.__dict__["encoders"] = Encoders(load)
    with serve(served.project) as client:
        until(lambda: "folder is gone" in client.get("/ready").text)
        assert client.get("/ready").status_code == 503


def test_a_new_generation_is_warm_before_it_is_swapped_in(served: World) -> None:
    with serve(served.project) as client:
        until(lambda: client.get("/ready").status_code == 200)
        served.upgrade("b200", to="gate")
        building = served.collection.building_gen
        warm: dict[int, Any] = client.app.state.service._warm
        until(lambda: warm.get(building, "") is None)
        served.upgrade("b200")
        assert client.get("/ready").status_code == 200


def test_a_service_that_has_ended_asks_the_database_nothing_more(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, close, looking, closing = Service._collections, Service.close, threading.Event(), threading.Event()

    def slowly(service: Service, engine: Any) -> Any:
        looking.set()
        assert closing.wait(20)
        time.sleep(0.1)
        return look(service, engine)

    def end(service: Service) -> None:
        closing.set()
        close(service)

    monkeypatch.setattr(Service, "_collections", slowly)
    monkeypatch.setattr(Service, "close", end)
    with serve(served.project):
        assert looking.wait(20)
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"warm_until", "beat_until"})


def test_not_ready_before_the_tables_are_made_and_ready_after(tmp_path: Path, empty_database_url: str) -> None:
    (tmp_path / "revector.toml").write_text(f'database_url = "{empty_database_url}"\n[collections.docs]\n')
    project = load_project(tmp_path)
    with serve(project) as client:
        assert "revector init" in refused(client.get("/ready"), 503, "NotReady")
        refused(client.get(DOCUMENT), 503, "SchemaMismatch")
        project.init()
        assert client.get("/ready").status_code == 200
        assert client.put(DOCUMENT, json={"text": "now"}).status_code == 200
    project.raw_engine.dispose()


def test_a_database_that_is_down_is_503_and_its_password_is_told_to_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "revector.toml").write_text(
        'database_url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none"\n[collections.docs]\n'
    )
    with serve(load_project(tmp_path)) as client:
        assert client.get("/health").status_code == 200
        answers = [client.get("/ready"), client.get(DOCUMENT), client.post(SEARCH, json={"query": "x"})]
        for answer, kind in zip(answers, ("NotReady", "DatabaseUnavailable", "DatabaseUnavailable"), strict=True):
            refused(answer, 503, kind)
            assert answer.json()["retryable"]
        until(lambda: "cannot be reached" in caplog.text)
    assert "hunter2" not in caplog.text + "".join(answer.text for answer in answers)


def test_an_address_that_cannot_be_had_is_a_config_error(tmp_path: Path) -> None:
    project = Project(tmp_path, Settings(toml_file=tmp_path / "none"))  # type: ignore[call-arg]
    for port in (70_000, -1):
        with pytest.raises(ConfigError, match="Nothing was started"):
            run(project, port=port)


def test_writers_that_wait_hold_no_search_up(served: World) -> None:
    with serve(served.project) as client, ThreadPoolExecutor(50) as pool:
        waiting = [
            pool.submit(
                client.put, f"{UPLOAD}/w{n}", params={"wait": "active", "timeout_s": 60}, json={"text": "waits"}
            )
            for n in range(50)  # more than the threads that searches have
        ]
        until(lambda: served.value("SELECT count(*) FROM document WHERE doc_id LIKE 'w%'") == 50)
        assert client.post(SEARCH, json={"query": "apple3 pear3"}).json()["hits"][0]["id"] == "d00003"
        assert not any(one.done() for one in waiting)
        served.settle()
        assert {one.result().status_code for one in waiting} == {200}
