"""The client of Airflow's REST API waits for a server that is away or fails, and for no longer than it was told."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from places import loopback
from revector.errors import ConfigError
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
