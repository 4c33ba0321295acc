"""Uploads of many documents over HTTP: every line accounted for, memory flat, and nothing lost by an error."""

from __future__ import annotations

import asyncio
import codecs
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from revector.documents.documents import Documents
from revector.errors import DatabaseUnavailable
from revector.service import create_app, uploads
from revector.serving import keys
from services import JSON_TYPE, SEARCH, UPLOAD, key_for, refused, serve, until, working
from worlds import World

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def client(served: World) -> Iterator[TestClient]:
    with serve(served.project) as client:
        yield client


def lines(*documents: Any) -> bytes:
    """Lines as they are sent; what is bytes is a line already."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in documents)


def send(client: TestClient, body: Any) -> dict[str, Any]:
    answer = client.post(UPLOAD, content=body, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    kept = report["deleted"] + report["unchanged"] + report["older"]
    assert report["read"] == report["written"] + kept + len(report["rejected"])
    return report


def test_an_upload_is_stored_and_searched(served: World) -> None:
    with working(served), serve(served.project) as client:
        new = {"id": "new/1", "text": "quince medlar", "meta": {"n": -1}, "version": 3}
        assert send(client, lines(new, {"id": "new/2", "text": "sloe"})) == {
            "read": 2,
            "written": 2,
            "deleted": 0,
            "unchanged": 0,
            "older": 0,
            "rejected": [],
            "late": {},
        }
        assert send(client, lines(new, {"id": "new/2", "text": "sloe bullace"}))["unchanged"] == 1
        wait = client.put(f"{UPLOAD}/new/3", params={"wait": "active"}, json={"text": "damson"})
        assert wait.status_code == 200
        hits = client.post(SEARCH, json={"query": "quince medlar"}).json()["hits"]
        assert hits[0]["id"] == "new/1"
        stored = client.get(f"{UPLOAD}/new/1").json()
        assert (stored["text"], stored["meta"], stored["external_version"]) == ("quince medlar", {"n": -1}, 3)


def test_a_line_that_cannot_be_stored_costs_only_itself_and_is_named(client: TestClient) -> None:
    bad = [
        b'{"id": "a", "text": ',
        b"\xff\xfe",
        b"[]",
        {"text": "no id"},
        {"id": "b"},
        {"id": "c", "text": "x", "surprise": 1},
        {"id": "d", "text": "  "},
        {"id": "", "text": "x"},
        {"id": "e", "text": "x", "meta": {"a": "\0"}},
        b'{"id": "f", "text": "x", "meta": {"a": NaN}}',
        b'{"id": "g", "text": "\\ud800"}',
        {"id": "h", "text": "x", "version": 2**63},
        b'{"id": "j", "text": "x", "meta": {"lang": "de", "lang": "en"}}',
        b'{"id": "k", "text": "x", "text": "y"}',
        b'{"id": "i", "text": "x", "meta": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ]
    good = [{"id": f"good{n}", "text": f"good {n}"} for n in range(len(bad) + 1)]
    mixed = [one for pair in zip(good, bad, strict=False) for one in pair] + [b"  \r", good[-1]]
    report = send(client, lines(*mixed))
    assert (report["read"], report["written"]) == (len(good) + len(bad), len(good))
    assert sorted(one["line"] for one in report["rejected"]) == [2 * n for n in range(1, len(bad) + 1)]
    assert all(one["reason"] for one in report["rejected"])
    assert "'lang' stands twice" in next(one["reason"] for one in report["rejected"] if one["line"] == 26)
    assert {one["id"] for one in report["rejected"]} == {None, "", "d", "e", "f", "g"}
    assert all(client.get(f"{UPLOAD}/good{n}").status_code == 200 for n in range(len(good)))


def test_of_two_lines_with_one_id_the_later_wins_and_an_older_version_never(client: TestClient) -> None:
    report = send(client, lines({"id": "a", "text": "first"}, {"id": "b", "text": "x"}, {"id": "a", "text": "second"}))
    assert report["written"] == 3
    assert client.get(f"{UPLOAD}/a").json()["text"] == "second"
    versions = ({"id": "v", "text": "new", "version": 2}, {"id": "v", "text": "old", "version": 1})
    report = send(client, lines(*versions))
    assert (report["older"], report["late"]) == (1, {"v": {"version": 1, "stored": 2, "differs": True}})
    assert client.get(f"{UPLOAD}/v").json()["text"] == "new"


def test_lines_may_be_cut_anywhere_and_the_last_needs_no_end(client: TestClient) -> None:
    body = lines({"id": "é", "text": "naïve café"}, {"id": "b", "text": "zwei\nZeilen"}).rstrip(b"\n")
    report = send(client, (body[n : n + 1] for n in range(len(body))))
    assert (report["written"], report["rejected"]) == (2, [])
    assert client.get(f"{UPLOAD}/b").json()["text"] == "zwei\nZeilen"
    assert send(client, b"")["read"] == 0


def streamed(
    world: World,
    pieces: Iterator[bytes],
    method: str = "POST",
    path: str = UPLOAD,
    *,
    is_open: bool = True,
    **headers: str,
) -> dict[str, Any]:
    """Upload without a client that would collect the pieces first."""
    said: list[bytes] = []

    async def receive() -> dict[str, Any]:
        piece = await asyncio.to_thread(next, pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: Any) -> None:
        said.append(message.get("body", b""))

    media_type = "application/x-ndjson" if method == "POST" else "application/json"
    sent = {"host": "localhost", "content-type": media_type, **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""}
    asyncio.run(create_app(world.project, is_open=is_open)(scope, receive, send))
    return json.loads(b"".join(said))


def test_memory_is_flat_whatever_is_sent(served: World) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"id": "long", "text": "'
        for _ in range(160):
            yield b"x" * (1 << 18)
        yield b'"}\n'
        for n in range(200):
            yield lines({"id": f"m{n}", "text": "word " * 40_000})

    streamed(served, iter([lines({"id": "warm", "text": "up"})]))
    tracemalloc.start()
    try:
        report = streamed(served, body())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report["read"], report["written"]) == (201, 200)
    assert [(one["line"], one["id"]) for one in report["rejected"]] == [(1, None)]
    assert peak < 48 << 20, f"{peak:,} of 80 MiB that were sent; a line may take 13"


def test_an_upload_beyond_any_limit_of_a_body_is_held_a_batch_at_a_time(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    store = uploads._Upload.store
    monkeypatch.setattr(uploads._Upload, "store", lambda self, lines: (held.append(len(lines)), store(self, lines))[1])
    report = send(client, (lines({"id": f"m{n}", "text": f"word{n}"}) for n in range(1_400)))
    assert report["written"] == 1_400
    assert held == [500, 500, 400]
    held.clear()
    send(client, (lines({"id": f"m{n}", "text": "long " * (1 << 18)}) for n in range(12)))
    assert held == [4, 4, 4, 0]


def test_an_upload_of_another_format_ends_at_1000_rejections_and_says_how_far_it_came(client: TestClient) -> None:
    body = lines({"id": "good", "text": "good"}) + b"no json\n" * 1_500
    answer = client.post(UPLOAD, content=body, headers=NDJSON)
    assert "line 1002" in refused(answer, 422, "DocumentError").replace(",", "")
    report = answer.json()["report"]
    assert (report["read"], report["written"], len(report["rejected"])) == (1_001, 1, 1_000)


def test_an_error_under_way_is_told_with_what_was_stored_before(
    served: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_valid, calls = Documents.put_valid, []

    def failing(self: Documents, documents: Any, source: str) -> Any:
        calls.append(len(documents))
        if len(calls) == 2:
            raise DatabaseUnavailable("the database cannot be reached.")
        return put_valid(self, documents, source)

    monkeypatch.setattr(Documents, "put_valid", failing)
    body = lines(*({"id": f"e{n:04d}", "text": f"text {n}"} for n in range(1_200)))
    answer = client.post(UPLOAD, content=body, headers=NDJSON)
    assert "report" in refused(answer, 503, "DatabaseUnavailable")
    report = answer.json()["report"]
    assert (report["read"], report["written"], report["unchanged"], report["rejected"]) == (500, 500, 0, [])
    assert served.value("SELECT count(*) FROM document WHERE doc_id LIKE 'e%'") == 500
    again = send(client, body)
    assert (again["written"], again["unchanged"]) == (700, 500)


def test_uploads_of_another_media_type_or_to_no_collection_change_nothing(served: World, client: TestClient) -> None:
    before = served.state()
    body = lines({"id": "a", "text": "a"})
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json"}):
        refused(client.post(UPLOAD, content=body, headers=headers), 415, "InvalidRequest")
    refused(client.post("/collections/nope/documents", content=body, headers=NDJSON), 404, "NotFound")
    assert served.state() == before


# Encodings and ids ----------------------------------------------------------------------------------------------------

BODY = b'{"id": "a", "text": "first"}\n{"id": "b", "text": "second"}\n'
PACKED = {**NDJSON, "content-encoding": "gzip"}


def test_a_byte_order_mark_costs_no_line(client: TestClient) -> None:
    report = send(client, codecs.BOM_UTF8 + BODY)
    assert (report["written"], report["rejected"]) == (2, [])
    pieces = (bytes([byte]) for byte in codecs.BOM_UTF8 + b'{"id": "c", "text": "third"}')
    assert send(client, pieces)["written"] == 1
    answer = client.put(f"{UPLOAD}/d", content=codecs.BOM_UTF8 + b'{"text": "fourth"}', headers=JSON_TYPE)
    assert answer.status_code == 200


def test_gzip_is_undone_in_uploads_documents_and_searches(client: TestClient) -> None:
    members = gzip.compress(BODY[:40]) + gzip.compress(BODY[40:])  # as `cat` and bgzip make them
    for packed in (
        gzip.compress(BODY),
        members,
        members + b"\0" * 512,
        (members[n : n + 1] for n in range(len(members))),
    ):
        answer = client.post(UPLOAD, content=packed, headers=PACKED)
        assert (answer.status_code, answer.json()["read"], answer.json()["rejected"]) == (200, 2, [])
    packed_json = {**JSON_TYPE, "content-encoding": "gzip"}
    put = client.put(f"{UPLOAD}/c", content=gzip.compress(b'{"text": "third"}'), headers=packed_json)
    assert put.status_code == 200
    assert client.get(f"{UPLOAD}/c").json()["text"] == "third"
    found = client.post(SEARCH, content=gzip.compress(b'{"query": "apple7 pear7", "k": 1}'), headers=packed_json)
    assert found.json()["hits"][0]["id"] == "d00007"


def test_gzip_that_is_torn_or_none_ends_the_upload_and_says_how_far_it_came(client: TestClient) -> None:
    for body in (gzip.compress(BODY)[:-9], BODY, gzip.compress(BODY)[:-8] + b"\1" * 8):
        answer = client.post(UPLOAD, content=body, headers=PACKED)
        assert "gzip" in refused(answer, 400, "InvalidRequest")
        assert answer.json()["report"]["rejected"] == []


def test_a_gzip_that_stands_for_gigabytes_is_refused_and_memory_stays_flat(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    tracemalloc.start()
    try:
        answer = client.post(UPLOAD, content=bomb, headers=PACKED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "200 times" in refused(answer, 400, "InvalidRequest")
    assert peak < 20 << 20
    packed_json = {**JSON_TYPE, "content-encoding": "gzip"}
    refused(client.put(f"{UPLOAD}/c", content=bomb, headers=packed_json), 413, "TooLarge")
    refused(client.post(SEARCH, content=bomb, headers=packed_json), 413, "TooLarge")


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_any_other_encoding_is_415_and_names_the_one_that_is_taken(client: TestClient, encoding: str) -> None:
    answer = client.post(UPLOAD, content=BODY, headers={**NDJSON, "content-encoding": encoding})
    refused(answer, 415, "InvalidRequest")
    assert answer.headers["accept-encoding"] == "gzip"
    refused(
        client.put(f"{UPLOAD}/c", content=b"{}", headers={**JSON_TYPE, "content-encoding": encoding}),
        415,
        "InvalidRequest",
    )


def test_a_whole_number_is_an_id_as_in_files_and_nothing_else_is(served: World, client: TestClient) -> None:
    report = send(client, lines({"id": 17, "text": "quince medlar"}, {"id": 2**70, "text": "large"}))
    assert report["written"] == 2
    assert client.get(f"{UPLOAD}/17").json()["text"] == "quince medlar"
    wrong = [{"id": one, "text": "x"} for one in (True, 1.0, 1.5, None, ["a"], {"a": 1})]
    assert len(send(client, lines(*wrong))["rejected"]) == len(wrong)
    served.settle()
    assert client.post(SEARCH, json={"like": 17, "k": 1}).status_code == 200
    refused(client.post(SEARCH, json={"like": True}), 422, "InvalidRequest")


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_that_is_revoked_while_an_upload_is_open_writes_no_further_batch(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revector.service.access.FRESH_S", -1.0)
    key_id, header = key_for(served, "write")

    def body() -> Iterator[bytes]:
        yield lines(*({"id": f"r{n:04d}", "text": f"text {n}"} for n in range(500)))
        until(lambda: served.value("SELECT count(*) FROM document WHERE doc_id LIKE 'r%'") == 500)
        with served.engine.begin() as connection:
            keys.revoke(connection, key_id, actor="tester")
        yield lines(*({"id": f"r{n:04d}", "text": f"text {n}"} for n in range(500, 1_500)))

    report = streamed(served, body(), is_open=False, **header)
    assert (report["status"], report["type"]) == (401, "urn:revector:error:Unauthorized")
    assert (report["report"]["read"], report["report"]["written"], report["report"]["rejected"]) == (500, 500, [])
    assert served.value("SELECT count(*) FROM document WHERE doc_id LIKE 'r%'") == 500


def test_a_key_that_is_revoked_while_a_body_comes_in_writes_nothing(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revector.service.access.FRESH_S", -1.0)
    key_id, header = key_for(served, "write")

    def body() -> Iterator[bytes]:
        yield b'{"text": '
        with served.engine.begin() as connection:
            keys.revoke(connection, key_id, actor="tester")
        yield b'"written too late"}'

    before = served.state()
    said = streamed(served, body(), "PUT", f"{UPLOAD}/late", is_open=False, **header)
    assert said["status"] == 401
    assert served.state() == before
