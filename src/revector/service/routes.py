"""Routers whose routes name the scope that they want, and what keeps them small: places, and bodies read in bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BeforeValidator, WithJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from revector.documents.text import check_id
from revector.formats.strict_json import DoubledName, doubled, parse
from revector.formats.values import as_id
from revector.service import bodies
from revector.service.problems import responses

Handler = Callable[[Request], Coroutine[object, object, Response]]

BEARER = HTTPBearer(auto_error=False, description="A key of `revector keys create`, or $REVECTOR_SERVE_TOKEN.")

SEARCH_BYTES = 1 << 18
"""Of a search. A vector of 16,000 numbers fits in float32's nine digits."""

EMBEDDING_BYTES = 1 << 20
"""Of texts to be embedded: a minute of work where a model reads 5,000 tokens a second."""

LIMITS = {"search": SEARCH_BYTES, "embedding": EMBEDDING_BYTES}
"""Bytes of a body by its kind; a document's and an image's depend on the settings."""

SENT_BYTES, SEND_S = 1 << 16, 60.0
"""Answers are handed over in pieces of this size, each taken by the client before the next; all within this time."""


async def _doc_id(
    doc_id: Annotated[str, Path(description="1 to 512 bytes; may hold `/`.", examples=["guide-7"])],
) -> str:
    return check_id(doc_id)


Name = Annotated[str, Path(description="A collection of `revector.toml`.", examples=["docs"])]
DocId = Annotated[str, Depends(_doc_id)]

GivenId = Annotated[
    str,
    BeforeValidator(as_id),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "A whole number is its digits."}
    ),
]
"""An id inside a body."""

Body = Literal["document", "search", "embedding", "image", "stream"]
Lane = Literal["searches", "embeddings", "uploads"]

_REFUSED = responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)


def routes(
    scope: str,
    *,
    body: Body = "document",
    lane: Lane | None = None,
    named: bool = True,
    refused: dict[int | str, dict[str, Any]] = _REFUSED,
) -> APIRouter:
    """Return a router whose routes want ``scope`` and a place in ``lane``.

    A ``body`` is read before the place is taken, and refused above its limit; a ``stream`` is read by the route itself.
    ``named``: paths name the collection; else the route itself checks that the caller may use the one that it finds.
    ``refused``: what the description says of refusals.
    """

    class Scoped(APIRoute):
        """A route that knows its scope."""

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                caller, service = request.state.caller, request.app.state.service
                if named:
                    caller.check(scope, request.path_params.get("collection"))
                else:
                    caller.check_scope(scope)
                if (twice := doubled(name for name, _ in request.query_params.multi_items())) is not None:
                    raise HTTPException(422, f"the parameter {twice!r} stands twice. Nothing was done; keep one.")
                async with AsyncExitStack() as held:
                    if body != "stream" and request.method in ("POST", "PUT"):
                        own = service.image_limit if body == "image" else service.body_limit
                        request = await _read(request, LIMITS.get(body, own), held)
                        if body != "image":
                            await run_in_threadpool(bodies.check_shape, await request.body())
                        await request.state.ask_again()  # a body may take minutes
                    if lane is not None:
                        await held.enter_async_context(service.lanes[lane].place(caller.key_id))
                    return _Sent(await handle(request), held.pop_all())

            return checked

    return APIRouter(
        route_class=Scoped,
        dependencies=[Security(BEARER, scopes=[scope])],
        responses=refused,
    )


async def _read(request: Request, limit: int, held: AsyncExitStack) -> Request:
    """Return the request with its body in memory, of which the service's room is given back by ``held``."""
    room, key_id = request.app.state.service.room, request.state.caller.key_id

    def hold(size: int) -> None:
        room.take(key_id, size)
        held.callback(room.give, key_id, size)

    # What will not fit is refused before it comes: to read megabytes of it would take time from the other requests.
    room.check(key_id, bodies.declared(request.headers, limit))
    try:
        raw = await bodies.read(request.receive, request.headers, limit, hold)
    except ClientDisconnect as error:
        raise HTTPException(400, "the body was not sent to its end. Nothing was done.") from error
    return _Body(request.scope, _given(raw, request.receive))


class _Body(Request):
    """A request whose JSON names no key twice."""

    async def json(self) -> object:
        """Return the body. Raises 422 for a key that stands twice, of which one would be lost."""
        try:
            return parse(await self.body())
        except DoubledName as error:
            raise HTTPException(422, f"{error}. Nothing was done; keep one.") from error


def _given(raw: bytes, receive: Receive) -> Receive:
    """Return a channel that hands over ``raw``, and then tells when the client is gone."""
    waiting: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given


class _Sent(Response):
    """An answer that gives back what its request held once the client has taken it."""

    def __init__(self, answer: Response, held: AsyncExitStack) -> None:
        self._answer, self._held = answer, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def paced(message: Message) -> None:
            whole = message.get("body", b"")
            while len(whole) > SENT_BYTES:
                await send({**message, "body": whole[:SENT_BYTES], "more_body": True})
                whole = whole[SENT_BYTES:]
            await send({**message, "body": whole} if whole else message)

        async with self._held:
            with anyio.move_on_after(SEND_S):  # else uvicorn says so, and closes the connection
                await self._answer(scope, receive, paced)
