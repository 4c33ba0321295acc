"""The door: who asks is known and has not asked too often before a byte of the body is read."""

from __future__ import annotations

import math
from functools import partial

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from revector.errors import RevectorError
from revector.service.access import ANYONE, Access, Buckets, Caller, is_loopback
from revector.service.lanes import Full, RequestLane
from revector.service.problems import answer_of, of_refusal, problem

OPEN = "/health"
FOREIGN_NAME = (
    "without a key this service answers to localhost, 127.0.0.1 and [::1] only. Nothing was done; ask under one of "
    "these names, or make a key (`revector keys create`) and send it."
)
MOST_REQUESTS, MOST_REQUESTS_PER_KEY = 512, 256
"""Requests under way at once, whatever they do and however slowly they come."""

NO_KEY_SENT = (
    "this needs `Authorization: Bearer` with a key of this service (`revector keys create`). Nothing was done."
)
NO_KEY_MADE = (
    "this service has no key yet, so it answers nobody. Nothing was done; make one with `revector keys create NAME "
    "--scope read` and send it as `Authorization: Bearer`, or try it out with `revector serve --open`, which asks "
    "for none."
)


class Guard:
    """ASGI middleware: 401 without a key, 403 for a foreign name where none is wanted, 429 above the rate.

    Else ``state.caller`` is set.
    """

    def __init__(self, app: ASGIApp, *, access: Access, buckets: Buckets | None) -> None:
        self._app, self._access, self._buckets = app, access, buckets
        self._lane = RequestLane("requests", MOST_REQUESTS, MOST_REQUESTS_PER_KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http" and scope["path"] != OPEN:
            headers = Headers(scope=scope)
            found = await self._caller(headers.get("authorization", ""))
            if found is ANYONE and not is_loopback(headers.get("host", "")):
                # A page of another site may send its visitors' browsers here, under a name that it makes mean this
                # machine; what it cannot do is to ask by this machine's own names.
                found = problem(403, "Forbidden", FOREIGN_NAME)
            if not isinstance(found, Caller):
                await found(scope, receive, send)
                return
            scope.setdefault("state", {}).update(caller=found, ask_again=partial(self._access.ask_again, found))
            try:
                async with self._lane.place(found.key_id):
                    await self._app(scope, receive, send)
            except Full as error:
                await of_refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _caller(self, authorization: str) -> Caller | Response:
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        caller = self._access.of_environment(secret)
        if caller is None and self._access.is_open and not secret:
            caller = ANYONE
        if caller is None:
            try:
                if self._access.is_stale:
                    await run_in_threadpool(self._access.read)
            except (RevectorError, sa.exc.SQLAlchemyError) as error:
                return answer_of(error)
            caller = self._access.find(secret)
        if caller is None:
            said = NO_KEY_SENT if self._access.has_keys else NO_KEY_MADE
            return problem(401, "Unauthorized", said, headers={"WWW-Authenticate": "Bearer"})
        wait_s = self._buckets.take(caller.key_id) if self._buckets else 0.0
        if wait_s:
            said = "this key asks more often than the service allows. Nothing was done; ask again later."
            return problem(
                429, "TooManyRequests", said, retryable=True, headers={"Retry-After": f"{math.ceil(wait_s)}"}
            )
        return caller
