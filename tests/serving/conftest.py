"""A collection that is large enough for its HNSW index to be used, for tests that only read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from revector.interfaces import Document
from worlds import World

WORDS = [
    f"{a}{b}" for a in ("red", "blue", "green", "dark", "pale", "deep") for b in ("sea", "sky", "sun", "fir", "oak")
]
COUNT = 3_000


def text(n: int) -> str:
    rng = np.random.default_rng(n)
    return " ".join([f"apple{n} pear{n}", *rng.choice(WORDS, 6)])


@pytest.fixture(scope="session")
def library(databases, template, tmp_path_factory) -> Iterator[World]:
    """3,000 documents by HNSW; every tenth has many chunks. Tests leave it as it is."""
    world = World(tmp_path_factory.mktemp("library"), databases.url(databases.create(template)))
    world.documents.put_many(
        [
            Document(
                f"d{n:05d}",
                text(n) if n % 10 else " ".join(text(n) for _ in range(120)),
                {
                    "n": n,
                    "half": n % 2 == 0,
                    "lang": f"l{n % 20}",
                    "rare": n % 200,
                    "date": f"2024-{n % 12 + 1:02d}-01",
                },
            )
            for n in range(COUNT)
        ]
    )
    world.upgrade("a100")
    yield world
    world.engine.dispose()
