"""Vectors made for a client, by the encoder of what is active: of queries, or of texts as documents are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from revector.documents.text import clean
from revector.encoders.vocabulary import excerpt
from revector.errors import ConfigError, DocumentError, SearchTooLong
from revector.interfaces import Side, Vectors
from revector.registry.collections import Generation
from revector.serving.bounds import Stop
from revector.serving.searcher import ENCODE_ROWS, Searcher


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Vectors, float32 ``(n, dim)``, the tokens of their texts, and whose encoder made them."""

    vectors: Vectors
    tokens: int
    generation: int
    revision: str
    encoder_fp: str


def embed(
    searcher: Searcher, texts: Sequence[str], side: Side | None, *, dim: int | None = None, stop: Stop | None = None
) -> Embedded:
    """Embed texts by the active generation's encoder, each as one chunk; ``side`` None where both sides are the same.

    ``stop`` ends it between two batches. Raises ``ConfigError`` without a side where the model's prompts differ, and
    where the model makes vectors of other dimensions than ``dim``,
    ``QueryRefused`` and ``DocumentError`` for texts that cannot be embedded (a document that the model would cut, too),
    ``StateError`` where nothing is served, ``EncoderError`` as ``Searcher.encode``, ``SearchTooLong`` when stopped.
    """
    pinned = searcher.resolve()
    model = pinned.spec.model
    if side is None and model.query_prompt != model.document_prompt:
        raise ConfigError(
            f"the model of revision {pinned.revision} embeds queries and documents differently, and neither was named. "
            "Nothing was embedded; say which side the texts are on."
        )
    if dim not in (None, model.dim):
        raise ConfigError(
            f"revision {pinned.revision} makes vectors of {model.dim} dimensions, not {dim}. Nothing was embedded."
        )
    side = side or "query"
    ready = [searcher.ready(pinned, text) if side == "query" else _readable(searcher, pinned, text) for text in texts]
    encoder, vectors = searcher.encoders.of(pinned), np.empty((len(ready), model.dim), dtype=np.float32)
    for at in range(0, len(ready), ENCODE_ROWS):
        if stop is not None and stop.asked:
            raise SearchTooLong("nobody waits for these vectors any more. The rest was not made.")
        some = ready[at : at + ENCODE_ROWS]
        vectors[at : at + len(some)] = searcher.encode(pinned, some, side)
    tokens = sum(encoder.count_tokens(text) for text in ready)
    return Embedded(vectors, tokens, pinned.gen, pinned.revision, pinned.encoder_fp)


def _readable(searcher: Searcher, pinned: Generation, text: str) -> str:
    """Return the text cleaned as documents are. Raises ``DocumentError`` where the model knows or reads too little."""
    cleaned, model = clean(text), pinned.spec.model
    tokens = searcher.encoders.of(pinned).count_tokens(cleaned)
    if tokens > model.max_tokens:
        raise DocumentError(
            f"the text {excerpt(cleaned)} has {tokens:,} tokens, the model of revision {pinned.revision} reads "
            f"{model.max_tokens:,}, and would cut the rest off. Nothing was embedded; send it in chunks."
        )
    tally = searcher.encoders.vocabulary_of(pinned).tallies([cleaned])[0]
    if tally.share > model.max_unknown_tokens:
        raise DocumentError(
            f"{tally.share:.0%} of the tokens of the text {excerpt(cleaned)} are unknown to the model of revision "
            f"{pinned.revision}, max_unknown_tokens allows {model.max_unknown_tokens:.0%}. Nothing was embedded; its "
            "vector would be that of any other such text."
        )
    return cleaned
