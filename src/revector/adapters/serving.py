"""Owns what an application is told before it starts: which model serves a collection, and whether it is its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from revector.config import Project, load_project
from revector.encoders.check import check_vectors, unit_rows
from revector.encoders.probes import PROBE_TEXTS
from revector.errors import BadVectors, EncoderMismatch
from revector.registry.collections import Generation

MIN_COSINE = 0.999
MOST_STRETCH = 0.05
"""Up to this share lengths may differ, where they count."""
"""To each stored probe vector; what an encoder of our own must meet after an upgrade of its libraries."""

Model = str | Callable[[list[str]], Sequence[Sequence[float]] | npt.NDArray[np.floating]]
"""A name or a fingerprint of a model; or what embeds documents, so that it can be proved."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves a collection: the index and the model that belong together."""

    collection: str
    generation: int
    revision: str
    encoder_fp: str
    model: str
    dim: int


def guard(collection: str, model: Model, *, project: Project | Path | str | None = None) -> Serving:
    """Return what serves ``collection``, if it is ``model``; an application calls it before it starts.

    ``model`` is the name of a migration file's model, an ``encoder_fp``, or a function that embeds texts as documents
    (such as ``embeddings.embed_documents`` of LangChain). A name is only compared. A function is proved: it embeds the
    15 short probe texts, and each must have a cosine of 0.999 to the vector that was stored when the index was made.
    ``project``: a project, its folder or its ``revector.toml``; else that of ``$REVECTOR_CONFIG`` or of this folder.

    Raises ``EncoderMismatch`` where another model serves, ``StateError`` where none does, ``ConfigError`` for an
    unknown collection. It looks once: searches and vectors name their ``encoder_fp`` afterwards.
    """
    found = opened(project).searcher(collection).resolve()
    if wrong := _difference(found, model):
        raise EncoderMismatch(
            f"{wrong}, and collection {collection!r} is served by revision {found.revision}, model "
            f"{found.spec.model.name!r} (encoder {found.encoder_fp}). Nothing was started; configure that model, or "
            "ask by text and leave the vectors to revector."
        )
    served = found.spec.model
    return Serving(collection, found.gen, found.revision, found.encoder_fp, served.name, served.dim)


def opened(project: Project | Path | str | None) -> Project:
    """Return a project that is given, or is found."""
    return project if isinstance(project, Project) else load_project(None if project is None else Path(project))


def _difference(found: Generation, model: Model) -> str:
    """Say what ``model`` is where it is not that of the generation; nothing where it is."""
    if isinstance(model, str):
        same = found.encoder_fp if re.fullmatch("[0-9a-f]{64}", model) else found.spec.model.name
        return "" if model == same else f"the application is configured with {model!r}"
    texts = list(PROBE_TEXTS[:-1])  # the last is longer than models read, and clients cut it in ways of their own
    stored = np.asarray(found.probes[: len(texts)], dtype=np.float32)
    try:
        made = check_vectors(model(texts), *stored.shape)
    except BadVectors as error:
        return f"the application's model is another: {error}"
    cosines = np.sum(unit_rows(stored) * unit_rows(made), axis=1)
    stretches = np.linalg.norm(made, axis=1) / np.linalg.norm(stored, axis=1)
    if cosines.min() >= MIN_COSINE:
        if not found.spec.lengths_count or np.abs(stretches - 1).max() <= MOST_STRETCH:
            return ""
        return (
            f"the application's vectors have {stretches.min():.4f} to {stretches.max():.4f} of the lengths of the "
            f"stored ones, and the index compares by {found.spec.index.metric}"
        )
    return (
        f"the application's model is another: probe text {int(cosines.argmin())} has a cosine of {cosines.min():.4f} "
        f"to its stored vector, {MIN_COSINE} is demanded"
    )
