"""Owns vectors as others write them into columns: raw bytes, text, JSON or lists, and which bytes a column holds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BYTES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "float16": np.dtype("<f2"),
    "float32, big-endian": np.dtype(">f4"),
    "float64, big-endian": np.dtype(">f8"),
}
_LIKELY = (1e-7, 1e3)
"""Absolute values of the numbers of a vector. Bytes that are read as another type have many beyond."""

_NPY = b"\x93NUMPY"
_BRACKETS = str.maketrans(dict.fromkeys("[](){},;", " "))


class NoVector(ValueError):
    """A value that is no vector; the message says what it is."""


@dataclass(frozen=True, slots=True)
class VectorForm:
    """How the vectors of a column are written: in words, and as which numbers raw bytes are read."""

    said: str
    dtype: np.dtype[Any] | None = None

    def read(self, value: object) -> npt.NDArray[np.float32]:
        """Return the vectors of one row, (c, dim): one, or several where a list of lists is there.

        Raises ``NoVector``. Numbers that float32 cannot hold become infinite, for the caller to refuse.
        """
        numbers = _numbers(value, self.dtype)
        if numbers.ndim == 1:
            numbers = numbers[None]
        if numbers.ndim != 2 or not numbers.size or numbers.dtype.kind not in "fiu":
            raise NoVector(f"an array of shape {numbers.shape} and type {numbers.dtype}")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(numbers, np.float32)


def form_of(values: Sequence[object], dim: int | None = None) -> VectorForm:
    """Return how ``values`` are written, none of them None; of raw bytes, whose width is ``dim`` where it is known.

    Raises ``NoVector`` where the first value is no vector in any form.
    """
    first = values[0]
    if not isinstance(first, bytes | bytearray | memoryview):
        form = VectorForm("text, such as [1,2]" if isinstance(first, str) else "lists of numbers")
        form.read(first)
        return form
    if bytes(first).startswith(_NPY):
        return VectorForm(".npy files in bytes")
    if bytes(first).lstrip()[:1] in (b"[", b"{") and _is_text(bytes(first)):
        return VectorForm("text in bytes")
    said, dtype = _as_bytes([bytes(one) for one in values if isinstance(one, bytes | bytearray | memoryview)], dim)
    return VectorForm(f"{said} in bytes", dtype)


def looks_like_vector(value: object) -> bool:
    """Whether a value that is not None could be a vector of at least 8 numbers, by itself."""
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) >= 32
    if isinstance(value, str) and value.strip()[:1] not in ("[", "{"):
        return False
    try:
        return len(VectorForm("").read(value)[0]) >= 8
    except NoVector:
        return False


def _numbers(value: object, dtype: np.dtype[Any] | None) -> npt.NDArray[Any]:
    if isinstance(value, bytes | bytearray | memoryview):
        return _of_bytes(bytes(value), dtype)
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, np.ndarray):
        return value
    if callable(to_list := getattr(value, "to_list", None)):  # pgvector's own class
        value = to_list()
    if not isinstance(value, list | tuple):
        raise NoVector(f"a value of type {type(value).__name__}")
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise NoVector("a list of what are not numbers, or of lists of several lengths") from error


def _of_bytes(value: bytes, dtype: np.dtype[Any] | None) -> npt.NDArray[Any]:
    if value.startswith(_NPY):
        try:
            return np.asarray(np.lib.format.read_array(io.BytesIO(value), allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise NoVector(f"an .npy file that cannot be read ({error})") from error
    if dtype is None:
        return _of_text(value.decode("utf-8", "replace"))
    if not value or len(value) % dtype.itemsize:
        raise NoVector(f"{len(value):,} bytes, which are no {dtype.name} numbers")
    return np.frombuffer(value, dtype)


def _of_text(value: str) -> npt.NDArray[np.float64]:
    """Return the numbers of ``[1,2]`` as JSON, pgvector, PostgreSQL (``{1,2}``) and numpy (``[1 2]``) write them."""
    try:
        return np.array(value.translate(_BRACKETS).split(), np.float64)
    except ValueError as error:
        raise NoVector(f"the text {value[:40]!r}") from error


def _is_text(value: bytes) -> bool:
    try:
        return bool(_of_text(value.decode("ascii")).size)
    except (UnicodeDecodeError, NoVector):
        return False


def _as_bytes(values: Sequence[bytes], dim: int | None) -> tuple[str, np.dtype[Any]]:
    """Return as which numbers raw bytes are vectors: of those that fit, the one that most numbers are likely of."""
    if all(one[:1] == b"\x80" and one[1:2] in b"\x02\x03\x04\x05" and one[-1:] == b"." for one in values):
        raise NoVector("pickles, which can run code and are not opened")
    found = {name: _likely(values, dtype, dim) for name, dtype in _BYTES.items()}
    best = max(found, key=lambda name: found[name])
    if found[best] < 0.9:
        raise NoVector(f"{len(values[0]):,} bytes that are no float16, float32 or float64 numbers")
    return best, _BYTES[best]


def _likely(values: Sequence[bytes], dtype: np.dtype[Any], dim: int | None) -> float:
    """Return the share (0 to 1) of numbers that a vector would have; more where count or lengths say so, too.

    Numbers that were float32 before have many zeros in their float64 bytes: their own lengths tell them.
    """
    fitting = [one for one in values if one and len(one) % dtype.itemsize == 0]
    if 2 * len(fitting) < len(values):
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        vectors = [np.frombuffer(one, dtype).astype(np.float64) for one in fitting]
        numbers = np.abs(np.concatenate(vectors))
        likely = float(((numbers == 0) | ((numbers > _LIKELY[0]) & (numbers < _LIKELY[1]))).mean())
        of_length_1 = np.mean([abs(float(np.linalg.norm(one)) - 1) <= 0.01 for one in vectors]) >= 0.5
    of_width = dim is not None and 2 * sum(len(one) == dim for one in vectors) >= len(values)
    return likely + (0.05 if of_width else 0.0) + (0.1 if of_length_1 else 0.0)
