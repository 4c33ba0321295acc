"""Owns the measurement of how faithfully an encoder runs here: against the same model in float32, on real texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from revector.encoders.check import unit_rows
from revector.errors import FidelityTooLow
from revector.interfaces import Encoder
from revector.spec import Revision

TEXTS = 128
NEIGHBOURS = 10
TIE = 1e-6


@runtime_checkable
class Approximate(Protocol):
    """An encoder whose vectors depend on how it runs: number format, kernels, runtime."""

    def reference(self) -> Encoder | None:
        """Return the same model run plainly in float32, or None where this is what runs already."""
        ...


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Vectors as they are computed beside those of the reference: cosines (-1 to 1), and shared neighbours (0 to 1)."""

    texts: int
    cosine_mean: float
    cosine_min: float
    overlap_at_10: float


def measure(encoder: Encoder, texts: Sequence[str]) -> Fidelity | None:
    """Embed up to ``TEXTS`` different ``texts`` twice; None where there is nothing to compare, or fewer than two."""
    chosen = list(dict.fromkeys(texts))[:TEXTS]
    reference = encoder.reference() if isinstance(encoder, Approximate) and len(chosen) > 1 else None
    if reference is None:
        return None
    found = unit_rows(encoder.encode_document(chosen).astype(np.float64))
    wanted = unit_rows(reference.encode_document(chosen).astype(np.float64))
    cosines = np.sum(found * wanted, axis=1)
    return Fidelity(len(chosen), float(cosines.mean()), float(cosines.min()), overlap(wanted, found, NEIGHBOURS))


def overlap(wanted: npt.NDArray[np.floating], found: npt.NDArray[np.floating], k: int) -> float:
    """Return the mean share (0 to 1) of each row's ``k`` nearest other rows by ``found`` that are so by ``wanted`` too.

    Both hold unit vectors ``(n, dim)``. What is as near as the last by ``wanted``, but for rounding, counts as near.
    """
    k = min(k, len(wanted) - 1)
    by_wanted, by_found = _similarities(wanted), _similarities(found)
    last = np.sort(by_wanted, axis=1)[:, -k, None] - TIE
    nearest = np.argpartition(-by_found, k - 1, axis=1)[:, :k]
    return float((np.take_along_axis(by_wanted, nearest, axis=1) >= last).mean())


def _similarities(units: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    similar = units @ units.T
    np.fill_diagonal(similar, -np.inf)
    return similar


def check(found: Fidelity | None, revision: Revision) -> None:
    """Raise ``FidelityTooLow`` where an encoder shares fewer neighbours with float32 than the gate demands."""
    least = revision.gate.min_fidelity
    if found is not None and found.overlap_at_10 < least:
        raise FidelityTooLow(
            f"model {revision.model.name!r} as it runs here (dtype {revision.model.dtype}) shares "
            f"{found.overlap_at_10:.4f} of the ten nearest neighbours with float32 on {found.texts} texts of this "
            f"collection (least cosine {found.cosine_min:.5f}); gate.min_fidelity demands {least:g}. Nothing was "
            'registered; set model.dtype to "float32" or "bfloat16", or lower gate.min_fidelity in the migration file.'
        )
