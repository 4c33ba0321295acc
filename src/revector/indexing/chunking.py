"""How cleaned text is cut into chunks, measured in tokens of the encoder's own tokenizer.

Every chunk is a slice of the document, stripped, in order. ``max_tokens`` includes the special tokens that the model
adds ([CLS], [SEP]), so no chunk is ever cut by the model. Chunks of the units ``tokens`` and ``sentences`` cover every
visible character; the unit ``document`` keeps the beginning only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sentencex
from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from revector.errors import SpecError
from revector.interfaces import Chunker, Content, Kind, Locator, Piece
from revector.spec import Chunking

SENTENCE_LANGUAGE = "en"
"""Whose abbreviations sentencex knows ("Dr."); full stops of all scripts end a sentence in any case."""

_WINDOW_CHARS_PER_TOKEN = 32

Span = tuple[int, int]
"""Start and end in characters of the document."""


def make_chunker(chunking: Chunking, tokenizer: Tokenizer, kinds: Sequence[Kind] = ("text",)) -> Chunker:
    """Return the chunker that ``chunking`` describes. ``tokenizer`` is copied, its truncation and padding ignored.

    ``kinds``: those that the model embeds; a content of another kind has no pieces.

    Raises ``SpecError`` when the model's special tokens leave no room for content.
    """
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    capacity = chunking.max_tokens - own.num_special_tokens_to_add(False)
    if capacity <= chunking.overlap_tokens:
        raise SpecError(
            f"chunking.max_tokens is {chunking.max_tokens}, of which the model's special tokens leave {capacity}; that "
            f"must be above overlap_tokens ({chunking.overlap_tokens}). Nothing was changed; fix the migration file."
        )
    overlap = chunking.overlap_tokens if chunking.unit == "tokens" else 0
    windows = _Windows(TextSplitter.from_huggingface_tokenizer(own, capacity, overlap), capacity)
    count = _Counter(own)
    if chunking.unit == "tokens":
        return _Slices(windows, kinds)
    if chunking.unit == "sentences":
        return _Slices(_Sentences(windows, count, capacity, chunking.min_sentences, chunking.max_sentences), kinds)
    return _Slices(_Beginning(count, capacity), kinds)


@dataclass(frozen=True, slots=True)
class _Slices:
    """A Chunker from a function that finds spans in a text; what is no text stays whole."""

    spans: Callable[[str], Iterator[Span]]
    kinds: Sequence[Kind]

    def pieces(self, contents: Sequence[Content]) -> list[Piece]:
        pieces, first = list[Piece](), 0
        for content in contents:
            for start, end in self._spans(content):
                pieces.append(Piece(content.cut(start, end), Locator(first + start, first + end)))
            first += content.length
        return pieces

    def _spans(self, content: Content) -> Iterator[Span]:
        if content.kind not in self.kinds:
            return
        if content.kind != "text":
            yield 0, content.length
            return
        for start, end in self.spans(content.text):
            span = _strip(content.text, start, end)
            if span[0] < span[1]:
                yield span


def _strip(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


@dataclass(frozen=True, slots=True)
class _Counter:
    """Counts content tokens."""

    tokenizer: Tokenizer

    def __call__(self, text: str) -> int:
        return len(self.offsets(text))

    def offsets(self, text: str) -> list[Span]:
        offsets: list[Span] = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows of tokens by semantic-text-splitter, which prefers to cut between paragraphs, sentences, words.

    The splitter's time grows with the square of a text without breaks (CJK, base64), so it sees a stretch at a time.
    Chunks that touch the end of a stretch are cut again from where the first of them begins, which keeps the overlap.
    """

    splitter: TextSplitter
    capacity: int

    def __call__(self, text: str) -> Iterator[Span]:
        start, stretch = 0, self.capacity * _WINDOW_CHARS_PER_TOKEN
        while start < len(text):
            piece = text[start : start + stretch]
            found = [(start + at, start + at + len(chunk)) for at, chunk in self.splitter.chunk_indices(piece)]
            if start + stretch >= len(text):
                yield from found
                return
            inner = start + len(piece.rstrip())
            whole = [span for span in found[:-1] if span[1] < inner]
            resume = found[len(whole)][0] if found else start + stretch
            if found and (not whole or resume <= start):
                stretch *= 2
                continue
            yield from whole
            start, stretch = resume, self.capacity * _WINDOW_CHARS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class _Beginning:
    """One span from the start of the text, as long as its tokens fit."""

    count: _Counter
    capacity: int

    def __call__(self, text: str) -> Iterator[Span]:
        stretch = self.capacity * _WINDOW_CHARS_PER_TOKEN
        offsets = self.count.offsets(text[:stretch])
        while len(offsets) <= self.capacity and stretch < len(text):
            stretch *= 2
            offsets = self.count.offsets(text[:stretch])
        if len(offsets) <= self.capacity:
            yield 0, len(text)
            return
        keep = self.capacity
        # Half a word, or a character that is several tokens, may count differently once it stands at the end.
        while self.count(text[: offsets[keep - 1][1]]) > self.capacity:
            keep -= 1
        yield 0, offsets[keep - 1][1]


@dataclass(frozen=True, slots=True)
class _Sentences:
    """Groups of sentences by sentencex; a group that is long enough ends with its paragraph."""

    windows: _Windows
    count: _Counter
    capacity: int
    least: int
    most: int

    def __call__(self, text: str) -> Iterator[Span]:
        run: list[Span] = []
        for start, end in _sentence_spans(text):
            if self._fits(text, start, end):
                run.append((start, end))
                continue
            yield from self._groups(text, run)
            run = []
            yield from ((start + a, start + b) for a, b in self.windows(text[start:end]))
        yield from self._groups(text, run)

    def _fits(self, text: str, start: int, end: int) -> bool:
        return self.count(text[start:end]) <= self.capacity

    def _groups(self, text: str, run: list[Span]) -> Iterator[Span]:
        groups: list[list[Span]] = []
        for start, end in run:
            last = groups[-1] if groups else []
            ended = len(last) >= self.least and "\n\n" in text[last[-1][1] : start]
            if last and len(last) < self.most and not ended and self._fits(text, last[0][0], end):
                last.append((start, end))
            else:
                groups.append([(start, end)])
        self._mend_tail(text, groups)
        return ((group[0][0], group[-1][1]) for group in groups)

    def _mend_tail(self, text: str, groups: list[list[Span]]) -> None:
        """Let a short last group join the one before it, or else take sentences from it, as far as they fit."""
        if len(groups) < 2 or len(groups[-1]) >= self.least:
            return
        before, tail = groups[-2:]
        if len(before) + len(tail) <= self.most and self._fits(text, before[0][0], tail[-1][1]):
            groups[-2:] = [before + tail]
            return
        while len(tail) < self.least < len(before) and self._fits(text, before[-1][0], tail[-1][1]):
            tail.insert(0, before.pop())


def _sentence_spans(text: str) -> Iterator[Span]:
    for found in sentencex.get_sentence_boundaries(SENTENCE_LANGUAGE, text):
        start, end = _strip(text, found["start_index"], found["end_index"])
        if start < end:
            yield start, end
