"""The seams between layers: documents, chunks, encoders, sources and progress, as small types and protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""float32, shape ``(n, dim)``."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a source or an application hands it over.

    ``version`` is the caller's own, for write-if-newer; None lets the last write win. ``text`` is None for a record
    that has none: it is refused with its reason, never dropped.
    """

    id: str
    text: str | None
    meta: Mapping[str, object] = field(default_factory=dict)
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a document: ``text`` is ``document[start:end]`` (offsets in characters), stripped."""

    text: str
    start: int
    end: int


class Chunker(Protocol):
    """Cuts cleaned text into chunks by tokens of the encoder's own tokenizer."""

    def chunks(self, text: str) -> list[Chunk]:
        """Return the chunks of ``text`` in order; empty only for text without content."""
        ...


class Encoder(Protocol):
    """Turns text into vectors. What each must do: tests/contract/test_encoder.py."""

    @property
    def dim(self) -> int:
        """Width of the vectors that come out."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity (SHA-256 hex) of weights, prompts, pooling, normalisation, token limit, dtype and cut."""
        ...

    @property
    def components(self) -> Mapping[str, object]:
        """What went into the fingerprint, by name, so that a mismatch can say what differs."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The model's own ``tokenizers.Tokenizer``, without truncation or padding."""
        ...

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """Embed queries: ``(len(texts), dim)``. Raises ``BadVectors`` for NaN, infinite, zero or wrong-sized ones."""
        ...

    def encode_document(self, texts: Sequence[str]) -> Vectors:
        """Embed chunks: ``(len(texts), dim)``. Raises as ``encode_query``."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` without special tokens, untruncated."""
        ...


class Source(Protocol):
    """A stream of documents, read once, never whole in memory."""

    name: str

    def __iter__(self) -> Iterator[Document]:
        """Yield every record; one that cannot be read raises ``SourceError`` with its place."""
        ...


class Progress(Protocol):
    """Where long work reports to: a terminal bar, a log line, or nothing."""

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        """Begin a task; ``total`` is None where it is not known."""
        ...

    def advance(self, n: int = 1) -> None:
        """Report ``n`` more units done."""
        ...

    def done(self, note: str = "") -> None:
        """End the task."""
        ...


class NoProgress:
    """Reports to nobody."""

    def start(self, what: str, total: int | None = None, unit: str = "documents") -> None:
        """Ignore."""

    def advance(self, n: int = 1) -> None:
        """Ignore."""

    def done(self, note: str = "") -> None:
        """Ignore."""
