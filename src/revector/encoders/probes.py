"""Owns the probes: fixed contents of each kind, whose stored vectors tell a changed encoder from an unchanged one.

Never edit one: stored vectors would no longer match. An encoder is probed with those of its ``kinds``, in that order;
their vectors are stored one below the other, so that what is stored needs no word about kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from revector.interfaces import Kind, Piece, whole_texts

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

PROBES: Mapping[Kind, tuple[Piece, ...]] = {"text": tuple(whole_texts(PROBE_TEXTS))}
"""At least two of each kind."""


def probes_of(kinds: Sequence[Kind]) -> list[Piece]:
    """Return the probes of an encoder of these kinds, in the order that their vectors are stored in."""
    return [probe for kind in kinds for probe in PROBES[kind]]


def first_row(kinds: Sequence[Kind], kind: Kind) -> int:
    """Return where the vectors of the probes of ``kind`` begin among those stored for an encoder of ``kinds``."""
    return len(probes_of(kinds[: kinds.index(kind)]))
