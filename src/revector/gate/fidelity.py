"""Owns the measurement of how faithfully an encoder runs here: against the model as its own files say, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from revector.encoders.own import own_of
from revector.errors import FidelityTooLow
from revector.interfaces import Encoder, Piece
from revector.spec import Metric, ModelSpec, Revision
from revector.stores.metrics import comparable, score_table

TEXTS, TEXTS_FLOAT32 = 128, 32
"""Texts to compare. In float32, with the model's own settings, only a fault of the engine can show, and that shows in
any text; a lower precision differs by a little everywhere."""

NEIGHBOURS = 10
TIE = 1e-6


@runtime_checkable
class Approximate(Protocol):
    """An encoder whose vectors depend on how it runs: number format, kernels, runtime, prompts."""

    def reference(self) -> Encoder | None:
        """Return the model as its own files say, run plainly in float32, or None where this is what runs already."""
        ...


@runtime_checkable
class Paced(Protocol):
    """An encoder that knows which of its settings make it no faster on this machine, one clause each."""

    slow: tuple[str, ...]


def slow_of(encoder: Encoder) -> tuple[str, ...]:
    """Return what of the settings of ``encoder`` makes it no faster on this machine, one clause each."""
    return encoder.slow if isinstance(encoder, Paced) else ()


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Vectors as they are computed beside those of the reference: cosines (-1 to 1), and shared neighbours (0 to 1).

    ``query_overlap_at_10`` is of the same texts as queries, and measured only where prompts of the model's files are
    ``ignored``, one clause for each.
    """

    texts: int
    cosine_mean: float
    cosine_min: float
    overlap_at_10: float
    query_overlap_at_10: float | None = None
    ignored: tuple[str, ...] = ()

    def as_data(self) -> dict[str, object]:
        """Return what was measured as plain JSON data."""
        data: dict[str, object] = {"texts": self.texts, "cosine_mean": self.cosine_mean, "cosine_min": self.cosine_min}
        data |= {"overlap_at_10": self.overlap_at_10}
        if not self.ignored:
            return data
        return data | {"query_overlap_at_10": self.query_overlap_at_10, "ignored": list(self.ignored)}


def measure(encoder: Encoder, model: ModelSpec, pieces: Sequence[Piece], metric: Metric = "cosine") -> Fidelity | None:
    """Embed up to ``TEXTS`` different ``pieces`` twice; None where there is nothing to compare, or fewer than two.

    Neighbours are the nearest by ``metric``.
    """
    chosen = _different(pieces)[:TEXTS]
    reference = encoder.reference() if isinstance(encoder, Approximate) and len(chosen) > 1 else None
    if reference is None:
        return None
    found = encoder.encode("document", chosen).astype(np.float64)
    wanted = reference.encode("document", chosen).astype(np.float64)
    cosines = np.sum(comparable(found, "cosine") * comparable(wanted, "cosine"), axis=1)
    ignored, queries = own_of(encoder).ignored_by(model), None
    if ignored:
        asked = encoder.encode("query", chosen).astype(np.float64)
        meant = reference.encode("query", chosen).astype(np.float64)
        queries = _overlap(score_table(meant, wanted, metric), score_table(asked, found, metric), NEIGHBOURS)
    shared = overlap(wanted, found, NEIGHBOURS, metric)
    return Fidelity(len(chosen), float(cosines.mean()), float(cosines.min()), shared, queries, ignored)


def drawn(pieces: Sequence[Piece], revision: Revision) -> list[Piece]:
    """Return as many different ``pieces`` as comparing the number format of ``revision`` needs, evenly spaced."""
    most = TEXTS_FLOAT32 if revision.model.dtype == "float32" else TEXTS
    different = _different(pieces)
    return different[:: max(1, len(different) // most)][:most]


def _different(pieces: Sequence[Piece]) -> list[Piece]:
    return list({piece.content: piece for piece in pieces}.values())


def overlap(
    wanted: npt.NDArray[np.floating], found: npt.NDArray[np.floating], k: int, metric: Metric = "cosine"
) -> float:
    """Return the mean share (0 to 1) of each row's ``k`` nearest other rows by ``found`` that are so by ``wanted`` too.

    Both hold vectors ``(n, dim)``. What is as near as the last by ``wanted``, but for rounding, counts as near.
    """
    return _overlap(score_table(wanted, wanted, metric), score_table(found, found, metric), k)


def _overlap(by_wanted: npt.NDArray[np.floating], by_found: npt.NDArray[np.floating], k: int) -> float:
    """Return the same for two tables of similarities ``(n, n)``, of which the diagonal does not count."""
    k = min(k, len(by_wanted) - 1)
    np.fill_diagonal(by_wanted, -np.inf)
    np.fill_diagonal(by_found, -np.inf)
    last = np.sort(by_wanted, axis=1)[:, -k, None]
    last -= TIE * np.maximum(1, np.abs(last))
    nearest = np.argpartition(-by_found, k - 1, axis=1)[:, :k]
    return float((np.take_along_axis(by_wanted, nearest, axis=1) >= last).mean())


def check(found: Fidelity | None, revision: Revision) -> None:
    """Raise ``FidelityTooLow`` where an encoder shares fewer neighbours with the reference than the gate demands."""
    if reason := too_low(found, revision):
        raise FidelityTooLow(reason)


def too_low(found: Fidelity | None, revision: Revision) -> str:
    """Return why ``check`` refuses, or nothing."""
    least, name = revision.gate.min_fidelity, revision.model.name
    if found is None or min(found.overlap_at_10, found.query_overlap_at_10 or 1.0) >= least:
        return ""
    if found.ignored:
        return (
            f"model {name!r}: {'; '.join(found.ignored)}. With these it shares {found.overlap_at_10:.4f} of the ten "
            f"nearest neighbours with the model as its own files say (for queries {found.query_overlap_at_10:.4f}) on "
            f"{found.texts} texts of this collection; gate.min_fidelity demands {least:g}. Nothing was registered; "
            "take the prompts over into the migration file, or lower gate.min_fidelity there if yours are meant."
        )
    return (
        f"model {name!r} as it runs here (dtype {revision.model.dtype}) shares {found.overlap_at_10:.4f} of the ten "
        f"nearest neighbours with float32 on {found.texts} texts of this collection (least cosine "
        f"{found.cosine_min:.5f}); gate.min_fidelity demands {least:g}. Nothing was registered; set model.dtype to "
        '"float32" or "bfloat16", or lower gate.min_fidelity in the migration file.'
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """That an encoder may serve a revision. ``pieces`` gives some of the collection.

    ``served``: it serves already, so its settings need no proof: another index over its vectors changes nothing.
    """

    encoder: Encoder
    revision: Revision
    served: bool
    pieces: Callable[[], Sequence[Piece]]

    def refuse_similarity(self) -> None:
        """Raise ``EncoderError`` where no index compares the model's vectors as it was trained to."""
        if not self.served:
            own_of(self.encoder).check(self.revision.model.name)

    def foretell(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what provisioning will refuse, and what it will not but a person should know."""
        own, model = own_of(self.encoder), self.revision.model
        ignored, otherwise = own.ignored_by(model), own.ranked_otherwise_by(model, self.revision.index.metric)
        notes = (*own.exceeded_by(model), *otherwise, *slow_of(self.encoder))
        if not ignored or self.served:
            return (), (*ignored, *notes)
        found = measure(self.encoder, model, self.pieces(), self.revision.index.metric)
        reason = too_low(found, self.revision)
        return ((f"it will be refused: {reason.rstrip('.')}",), notes) if reason else ((), (*ignored, *notes))

    def demand(self) -> Fidelity | None:
        """Return what is measured; None where there is nothing to compare.

        Raises ``EncoderError`` as ``refuse_similarity``, ``FidelityTooLow`` below the gate.
        """
        self.refuse_similarity()
        ignored, pieces = own_of(self.encoder).ignored_by(self.revision.model), self.pieces
        if self.served and ignored:
            return None
        compared = pieces() if ignored else drawn(pieces(), self.revision)
        found = measure(self.encoder, self.revision.model, compared, self.revision.index.metric)
        check(found, self.revision)
        return found
