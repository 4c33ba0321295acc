"""Owns the proof that vectors are usable and that an encoder is the one a generation was built with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from revector.encoders.probes import probes_of
from revector.errors import BadVectors, EncoderError, EncoderMismatch
from revector.interfaces import Encoder, Piece, Vectors
from revector.spec import ModelSpec, stable_hash


def texts_of(pieces: Sequence[Piece]) -> list[str]:
    """Return the texts of ``pieces``, for an encoder of text alone. Raises ``EncoderError`` for a piece without one."""
    try:
        return [piece.text for piece in pieces]
    except TypeError as error:
        raise EncoderError(
            f"the encoder embeds text alone, and {error}. Nothing was embedded; name a model that embeds this kind."
        ) from error


def check_vectors(vectors: npt.ArrayLike, count: int, dim: int) -> Vectors:
    """Return ``vectors`` as float32, C-contiguous, shape ``(count, dim)``.

    Raises ``BadVectors`` for a wrong number of rows, a wrong width, or rows with NaN, infinite or only zero values.
    """
    try:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadVectors(
            f"{count} vectors of {dim} numbers were wanted, the encoder returned no table: {error}."
        ) from error
    if count == 0 and array.size == 0:
        return np.zeros((0, dim), dtype=np.float32)
    if array.ndim != 2 or array.shape != (count, dim):
        raise BadVectors(
            f"{count} vectors of {dim} numbers were wanted, the encoder returned shape {array.shape}. None was stored; "
            "check model.dim, and that the encoder answers every text once."
        )
    for what, rows in (
        ("NaN or infinite", ~np.isfinite(array).all(axis=1)),
        ("only zero", ~array.any(axis=1)),
    ):
        if rows.any():
            raise BadVectors(
                f"{int(rows.sum())} of {count} vectors hold {what} values: {_rows(np.flatnonzero(rows))}. None was "
                "stored; look at these texts (empty, or only characters that the model drops?) and at model.dtype."
            )
    return array


def _rows(rows: npt.NDArray[np.intp]) -> str:
    shown = ", ".join(str(row) for row in rows[:10])
    return f"rows {shown}" + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")


def unit_rows(vectors: Vectors) -> Vectors:
    """Return every row divided by its Euclidean norm: ``(n, dim)``, float32. Rows must not be zero."""
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def settings_of(model: ModelSpec) -> dict[str, object]:
    """Return the settings of ``model`` that shape vectors, by name: the part of an identity that all encoders share."""
    return {
        "dim": model.dim,
        "max_tokens": model.max_tokens,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "normalize": model.normalize,
        "dtype": model.dtype,
    }


def fingerprint_of(components: Mapping[str, object]) -> str:
    """Return the SHA-256 (hex) of the identity in ``components``: everything but the library versions."""
    return stable_hash({name: value for name, value in components.items() if name != "libraries"})


def vectors_fp(components: Mapping[str, object]) -> str:
    """Return the fingerprint of what vectors are worth to other generations.

    As ``fingerprint_of``, but without the width where a narrower vector is the beginning of a wider one (Matryoshka
    cuts of local models). Behind an API the address counts too: a name proves nothing there.
    """
    if components.get("kind") == "api":
        return stable_hash(dict(components))
    cut = components.get("kind") == "sentence-transformers"
    return fingerprint_of({name: value for name, value in components.items() if not (cut and name == "dim")})


def probe_vectors(encoder: Encoder) -> Vectors:
    """Return the vectors of its probes as documents: ``(n, encoder.dim)``, 16 for text. Raises ``BadVectors``."""
    probes = probes_of(encoder.kinds)
    return check_vectors(encoder.encode("document", probes), len(probes), encoder.dim)


def check_same_encoder(
    stored_components: Mapping[str, object],
    stored_probes: npt.ArrayLike,
    encoder: Encoder,
    *,
    probe: bool = False,
    min_cosine: float = 0.999,
) -> None:
    """Prove that ``encoder`` is the one that ``stored_components`` and ``stored_probes`` (n, dim) describe.

    Any difference of identity is refused. Where library versions differ, or ``probe`` asks for it, its probes are
    embedded again and every cosine to its stored vector must reach ``min_cosine`` (0 to 1). Raises ``EncoderMismatch``
    naming what differs.
    """
    found = encoder.components
    differences = _differences(_without_libraries(stored_components), _without_libraries(found))
    if differences:
        raise EncoderMismatch(
            f"the encoder is not the one that this generation was built with: {'; '.join(differences)}. Nothing was "
            "embedded; restore the model and its settings, or write a new revision for the changed one."
        )
    libraries = _differences(_libraries(stored_components), _libraries(found))
    if not libraries and not probe:
        return
    said = f"library versions differ ({'; '.join(libraries)})" if libraries else "settings and libraries are the same"
    stored, wanted = np.asarray(stored_probes, dtype=np.float32), (len(probes_of(encoder.kinds)), encoder.dim)
    if stored.shape != wanted:
        raise EncoderMismatch(
            f"{said}, but the stored probe vectors have shape {stored.shape} instead of {wanted}, so "
            "sameness cannot be proved. Nothing was embedded; go back to the stored library versions, or write a new "
            "revision."
        )
    cosines = np.sum(unit_rows(check_vectors(stored, *stored.shape)) * unit_rows(probe_vectors(encoder)), axis=1)
    if cosines.min() < min_cosine:
        raise EncoderMismatch(
            f"{said}, but the vectors differ: probe {int(cosines.argmin())} has cosine {cosines.min():.5f} to its "
            f"stored vector, allowed is {min_cosine} or above. Nothing was embedded; restore the model and the stored "
            "library versions, or write a new revision."
        )


def _without_libraries(components: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in components.items() if name != "libraries"}


def _libraries(components: Mapping[str, object]) -> Mapping[str, object]:
    versions = components.get("libraries")
    return versions if isinstance(versions, Mapping) else {}


def _differences(stored: Mapping[str, object], found: Mapping[str, object], prefix: str = "") -> list[str]:
    """Return one ``name: stored -> found`` per difference, inner mappings by their own names."""
    differences: list[str] = []
    for name in sorted({*stored, *found}):
        old, new = stored.get(name, "absent"), found.get(name, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences += _differences(old, new, f"{prefix}{name}/")
        elif old != new:
            differences.append(f"{prefix}{name}: stored {_short(old)}, found {_short(new)}")
    return differences


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value or '""'
    return text if len(text) <= 40 else text[:12] + "…"
