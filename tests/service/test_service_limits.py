"""What one caller may take of the service: sizes, depths, times, places at once; and what others feel of a flood."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from evaluation.bench import flood
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from revector.cli import run
from revector.errors import ConfigError, SearchTooLong
from revector.service import bodies, create_app
from revector.service.lanes import Full, RequestLane, Room
from revector.serving.bounds import Stop, bounded
from services import DOCUMENT, JSON_TYPE, SEARCH, UPLOAD, key_for, refused, revector_serve, serve, until
from worlds import World

NDJSON = {"content-type": "application/x-ndjson"}
SLEEPS = ("(SELECT pg_sleep(60)) IS NOT NULL", dict[str, Any]())
"""A filter that takes the database a minute."""


@pytest.fixture
def client(served: World) -> Iterator[TestClient]:
    with serve(served.project) as client:
        yield client


@pytest.fixture
def slow_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search with a filter takes a minute, unless it is ended."""
    monkeypatch.setattr("revector.serving.searcher.compile_filter", lambda where: SLEEPS if where else ("", {}))


def sleeping(world: World) -> int:
    """How many searches the database is busy with."""
    return int(
        world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query "
            "LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        )
    )


# Filters --------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


TOO_MUCH: list[dict[str, Any]] = [
    {"n": list(range(1_001))},
    {"n": list(range(600)), "lang": [f"l{n}" for n in range(600)]},
    {"n": [[]] * 1_001},
    {"n": [[1] * 600, [1] * 600]},
    {"n": nested(40)},
    {f"f{n}": 1 for n in range(65)},
    {"n": ["x" * 200_000, "y" * 200_000]},
]


@pytest.mark.parametrize("where", TOO_MUCH, ids=lambda where: repr(where)[:20])
def test_a_filter_beyond_its_bounds_is_refused_over_http_in_python_and_on_the_command_line(
    served: World, client: TestClient, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any]
) -> None:
    searcher = served.project.searcher("docs")
    with pytest.raises(ConfigError, match=r"allowed are .* Nothing was searched"):
        searcher.search("apple7", where=where)
    with pytest.raises(ConfigError, match="Nothing was searched"):
        searcher.search_like("d00007", where=where)
    assert client.post(SEARCH, json={"query": "apple7", "where": where}).status_code in (413, 422)
    monkeypatch.chdir(served.root)
    if len(json.dumps(where)) < 100_000:  # of an argument
        assert run(["search", "apple7", "--where", json.dumps(where)]) == 2


def test_a_filter_within_its_bounds_is_searched(served: World, client: TestClient) -> None:
    where = {"n": list(range(1_000))}
    assert len(client.post(SEARCH, json={"query": "apple7", "k": 50, "where": where}).json()["hits"]) == 50
    assert len(served.search("apple7", 50, where=where)) == 50


def test_a_query_beyond_any_tokenizer_is_refused_in_python_too(served: World) -> None:
    with pytest.raises(ConfigError, match=r"100,000 characters"):
        served.search("x" * 100_001)


def test_a_filter_on_the_command_line_that_is_no_json_is_exit_2_however_deep(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.root)
    for where in ("[" * 50_000, '{"n": ' + "9" * 5_000 + "}", "{"):
        assert run(["search", "x", "--where", where]) == 2


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slow_filters")
def test_a_search_that_takes_too_long_is_cancelled_and_says_so(served: World, client: TestClient) -> None:
    served.project.settings.search.timeout_s = 0.2
    with pytest.raises(SearchTooLong, match=r"0.2 s .* search.timeout_s"):
        served.project.searcher("docs").search("apple7", where={"n": 1})
    answer = client.post(SEARCH, json={"query": "apple7", "where": {"n": 1}})
    assert "0.2 s" in refused(answer, 503, "SearchTooLong")
    assert sleeping(served) == 0
    assert client.post(SEARCH, json={"query": "apple7"}).status_code == 200  # its connection has no limit left over
    with served.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "0"


@pytest.mark.usefixtures("slow_filters")
def test_a_search_is_ended_from_another_thread_and_its_connection_goes_on_serving(served: World) -> None:
    stop, searcher = Stop(), served.project.searcher("docs")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(searcher.search, "apple7", where={"n": 1}, stop=stop)
        until(lambda: sleeping(served) == 1)
        stop.ask()
        with pytest.raises(SearchTooLong):
            running.result(timeout=30)
    assert sleeping(served) == 0
    with pytest.raises(SearchTooLong, match="not begun"):
        searcher.search("apple7", stop=stop)
    assert searcher.search("apple7 pear7", 1).hits[0].id == "d00007"


def asked(app: FastAPI, path: str, pieces: Callable[[], AsyncIterator[dict[str, Any]]], **headers: str) -> list[Any]:
    """Ask the application as a server does, message by message; what it sent."""
    said: list[Any] = []
    messages = pieces()

    async def receive() -> dict[str, Any]:
        return await anext(messages)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()],
    }
    asyncio.run(app(scope, receive, send))
    return said


@pytest.mark.usefixtures("slow_filters")
def test_a_search_whose_client_is_gone_is_cancelled_in_the_database(served: World) -> None:
    async def pieces() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b'{"query": "apple7", "where": {"n": 1}}', "more_body": False}
        await asyncio.to_thread(until, lambda: sleeping(served))
        yield {"type": "http.disconnect"}

    served.project.settings.search.timeout_s = 50
    began = time.monotonic()
    asked(create_app(served.project, is_open=True), SEARCH, pieces, **{"content-type": "application/json"})
    assert time.monotonic() - began < 40
    assert sleeping(served) == 0


@pytest.mark.parametrize("path", [SEARCH, UPLOAD])
def test_a_body_that_stops_coming_is_answered_408_and_forgotten(
    served: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(bodies, "GRACE_S", 0.1)
    monkeypatch.setattr(bodies, "IDLE_S", 0.1)

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b'{"id": "half", "text": "', "more_body": True}
        await asyncio.sleep(3_600)

    before = served.state()
    start, body = asked(
        create_app(served.project, is_open=True), path, pieces, **{"content-type": "application/x-ndjson"}
    )
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["retryable"]
    assert served.state() == before


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_a_body_that_could_never_fit_is_413_and_not_to_be_sent_again(served: World) -> None:
    async def pieces() -> AsyncIterator[dict[str, Any]]:
        raise AssertionError("it was read")
        yield {}

    app = create_app(served.project, is_open=True)
    length = str(app.state.service.room.most * 2)
    start, body = asked(app, SEARCH, pieces, **JSON_TYPE, **{"content-length": length})
    assert start["status"] == 413
    assert not json.loads(body["body"])["retryable"]


def test_a_search_above_256_kib_is_413_whether_its_length_is_declared_or_not(client: TestClient) -> None:
    large = json.dumps({"query": "x", "where": {"n": " " * (1 << 18)}}).encode()
    assert "262,144" in refused(client.post(SEARCH, content=large, headers=JSON_TYPE), 413, "TooLarge")
    parts = (large[first : first + 1_000] for first in range(0, len(large), 1_000))
    refused(client.post(SEARCH, content=parts, headers=JSON_TYPE), 413, "TooLarge")


def test_a_vector_of_any_width_that_is_stored_fits(served: World, client: TestClient) -> None:
    vector = [-0.123456789] * 16_000
    answer = client.post(SEARCH, json={"vector": vector, "encoder_fp": served.generation().encoder_fp})
    assert "64 finite numbers" in refused(answer, 422, "ConfigError")


SHAPES = [
    b'{"text": "x", "meta": {"a": [' + b"[]," * 200_000 + b"[]]}}",
    b'{"text": "x", "meta": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}",
    b'{"text": "x", "meta": {"a": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}}",
    b'{"text": "x", "meta": {' + b",".join(b'"k%d":1' % n for n in range(120_000)) + b"}}",
    b'{"text": "\\"", "meta": {"a": [' + b'"[",' * 120_000 + b"1]}}",
]


@pytest.mark.parametrize("raw", SHAPES, ids=range(len(SHAPES)))
def test_json_that_would_grow_in_memory_is_refused_before_it_is_parsed(client: TestClient, raw: bytes) -> None:
    assert "levels and" in refused(client.put(DOCUMENT, content=raw, headers=JSON_TYPE), 422, "InvalidRequest")
    line = raw.replace(b'{"text"', b'{"id": "x", "text"', 1)
    report = client.post(UPLOAD, content=line + b'\n{"id": "good", "text": "good"}', headers=NDJSON).json()
    assert (report["written"], [one["line"] for one in report["rejected"]]) == (1, [1])
    assert "levels and" in report["rejected"][0]["reason"]


def test_brackets_and_commas_of_a_text_are_no_values(client: TestClient) -> None:
    text = '[[{"' * 100_000 + "\\" + ",,,"
    assert client.put(DOCUMENT, json={"text": text}).status_code == 200
    assert client.get(DOCUMENT).json()["text"] == text


def test_json_in_another_encoding_hides_nothing_from_the_count() -> None:
    for raw in (
        '{"a": [[], []]}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        '{"a": 1}'.encode("utf-32"),
        b"\xff",
    ):
        with pytest.raises(HTTPException) as caught:
            bodies.check_shape(raw)
        assert caught.value.status_code == 400


# Places ---------------------------------------------------------------------------------------------------------------


def test_a_key_gets_its_places_and_no_more_and_leaves_the_others_theirs() -> None:
    async def scenario() -> None:
        lane = RequestLane("searches", 3, 2)
        async with lane.place("a"), lane.place("a"):
            with pytest.raises(Full) as caught:
                await lane.place("a").__aenter__()
            assert caught.value.status_code == 429
            assert caught.value.headers is not None
            assert caught.value.headers["Retry-After"] == "1"
            async with lane.place("b"):
                with pytest.raises(Full) as caught:
                    await lane.place("b").__aenter__()
                assert caught.value.status_code == 503
        async with lane.place("a"), lane.place("a"), lane.place("b"):
            pass
        assert lane._keys == {}

    asyncio.run(scenario())


def test_a_place_that_is_waited_for_comes_in_turn_or_is_given_up_in_time() -> None:
    async def scenario() -> None:
        lane, order = RequestLane("searches", 1, 1, wait_s=30), list[int]()

        async def one(number: int) -> None:
            async with lane.place(f"key {number}"):
                order.append(number)

        async with lane.place("first"):
            waiting = [asyncio.create_task(one(number)) for number in range(3)]
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2]
        lane = RequestLane("searches", 1, 1, wait_s=0.01)
        async with lane.place("first"):
            with pytest.raises(Full):
                await lane.place("second").__aenter__()
        async with lane.place("second"):
            pass

    asyncio.run(scenario())


def test_bodies_in_memory_are_counted_by_key_and_in_all() -> None:
    room = Room(100, 60)
    room.take("a", 60)
    for key_id, status in (("a", 429), ("b", 503)):
        with pytest.raises(Full) as caught:
            room.take(key_id, 50)
        assert caught.value.status_code == status
    room.take("b", 40)
    room.give("a", 60)
    room.give("b", 40)
    assert (room.held, room._of) == (0, {})


def test_a_body_that_will_not_fit_is_refused_before_a_byte_of_it_is_read(served: World) -> None:
    app = create_app(served.project, is_open=True)
    room = app.state.service.room
    room.take("anyone", room.most_per_key - 100)

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        raise AssertionError("it was read")
        yield {}

    start, body = asked(app, SEARCH, pieces, **JSON_TYPE, **{"content-length": "101"})
    assert start["status"] == 429
    assert "bytes of bodies under way" in json.loads(body["body"])["detail"]
    assert room.held == room.most_per_key - 100


@pytest.mark.usefixtures("slow_filters")
def test_costly_searches_of_one_key_are_429_beyond_its_places_and_others_are_answered(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, search = served.project.settings.serve, served.project.settings.search
    serving.searches_per_key, search.timeout_s = 2, 30
    monkeypatch.setattr("revector.service.state.SEARCH_WAIT_S", 0.1)
    greedy, normal = key_for(served, "read")[1], key_for(served, "read")[1]
    costly = {"query": "apple7", "where": {"n": 1}}
    with serve(served.project) as client, ThreadPoolExecutor(12) as pool:
        running = [pool.submit(client.post, SEARCH, json=costly, headers=greedy) for _ in range(12)]
        until(lambda: sleeping(served) == 2 and sum(one.done() for one in running) == 10)
        for one in running:
            if one.done():
                assert "searches under way" in refused(one.result(), 429, "TooManyRequests")
                assert one.result().json()["retryable"]
        assert client.post(SEARCH, json={"query": "apple7"}, headers=normal).status_code == 200
        served.sql(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = "
            "'active' AND pid <> pg_backend_pid()"
        )
        assert sum(one.result().status_code == 503 for one in running) == 2
        assert client.app.state.service.room.held == 0


def test_uploads_beyond_the_places_are_sent_away_at_once_and_a_place_is_free_again_afterwards(served: World) -> None:
    served.project.settings.serve.uploads_per_key = 1
    header = key_for(served, "write")[1] | NDJSON
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b'{"id": "slow", "text": "slow"}\n'
        begun.set()
        go_on.wait(60)

    with serve(served.project) as client, ThreadPoolExecutor(1) as pool:
        lane = client.app.state.service.lanes["uploads"]
        first = pool.submit(client.post, UPLOAD, content=slow(), headers=header)
        begun.wait(60)
        go_on.set()
        assert first.result().json()["written"] == 1
        assert lane._keys == {}

        async def taken() -> None:
            async with lane.place("a"):
                with pytest.raises(Full):
                    await lane.place("a").__aenter__()

        asyncio.run(taken())
        assert client.post(UPLOAD, content=b'{"id": "b", "text": "b"}', headers=header).status_code == 200


@pytest.mark.parametrize(("of_the_role", "kept"), [("0", "2500ms"), ("100ms", "100ms"), ("1min", "2500ms")])
def test_a_search_never_outlasts_a_shorter_time_out_of_its_role(served: World, of_the_role: str, kept: str) -> None:
    with served.engine.connect() as connection:
        connection.exec_driver_sql(f"SET statement_timeout = '{of_the_role}'")
        with bounded(connection, 2.5, None):
            assert connection.scalar(sa.text("SHOW statement_timeout")) == kept


# A flood --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_200_slow_and_40_costly_requests_of_one_caller_leave_others_their_answers_and_memory_small(
    served: World,
) -> None:
    served.put(2_000, start=1_000)  # not indexed: what a filter is compared with
    greedy, normal = (
        key_for(served, "read", "write")[1]["Authorization"].removeprefix("Bearer "),
        key_for(served, "read")[1],
    )
    with revector_serve(served) as (client, pid):
        client.headers.update(normal)
        until(lambda: client.get("/ready").status_code == 200, 120)
        secret = normal["Authorization"].removeprefix("Bearer ")
        felt = flood.flood(client.base_url.port or 0, pid, greedy, secret, for_s=8.0)
    assert set(felt.statuses) == {200}, felt
    assert felt.flood[429] > 0
    assert set(felt.flood) <= {200, 400, 408, 413, 429, 503}, felt
    assert felt.peak_mib < flood.MOST_MIB
