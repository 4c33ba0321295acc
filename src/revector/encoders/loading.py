"""Owns turning a model specification into a loaded encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from revector.encoders.references import HASHING, is_hub_id, model_folder, resolve_model
from revector.errors import ConfigError
from revector.interfaces import Encoder
from revector.spec import ModelSpec

if TYPE_CHECKING:
    from revector.encoders.api import Provider


def load_encoder(
    model: ModelSpec,
    *,
    root: Path,
    device: str = "auto",
    batch_tokens: int | None = None,
    providers: Mapping[str, Provider] | None = None,
    trust_code: bool = False,
) -> Encoder:
    """Return the encoder that ``model`` describes, loaded and ready; the caller keeps it, loading takes seconds.

    ``device``: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``, several separated by commas, which share the texts, or
    ``all`` CUDA devices. ``batch_tokens``: tokens per forward pass, at least 1 (a longer text is a pass of its own);
    None takes what was measured best for the device. ``providers``: those that ``api:…`` may name. ``trust_code``:
    run the Python files that lie in the model's folder.
    Raises ``ConfigError`` for a reference, device or option that cannot be, ``EncoderError`` for a model that cannot
    be loaded as specified.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be at least 1, found {batch_tokens}. Nothing was changed; correct it.")
    reference = resolve_model(model.name, root)
    if model.commit is not None and not is_hub_id(reference):
        raise ConfigError(
            f"model.commit {model.commit!r} is set, but model {model.name!r} is no hub id and has no commits. Nothing "
            "was changed; remove model.commit: local files are pinned by their hashes."
        )
    if match := HASHING.fullmatch(reference):
        from revector.encoders.hashing import HashingEncoder

        return HashingEncoder(model, seed=int(match[1] or 0), images=match[2] is not None)
    if reference.startswith("api:"):
        from revector.encoders.api import load_api_encoder

        return load_api_encoder(model, providers or {}, root)
    from revector.encoders.sentence_transformers import LOADING, SentenceTransformerEncoder

    folder = model_folder(model, root, trust_code=trust_code)
    with LOADING:
        return SentenceTransformerEncoder(
            model, folder=folder, device=device, batch_tokens=batch_tokens, trust_code=trust_code
        )
