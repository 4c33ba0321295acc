"""Routes in the shape of OpenAI's API: a collection is a model that embeds, and a vector store that is searched."""

from __future__ import annotations

import base64
from functools import partial
from typing import Annotated, Literal

from fastapi import Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from revector.errors import StateError
from revector.interfaces import Side
from revector.registry.collections import Generation
from revector.service.openai_errors import responses_of
from revector.service.problems import example
from revector.service.routes import Name, routes
from revector.service.search import LeastScore, while_waited_for
from revector.service.state import Service, Shared
from revector.serving.bounds import Stop
from revector.serving.embedding import Embedded, embed

MOST_TEXTS, MOST_RESULTS = 2_048, 50
"""Of a request, as OpenAI has them."""

_REFUSED = responses_of(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)

embedding = routes("read", body="embedding", lane="embeddings", named=False, refused=_REFUSED)
searching = routes("read", body="search", lane="searches", refused=_REFUSED)
reading = routes("read", named=False, refused=_REFUSED)


# Embeddings -----------------------------------------------------------------------------------------------------------


class EmbeddingsIn(BaseModel):
    """What ``POST /v1/embeddings`` takes. ``model`` is a collection, with ``:query`` or ``:document`` where needed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"model": "docs:query", "input": "a text"}})

    model: str = Field(max_length=64)
    input: str | list[str] = Field(max_length=1 << 20)
    input_type: Literal["query", "document"] | None = None
    """Which side the texts are on, instead of the ending of ``model``."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    """Refused unless it is the width of what serves."""
    user: str | None = None
    """Ignored."""


_FINGERPRINT = "5b1f6f6d6c0c4d5e8f0a9b7c3d2e1f00aa55bb66cc77dd88ee99ff0011223344"
_WHO = {"revision": "9c41d2e0", "generation": 3, "encoder_fp": _FINGERPRINT}
_VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.028]}],
    "model": "docs:query",
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
    **_WHO,
}


@embedding.post("/v1/embeddings", responses=example(_VECTORS))
async def embeddings(asked: EmbeddingsIn, request: Request, service: Shared) -> JSONResponse:
    """Embed texts by the model that serves a collection now, each as one chunk; at most 2,048 texts and 1 MiB.

    The answer names revision, generation and `encoder_fp`: keep the last with the vector, and give both to a search.
    Queries and documents are embedded differently by many models, so the side must be named there. A document that the
    model would cut is refused.
    """
    name, side = _named(asked.model)
    _allow(request, name)
    if side is not None and asked.input_type not in (None, side):
        raise HTTPException(422, f"model {asked.model!r} and input_type {asked.input_type!r} name different sides.")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise HTTPException(422, f"input may be 1 to {MOST_TEXTS:,} texts, found {len(texts):,}. Nothing was embedded.")
    made = partial(_embed, service, name, texts, side or asked.input_type, asked.dimensions)
    found = await while_waited_for(request, service.embedding, made)
    return JSONResponse(await run_in_threadpool(_vectors, asked, found))


def _embed(service: Service, name: str, texts: list[str], side: Side | None, dim: int | None, stop: Stop) -> Embedded:
    return embed(service.searcher(name), texts, side, dim=dim, stop=stop)


def _vectors(asked: EmbeddingsIn, found: Embedded) -> dict[str, object]:
    rows = found.vectors.astype("<f4")
    shown = [
        base64.b64encode(row.tobytes()).decode() if asked.encoding_format == "base64" else row.tolist() for row in rows
    ]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(shown)],
        "model": asked.model,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        "revision": found.revision,
        "generation": found.generation,
        "encoder_fp": found.encoder_fp,
    }


# Models ---------------------------------------------------------------------------------------------------------------

_MODEL = {"id": "docs", "object": "model", "created": 1_795_000_000, "owned_by": "revector", **_WHO}


@reading.get("/v1/models", responses=example({"object": "list", "data": [_MODEL]}))
def models(request: Request, service: Shared) -> JSONResponse:
    """List the collections that serve something and that the key may read, each also with `:query` and `:document`."""
    allowed = request.state.caller.collections
    names = [name for name in service.project.settings.collections if allowed is None or name in allowed]
    served = [(name, found) for name in names if (found := _active(service, name)) is not None]
    sides = ("", ":query", ":document")
    return JSONResponse(
        {"object": "list", "data": [_model(name + side, found) for name, found in served for side in sides]}
    )


@reading.get("/v1/models/{model}", responses=example(_MODEL))
def model(
    model: Annotated[str, Path(description="A collection, also with `:query` or `:document`.", examples=["docs"])],
    request: Request,
    service: Shared,
) -> JSONResponse:
    """Return which revision and encoder a collection serves now. 404 where it serves nothing."""
    name, _ = _named(model)
    _allow(request, name)
    service.searcher(name)
    if (found := _active(service, name)) is None:
        raise HTTPException(404, f"collection {name!r} serves nothing yet; run `revector upgrade`.")
    return JSONResponse(_model(model, found))


def _active(service: Service, name: str) -> Generation | None:
    try:
        return service.searcher(name).resolve()
    except StateError:
        return None


def _model(shown: str, found: Generation) -> dict[str, object]:
    return {
        "id": shown,
        "object": "model",
        "created": int((found.live_at or found.registered_at).timestamp()),
        "owned_by": "revector",
        "revision": found.revision,
        "generation": found.gen,
        "encoder_fp": found.encoder_fp,
        "model": found.spec.model.name,
        "dimensions": found.spec.model.dim,
    }


def _named(model: str) -> tuple[str, Side | None]:
    """Return collection and side that a name of a model means."""
    name, _, side = model.partition(":")
    if side == "query":
        return name, "query"
    if side == "document":
        return name, "document"
    if side:
        raise HTTPException(404, f"there is no model {model!r}; it is a collection, with :query or :document.")
    return name, None


def _allow(request: Request, name: str) -> None:
    request.state.caller.check("read", name)


# Vector stores --------------------------------------------------------------------------------------------------------


class FieldComparison(BaseModel):
    """One condition on a field of the metadata; ``in``: one of a list."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["eq", "gt", "gte", "lt", "lte", "in"]
    key: str
    value: str | float | bool | list[str | float | bool]


class Compound(BaseModel):
    """Conditions that must all hold."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["and"]
    filters: list[FieldComparison | Compound] = Field(max_length=64)


class Ranking(BaseModel):
    """Results are ranked by their score alone.

    Those below ``score_threshold``, a number or the name of a cut-off, are left out if it is given.
    """

    model_config = ConfigDict(extra="forbid")

    ranker: Literal["auto", "none"] = "auto"
    score_threshold: LeastScore | None = None


class StoreSearchIn(BaseModel):
    """What a search of a vector store takes. ``rewrite_query`` is refused: the query is asked as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"query": "how do valleys form"}})

    query: str | Annotated[list[str], Field(min_length=1, max_length=1)] = Field(max_length=100_000)
    filters: FieldComparison | Compound | None = None
    max_num_results: int = Field(default=10, ge=1, le=MOST_RESULTS)
    ranking_options: Ranking = Ranking()
    rewrite_query: Literal[False] = False


_PAGE = {
    "object": "vector_store.search_results.page",
    "search_query": ["how do valleys form"],
    "data": [
        {
            "file_id": "guide-7",
            "filename": "guide-7",
            "score": 0.71,
            "attributes": {"lang": "en", "year": 2024},
            "content": [{"type": "text", "text": "Rivers carve valleys."}],
        }
    ],
    "has_more": False,
    "next_page": None,
    **_WHO,
}


@searching.post("/v1/vector_stores/{collection}/search", responses=example(_PAGE))
async def search_store(collection: Name, asked: StoreSearchIn, request: Request, service: Shared) -> JSONResponse:
    """Search a collection by text: the best chunk of each document, by the index and encoder that serve now.

    Filters are `eq`, `in`, `gt`, `gte`, `lt`, `lte` and `and`. A score is larger for what is
    nearer: by the metric of the index the cosine, the inner product, or minus the distance.
    """
    query = asked.query if isinstance(asked.query, str) else asked.query[0]
    where, least = _where(asked.filters), asked.ranking_options.score_threshold

    def ask(stop: Stop) -> dict[str, object]:
        searcher, k = service.searcher(collection), asked.max_num_results
        found = searcher.search(query, k, where=where, min_score=least, stop=stop)
        return {
            "object": "vector_store.search_results.page",
            "search_query": [query],
            "data": [
                {
                    "file_id": hit.id,
                    "filename": hit.id,
                    "score": hit.score,
                    "attributes": dict(hit.meta),
                    "content": [{"type": "text", "text": hit.text}],
                }
                for hit in found.hits
            ],
            "has_more": False,
            "next_page": None,
            "revision": found.revision,
            "generation": found.generation,
            "encoder_fp": found.encoder_fp,
            "warnings": list(found.warnings),
            "cutoffs": dict(found.cutoffs),
        }

    return JSONResponse(await while_waited_for(request, service.searching, ask))


def _where(filters: FieldComparison | Compound | None) -> dict[str, object] | None:
    """Return a filter as the Searcher takes it. Raises 422 where a field has two conditions that it cannot join."""
    where: dict[str, object] = {}
    for one in _comparisons(filters):
        if one.type in ("eq", "in"):
            if (one.type == "in") != isinstance(one.value, list):
                raise HTTPException(422, f"filter {one.key!r}: in takes a list and eq one value. Nothing was searched.")
            wanted: object = one.value
        else:
            wanted = {one.type: one.value}
        before = where.get(one.key)
        if isinstance(before, dict) and isinstance(wanted, dict) and not before.keys() & wanted.keys():
            wanted = {**before, **wanted}
        elif one.key in where:
            raise HTTPException(422, f"filter {one.key!r} has two conditions that cannot be joined. Ask twice.")
        where[one.key] = wanted
    return where or None


def _comparisons(filters: FieldComparison | Compound | None) -> list[FieldComparison]:
    if filters is None:
        return []
    if isinstance(filters, FieldComparison):
        return [filters]
    return [one for inner in filters.filters for one in _comparisons(inner)]
