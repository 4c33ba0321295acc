"""Owns an embedding server that fails on demand: ``/v1/embeddings`` on loopback, for our tests and for yours.

with FakeServer() as server:
    server.script += [status(429, retry_after="2"), reset()]
    …  # the first request is answered 429, the second is cut, all others are answered well
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np

from revector.encoders.hashing import HashingEncoder
from revector.interfaces import Vectors, whole_texts
from revector.spec import ModelSpec

Reply = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one request instead of answering it well."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    edit: Callable[[Reply], Reply] = lambda reply: reply
    """Changes the JSON of the answer."""
    deed: str = ""
    """``reset``: the connection is reset. ``stall``: nothing is answered. ``drip``: a byte at a time is. ``cut``: half
    of the body is."""


def status(code: int, message: str = "so ordered", *, retry_after: str | None = None, **headers: str) -> Fault:
    """Answer with an HTTP error in OpenAI's form; ``headers`` with ``_`` for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if retry_after is not None:
        named["retry-after"] = retry_after
    return Fault(code, named, lambda _: {"error": {"message": message, "type": "error", "code": None}})


def error_code(code: int, name: str) -> Fault:
    """Answer with an HTTP error that carries one of OpenAI's error codes, such as ``insufficient_quota``."""
    return Fault(code, {}, lambda _: {"error": {"message": name, "type": name, "code": name}})


def reset() -> Fault:
    """Reset the connection."""
    return Fault(deed="reset")


def stall() -> Fault:
    """Answer nothing until the server closes."""
    return Fault(deed="stall")


def drip() -> Fault:
    """Answer a byte every 20 ms: no read ever times out."""
    return Fault(deed="drip")


def cut() -> Fault:
    """Send half of the body, then close."""
    return Fault(deed="cut")


def short() -> Fault:
    """Leave the last vector out."""
    return Fault(edit=lambda reply: reply | {"data": reply["data"][:-1]})


def reordered() -> Fault:
    """Send the vectors last to first, each with its right index."""
    return Fault(edit=lambda reply: reply | {"data": reply["data"][::-1]})


def twice() -> Fault:
    """Send every vector under the index 0."""
    return Fault(edit=lambda reply: reply | {"data": [one | {"index": 0} for one in reply["data"]]})


def values(change: Callable[[list[float]], list[Any]]) -> Fault:
    """Send the first vector changed; it must have been asked for as floats."""

    def edit(reply: Reply) -> Reply:
        first, *others = reply["data"]
        return reply | {"data": [first | {"embedding": change(first["embedding"])}, *others]}

    return Fault(edit=edit)


def wider() -> Fault:
    """Send every vector with one number too many."""

    def edit(reply: Reply) -> Reply:
        return reply | {"data": [one | {"embedding": [*one["embedding"], 1.0]} for one in reply["data"]]}

    return Fault(edit=edit)


class FakeServer:
    """Serves vectors by ``embed``, or by hashed words in ``dim`` dimensions, and does to requests as ``script`` says.

    ``script`` takes one entry per request, None answers well; when it is empty, all are. A batch with a text that
    ``poison`` holds is answered ``poison_status``. ``requests`` keeps the JSON of all requests, ``keys`` what they
    were authorised with; with ``key``, any other is answered 401. Without ``base64`` that format is answered 400. The
    port is the system's choice: see ``base_url``.
    """

    path = "/v1/embeddings"

    def __init__(
        self,
        embed: Callable[[Sequence[str]], Vectors] | None = None,
        *,
        dim: int = 64,
        key: str | None = None,
        base64: bool = True,
        poison: Sequence[str] = (),
        poison_status: int = 400,
    ) -> None:
        hashing = HashingEncoder(ModelSpec("hashing", dim=dim))
        self.embed = embed or (lambda texts: hashing.encode("document", whole_texts(texts)))
        self.key, self.base64 = key, base64
        self.poison, self.poison_status = set(poison), poison_status
        self.script: deque[Fault | None] = deque()
        self.requests: list[Reply] = []
        self.keys: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:<port>/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        """All texts that were ever sent, in order."""
        return [text for request in self.requests for text in request["input"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault_of(self, request: Reply) -> Fault:
        """Return what to do to ``request``."""
        if request["encoding_format"] == "base64" and not self.base64:
            return status(400, "encoding_format base64 is not supported")
        with self.lock:
            scripted = self.script.popleft() if self.script else None
        if scripted is not None:
            return scripted
        poisoned = self.poison & set(request["input"])
        return status(self.poison_status, f"cannot embed {min(poisoned)!r}") if poisoned else Fault()

    def answer(self, request: Reply) -> Reply:
        """Return the JSON that answers ``request`` well."""
        vectors = self.embed(request["input"])[:, : request.get("dimensions")]
        rows: list[Any] = vectors.tolist()
        if request["encoding_format"] == "base64":
            rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in np.ascontiguousarray(vectors)]
        tokens = sum(len(text.split()) for text in request["input"])
        return {
            "object": "list",
            "model": request["model"],
            "data": [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, and the second would wait 40 ms for the first's ACK

    def do_POST(self) -> None:
        request: Reply = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        with self.fake.lock:
            self.fake.requests.append(request)
            self.fake.keys.append(key)
        if self.fake.key not in (None, key):
            fault = status(401, f"Incorrect API key provided: {key}")
        elif self.path != self.fake.path:
            fault = status(404, f"there is no {self.path}")
        else:
            fault = self.fake.fault_of(request)
        self._do(fault, request)

    def _do(self, fault: Fault, request: Reply) -> None:
        if fault.deed == "stall":
            self.fake.closing.wait()
            self.close_connection = True
        elif fault.deed == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            reply = fault.edit(self.fake.answer(request) if fault.status == 200 else {})
            self._send(fault, json.dumps(reply).encode())

    def _send(self, fault: Fault, body: bytes) -> None:
        self.send_response(fault.status)
        for name, value in {"content-type": "application/json", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if fault.deed == "drip":
            for n in range(len(body)):
                if self.fake.closing.wait(0.02):
                    return
                self.wfile.write(body[n : n + 1])
                self.wfile.flush()
            return
        self.close_connection = fault.deed == "cut"
        self.wfile.write(body[: len(body) // 2] if fault.deed == "cut" else body)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away, or we reset it

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""
