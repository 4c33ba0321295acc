"""Routers whose routes name the scope that they want: scope and size are checked before the body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from revector.service.problems import responses
from revector.strict_json import DoubledName, doubled, parse
from revector.text import check_id

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

BEARER = HTTPBearer(auto_error=False, description="A key of `revector keys create`, or $REVECTOR_SERVE_TOKEN.")


async def _doc_id(
    doc_id: Annotated[str, Path(description="1 to 512 bytes; may hold `/`.", examples=["guide-7"])],
) -> str:
    return check_id(doc_id)


Name = Annotated[str, Path(description="A collection of `revector.toml`.", examples=["docs"])]
DocId = Annotated[str, Depends(_doc_id)]


def routes(scope: str, *, limited: bool = True) -> APIRouter:
    """Return a router whose routes want ``scope``; ``limited``: their bodies are refused above the service's limit."""

    class Scoped(APIRoute):
        """A route that knows its scope."""

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                request.state.caller.check(scope, request.path_params.get("collection"))
                if (twice := doubled(name for name, _ in request.query_params.multi_items())) is not None:
                    raise HTTPException(422, f"the parameter {twice!r} stands twice. Nothing was done; keep one.")
                if limited:
                    request = _limited(request, request.app.state.service.body_limit)
                return await handle(request)

            return checked

    return APIRouter(
        route_class=Scoped,
        dependencies=[Security(BEARER, scopes=[scope])],
        responses=responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
    )


class _Body(Request):
    """A request whose JSON names no key twice."""

    async def json(self) -> Any:
        """Return the body. Raises 422 for a key that stands twice, of which one would be lost."""
        try:
            return parse(await self.body())
        except DoubledName as error:
            raise HTTPException(422, f"{error}. Nothing was done; keep one.") from error


def _limited(request: Request, limit: int) -> Request:
    def count(size: int) -> None:
        if size > limit:
            raise HTTPException(413, f"a body may take {limit:,} bytes. Nothing was stored; send less.")

    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        count(int(declared))
    return _Body(request.scope, _counted(request.receive, count))


def _counted(receive: Receive, count: Callable[[int], None]) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        count(seen)
        return message

    return counted
