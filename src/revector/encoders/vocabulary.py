"""Owns how much of a text a model's tokenizer knows, and which texts it knows too little of to be told apart."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tokenizers import Tokenizer

from revector.interfaces import Piece

LONG_WORD = 100
"""WordPiece gives up on longer words (``max_input_chars_per_word``): base64, hex and DNA become one unknown token."""

SYMBOLS, LONG_WORDS = "symbols", f"words over {LONG_WORD} characters"
_EXCERPT = 40
_SCRIPT_CHARACTERS = 2_000
_BEYOND_ASCII = re.compile(r"[^\s\x20-\x7e]|[^\x00-\x7f]")
_PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]


class TokenCount(NamedTuple):
    """Tokens of a text that say something: letters, digits and symbols, known and unknown; punctuation is no word."""

    unknown: int
    known: int

    @property
    def share(self) -> float:
        """Share of unknown ones, 0 to 1; 0 where punctuation is all there is."""
        return self.unknown / max(1, self.unknown + self.known)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The first chunk of a document of which more is unknown than ``limit`` allows: its number, share and text."""

    chunk: int
    of: int
    share: float
    limit: float
    text: str

    @property
    def said(self) -> str:
        """What was found against what is allowed, as a sentence without its end."""
        return (
            f"{self.share:.0%} of the tokens of chunk {self.chunk + 1} of {self.of} ({excerpt(self.text)}) are unknown "
            f"to the model, max_unknown_tokens allows {self.limit:.0%}"
        )

    def reason(self, doc_id: str) -> str:
        """Return why the document was not embedded, and what to do."""
        return (
            f"document {doc_id!r}: {self.said}: its vector would be that of any other such text. This version is not "
            "in the index; serve a model that knows the script, take out what is no language, or write a revision that "
            "allows more."
        )


class Vocabulary:
    """What a tokenizer knows. All texts of unknown tokens have nearly the same vector, whatever they say.

    Nothing is unknown where words become bytes (byte-level BPE, byte fallback), nor where the encoder reads texts by
    itself and its tokenizer only counts (``counts_only``: hashing). Safe to share between threads.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown = _unknown_id(tokenizer)
        self._says: dict[int, bool] = {}
        self.counts_only = tokenizer.get_vocab_size() <= 1
        self._literal = None if self._unknown is None else tokenizer.id_to_token(self._unknown)
        self._knows_ascii = self._unknown is None or _knows_ascii(tokenizer)
        longest = getattr(tokenizer.model, "max_input_chars_per_word", LONG_WORD)
        self._too_long = re.compile(rf"\S{{{longest + 1}}}")

    def tallies(self, texts: Sequence[str], *, first: int | None = None) -> list[TokenCount]:
        """Count the tokens of each text, or its ``first`` ones; a text of which no token is left counts as unknown."""
        if self.counts_only:
            return [TokenCount(0, 1)] * len(texts)
        # White space in one form: to some tokenizers a line break is unknown, and it is no word.
        plain = [" ".join(text.split()) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        return [self._tally(encoding.ids[:first]) for encoding in encodings]

    def unreadable(self, documents: Mapping[str, Sequence[Piece]], limit: float) -> dict[str, Unreadable]:
        """Return the ``documents`` (id → its pieces) with a text of more unknown tokens than ``limit``, a share."""
        if limit >= 1 or self.counts_only:
            return {}
        doubtful = [
            (doc_id, n, pieces)
            for doc_id, pieces in documents.items()
            for n, piece in enumerate(pieces)
            if piece.content.kind == "text" and not self._surely_known(piece.text)
        ]
        found: dict[str, Unreadable] = {}
        tallies = self.tallies([pieces[n].text for _, n, pieces in doubtful])
        for (doc_id, n, pieces), tally in zip(doubtful, tallies, strict=True):
            if tally.share > limit and doc_id not in found:
                found[doc_id] = Unreadable(n, len(pieces), tally.share, limit, pieces[n].text)
        return found

    def _surely_known(self, text: str) -> bool:
        """Whether nothing can be unknown, seen without tokenising: most texts, in a hundredth of the time."""
        return (
            self._knows_ascii
            and not _BEYOND_ASCII.search(text)
            and not self._too_long.search(text)
            and (self._literal is None or self._literal not in text)
        )

    def _tally(self, ids: Sequence[int]) -> TokenCount:
        if not ids:
            return TokenCount(1, 0)
        unknown = 0 if self._unknown is None else ids.count(self._unknown)
        return TokenCount(unknown, sum(map(self._is_word, ids)) - unknown)

    def _is_word(self, token: int) -> bool:
        if token not in self._says:
            self._says[token] = token == self._unknown or _says_something(self._tokenizer.id_to_token(token) or "")
        return self._says[token]


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that stands for what is not in the vocabulary; None where there is none."""
    token = getattr(tokenizer.model, "unk_token", None)
    if token is not None:
        return tokenizer.token_to_id(token)
    number = json.loads(tokenizer.to_str())["model"].get("unk_id")  # Unigram tells it nowhere else
    return None if number is None else int(number)


def _knows_ascii(tokenizer: Tokenizer) -> bool:
    """Whether every visible ASCII character is a token, wherever in a word it stands: so are all words of them."""
    kind = type(tokenizer.model).__name__
    if kind not in ("WordPiece", "Unigram"):
        return False
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", "") or ""
    normal = (lambda text: text) if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str
    pieces = {piece for character in _PRINTABLE for piece in normal(character)}
    return all(tokenizer.token_to_id(start + piece) is not None for piece in pieces for start in ("", prefix))


def _says_something(token: str) -> bool:
    """Whether a token stands for letters, digits or symbols; "##", "▁" and ASCII marks such as "=" are no symbols.

    >>> [_says_something(token) for token in ("##ing", "##,", "▁", "=", "。", "😀", "ี")]
    [True, False, False, False, False, True, True]
    """
    return any(
        (kind := unicodedata.category(character)[0]) in "LNM" or (kind == "S" and character > "\x7f")
        for character in token.replace("▁", "").removesuffix("</w>")
    )


def excerpt(text: str) -> str:
    """Return the beginning of ``text`` for a message."""
    return repr(text[:_EXCERPT]) + ("…" if len(text) > _EXCERPT else "")


def script_of(text: str) -> str:
    """Return the script of most letters of a text, ``LONG_WORDS`` or, without letters, ``SYMBOLS``.

    >>> [script_of(text) for text in ("a river", "แม่น้ำโขง", "北京", "ACGT" * 40, "🎉")]
    ['Latin', 'Thai', 'Han', 'words over 100 characters', 'symbols']
    """
    beginning = text[:_SCRIPT_CHARACTERS]
    scripts = Counter(_script(character) for character in beginning if character.isalpha())
    script = scripts.most_common(1)[0][0] if scripts else SYMBOLS
    if script in ("Latin", SYMBOLS):
        words = beginning.split()
        if sum(len(word) for word in words if len(word) > LONG_WORD) > sum(map(len, words)) / 2:
            return LONG_WORDS
    return script


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    name = unicodedata.name(character, "UNNAMED").split()[0]
    return "Han" if name == "CJK" else name.capitalize()
