"""Owns how a model of two towers embeds images, and what is of which tower: weights, files and settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.formats.images import RULES, picture
from revector.interfaces import Blob, Kind, Side
from revector.spec import ModelSpec, stable_hash

if TYPE_CHECKING:
    from PIL.Image import Image
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from torch import Tensor

KINDS: tuple[Kind, ...] = ("text", "image")

BATCH_IMAGES, BATCH_PIXELS = 64, 64_000_000
"""Images, and pixels of all of them, that are unpacked at once: 192 MB, or one image that is larger."""

_OF_IMAGES = ("vision", "visual", "image", "pixel")
_OF_NEITHER = re.compile(r"(^|\.)(logit_(scale|bias)$|pooler\.)")
"""Weights of the training's loss, and a pooler: where a file has none, it is filled at random, and not used."""


def kinds_of(network: SentenceTransformer) -> tuple[Kind, ...]:
    """Return the kinds of content that a model embeds: text, and images where it has a tower for them."""
    return KINDS if "image" in network.modalities else ("text",)


def image_libraries() -> dict[str, str]:
    """Return the versions of what unpacks and scales images; transformers scales by torchvision where it is there."""
    found = {"pillow": version("pillow")}
    try:
        return found | {"torchvision": version("torchvision")}
    except PackageNotFoundError:
        return found | {"torchvision": "none"}


def towers(network: SentenceTransformer, files: Mapping[str, str], model: ModelSpec) -> dict[str, str]:
    """Return the fingerprint (SHA-256 hex) of each tower: its weights as loaded, its preprocessing and its prompts.

    Not of the width, which a cut takes from both. What cannot be told to be of one tower is of both.
    """
    digests = {kind: hashlib.sha256() for kind in KINDS}
    for name, tensor in sorted(network.state_dict().items()):
        if not _OF_NEITHER.search(name):
            for kind in _owners(network, name):
                digests[kind].update(name.encode() + b"\0" + _bytes(tensor))
    shared = {"normalize": model.normalize, "dtype": model.dtype}
    scaling = {name: sha256 for name, sha256 in files.items() if name.endswith("processor_config.json")}
    words = {name: sha256 for name, sha256 in files.items() if "token" in name or "vocab" in name}
    prompts = {"query": model.query_prompt, "document": model.document_prompt, "max_tokens": model.max_tokens}
    return {
        "text": stable_hash({"weights": digests["text"].hexdigest(), "files": words, **prompts, **shared}),
        "image": stable_hash({"weights": digests["image"].hexdigest(), "files": scaling, "rules": RULES, **shared}),
    }


def _owners(network: SentenceTransformer, name: str) -> tuple[Kind, ...]:
    """Return the towers that have the weight ``name``: by the routes of a router, else by what it is called."""
    from sentence_transformers.base.modules import Router

    router, parts = network[0], name.split(".")
    if isinstance(router, Router):
        if parts[:2] != ["0", "sub_modules"]:
            return KINDS
        return tuple(kind for kind in KINDS if parts[2] in routes_of(router, kind))
    if any(word in part for part in parts for word in _OF_IMAGES):
        return ("image",)
    return ("text",) if any("text" in part for part in parts) else KINDS


def routes_of(router: Router, kind: Kind) -> set[str | None]:
    """Return the routes that content of a kind takes, as a query and as a document."""
    return {router._resolve_route(task=side, modality=kind) for side in ("query", "document")}


def _bytes(tensor: Tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


class ImageEngine:
    """Embeds images by sentence-transformers, on its device; where memory runs out, its batches halve for good."""

    def __init__(self, network: SentenceTransformer, dim: int) -> None:
        self._network, self._dim, self._most = network, dim, BATCH_IMAGES

    def __call__(self, blobs: Sequence[Blob], side: Side) -> npt.NDArray[np.float32]:
        """Return ``(len(blobs), dim)``. Raises ``DocumentError`` for bytes that are gone or show nothing."""
        found = [np.empty((0, self._dim), np.float32)]
        found += [self._encode(batch, side) for batch in _batches(blobs)]
        return np.concatenate(found)

    def _encode(self, pictures: Sequence[Image], side: Side) -> npt.NDArray[np.float32]:
        from revector.encoders.packed import is_out_of_memory

        encode = self._network.encode_query if side == "query" else self._network.encode_document
        while True:
            try:
                found = encode(list(pictures), prompt="", batch_size=self._most, show_progress_bar=False)
                return np.asarray(found, dtype=np.float32)[:, : self._dim]
            except RuntimeError as error:
                if self._most == 1 or not is_out_of_memory(error):
                    raise
            self._most //= 2


def _batches(blobs: Sequence[Blob]) -> Iterator[list[Image]]:
    batch: list[Image] = []
    pixels = 0
    for blob in blobs:
        one = picture(blob.read())
        if batch and (len(batch) == BATCH_IMAGES or pixels + one.width * one.height > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(one)
        pixels += one.width * one.height
    if batch:
        yield batch
