"""Owns the adapter: a linear map behind a model's tower for texts, which brings a new one to where the old put texts.

It is a cure for a tower that was replaced alone, fitted on texts that both embed; the gate judges it as any model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revector.encoders.check import unit_rows
from revector.encoders.files import new_folder, refuse_existing
from revector.encoders.images import KINDS, kinds_of, routes_of
from revector.encoders.libraries import quiet
from revector.errors import ConfigError
from revector.interfaces import Kind, Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RIDGE_FROM = 1_000
"""Anchors beyond which a map need not be a rotation. On a related model of equal width 100, 300 and 700 anchors brought
back .82, .97 and .99 of what its own queries found by a rotation, and .64, .91 and .96 by ridge regression; beyond
1,000 both the same."""

_PENALTY = 0.1
"""Of ridge regression, as a share of the mean eigenvalue of the anchors' second moments."""


def fit(new: Vectors, old: Vectors, *, ridge: bool) -> Vectors:
    """Return the matrix ``(old width, new width)`` that takes the ``new`` vectors of anchors, as rows, to the ``old``.

    By ``ridge`` regression, or a rotation, with reflections (orthogonal Procrustes: Schönemann, "A generalized solution
    of the orthogonal Procrustes problem", 1966).
    """
    rows, wanted = (unit_rows(one).astype(np.float64) for one in (new, old))
    if not ridge:
        left, _, right = np.linalg.svd(rows.T @ wanted, full_matrices=False)
        return np.ascontiguousarray((left @ right).T, np.float32)
    moments = rows.T @ rows
    penalty = _PENALTY * np.trace(moments) / len(moments)
    found = np.linalg.solve(moments + penalty * np.eye(len(moments)), rows.T @ wanted)
    return np.ascontiguousarray(found.T, np.float32)


def save_adapted(base: Path, matrix: Vectors, folder: Path) -> None:
    """Save the model of two towers in ``base`` with ``matrix`` behind its tower for texts, in a new ``folder``.

    Its weights are of the tower for texts, hence in that tower's fingerprint. Raises ``ConfigError`` for a model that
    embeds no images, and for an existing ``folder``.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Router

    refuse_existing(folder)
    with quiet():
        network = SentenceTransformer(str(base), device="cpu", local_files_only=True)
    if len(kinds_of(network)) < 2:
        raise ConfigError(f"{base} embeds no images, so its texts have nothing to find. Nothing was saved.")
    old, new = matrix.shape
    weight = torch.as_tensor(matrix)
    made = Dense(new, old, bias=False, activation_function=torch.nn.Identity(), init_weight=weight)
    text, image = (_route(network, base, kind) for kind in KINDS)
    router = Router(
        {"text": [*text, made], "image": image}, route_mappings={(None, "text"): "text", (None, "image"): "image"}
    )
    with quiet(), new_folder(folder) as temporary:
        saved = SentenceTransformer(modules=[router, Normalize()], device="cpu")
        saved.save(str(temporary), create_model_card=False)


def _route(network: SentenceTransformer, base: Path, kind: Kind) -> list[Any]:
    """Return what content of one kind goes through, without the last step, which gives vectors their length."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Router

    first, *rest = network.children()
    heads = [first]
    if isinstance(first, Router):
        name, *others = routes_of(first, kind)
        if others:
            raise ConfigError(f"{base} embeds {kind}s of queries and documents by different towers. Nothing was saved.")
        heads = list(first.sub_modules[str(name)].children())
    return [*heads, *(one for one in rest if not isinstance(one, Normalize))]
