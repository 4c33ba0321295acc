"""The HTTP service in a test: a client over a project, and what answers must look like."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import uvicorn
from fastapi.testclient import TestClient

from revector.config import Project
from revector.service import create_app
from revector.serving import keys
from worlds import World

HERE = "http://localhost"
"""The name under which a service without keys answers."""

DOCUMENT = "/collections/docs/documents/d00007"
UPLOAD = "/collections/docs/documents"
SEARCH = "/collections/docs/search"
JSON_TYPE = {"content-type": "application/json"}


@contextmanager
def serve(project: Project, *, is_open: bool = True) -> Iterator[TestClient]:
    """A client of the service, which asks for no key unless ``is_open`` is false."""
    app = create_app(project, is_open=is_open)
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def listening(project: Project, *, is_open: bool = True) -> Iterator[str]:
    """The address of the service on a port of this machine, for clients that bring their own HTTP."""
    config = uvicorn.Config(create_app(project, is_open=is_open), log_level="warning")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started, 60)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def key_for(world: World, *scopes: str, collections: Sequence[str] | None = None) -> tuple[str, dict[str, str]]:
    """A new key: its id, and the header that it makes."""
    with world.engine.begin() as connection:
        secret, key = keys.create(connection, "a test", scopes, collections, actor="tester")
    return key.key_id, {"Authorization": f"Bearer {secret}"}


@contextmanager
def working(world: World) -> Iterator[None]:
    """A worker beside the service, as in production."""
    stop = threading.Event()
    thread = threading.Thread(target=world.project.worker().run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def until(condition: Callable[[], Any], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The detail of a refusal, after a look at its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, f"urn:revector:error:{kind}")
    assert body["title"]
    assert "Traceback" not in body["detail"]
    return body["detail"]


@contextmanager
def revector_serve(world: World) -> Iterator[tuple[httpx.Client, int]]:
    """A process of `revector serve`, as it is started by people: a client, and its number."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "revector", "serve", "--port", str(port)]
    log = world.root / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=world.root, stdout=file, stderr=file)

    def listening() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        until(listening, 60)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, process.pid
    finally:
        process.terminate()
        ended = process.wait(timeout=30)
    assert ended in (0, -signal.SIGTERM), log.read_text()  # uvicorn ends by the signal, once all is answered
    assert "Traceback" not in log.read_text()
