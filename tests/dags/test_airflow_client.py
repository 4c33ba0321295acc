"""The client of Airflow's REST API waits for a server that is away or fails, and for no longer than it was told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from places import loopback
from revector.errors import ConfigError, RevectorError
from revector.local import airflow_client
from revector.local.airflow_client import AirflowClient


@pytest.fixture
def airflow() -> Iterator[tuple[str, list[int]]]:
    """The address of a server, and the statuses that it answers with, one after the other; then 201."""
    script: list[int] = []

    def post(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        body = b'{"access_token": "t"}'
        handler.send_response(script.pop(0) if script else 201)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with loopback(post) as address:
        yield address, script


Question = tuple[str, list[tuple[str, bool]], list[tuple[str, object]]]


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> Iterator[Question]:
    """A server with a question: its address, what its task is and whether it is answered at each look, the answers."""
    monkeypatch.setattr(airflow_client, "SETTLE_S", 0.0)
    monkeypatch.setattr(airflow_client, "POLL_S", 0.0)
    script: list[tuple[str, bool]] = []
    answers: list[tuple[str, object]] = []
    now = ("", False)

    def respond(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        nonlocal now
        said: dict[str, object] = {"access_token": "t"}
        if handler.command == "GET":
            now = script.pop(0)
            said = {"task_instance": {"state": now[0]}, "response_received": now[1]}
        elif handler.command == "PATCH":
            answers.append((now[0], json.loads(body)))
        written = json.dumps(said).encode()
        handler.send_response(201 if handler.command == "POST" else 200)
        handler.send_header("Content-Length", str(len(written)))
        handler.end_headers()
        handler.wfile.write(written)

    with loopback(respond) as address:
        yield address, script, answers


def test_a_server_whose_very_first_answer_is_5xx_is_asked_again(airflow: tuple[str, list[int]]) -> None:
    url, script = airflow
    script += [503, 500]
    with AirflowClient(url, "user", "secret") as client:
        assert client.login() == "t"
    assert script == []


def test_a_refusal_is_not_repeated(airflow: tuple[str, list[int]]) -> None:
    url, script = airflow
    script += [401, 503]
    with AirflowClient(url, "user", "wrong") as client, pytest.raises(ConfigError, match="did not let user user in"):
        client.login()
    assert script == [503]


def test_a_program_answers_when_the_task_waits_and_again_if_airflow_asks_again(question: Question) -> None:
    url, script, answers = question
    script += [("running", False), ("awaiting_input", False), ("queued", True)]
    script += [
        ("up_for_retry", True),
        ("running", False),
        ("awaiting_input", False),
        ("running", True),
        ("success", True),
    ]
    with AirflowClient(url, "user", "secret") as client:
        client.answer("dag", "run", "window", "Roll back", reason="odd answers")
    said = {"chosen_options": ["Roll back"], "params_input": {"reason": "odd answers"}}
    assert answers == [("awaiting_input", said), ("awaiting_input", said)]
    assert script == []


@pytest.mark.parametrize("seen", [("failed", False), ("queued", True)])
def test_a_question_that_is_over_or_answered_by_another_gets_no_answer(
    question: Question, seen: tuple[str, bool]
) -> None:
    url, script, answers = question
    script += [seen]
    with (
        AirflowClient(url, "user", "secret") as client,
        pytest.raises(RevectorError, match=f"is {seen[0]} and .* not given"),
    ):
        client.answer("dag", "run", "window", "Roll back")
    assert answers == []


def test_a_task_that_does_not_end_in_time_is_named(question: Question) -> None:
    url, script, answers = question
    script += [("queued", False)]
    with AirflowClient(url, "user", "secret") as client, pytest.raises(RevectorError, match=r"window of run .* queued"):
        client.answer("dag", "run", "window", "Roll back", timeout_s=0.0)
    assert answers == []
