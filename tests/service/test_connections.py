"""Connections that wait for ever are closed: headers that do not end, answers that nobody reads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn

from revector.service import connections
from services import until

LARGE_BYTES = 64 << 20
"""More than the buffers of a loopback connection hold."""


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer ``/large`` with more than a client that does not read can be sent, and anything else with a word."""
    body = b"x" * LARGE_BYTES if scope["path"] == "/large" else b"here"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def listening() -> Iterator[int]:
    """uvicorn with our protocol on a port of the loopback."""
    config = uvicorn.Config(answer, port=0, http=connections.TimedProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            until(lambda: server.started, 30)
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that nobody waits for the test."""
    monkeypatch.setattr(connections, "LOOK_S", 0.2)


def closed(connection: socket.socket) -> bool:
    """Whether the server ended the connection, having read what it sent meanwhile."""
    connection.settimeout(20.0)
    with suppress(ConnectionError):
        while connection.recv(1 << 20):
            pass
    return True


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_whose_headers_do_not_end_is_closed(begun: bytes) -> None:
    with listening() as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(begun)
        assert closed(connection)


def test_a_client_that_does_not_read_its_answer_is_disconnected_and_the_answer_let_go() -> None:
    with listening() as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        reset = threading.Event()

        def gone() -> bool:
            try:
                connection.send(b" ")
            except ConnectionError:
                reset.set()
            return reset.is_set()

        until(gone, 30)
