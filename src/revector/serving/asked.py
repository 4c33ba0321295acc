"""Owns what a search may be asked beside a text: how many, by what, from which score on, and by whose vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from revector.errors import ConfigError, StateError
from revector.registry.collections import Generation
from revector.spec import Metric
from revector.stores.metrics import no_score
from revector.stores.pgvector import MAX_HALF

MinScore: TypeAlias = float | str | None
"""The least score of a hit, by the index's metric, or the name of a cut-off (`revector cutoffs`)."""


def check_asked(k: int, by: str, min_score: MinScore) -> None:
    """Raise ``ConfigError`` for what no search can be asked."""
    if not 1 <= k <= 1_000:
        raise ConfigError(f"k must be 1 to 1,000, found {k}. Nothing was searched.")
    if by not in ("document", "chunk"):
        raise ConfigError(f"by must be document or chunk, found {by!r}. Nothing was searched.")
    if min_score is None or isinstance(min_score, str):
        return
    if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not math.isfinite(min_score):
        raise ConfigError(
            f"min_score must be a finite number, or the name of a cut-off, found {min_score!r:.80}. Nothing was "
            "searched."
        )


def least_score(min_score: float | str, cutoffs: Mapping[str, float], revision: str, metric: Metric) -> float:
    """Return the least score that is meant. Raises ``ConfigError`` for a name that is no cut-off, or no score, here."""
    if not isinstance(min_score, str):
        if wrong := no_score(min_score, metric):
            raise ConfigError(f"min_score: {wrong}, as revision {revision} compares. Nothing was answered.")
        return float(min_score)
    if min_score not in cutoffs:
        raise ConfigError(
            f"min_score {min_score!r:.80} is no cut-off of revision {revision}, which has "
            f"{', '.join(cutoffs) or 'none'}. Nothing was answered; set it with `revector cutoffs set`."
        )
    return cutoffs[min_score]


def given_vector(pinned: Generation, vector: Sequence[float], encoder_fp: str) -> npt.NDArray[np.float32]:
    """Return a vector of the caller. Raises ``StateError`` for another encoder's, ``ConfigError`` for no vector."""
    if encoder_fp != pinned.encoder_fp:
        raise StateError(
            f"a vector of encoder {encoder_fp!r:.80} was given, revision {pinned.revision} that serves is of encoder "
            f"{pinned.encoder_fp!r}. Nothing was searched; ask by text, or embed the query with that encoder."
        )
    try:
        return usable_vector(np.asarray(vector, dtype=np.float64), pinned)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a vector is a list of numbers: {error}. Nothing was searched.") from error


def usable_vector(vector: npt.NDArray[np.floating], pinned: Generation) -> npt.NDArray[np.float32]:
    """Return the vector in length 1, in which half precision holds it; as it is where its length counts.

    Raises ``ConfigError`` where it has none, and for numbers that the index cannot hold.
    """
    dim, as_it_is = pinned.spec.model.dim, pinned.spec.lengths_count
    most = MAX_HALF if as_it_is and pinned.spec.index.storage == "halfvec" else math.inf
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(vector))
    if vector.shape != (dim,) or not 0 < length < math.inf or np.abs(vector).max() > most:
        found = f"shape {vector.shape} and length {length:g}"
        wanted = f"{dim} finite numbers{'' if most == math.inf else f' up to {most:,.0f}'}, not all 0"
        raise ConfigError(f"a vector needs {wanted}; found {found}. Nothing was searched.")
    return np.asarray(vector if as_it_is else vector / length, np.float32)
