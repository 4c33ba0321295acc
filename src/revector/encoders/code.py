"""Owns the refusal of model folders that would run code: a model is data, unless revector.toml trusts it.

sentence-transformers and transformers have guards of their own; this is looked at before either is called.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from revector.errors import EncoderError

_KINDS = (
    "Transformer Pooling Normalize Dense Dropout LayerNorm StaticEmbedding WeightedLayerPooling WordWeights CNN LSTM "
    "Router Asym CLIPModel"
)
_MODULE = re.compile(
    r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.[a-z_]+)?\."
    rf"({'|'.join(_KINDS.split())})"
)
_ACTIVATION = re.compile(r"torch\.nn\.(modules\.(activation|linear)\.)?[A-Za-z0-9]+")
_KERNELS = ("attn_implementation", "experts_implementation", "use_kernels")
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"}
"""Large, and they name no code."""


def check_code(name: str, folder: Path, *, trusted: bool) -> None:
    """Raise ``EncoderError`` where loading model ``name`` from ``folder`` would run code.

    Refused are modules that are not of sentence-transformers, activations that are not of torch, kernels and code of
    other repositories, and pickles that are more than weights. ``trusted``: modules and activations of the folder's own
    are allowed, for their hashes are part of the model's identity; the rest never is.
    """
    for path in _settings(folder):
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # what needs it will say so
        for found, own in _found(path.relative_to(folder).as_posix(), data, trusted=trusted):
            if own and trusted:
                continue
            trust = f'trust_code = true under [models."{name}"] in revector.toml'
            way = f"if you have read its Python files and trust them, set {trust}" if own else "choose another model"
            raise EncoderError(f"model {name!r} in {folder} would run code: {found}. Nothing of it was loaded; {way}.")


def _settings(folder: Path) -> Iterator[Path]:
    """Yield every JSON file but vocabularies, also behind links to other folders, which are loaded as well."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in sorted(names) if name.endswith(".json") and name not in _VOCABULARIES)


def _found(path: str, data: object, *, trusted: bool) -> Iterator[tuple[str, bool]]:
    """Yield what in a file would run code, and whether it would be code of the folder's own."""
    for kind in _module_types(path, data):
        if not isinstance(kind, str) or not _MODULE.fullmatch(kind):
            yield f"{path} names the module {kind!r}, which is none of sentence-transformers", _is_own(kind)
    for key, value in _entries(data):
        match key, value:
            case "activation_function", str() if "." in value and not _ACTIVATION.fullmatch(value):
                yield f"{path} names the activation {value!r}, which is none of torch.nn", _is_own(value)
            case "weights_only", False | 0 | None | "":
                yield f"{path} wants pickles to be unpacked that hold more than weights (weights_only)", False
            case "auto_map", dict() if trusted and any("--" in text for text in _texts(value)):
                yield f"{path} takes code from another repository ({value!r})", False
            case str(), _ if key.lstrip("_").startswith(_KERNELS) and any("/" in text for text in _texts(value)):
                yield f"{path} takes kernels from a repository ({value!r})", False


def _is_own(reference: object) -> bool:
    return isinstance(reference, str) and "--" not in reference


def _module_types(path: str, data: object) -> Iterator[object]:
    """Yield the classes that sentence-transformers imports: of modules.json, and of the parts of a router."""
    if path == "modules.json":
        entries = data if isinstance(data, list) else []
        yield from (entry.get("type") if isinstance(entry, dict) else entry for entry in entries)
    elif path.endswith("config.json") and isinstance(data, dict) and isinstance(data.get("types"), dict):
        yield from data["types"].values()


def _entries(data: object) -> Iterator[tuple[object, object]]:
    """Yield the names and values of all tables in JSON data, however deep."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in JSON data, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list):
            waiting.extend(one.values() if isinstance(one, dict) else one)
