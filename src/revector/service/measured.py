"""How long requests take, by route and status, and the route that tells it and everything else to Prometheus."""

from __future__ import annotations

import time

from fastapi import Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revector.service.routes import routes

reading = routes("read", lane="searches")


@reading.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Return the metrics of this process and the database for Prometheus; they are of all collections."""
    return PlainTextResponse(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class RequestMetrics:
    """ASGI middleware: every answer counts, refused ones too; ``seconds`` has the labels route and status."""

    def __init__(self, app: ASGIApp, *, seconds: Histogram) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            # The route's name and not what was asked for: asking for nonsense makes no new series.
            route = getattr(scope.get("route"), "name", "none")
            self._seconds.labels(route, str(status)).observe(time.perf_counter() - began)
