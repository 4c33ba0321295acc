"""The page on which people judge a batch of queries: its files, its data, and a door that only this machine opens.

Nothing here says which generation found a document: the batch does not hold it. What one judge said is shown to another
only where they settle what they differ in.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revector.errors import ConfigError
from revector.labels.batch import HIGHEST_SCORE, LONGEST_NAME, JudgedBatch, ScoreChange
from revector.labels.opinions import AGREED
from revector.service import connections
from revector.service.access import is_loopback
from revector.service.problems import HANDLERS, problem

STATIC = Path(__file__).parent / "static"
FILES = {"/": "judging.html"} | {f"/{name}": name for name in ("judging.js", "judging.css", "dom.js")}
MEANINGS = ("Not relevant", "Relevant", "Answers it in full")
"""Of the scores from 0 on."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA = "/data/"

Finish = Callable[[], Mapping[str, object]]
Judge = Annotated[str, Query(min_length=1, max_length=LONGEST_NAME)]

log = logging.getLogger("revector.service")


class Saving(BaseModel):
    """What a judge said of documents of one query: each with its new score and the one that was shown before."""

    judge: str = Field(min_length=1, max_length=LONGEST_NAME)
    query: str
    changes: list[ScoreChange] = Field(min_length=1, max_length=1_000)


def create_page(batch: JudgedBatch, *, key: str, notes: Sequence[str], finish: Finish) -> FastAPI:
    """Return the application. ``key`` opens the data; ``notes`` are shown before one begins.

    ``finish`` adds what stands to the labels and judges the gate; the page shows what it returns.
    """
    app = FastAPI(title="revector", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=HANDLERS)
    app.add_middleware(LocalDoor, key=key)
    for path, name in FILES.items():
        app.add_api_route(path, _sender(STATIC / name))
    app.include_router(_reading(batch, notes))

    @app.post(f"{DATA}judgements")
    def save(saving: Saving) -> dict[str, object]:
        batch.save(saving.judge, saving.query, saving.changes)
        return {"saved": len(saving.changes)}

    @app.post(f"{DATA}finish")
    def end() -> Mapping[str, object]:
        return finish()

    return app


def _sender(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path)


def _reading(batch: JudgedBatch, notes: Sequence[str]) -> APIRouter:
    reading = APIRouter(prefix=DATA.rstrip("/"))

    @reading.get("/batch")
    def read_batch(judge: Judge) -> dict[str, object]:
        rows = {query: batch.documents(query, judge) for query in batch.queries}
        return {
            "name": batch.path.name,
            "scores": MEANINGS[: HIGHEST_SCORE + 1],
            "agreed": AGREED,
            "notes": notes,
            "queries": [
                {
                    "id": query,
                    "documents": len(asked),
                    "judged": sum(batch.score(row, judge) is not None for row in asked),
                }
                for query, asked in rows.items()
                if asked
            ],
            "progress": asdict(batch.progress),
        }

    @reading.get("/query")
    def read_query(query: str, judge: Judge) -> dict[str, object]:
        rows = batch.documents(query, judge)
        settles = judge == AGREED
        return {
            "id": query,
            "text": batch.queries[query],
            "documents": [
                {"id": row.document, "text": row.content, "score": batch.score(row, judge)}
                | ({"others": batch.others(row)} if settles else {})
                for row in rows
            ],
        }

    return reading


class LocalDoor:
    """ASGI middleware: 403 under a foreign name or from another site's page, 401 for data without the key.

    A page of another site may send its visitors' browsers here, under a name that it makes mean this machine (DNS
    rebinding); it cannot ask by this machine's own names, and does not know the key.
    """

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app, self._key = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope["path"], Headers(scope=scope))
        await (refused or self._app)(scope, receive, guarded)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_loopback(host):
            said = "this page answers to localhost, 127.0.0.1 and [::1] only. Nothing was done; ask under one of these."
            return problem(403, "Forbidden", said)
        if origin is not None and origin != f"http://{host}":
            return problem(403, "Forbidden", "a page of another site asked. Nothing was done.")
        sent = headers.get("authorization", "").encode("latin-1")
        if path.startswith(DATA) and not secrets.compare_digest(sent, self._key):
            said = "the key is that of another run. Nothing was done; open the address of `revector labels judge`."
            return problem(401, "Unauthorized", said)
        return None


def run(batch: JudgedBatch, port: int, *, notes: Sequence[str], finish: Finish, tell: Callable[[str], Any]) -> None:
    """Serve the page on this machine's own address until Ctrl-C; ``tell`` is given the address.

    Raises ``ConfigError`` if the port cannot be had.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"127.0.0.1:{port} cannot be listened on: {error}. Nothing was started; name another --port."
        ) from error
    key = secrets.token_urlsafe(24)
    with listener:
        tell(f"http://127.0.0.1:{listener.getsockname()[1]}/#{key}")
        config = uvicorn.Config(
            create_page(batch, key=key, notes=notes, finish=finish),
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=30,
            http=connections.TimedProtocol,
            limit_concurrency=connections.MOST,
        )
        uvicorn.Server(config).run(sockets=[listener])
