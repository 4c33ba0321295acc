"""What is refused below ``/v1/``, in the shape of OpenAI's API: problems of any part of the service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revector.service.problems import answer_of, responses

PREFIX = "/v1/"

CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
"""Codes that clients look for; else it is the name of the error's class in revector."""

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Types of errors; else ``invalid_request_error`` below 500, and ``server_error``."""


class Detail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAiError(BaseModel):
    """An error as OpenAI's API answers it."""

    error: Detail = Field(
        examples=[
            {
                "message": "collection 'docs' serves nothing yet. Nothing was searched; run `revector upgrade`.",
                "type": "invalid_request_error",
                "param": None,
                "code": "StateError",
            }
        ]
    )


def responses_of(*codes: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of what a route below ``/v1/`` may be refused with; 422 is 400 there."""
    found: dict[int | str, dict[str, object]] = {}
    for code, described in responses(*codes).items():
        content: Any = described["content"]
        status, body = _shaped(content["application/problem+json"]["example"])
        found.setdefault(status, _described(str(described["description"]), body))
        if code == max(codes):
            found["default"] = _described("Any other error", body)  # or FastAPI would describe a 422 of its own
    return found


def _described(what: str, example: dict[str, object]) -> dict[str, object]:
    schema = OpenAiError.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")
    schema["properties"]["error"] = Detail.model_json_schema()
    return {"description": what, "content": {"application/json": {"schema": schema, "example": example}}}


async def of_unknown(request: Request, error: Exception) -> JSONResponse:
    """Handle what nobody expected, which is answered outside of every middleware."""
    answer = answer_of(error)
    if not request.url.path.startswith(PREFIX):
        return answer
    status, body = _shaped(json.loads(bytes(answer.body)))
    return JSONResponse(body, status)


class OpenAiErrors:
    """ASGI middleware: problems below ``/v1/`` are answered as OpenAI answers errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = bytearray()

        async def shaped(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if kind.startswith("application/problem+json"):
                    held = message
                    return
            elif held is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body", False):
                    return
                status, content = _shaped(json.loads(bytes(body)))
                message = {"type": "http.response.body", "body": json.dumps(content, ensure_ascii=False).encode()}
                headers = MutableHeaders(raw=list(held["headers"]))
                headers["content-type"], headers["content-length"] = "application/json", str(len(message["body"]))
                await send({**held, "status": status, "headers": headers.raw})
            await send(message)

        await self._app(scope, receive, shaped)


def _shaped(problem: Mapping[str, Any]) -> tuple[int, dict[str, object]]:
    """Return status and body of a problem. What is wrong with a request is 400 there, never 422."""
    status = 400 if problem["status"] == 422 else problem["status"]
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = CODES.get(status, problem["type"].rpartition(":")[2])
    return status, {"error": {"message": problem["detail"], "type": kind, "param": None, "code": code}}
