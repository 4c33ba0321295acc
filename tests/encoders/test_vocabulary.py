"""What a tokenizer knows of a text: counted alike for every kind, and seen early where nothing is unknown."""

from __future__ import annotations

import random
import string

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from fakes import wordpiece
from revector.encoders.hashing import HashingEncoder
from revector.encoders.vocabulary import LONG_WORDS, SYMBOLS, TokenCount, Vocabulary, script_of
from revector.interfaces import whole_texts
from revector.spec import ModelSpec

THAI, LAO, KHMER, HAN = "แม่น้ำเจ้าพระยา", "ເຂົ້າໜຽວກັບໝາກມ່ວງ", "ទន្លេមេគង្គហូរ", "中华人民共和国"
DNA, HEX, BASE64 = "GATTACA" * 20, "4d5a9000" * 16, "QmFzZTY0" * 16
UNKNOWN = (THAI, LAO, KHMER, HAN, DNA, HEX, BASE64, "🎉🎊", f"{THAI}?", f"«{LAO}»", "[UNK]")
KNOWN = ("a river in the north", "x", "!!!", "ID 4711, see https://example.org/a?b=c", "naïve café")


def unigram(*, byte_fallback: bool = False) -> Tokenizer:
    """As XLM-R's: a word begins with a mark that may stand alone before what is unknown."""
    signs = string.ascii_letters + string.digits + string.punctuation + "▁"
    pieces = [("<unk>", 0.0), *((sign, -5.0) for sign in signs), ("▁river", -6.0)]
    if byte_fallback:
        pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.NFKD() if not byte_fallback else normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT's and ModernBERT's: no unknown token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: n for n, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def shares(tokenizer: Tokenizer, *texts: str) -> list[float]:
    return [tally.share for tally in Vocabulary(tokenizer).tallies(texts)]


def test_a_text_of_unknown_tokens_alone_counts_whole_whatever_its_script_and_punctuation() -> None:
    assert shares(wordpiece(), *UNKNOWN) == [1.0] * len(UNKNOWN)
    scripts = (THAI, LAO, KHMER, HAN, f"{THAI}?", "🎉")
    assert shares(unigram(), *scripts) == [1.0] * len(scripts)


def test_known_text_counts_nothing() -> None:
    assert shares(wordpiece(), *KNOWN) == [0.0] * len(KNOWN)
    assert shares(unigram(), *KNOWN[:-1]) == [0.0] * (len(KNOWN) - 1)


@pytest.mark.parametrize("make", [lambda: unigram(byte_fallback=True), byte_level], ids=["byte fallback", "no unknown"])
def test_nothing_is_unknown_where_words_become_bytes(make: object) -> None:
    assert shares(make(), *UNKNOWN, *KNOWN) == [0.0] * (len(UNKNOWN) + len(KNOWN))  # type: ignore[operator]


def test_an_encoder_whose_tokenizer_only_counts_has_nothing_unknown() -> None:
    vocabulary = Vocabulary(HashingEncoder(ModelSpec("hashing", dim=8)).tokenizer)
    assert vocabulary.counts_only
    assert vocabulary.tallies([THAI]) == [TokenCount(0, 1)]
    assert not vocabulary.unreadable({"a": whole_texts([THAI])}, 0.0)


def test_a_text_that_the_tokenizer_drops_whole_is_unknown() -> None:
    assert shares(wordpiece(), "\u0301\u0302") == [1.0]


def test_only_the_tokens_that_the_model_sees_are_counted() -> None:
    vocabulary = Vocabulary(wordpiece())
    assert vocabulary.tallies([f"{THAI} river river"], first=1)[0].share == 1.0
    assert vocabulary.tallies([f"river {THAI} {LAO}"], first=1)[0].share == 0.0


def test_a_document_is_named_by_its_first_chunk_above_the_limit() -> None:
    chunks = {"good": ["river", f"river {THAI}"], "mixed": ["river", THAI, LAO], "long": [f"river river {DNA}"]}
    chunks = {doc_id: whole_texts(texts) for doc_id, texts in chunks.items()}
    found = Vocabulary(wordpiece()).unreadable(chunks, 0.5)
    assert list(found) == ["mixed"]
    assert (found["mixed"].chunk, found["mixed"].of, found["mixed"].share) == (1, 3, 1.0)
    assert "chunk 2 of 3 ('แม่น้ำเจ้าพระยา')" in found["mixed"].reason("mixed")
    assert set(Vocabulary(wordpiece()).unreadable(chunks, 0.0)) == set(chunks)
    assert not Vocabulary(wordpiece()).unreadable(chunks, 1.0)


def test_white_space_is_never_unknown() -> None:
    assert shares(unigram(), "a river\n\tin\n\n\nthe north") == [0.0]


@pytest.mark.parametrize("make", [wordpiece, unigram, byte_level])
def test_what_is_let_through_without_tokenising_has_nothing_unknown(make: object) -> None:
    vocabulary = Vocabulary(make())  # type: ignore[operator]
    draw = random.Random(1)
    signs = string.printable + "ü…ข中🎉\u200b\u0301"
    texts = ["".join(draw.choices(signs, k=draw.randint(1, 300))) for _ in range(400)]
    texts += (
        [sign for sign in string.printable if sign.strip()] + ["a" * n for n in (99, 100, 101)] + [*UNKNOWN, *KNOWN]
    )
    whole = {text: tally.share for text, tally in zip(texts, vocabulary.tallies(texts), strict=True)}
    found = vocabulary.unreadable({text: whole_texts([text]) for text in texts}, 0.0)
    assert set(found) == {text for text, share in whole.items() if share > 0}


def test_a_script_is_that_of_most_letters() -> None:
    texts = (THAI, LAO, KHMER, HAN, "Ωμέγα", "हिन्दी", f"{THAI} and more", DNA, HEX, BASE64, "🎉", "12 + 3")
    scripts = ("Thai", "Lao", "Khmer", "Han", "Greek", "Devanagari", "Thai", *[LONG_WORDS] * 3, SYMBOLS, SYMBOLS)
    assert tuple(map(script_of, texts)) == scripts
