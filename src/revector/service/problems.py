"""Errors over HTTP: problem details (RFC 9457) with a status per class of error, and never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from revector.errors import (
    ConfigError,
    DatabaseError,
    DocumentError,
    EncoderError,
    LabelError,
    StateError,
    StoreUnavailable,
    UnknownDocument,
)

STATUS: dict[type[Exception], int] = {
    ConfigError: 422,
    DocumentError: 422,
    UnknownDocument: 404,
    StateError: 409,
    LabelError: 409,
    DatabaseError: 503,
    EncoderError: 503,
    StoreUnavailable: 503,
    # A NUL, a NaN or half a surrogate pair in a filter or in metadata: no such value can be stored.
    sa.exc.DataError: 422,
    UnicodeEncodeError: 422,
    RecursionError: 422,
    sa.exc.TimeoutError: 503,
    Exception: 500,
}
"""Status per class of error; the nearest base class counts. A name that the routes do not know is 404."""

KINDS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "TooSlow",
    413: "TooLarge",
    429: "TooManyRequests",
    503: "TooBusy",
}
"""Names of what routes and router raise."""

RETRYABLE = (408, 429, 503)


class Problem(BaseModel):
    """Problem details of RFC 9457; ``type`` ends with the name of the error's class in revector."""

    type: str = Field(examples=["urn:revector:error:StateError"])
    title: str = Field(examples=["Conflict"])
    status: int = Field(examples=[409])
    detail: str = Field(
        examples=["collection 'docs' serves nothing yet. Nothing was searched; run `revector upgrade`."]
    )
    retryable: bool = False


_EXAMPLES = {
    400: ("InvalidRequest", "the body is no UTF-8, or was not sent to its end.", False),
    401: ("Unauthorized", "this needs `Authorization: Bearer` with a key of this service.", False),
    403: ("Forbidden", "this needs a key with the scope write; yours has read.", False),
    404: ("NotFound", "collection 'docs' has no document 'guide-7'.", False),
    408: ("TooSlow", "the body came too slowly, and was not read to its end.", True),
    409: ("StateError", "collection 'docs' serves nothing yet. Nothing was searched; run `revector upgrade`.", False),
    413: ("TooLarge", "a body may take 13,631,488 bytes. Nothing was stored; send less.", False),
    415: ("InvalidRequest", "bodies come as they are or as gzip, this is 'br'. Nothing was done.", False),
    422: ("InvalidRequest", "body.k: Input should be less than or equal to 1000. Nothing was changed.", False),
    429: ("TooManyRequests", "this key asks more often than the service allows. Nothing was done.", True),
    503: ("DatabaseUnavailable", "the database cannot be reached. Start it, and ask again.", True),
}


def example(value: object) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of a route's answer by an example."""
    return {200: {"content": {"application/json": {"example": value}}}}


def responses(*codes: int) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of the problems that a route may answer with."""
    return {
        code: {
            "description": HTTPStatus(code).phrase,
            "content": {
                "application/problem+json": {
                    "schema": Problem.model_json_schema(),
                    "example": _content(code, kind, detail, retryable=retryable),
                }
            },
        }
        for code, (kind, detail, retryable) in _EXAMPLES.items()
        if code in codes
    }


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    retryable: bool = False,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> JSONResponse:
    """Return problem details; ``more`` are extension members."""
    content = _content(status, kind, detail, retryable=retryable)
    return JSONResponse(content | more, status, headers, media_type="application/problem+json")


def _content(status: int, kind: str, detail: str, *, retryable: bool) -> dict[str, object]:
    return {
        "type": f"urn:revector:error:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail.encode("utf-8", "backslashreplace").decode(),
        "retryable": retryable,
    }


def first_line(error: BaseException) -> str:
    """Return what is wrong, without the SQL and its parameters, which may hold someone's text."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]


async def of_http(_: Request, error: Exception) -> JSONResponse:
    """Handle what routes and router raise."""
    assert isinstance(error, HTTPException)
    return of_refusal(error)


def of_refusal(error: HTTPException, *, also: str = "", **more: object) -> JSONResponse:
    """Return what a route raised as problem details."""
    status = error.status_code
    kind, retryable = KINDS.get(status, "InvalidRequest"), status in RETRYABLE
    return problem(status, kind, str(error.detail) + also, retryable=retryable, headers=error.headers, **more)


async def of_input(_: Request, error: Exception) -> JSONResponse:
    """Handle a body, path or query of the wrong shape; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
    return problem(422, "InvalidRequest", f"{said}. Nothing was changed.")


async def of_error(_: Request, error: Exception) -> JSONResponse:
    """Handle everything else."""
    return answer_of(error)


def answer_of(error: Exception, *, also: str = "", **more: Any) -> JSONResponse:
    """Return an error as problem details, by ``STATUS``; the server logs what it does not know."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(500, "Internal", f"an error that this service does not know; its log has it.{also}", **more)
    retryable = getattr(error, "retryable", status == HTTPStatus.SERVICE_UNAVAILABLE)
    return problem(status, type(error).__name__, first_line(error) + also, retryable=retryable, **more)


HANDLERS: dict[Any, Any] = {
    **dict.fromkeys(STATUS, of_error),
    HTTPException: of_http,
    RequestValidationError: of_input,
}
