"""Encoders and judges that behave badly on demand, over the library's own fakes."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from revector.encoders.api.fake import FakeServer, Fault, Reply
from revector.encoders.hashing import HashingEncoder
from revector.encoders.probes import PROBE_TEXTS
from revector.indexing.publish import FRAME
from revector.interfaces import Kind, Piece, Side, Vectors, whole_texts
from revector.spec import ModelSpec

Hook = Callable[[Sequence[str], Vectors], Any]


def wordpiece() -> Tokenizer:
    """A tokenizer as BERT's that knows every sign of ASCII and nothing else."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = ["[UNK]", *signs, *(f"##{sign}" for sign in signs), "river", "##er"]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[UNK]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


class Crash(BaseException):
    """Ends a run as a kill would: nothing in the library catches it."""


class WatchedEncoder:
    """The hashing encoder; notes what it embeds, and lets a hook see, change or refuse each batch of documents."""

    def __init__(self, model: ModelSpec) -> None:
        self._inner = HashingEncoder(model, seed=2 if model.name.endswith("seed2") else 0)
        self.embedded: list[str] = []
        self.calls = 0
        self.hook: Hook | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return self._inner.kinds

    @property
    def dim(self) -> int:
        return self._inner.dim

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    @property
    def components(self) -> Mapping[str, Any]:
        return self._inner.components

    @property
    def tokenizer(self) -> Any:
        return self._inner.tokenizer

    def count_tokens(self, text: str) -> int:
        return self._inner.count_tokens(text)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Any:
        texts = [piece.text for piece in pieces]
        return self.queries(texts) if side == "query" else self.documents(texts)

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self._inner.encode("query", whole_texts(texts))

    def documents(self, texts: Sequence[str]) -> Any:
        vectors = self._inner.encode("document", whole_texts(texts))
        if tuple(texts) == PROBE_TEXTS:
            return vectors
        if len(texts) > 1 and (texts[0], texts[-1]) == (PROBE_TEXTS[FRAME[0]], PROBE_TEXTS[FRAME[1]]):
            found = np.asarray(self._watched(texts[1:-1], vectors[1:-1]))
            fits = found.ndim == 2 and found.shape[1] == vectors.shape[1]
            return np.concatenate([vectors[:1], found, vectors[-1:]]) if fits else found
        return self._watched(texts, vectors)

    def _watched(self, texts: Sequence[str], vectors: Vectors) -> Any:
        self.calls += 1
        if self.hook is not None:
            vectors = self.hook(texts, vectors)
        self.embedded.extend(texts)
        return vectors


class ReadingEncoder(WatchedEncoder):
    """Counts tokens as BERT does: to it all scripts but ASCII, and words over 100 characters, are unknown."""

    TOKENIZER = wordpiece()

    @property
    def tokenizer(self) -> Any:
        return self.TOKENIZER

    def count_tokens(self, text: str) -> int:
        return len(self.TOKENIZER.encode(text, add_special_tokens=False).ids)


class Loader:
    """Loads watched encoders and keeps them, by model name, for the test to look at."""

    def __init__(self, kind: type[WatchedEncoder] = WatchedEncoder) -> None:
        self.encoders: dict[str, WatchedEncoder] = {}
        self.kind = kind

    def __call__(self, model: ModelSpec) -> WatchedEncoder:
        if model.name not in self.encoders:
            self.encoders[model.name] = self.kind(model)
        return self.encoders[model.name]

    def __getitem__(self, name: str) -> WatchedEncoder:
        """The encoder of ``hashing`` (revision a100) or ``hashing:seed2`` (b200)."""
        return self(ModelSpec(name, {"hashing": 64, "hashing:seed2": 64}[name]))

    @property
    def embedded(self) -> int:
        return sum(len(encoder.embedded) for encoder in self.encoders.values())


class FakeJudge(FakeServer):
    """A server of chat completions that judges a document relevant where its first word is that of the query.

    ``words`` is asked instead where it is given: query and document → the content of the answer. ``asked`` holds the
    pairs that were ever answered.
    """

    path = "/v1/chat/completions"

    def __init__(self, words: Callable[[str, str], str] | None = None, *, key: str | None = None) -> None:
        super().__init__(key=key)
        self.words = words or (lambda query, document: f'{{"score": {int(query.split()[0] == document.split()[0])}}}')
        self.model = ""
        self.asked: list[tuple[str, str]] = []

    def fault_of(self, request: Reply) -> Fault:
        """Return what to do to ``request``."""
        with self.lock:
            scripted = self.script.popleft() if self.script else None
        return scripted or Fault()

    def answer(self, request: Reply) -> Reply:
        """Return the JSON that answers ``request`` well."""
        told = request["messages"][1]["content"]
        query, document = re.findall(r"^BEGIN \w+ (\w+)\n(.*?)\nEND \w+ \1$", told, re.DOTALL | re.MULTILINE)
        with self.lock:
            self.asked.append((query[1], document[1]))
        return {
            "model": self.model or request["model"],
            "choices": [{"message": {"role": "assistant", "content": self.words(query[1], document[1])}}],
            "usage": {"prompt_tokens": 200, "completion_tokens": 8, "total_tokens": 208},
        }
