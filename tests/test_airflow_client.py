"""The client of Airflow's REST API waits for a server that is away or fails, and for no longer than it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from revector.errors import ConfigError
from revector.local.airflow_client import AirflowClient


@pytest.fixture
def airflow() -> Iterator[tuple[str, list[int]]]:
    """The address of a server, and the statuses that it answers with, one after the other; then 201."""
    script: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status = script.pop(0) if script else 201
            body = b'{"access_token": "t"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", script
    server.shutdown()
    thread.join()
    server.server_close()


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
