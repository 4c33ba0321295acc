"""Who may call, and how much may be sent: checked before a byte of the body is read."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revector.service.problems import problem


class Guard:
    """ASGI middleware: 401 without the token, where there is one; 413 for a body above ``limit`` bytes."""

    def __init__(self, app: ASGIApp, *, token: str | None, limit: int) -> None:
        self._app, self._limit = app, limit
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] != "/health" and not self._knows(headers.get("authorization", "")):
            answer = problem(401, "Unauthorized", "this needs `Authorization: Bearer` with the token of this service.")
            answer.headers["WWW-Authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        await self._app(scope, self._limited(headers.get("content-length", ""), receive), send)

    def _knows(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, token = authorization.partition(" ")
        # Header bytes as they came: Starlette reads them as Latin-1.
        return scheme.lower() == "bearer" and secrets.compare_digest(token.strip().encode("latin-1"), self._token)

    def _limited(self, declared: str, receive: Receive) -> Receive:
        seen = 0

        def count(size: int) -> None:
            nonlocal seen
            seen += size
            if seen > self._limit:
                raise HTTPException(413, f"a body may take {self._limit:,} bytes. Nothing was stored; send less.")

        async def limited() -> Message:
            if declared.isdecimal() and int(declared) > self._limit:
                count(int(declared))
            message = await receive()
            count(len(message.get("body", b"")))
            return message

        return limited
