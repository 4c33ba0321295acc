"""Loaded encoders of registered generations, each proved to be the one that its generation was built with."""

from __future__ import annotations

import threading
from collections.abc import Callable

from revector.chunking import make_chunker
from revector.encoders import check_same_encoder
from revector.interfaces import Chunker, Encoder
from revector.registry.collections import Generation
from revector.spec import ModelSpec


class Encoders:
    """Loads encoders on demand and keeps them: loading takes seconds. Safe to share between threads."""

    def __init__(self, load: Callable[[ModelSpec], Encoder]) -> None:
        self._load = load
        self._loaded: dict[ModelSpec, Encoder] = {}
        self._proved: set[tuple[int, str]] = set()
        self._lock = threading.Lock()

    def fresh(self, model: ModelSpec) -> Encoder:
        """Return the encoder that ``model`` describes, proved by nothing yet."""
        with self._lock:
            if model not in self._loaded:
                self._loaded[model] = self._load(model)
            return self._loaded[model]

    def of(self, generation: Generation) -> Encoder:
        """Return the encoder of a generation. Raises ``EncoderMismatch`` when what loads is another one."""
        encoder = self.fresh(generation.spec.model)
        key = (generation.gen, encoder.fingerprint)
        if key not in self._proved:
            check_same_encoder(generation.encoder, generation.probes, encoder)
            self._proved.add(key)
        return encoder

    def probe(self, generation: Generation) -> None:
        """Embed the probe texts anew. Raises ``EncoderError`` unless they still are what the generation was built with.

        A model behind an API, or a device, may change while its settings stay the same.
        """
        check_same_encoder(generation.encoder, generation.probes, self.fresh(generation.spec.model), probe=True)

    def chunker_of(self, generation: Generation) -> Chunker:
        """Return the chunker of a generation, which counts in its encoder's tokens."""
        return make_chunker(generation.spec.chunking, self.of(generation).tokenizer)
