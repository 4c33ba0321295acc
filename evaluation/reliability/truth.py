"""What an index must hold of a text, worked out by code that shares nothing with the product it judges.

The product's hashing encoder, chunker and cleaning are written here a second time, in plain Python from their
definitions, and only for the plain texts that the proofs write: words between single spaces. Only a model's
fingerprint, which is the product's name for it, is asked of the product.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from evaluation.reliability.traffic import colours_of, token_in

from revector.encoders.hashing import HashingEncoder
from revector.interfaces import Vectors
from revector.spec import Chunking, ModelSpec, Revision

PLAIN = re.compile(r"{0}(?: {0})*".format(r"\w+(?:\.\w+)*"))
"""Texts that cleaning leaves as they are, and whose windows begin and end at spaces."""

_WORD, _TOKEN = re.compile(r"\w+"), re.compile(r"\w+|[^\w\s]+")
IMAGES = ":images"
"""Ends the name of a model that embeds images, too."""

_SIXTY_FOUR = (1 << 64) - 1
_PLACES = 4


def seed_of(model: ModelSpec) -> int:
    """Return the seed that a model's name gives: ``hashing`` or ``hashing:seedN``, then ``:images`` or nothing."""
    return int(model.name.removesuffix(IMAGES).partition(":seed")[2] or 0)


def embed(text: str, dim: int, seed: int, max_tokens: int = 256) -> tuple[float, ...]:
    """Return the unit vector of a text: a count sketch of its lower-case words, four signed places for each.

    Source: Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002; places and signs by
    SplitMix64 over the CRC-32 of the word.
    """
    vector = [0.0] * dim
    for word in _WORD.findall(text.lower())[:max_tokens] or [text]:
        for place, sign in _marks(word, dim, seed):
            vector[place] += sign
    if not any(vector):
        vector[0] = 1.0
    length = sum(value * value for value in vector) ** 0.5
    return tuple(value / length for value in vector)


@lru_cache(maxsize=200_000)
def _marks(word: str, dim: int, seed: int) -> tuple[tuple[int, float], ...]:
    checksum = zlib.crc32(word.encode())
    mixed = [_splitmix((checksum + ((seed * _PLACES + place) << 32)) & _SIXTY_FOUR) for place in range(_PLACES)]
    return tuple(((value >> 1) % dim, -1.0 if value & 1 else 1.0) for value in mixed)


def _splitmix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _SIXTY_FOUR
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _SIXTY_FOUR
    return value ^ (value >> 31)


class Chunk(NamedTuple):
    """A chunk of a plain text: ``text[start:end]``."""

    text: str
    start: int
    end: int


def cut(text: str, chunking: Chunking) -> list[Chunk]:
    """Return the chunks of a plain text: as many words as fit, or the first tokens for the unit ``document``.

    A window begins with the last words of the one before it, as many as fit into the overlap. Raises ``ValueError``
    for a text that is not plain, and for a word that does not fit: nobody here knows what the product does then.
    """
    if not PLAIN.fullmatch(text):
        raise ValueError(f"not a plain text: {text!r}")
    if chunking.unit == "document":
        tokens = [found.end() for found in _TOKEN.finditer(text)][: chunking.max_tokens]
        return [Chunk(text[: tokens[-1]], 0, tokens[-1])]
    spans = [found.span() for found in re.finditer(r"\S+", text)]
    sizes = [len(_TOKEN.findall(text[start:end])) for start, end in spans]
    if max(sizes) > chunking.max_tokens:
        raise ValueError(f"a word of {max(sizes)} tokens in {text!r}")
    chunks, first = list[Chunk](), 0
    while True:
        after = _fill(sizes, first, chunking.max_tokens)
        start, end = spans[first][0], spans[after - 1][1]
        chunks.append(Chunk(text[start:end], start, end))
        if after == len(spans):
            return chunks
        first, shared = after, 0
        while shared + sizes[first - 1] <= chunking.overlap_tokens:
            first -= 1
            shared += sizes[first]


def _fill(sizes: Sequence[int], first: int, capacity: int) -> int:
    """Return the word after the last that fits into a window that begins with ``first``."""
    after, filled = first, 0
    while after < len(sizes) and filled + sizes[after] <= capacity:
        filled += sizes[after]
        after += 1
    return after


@dataclass(frozen=True, slots=True)
class Truth:
    """What one revision makes of texts."""

    model: ModelSpec
    chunking: Chunking

    @classmethod
    def of(cls, revision: Revision) -> Truth:
        """Return the truth about a revision of a hashing model without prompts."""
        return cls(revision.model, revision.chunking)

    @property
    def fingerprint(self) -> str:
        """The product's own name of the model."""
        return _fingerprint(self.model)

    def chunks(self, text: str) -> list[Chunk]:
        """Return the chunks of a text."""
        return cut(text, self.chunking)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, documents and queries alike: float32 ``(len(texts), dim)``."""
        rows = [embed(text, self.model.dim, seed_of(self.model), self.model.max_tokens) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), self.model.dim)

    def vector(self, text: str) -> Vectors:
        """Embed one text: float32 ``(dim,)``."""
        vector: Vectors = self.vectors([text])[0]
        return vector

    def embedded(self, text: str) -> tuple[list[Chunk], Vectors]:
        """Return the chunks of a text, and the image of its put after them where the model sees images; and vectors."""
        chunks = self.chunks(text)
        seen = [chunk.text for chunk in chunks]
        if self.model.name.endswith(IMAGES):
            chunks = [*chunks, Chunk("", len(text), len(text) + 1)]
            levels = sorted({tuple(channel >> 4 for channel in colour) for colour in colours_of(token_in(text) or "")})
            seen.append(" ".join("".join(f"{level:x}" for level in colour) for colour in levels))
        return chunks, self.vectors(seen)


@cache
def _fingerprint(model: ModelSpec) -> str:
    return HashingEncoder(model, seed=seed_of(model), images=model.name.endswith(IMAGES)).fingerprint
