"""Owns where a model reference points, and turns a model specification into a loaded encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from revector.encoders.check import PROBES, check_same_encoder, check_vectors, probe_vectors, vectors_fp
from revector.encoders.packages import package_folder
from revector.errors import ConfigError
from revector.interfaces import Encoder
from revector.spec import ModelSpec

if TYPE_CHECKING:
    from revector.encoders.api import Provider

__all__ = [
    "PROBES",
    "check_same_encoder",
    "check_vectors",
    "is_hub_id",
    "load_encoder",
    "model_folder",
    "probe_vectors",
    "resolve_model",
    "vectors_fp",
]

_HASHING = re.compile(r"hashing(?::seed(\d{1,9}))?")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_FORMS = (
    '"org/name" (hub), "./folder" or an absolute folder, "package:name[/folder]", "api:provider/model" or "hashing"'
)


def resolve_model(name: str, root: Path) -> str:
    """Return what ``name`` points to: the absolute path of a model folder, a hub id, ``hashing…`` or ``api:…``.

    Folders are relative to ``root``; a package's model is the named folder or ``model`` in it. Raises ``ConfigError``
    for an unknown form, a folder without a model, and a package that is not installed.
    """
    if _HASHING.fullmatch(name):
        return name
    if name.startswith("api:"):
        from revector.encoders.api.settings import split_reference

        split_reference(name)
        return name
    if name.startswith("package:"):
        folder = package_folder(name)
        return str(_with_model(name, folder, folder / "model"))
    path = Path(name).expanduser()
    if name.startswith(("./", "../", "~")) or path.is_absolute():
        folder = (root / path).resolve()
        if not folder.is_dir():
            raise ConfigError(
                f"model {name!r}: there is no folder {folder}. Nothing was changed; correct model.name (relative "
                "folders start at the project folder) or put the model there."
            )
        return str(_with_model(name, folder))
    if _HUB_ID.fullmatch(name):
        return name
    raise ConfigError(f"model {name!r} is not a model reference. Nothing was changed; write {_FORMS}.")


def is_hub_id(reference: str) -> bool:
    """Whether a resolved reference is a hub id."""
    return not (_HASHING.fullmatch(reference) or reference.startswith("api:") or Path(reference).is_absolute())


def model_folder(model: ModelSpec, root: Path, *, trust_code: bool = False) -> Path:
    """Return the folder of a local model's files, downloaded where it is a hub id. Raises as ``resolve_model``."""
    from revector.encoders.files import hub_folder

    reference = resolve_model(model.name, root)
    return hub_folder(reference, model.commit, code=trust_code) if is_hub_id(reference) else Path(reference)


def _with_model(name: str, *folders: Path) -> Path:
    for folder in folders:
        if any((folder / file).is_file() for file in ("modules.json", "config.json")):
            return folder
    raise ConfigError(
        f"model {name!r}: no modules.json or config.json in {' or '.join(map(str, folders))}, so no model is there. "
        "Nothing was changed; name the folder that a sentence-transformers model was saved to."
    )


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
    if match := _HASHING.fullmatch(reference):
        from revector.encoders.hashing import HashingEncoder

        return HashingEncoder(model, seed=int(match[1] or 0))
    if reference.startswith("api:"):
        from revector.encoders.api import load_api_encoder

        return load_api_encoder(model, providers or {}, root)
    from revector.encoders.sentence_transformers import LOADING, SentenceTransformerEncoder

    folder = model_folder(model, root, trust_code=trust_code)
    with LOADING:
        return SentenceTransformerEncoder(
            model, folder=folder, device=device, batch_tokens=batch_tokens, trust_code=trust_code
        )
