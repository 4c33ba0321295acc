"""Loaded encoders of registered generations, each proved to be the one that its generation was built with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from revector.encoders.check import check_same_encoder
from revector.encoders.vocabulary import Vocabulary
from revector.errors import EncoderError, EncoderUnavailable
from revector.indexing.chunking import make_chunker
from revector.interfaces import Chunker, Encoder
from revector.registry.collections import Generation
from revector.spec import MAX_UNKNOWN_TOKENS, ModelSpec

MODEL_ERRORS = (Exception,)
"""What models and their drivers raise: anything. No database call lies where it is caught."""


class Encoders:
    """Loads encoders on demand and keeps them: loading takes seconds. Safe to share between threads."""

    def __init__(self, load: Callable[[ModelSpec], Encoder]) -> None:
        self._load = load
        self._loaded: dict[ModelSpec, Encoder] = {}
        self._proved: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._loading: dict[ModelSpec, threading.Lock] = {}
        self._vocabularies: dict[str, Vocabulary] = {}

    def fresh(self, model: ModelSpec) -> Encoder:
        """Return the encoder that ``model`` describes, proved by nothing yet. Waits for no other model's loading."""
        model = replace(model, max_unknown_tokens=MAX_UNKNOWN_TOKENS)  # revisions that differ there share the model
        with self._lock:
            loading = self._loading.setdefault(model, threading.Lock())
        with loading:
            if model not in self._loaded:
                self._loaded[model] = self._load(model)
            return self._loaded[model]

    def of(self, generation: Generation) -> Encoder:
        """Return the encoder of a generation. Raises ``EncoderMismatch`` when what loads is another one."""
        encoder = self.fresh(generation.spec.model)
        key = (generation.gen, encoder.fingerprint)
        if key not in self._proved:
            _check(generation, encoder, probe=False)
            self._proved.add(key)
        return encoder

    def probe(self, generation: Generation) -> None:
        """Re-embed the probe texts. Raises ``EncoderError`` unless they still are what the generation was built with.

        A model behind an API, or a device, may change while its settings stay the same.
        """
        _check(generation, self.fresh(generation.spec.model), probe=True)

    def chunker_of(self, generation: Generation) -> Chunker:
        """Return the chunker of a generation, which counts in its encoder's tokens."""
        encoder = self.of(generation)
        return make_chunker(generation.spec.chunking, encoder.tokenizer, encoder.kinds)

    def vocabulary_of(self, generation: Generation) -> Vocabulary:
        """Return what the encoder of a generation knows of texts."""
        encoder = self.of(generation)
        if encoder.fingerprint not in self._vocabularies:
            self._vocabularies[encoder.fingerprint] = Vocabulary(encoder.tokenizer)
        return self._vocabularies[encoder.fingerprint]


def _check(generation: Generation, encoder: Encoder, *, probe: bool) -> None:
    try:
        check_same_encoder(generation.encoder, generation.probes, encoder, probe=probe)
    except EncoderError:
        raise
    except MODEL_ERRORS as error:
        raise EncoderUnavailable(
            f"the encoder of generation {generation.gen} (revision {generation.revision}) fails on the probe texts: "
            f"{type(error).__name__}: {error}. Nothing was embedded and all work stays due; fix the encoder or its "
            "device, then run it again."
        ) from error
