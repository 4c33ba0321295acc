"""Owns the encoder without weights: words hashed into dimensions, for tests, demos and memory measurements."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.encoders.check import check_vectors, fingerprint_of, settings_of, texts_of, unit_rows
from revector.encoders.images import image_libraries
from revector.formats.images import RULES, picture
from revector.interfaces import Blob, Kind, Piece, Side, Vectors
from revector.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORD = re.compile(r"\w+")
_SLOTS = 4
_SLICE = 4096


class HashingEncoder:
    """Count sketch of lower-case words: each adds +1 or -1 to four dimensions chosen by its hash.

    Texts that share words are near, nothing else is meant. ``model.dtype`` is part of the fingerprint but all is
    computed in float32. Source: Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002.
    With ``images``, images are embedded, too: by their colours as words, so that "f00" is near what is red.
    """

    def __init__(self, model: ModelSpec, *, seed: int = 0, images: bool = False) -> None:
        self._model, self._seed = model, seed
        self._kinds: tuple[Kind, ...] = ("text", "image") if images else ("text",)
        self._components = {"kind": "hashing", "algorithm": 1, "seed": seed, **settings_of(model), "libraries": {}}
        if images:
            self._components |= {"rules": RULES, "libraries": image_libraries()}
        self._fingerprint = fingerprint_of(self._components)
        self._tokenizer = _word_tokenizer()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Text alone, or images, too."""
        return self._kinds

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._model.dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of seed and settings."""
        return self._fingerprint

    @property
    def components(self) -> Mapping[str, object]:
        """What went into the fingerprint, by name, and ``libraries`` (none)."""
        return self._components

    @property
    def tokenizer(self) -> Tokenizer:
        """Words and runs of punctuation, with character offsets; no truncation, no padding."""
        return self._tokenizer

    def count_tokens(self, text: str) -> int:
        """Words and runs of punctuation in ``text``."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed texts and what else is of its kinds: ``(len(pieces), dim)`` float32; never a zero row."""
        prompt = self._model.prompt_of(side)
        if "image" in self._kinds:
            texts = [_colours(one.content.blob) if one.content.kind == "image" else one.text for one in pieces]
        else:
            texts = texts_of(pieces)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _SLICE):
            rows = slice(start, start + _SLICE)
            vectors[rows] = self._sketch(texts[rows], prompt)
        # Words may cancel each other exactly; such a text still needs a direction.
        vectors[~vectors.any(axis=1), 0] = 1.0
        checked = check_vectors(vectors, len(texts), self.dim)
        return unit_rows(checked) if self._model.normalize else checked

    def _sketch(self, texts: Sequence[str], prompt: str) -> npt.NDArray[np.float64]:
        prefix = [prompt] if prompt else []
        words = [prefix + (_WORD.findall(text.lower())[: self._model.max_tokens] or [text]) for text in texts]
        hashes = np.array([zlib.crc32(w.encode("utf-8", "replace")) for ws in words for w in ws], dtype=np.uint64)
        rows = np.repeat(np.arange(len(texts)), [len(ws) for ws in words])
        sketch = np.zeros(len(texts) * self.dim)
        for slot in range(_SLOTS):
            mixed = _mix(hashes + np.uint64((self._seed * _SLOTS + slot) << 32))
            cells = rows * self.dim + (mixed >> np.uint64(1)).astype(np.int64) % self.dim
            sketch += np.bincount(cells, weights=1.0 - 2.0 * (mixed & np.uint64(1)), minlength=len(sketch))
        return sketch.reshape(len(texts), self.dim)


def _colours(blob: Blob) -> str:
    """Return the colours of an image as words in order, each of three hex digits: the upper four bits of a channel."""
    levels = np.unique(np.asarray(picture(blob.read())).reshape(-1, 3) >> 4, axis=0)
    return " ".join(f"{red:x}{green:x}{blue:x}" for red, green, blue in levels.tolist())


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread 64-bit values evenly. Source: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _word_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    unknown = "[UNK]"
    tokenizer = Tokenizer(WordLevel({unknown: 0}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer
