"""The routes that search: by text, a stored document, a vector of the active generation's own encoder, or an image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import anyio
from fastapi import Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from starlette.exceptions import HTTPException

from revector.formats.strict_json import parse
from revector.service.problems import example
from revector.service.routes import GivenId, Name, routes
from revector.service.state import Service, Shared
from revector.serving.bounds import Stop
from revector.serving.searcher import Answer

WIDEST = 16_000
"""Numbers in the widest vector that pgvector stores."""

_ANSWERS = TypeAdapter(Answer)

T = TypeVar("T")

reading = routes("read", body="search", lane="searches")
seeing = routes("read", body="image", lane="searches")


LeastScore: TypeAlias = (
    Annotated[float, Field(strict=True, allow_inf_nan=False)] | Annotated[str, Field(min_length=1, max_length=63)]
)
"""A number, or the name of a cut-off."""


class _Search(BaseModel):
    """What every search takes. ``where``: equality, one of a list, or a range; ``a.b`` reaches in."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=1_000)
    where: dict[str, object] | None = Field(default=None, max_length=64)
    by: Literal["document", "chunk"] = "document"
    min_score: LeastScore | None = Field(
        default=None, description="Least score of a hit, or the name of a cut-off (`revector cutoffs`)."
    )


class ByText(_Search):
    """Search by text, which the active generation's encoder embeds."""

    query: str = Field(max_length=100_000)


class ByDocument(_Search):
    """Search for documents like a stored one, which is not among the hits."""

    like: GivenId = Field(description="Id of a document that the active generation shows.")


class ByVector(_Search):
    """Search by a vector; refused unless ``encoder_fp`` is that of the active generation's encoder."""

    vector: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1, max_length=WIDEST)
    encoder_fp: str = Field(description="`encoder_fp` of the generation whose encoder made the vector.")


_FIRST_FIELD = {"query": ByText, "like": ByDocument, "vector": ByVector}


def _kind(asked: object) -> str | None:
    named = _FIRST_FIELD.keys() & asked if isinstance(asked, dict) else set()
    return named.pop() if len(named) == 1 else None


SearchIn = Annotated[
    Annotated[ByText, Tag("query")] | Annotated[ByDocument, Tag("like")] | Annotated[ByVector, Tag("vector")],
    Discriminator(
        _kind,
        custom_error_type="one_of_three",
        custom_error_message="Give exactly one of query, like and vector (with encoder_fp)",
    ),
]

_FINGERPRINT = "5b1f6f6d6c0c4d5e8f0a9b7c3d2e1f00aa55bb66cc77dd88ee99ff0011223344"
_EXAMPLES: dict[str, object] = {
    "text": {
        "summary": "By text, with a filter",
        "value": {"query": "how do valleys form", "k": 10, "where": {"lang": ["en", "de"], "year": {"gte": 2020}}},
    },
    "document": {"summary": "Documents like this one", "value": {"like": "guide-7", "k": 5}},
    "vector": {
        "summary": "By a vector of your own, with its encoder's fingerprint",
        "value": {"vector": [0.25, -0.5, 0.75], "encoder_fp": _FINGERPRINT},
    },
}
_ANSWER = {
    "hits": [
        {
            "id": "guide-7",
            "score": 0.71,
            "chunk": 0,
            "start": 0,
            "stop": 21,
            "text": "Rivers carve valleys.",
            "version": 4711,
            "meta": {"lang": "en", "year": 2024},
            "kind": "text",
        }
    ],
    "generation": 3,
    "revision": "9c41d2e0",
    "encoder_fp": _FINGERPRINT,
    "exact": False,
    "encode_ms": 6.1,
    "search_ms": 2.4,
    "asked": 1,
    "warnings": [],
    "metric": "cosine",
    "cutoffs": {"support": 0.42},
}


@reading.post("/collections/{collection}/search", response_model=Answer, responses=example(_ANSWER))
async def search(
    collection: Name,
    asked: Annotated[SearchIn, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    service: Shared,
) -> Response:
    """Search through the alias. The answer names the generation and the encoder that gave it.

    A score is larger for what is nearer. `metric` says what it is: `cosine`, -1 to 1; `dot`, the inner product; `l2`,
    minus the Euclidean distance.

    Where nothing is found, `warnings` names each field of the filter that no document has, or has only with values of
    other types. `cutoffs` are the application's, on the scores of the generation that answered.

    A vector is refused with 409 unless its `encoder_fp` is the active generation's: after a swap, ask by text, or
    embed again with the model that serves now. A filter may have 1,000 values, a body 256 KiB. A search that takes
    longer than the service allows is cancelled (503), as is one that nobody waits for any more.
    """
    found = await while_waited_for(request, service.searching, partial(_answer, service, collection, asked))
    return Response(found, media_type="application/json")


@seeing.post(
    "/collections/{collection}/search/image",
    response_model=Answer,
    responses=example(_ANSWER),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The bytes of a file of JPEG, PNG, GIF, WEBP, BMP or TIFF.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def search_by_image(
    collection: Name,
    request: Request,
    service: Shared,
    k: Annotated[int, Query(ge=1, le=1_000, description="How many hits.")] = 10,
    by: Annotated[
        Literal["document", "chunk"], Query(description="Best chunk of each document, or every chunk.")
    ] = "document",
    where: Annotated[str | None, Query(max_length=10_000, description="The filter, as a JSON object.")] = None,
) -> Response:
    """Search through the alias by an image, which is the body; its size is bounded by `max_image_mib`.

    Each hit says in `kind` whether the text or the image of its document matched. An image is refused with 422 where
    the model that serves embeds text alone, or where it is damaged or too large.
    """
    asked = _options(k, by, where)
    work = partial(_answer, service, collection, asked, image=await request.body())
    found = await while_waited_for(request, service.searching, work)
    return Response(found, media_type="application/json")


def _options(k: int, by: str, where: str | None) -> _Search:
    try:
        return _Search.model_validate({"k": k, "by": by, "where": None if where is None else parse(where)})
    except ValueError as error:
        raise HTTPException(422, "where must be a JSON object of 64 fields at most. Nothing was searched.") from error


async def while_waited_for(request: Request, places: anyio.CapacityLimiter, work: Callable[[Stop], T]) -> T:
    """Return what ``work`` does; it is told to stop where the client goes before it has the answer.

    It runs in a thread of its own, of as many as there are ``places``: no write waits behind a search.
    """
    stop = Stop()
    gone = asyncio.create_task(_stop_when_gone(request, stop))
    try:
        return await anyio.to_thread.run_sync(work, stop, limiter=places)
    finally:
        gone.cancel()


async def _stop_when_gone(request: Request, stop: Stop) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    await anyio.to_thread.run_sync(stop.ask)


def _answer(service: Service, collection: str, asked: _Search, stop: Stop, *, image: bytes | None = None) -> bytes:
    searcher = service.searcher(collection)
    options: dict[str, Any] = {"where": asked.where, "by": asked.by, "stop": stop, "min_score": asked.min_score}
    match asked:
        case ByText():
            found = searcher.search(asked.query, asked.k, **options)
        case ByDocument():
            found = searcher.search_like(asked.like, asked.k, **options)
        case ByVector():
            found = searcher.search_given(asked.vector, asked.encoder_fp, asked.k, **options)
        case _:
            found = searcher.search(image or b"", asked.k, **options)
    # As JSON here: FastAPI would validate our own answer.
    return _ANSWERS.dump_json(found)
