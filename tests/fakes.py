"""Encoders that behave badly on demand, over the library's own fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from revector.encoders import PROBES
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import Vectors
from revector.spec import ModelSpec

Hook = Callable[[Sequence[str], Vectors], Any]


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

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        return self._inner.encode_query(texts)

    def encode_document(self, texts: Sequence[str]) -> Any:
        vectors = self._inner.encode_document(texts)
        if tuple(texts) == PROBES:
            return vectors
        self.calls += 1
        if self.hook is not None:
            vectors = self.hook(texts, vectors)
        self.embedded.extend(texts)
        return vectors


class Loader:
    """Loads watched encoders and keeps them, by model name, for the test to look at."""

    def __init__(self) -> None:
        self.encoders: dict[str, WatchedEncoder] = {}

    def __call__(self, model: ModelSpec) -> WatchedEncoder:
        if model.name not in self.encoders:
            self.encoders[model.name] = WatchedEncoder(model)
        return self.encoders[model.name]

    def __getitem__(self, name: str) -> WatchedEncoder:
        """The encoder of ``hashing`` (revision a100) or ``hashing:seed2`` (b200)."""
        return self(ModelSpec(name, {"hashing": 64, "hashing:seed2": 128}[name]))

    @property
    def embedded(self) -> int:
        return sum(len(encoder.embedded) for encoder in self.encoders.values())
