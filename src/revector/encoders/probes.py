"""Owns the probes: fixed contents of each kind, whose stored vectors tell a changed encoder from an unchanged one.

Never edit one: stored vectors would no longer match. An encoder is probed with those of its ``kinds``, in that order;
their vectors are stored one below the other, so that what is stored needs no word about kinds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from revector.interfaces import Content, Kind, Piece, whole_texts

PROBE_TEXTS: tuple[str, ...] = (
    "What is the capital of France?",
    "Aspirin lowers fever and relieves mild pain.",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "SELECT id, name FROM users WHERE created_at > '2024-01-01' ORDER BY name;",
    "3.14159 2.71828 1,000,000 42 -17 6.022e23",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le cœur a ses raisons que la raison ne connaît point.",
    "機械学習モデルの埋め込みを更新する方法",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "الذكاء الاصطناعي يغير العالم",
    "우리는 매일 새로운 것을 배웁니다.",
    "😀🎉🚀 launch day! 👩‍💻",
    "x",
    "ERROR 2024-05-06T07:08:09Z worker-3: connection reset by peer (errno 104)",
    "https://example.org/path/to/page?query=embedding&lang=en#section-2",
    " ".join(
        f"Paragraph {n} of a long text about moving a search index from one embedding model to another."
        for n in range(40)
    ),
)
"""Languages, code, numbers, emoji, one character, and a text beyond most token limits."""

_WIDTH, _HEIGHT = 48, 40


def _probe_images() -> list[bytes]:
    """Return what probes a tower for images: colours, edges, a gradient, a shape off the centre, and noise."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    red, blue, green = (np.array(colour, np.uint8) for colour in ((214, 40, 40), (29, 78, 216), (22, 163, 74)))
    plain = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    disc = (x - 15) ** 2 + (y - 14) ** 2 < 144
    noise = (x * 2_654_435_761 + y * 40_503) >> 7  # the same on every machine, by no generator of a library
    return [
        _bitmap(plain + red),
        _bitmap(plain + blue),
        _bitmap(np.where((x // 6 + y // 6)[..., None] % 2, 255, 0)),
        _bitmap(np.where((x // 4)[..., None] % 2, green, 240)),
        _bitmap(np.where((y // 4)[..., None] % 2, green, 240)),
        _bitmap(np.stack([x * 5, y * 6, 255 - x * 5], axis=-1)),
        _bitmap(np.where(disc[..., None], red, 250)),
        _bitmap(np.stack([noise, noise >> 3, noise >> 5], axis=-1) & 255),
    ]


def _bitmap(pixels: npt.NDArray[Any]) -> bytes:
    """Return ``(height, width, 3)``, or of one channel, as a BMP file of 24 bits.

    No library packs it, so its bytes never change.

    Source: Microsoft, BITMAPFILEHEADER and BITMAPINFOHEADER. A width that is a multiple of 4 needs no padding.
    """
    height, width = pixels.shape[:2]
    rows = np.broadcast_to(pixels, (height, width, 3))[::-1, :, ::-1].astype(np.uint8).tobytes()
    head = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0) + rows


PROBES: Mapping[Kind, tuple[Piece, ...]] = {
    "text": tuple(whole_texts(PROBE_TEXTS)),
    "image": tuple(Piece.whole(Content.image(data)) for data in _probe_images()),
}
"""At least two of each kind."""


def probes_of(kinds: Sequence[Kind]) -> list[Piece]:
    """Return the probes of an encoder of these kinds, in the order that their vectors are stored in."""
    return [probe for kind in kinds for probe in PROBES[kind]]


def first_row(kinds: Sequence[Kind], kind: Kind) -> int:
    """Return where the vectors of the probes of ``kind`` begin among those stored for an encoder of ``kinds``."""
    return len(probes_of(kinds[: kinds.index(kind)]))
