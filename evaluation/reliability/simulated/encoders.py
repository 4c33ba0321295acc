"""The hashing encoder with faults: what a model server does to its callers, switched on and off by rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from evaluation.reliability.truth import seed_of

from revector.encoders.hashing import HashingEncoder
from revector.encoders.probes import PROBE_TEXTS
from revector.errors import EncoderUnavailable
from revector.interfaces import Encoder, Piece, Side, Vectors, whole_texts
from revector.spec import ModelSpec

LASTING = ("unavailable", "busy")
FAULTS = (*LASTING, "hiccup", "short", "short", "nan", "reversed")
"""Of embedding documents: some last until they are fixed, the others befall one call."""

POISON, VENOM = "poison", "venom"
"""Words that no model survives: for the one it raises something of its own, for the other it answers with NaN."""


@cache
def sound_encoder(model: ModelSpec) -> HashingEncoder:
    """Return the library's encoder of a model, without faults."""
    return HashingEncoder(model, seed=seed_of(model))


class Models:
    """Loads the encoders of one simulated world; ``faults`` and ``replaced`` are by model name."""

    def __init__(self, at: Callable[[str], None]) -> None:
        self.at = at
        self.faults: dict[str, str] = {}
        self.replaced: set[str] = set()
        """Models of which another one stands under the name since: who loads it now gets that one."""

    def is_untold(self, name: str) -> bool:
        """Whether nobody could tell, registering the model of this name, that it is not the one that is meant."""
        return name in self.replaced or self.faults.get(name) == "reversed"

    def load(self, model: ModelSpec) -> Encoder:
        """As a process loads a model when it starts."""
        return SimulatedEncoder(model, self, replaced=model.name in self.replaced)


class SimulatedEncoder:
    """An encoder whose calls can fail and can be interrupted."""

    def __init__(self, model: ModelSpec, models: Models, *, replaced: bool) -> None:
        self._model, self._models = model, models
        self._inner = HashingEncoder(model, seed=99) if replaced else sound_encoder(model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        """Embed; between resolving a query and searching it is where the alias may move."""
        self._models.at(f"outside encode {side}")
        return self._inner.encode(side, pieces) if side == "query" else self._documents(pieces)

    def _documents(self, pieces: Sequence[Piece]) -> Vectors:
        """Embed documents, or fail as the fault of the day says."""
        texts = [piece.text for piece in pieces]
        fault = self._models.faults.get(self._model.name)
        if fault is not None and fault not in LASTING:
            del self._models.faults[self._model.name]
        if fault == "unavailable":
            raise EncoderUnavailable("the model server does not answer")
        if fault in ("busy", "hiccup"):
            raise RuntimeError("429 Too Many Requests")
        if any(POISON in text for text in texts):
            raise RuntimeError("CUDA error: device-side assert triggered")
        vectors = _probes(self._inner) if tuple(texts) == PROBE_TEXTS else self._inner.encode("document", pieces)
        spoilt = np.array([fault == "nan" or VENOM in text for text in texts])
        reply = np.where(spoilt[:, None], np.float32("nan"), vectors)
        return reply[:-1] if fault == "short" else reply[::-1] if fault == "reversed" else reply


@cache
def _probes(encoder: HashingEncoder) -> Vectors:
    return encoder.encode("document", whole_texts(PROBE_TEXTS))
