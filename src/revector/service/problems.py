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

from revector.errors import ConfigError, DatabaseError, DocumentError, EncoderError, StateError

STATUS: dict[type[Exception], int] = {
    ConfigError: 422,
    DocumentError: 422,
    StateError: 409,
    DatabaseError: 503,
    EncoderError: 503,
    # A NUL, a NaN or half a surrogate pair in a filter or in metadata: no such value can be stored.
    sa.exc.DataError: 422,
    UnicodeEncodeError: 422,
    RecursionError: 422,
    sa.exc.TimeoutError: 503,
    Exception: 500,
}
"""Status per class of error; the nearest base class counts. A name that does not exist is 404, said by the routes."""


class Problem(BaseModel):
    """Problem details of RFC 9457; ``type`` ends with the name of the error's class in revector."""

    type: str = Field(examples=["urn:revector:error:StateError"])
    title: str = Field(examples=["Conflict"])
    status: int = Field(examples=[409])
    detail: str = Field(
        examples=["collection 'docs' serves nothing yet. Nothing was searched; run `revector upgrade`."]
    )
    retryable: bool = False


RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {
        "description": HTTPStatus(code).phrase,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for code in (401, 404, 409, 413, 422, 503)
}
"""For the OpenAPI description of every route."""


def problem(status: int, kind: str, detail: str, *, retryable: bool = False, **more: Any) -> JSONResponse:
    """Return problem details; ``more`` are extension members."""
    content = {
        "type": f"urn:revector:error:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail.encode("utf-8", "backslashreplace").decode(),
        "retryable": retryable,
    }
    return JSONResponse(content | more, status, media_type="application/problem+json")


def first_line(error: BaseException) -> str:
    """Return what is wrong, without the SQL and its parameters, which may hold somebody's text."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]


async def of_http(_: Request, error: Exception) -> JSONResponse:
    """Handle what routes and router raise: 404, 405, 413."""
    assert isinstance(error, HTTPException)
    kind = {404: "NotFound", 405: "MethodNotAllowed", 413: "TooLarge"}.get(error.status_code, "InvalidRequest")
    answer = problem(error.status_code, kind, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def of_input(_: Request, error: Exception) -> JSONResponse:
    """Handle a body, path or query of the wrong shape; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    found: list[Mapping[str, Any]] = list(error.errors())
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
    return problem(422, "InvalidRequest", f"{said}. Nothing was changed.")


async def of_error(_: Request, error: Exception) -> JSONResponse:
    """Handle everything else by ``STATUS``; the server logs what it does not know."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(500, "Internal", "an error that this service does not know; its log has it.")
    retryable = getattr(error, "retryable", status == HTTPStatus.SERVICE_UNAVAILABLE)
    return problem(status, type(error).__name__, first_line(error), retryable=retryable)


HANDLERS: dict[Any, Any] = {
    **dict.fromkeys(STATUS, of_error),
    HTTPException: of_http,
    RequestValidationError: of_input,
}
