"""The seams between layers: documents, contents, pieces, encoders, sources, progress, as small types and protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""float32, shape ``(n, dim)``."""

Kind = Literal["text", "image"]
"""What a content is. Each kind has its own probes (``encoders.probes``) and its own way to be cut into pieces."""

Side = Literal["document", "query"]
"""Which side of a search a piece is on: what is found, or what is asked. Models may embed the two differently."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a source or an application hands it over.

    ``version`` is the caller's own, for write-if-newer; None lets the last write win. ``text`` is None for a record
    that has none: without an image it is refused with its reason, never dropped. ``image``: its bytes, or what reads
    them when the document is stored, which raises ``DocumentError`` where it cannot.
    """

    id: str
    text: str | None
    meta: Mapping[str, object] = field(default_factory=dict)
    version: int | None = None
    image: bytes | Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are kept elsewhere, or a window of them: their SHA-256 in hex, how many, and what reads them.

    ``start`` and ``length`` are the window, in the unit of its kind: an image is 1 long, a clip as many milliseconds as
    it lasts. The same bytes are equal, wherever they are kept. ``read`` raises ``DocumentError`` where they are gone.
    """

    sha256: str
    size: int
    read: Callable[[], bytes] = field(compare=False, repr=False)
    start: int = 0
    length: int = 1


@dataclass(frozen=True, slots=True)
class Content:
    """One thing that a document holds, or that a query is: text itself, or bytes by reference."""

    kind: Kind
    data: str | Blob

    @classmethod
    def image(cls, data: bytes) -> Content:
        """Return an image whose bytes are at hand."""
        return cls("image", Blob(hashlib.sha256(data).hexdigest(), len(data), lambda: data))

    @property
    def text(self) -> str:
        """The text. Raises ``TypeError`` for bytes: ask for ``kind`` first."""
        if isinstance(self.data, str):
            return self.data
        raise TypeError(f"a content of kind {self.kind!r} has no text")

    @property
    def blob(self) -> Blob:
        """The bytes. Raises ``TypeError`` for text."""
        if isinstance(self.data, Blob):
            return self.data
        raise TypeError("a text is no bytes elsewhere")

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of the text in UTF-8, or of the bytes."""
        return hashlib.sha256(self.data.encode()).hexdigest() if isinstance(self.data, str) else self.data.sha256

    @property
    def length(self) -> int:
        """How long it is: code points of a text; else in the unit of its kind."""
        return len(self.data) if isinstance(self.data, str) else self.data.length

    def cut(self, start: int, end: int) -> Content:
        """Return what is from ``start`` to ``end`` of it."""
        if isinstance(self.data, str):
            return Content(self.kind, self.data[start:end])
        return Content(self.kind, replace(self.data, start=self.data.start + start, length=end - start))


class Locator(NamedTuple):
    """Where in its document a piece is: from ``start`` to before ``end``.

    The contents of a document follow each other, each as long as it is; so in a text these are its code points, and an
    image after a text of 500 is at 500 to 501.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes one vector, which depends on ``content`` alone; ``locator`` says where that is in its document."""

    content: Content
    locator: Locator

    @classmethod
    def at(cls, contents: Sequence[Content], locator: Locator) -> Piece:
        """Return the piece of a document's ``contents`` that ``locator`` names."""
        first, (start, end) = 0, locator
        for content in contents[:-1]:
            if start < first + content.length:
                return cls(content.cut(start - first, end - first), locator)
            first += content.length
        return cls(contents[-1].cut(start - first, end - first), locator)

    @classmethod
    def whole(cls, content: Content) -> Piece:
        """Return all of ``content`` as one piece, as queries and probes are."""
        return cls(content, Locator(0, content.length))

    @property
    def text(self) -> str:
        """The text of its content. Raises ``TypeError`` for bytes."""
        return self.content.text


def whole_texts(texts: Iterable[str]) -> list[Piece]:
    """Return each text as one piece."""
    return [Piece.whole(Content("text", text)) for text in texts]


def read_to_the_end(pieces: Sequence[Piece], contents: Sequence[Content]) -> bool:
    """Whether pieces reach the end of the text, the first content: not where it is longer than the model reads.

    The vector that others made of such a text is of its first tokens, which may end within a word: of no piece of ours.
    """
    first = contents[0]
    return bool(pieces) and (first.kind != "text" or pieces[-1].locator.end >= len(first.text.rstrip()))


def locators_of(pieces: Iterable[Piece]) -> npt.NDArray[np.int32]:
    """Return where pieces are, as columns: int32 ``(n, 2)``, starts and ends."""
    return np.array([piece.locator for piece in pieces], np.int32).reshape(-1, 2)


class Chunker(Protocol):
    """Cuts what a document holds into pieces; text by tokens of the encoder's own tokenizer."""

    def pieces(self, contents: Sequence[Content]) -> list[Piece]:
        """Return the pieces of a document's contents in order; none only where there is nothing to see."""
        ...


class Encoder(Protocol):
    """Turns pieces into vectors. What each must do: tests/contract/test_encoder.py."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of content that it embeds, into one space; the order of its probes, so it never changes."""
        ...

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

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed pieces of its kinds, in any mixture: ``(len(pieces), dim)``, in their order.

        Raises ``BadVectors`` for NaN, infinite, zero or wrong-sized vectors, ``EncoderError`` for another kind.
        """
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
