"""The proofs' own encoder and chunker: equal to the product's where both are right, and blind to nothing it may do."""

from __future__ import annotations

import random

import numpy as np
import pytest
from evaluation.reliability.traffic import text_of, token_of
from evaluation.reliability.truth import Chunk, Truth, cut

from revector.encoders.hashing import HashingEncoder
from revector.indexing.chunking import make_chunker
from revector.interfaces import Content, whole_texts
from revector.spec import Chunking, ModelSpec

DRAW = random.Random(7)
TEXTS = [
    *(text_of(token_of(f"d{n:03d}", "first", 0), words) for words in (12, 40, 120) for n in range(30)),
    *(" ".join(DRAW.choice(("été", "a1b", "x", "first.b", "Word")) for _ in range(n)) for n in range(1, 60)),
]
SHAPES = [
    Chunking(max_tokens=8, overlap_tokens=0),
    Chunking(max_tokens=8, overlap_tokens=2),
    Chunking(max_tokens=12, overlap_tokens=2),
    Chunking(max_tokens=24, overlap_tokens=4),
    Chunking(unit="document", max_tokens=16, overlap_tokens=0),
]


@pytest.mark.parametrize("chunking", SHAPES, ids=str)
def test_the_proofs_cut_plain_texts_as_the_product_does(chunking: Chunking) -> None:
    product = make_chunker(chunking, HashingEncoder(ModelSpec("hashing", 8)).tokenizer)
    for text in TEXTS:
        assert cut(text, chunking) == [(one.text, *one.locator) for one in product.pieces([Content("text", text)])]


@pytest.mark.parametrize(
    ("name", "seed", "dim"), [("hashing", 0, 8), ("hashing:seed2", 2, 64), ("hashing:seed4", 4, 7)]
)
def test_the_proofs_embed_as_the_product_does(name: str, seed: int, dim: int) -> None:
    model = ModelSpec(name, dim)
    product = HashingEncoder(model, seed=seed).encode("document", whole_texts(TEXTS))
    np.testing.assert_allclose(Truth(model, Chunking()).vectors(TEXTS), product, atol=1e-6)


def test_a_text_that_the_proofs_do_not_understand_is_refused_not_guessed() -> None:
    for text in ("two  spaces", " outer", "a\nline", "", "semi-detached", ".".join("x" * 9)):
        with pytest.raises(ValueError, match=r"plain|tokens"):
            cut(text, Chunking(max_tokens=8, overlap_tokens=0))


def test_windows_share_words_up_to_the_overlap_and_no_more() -> None:
    text = "a b c d e f g h i j"
    chunks = cut(text, Chunking(max_tokens=8, overlap_tokens=2))
    assert chunks == [Chunk("a b c d e f g h", 0, 15), Chunk("g h i j", 12, 19)]
