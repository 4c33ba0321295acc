"""What ``clean`` fixes, what it leaves alone, and what it refuses with a reason a person can act on."""

from __future__ import annotations

import hashlib
import unicodedata

import ftfy.bad_codecs  # noqa: F401 - the encodings that begin with "sloppy"
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from revector.documents.text import MAX_ID_BYTES, check_id, clean
from revector.errors import DocumentError
from revector.interfaces import Content

GOOD = [
    "Plain ASCII, with tabs\tand\nline breaks.\n",
    unicodedata.normalize("NFC", "café naïve Ångström"),
    unicodedata.normalize("NFD", "café naïve Ångström"),
    "“curly” ‘quotes’ — and … dots",
    "ﬁne ligatures, Ａ Ｂ full width, ㌔",
    "漢字かな交じり文。次の文！",
    "一一一一一一",
    "العربية עברית हिन्दी ไทย",
    "👩\u200d👩\u200d👧 🇨🇭 e\u0301\u0302",
    "soft\u00adhyphen, zero\u200bwidth, no\u00a0break",
    "if a < b && c > d: x[i] &= ~mask  # R&D; AT&T",
    "def f(x: list[str]) -> None:\n    '''Return `<b>` unchanged.'''\n",
    "∑ᵢ xᵢ² ≤ ∫ f(x) dx, 𝔸 ⊂ ℝ",
    "SÃO PAULO, NÃO: 5 € und 4 £",
    "a single � replacement in a long enough text",
    "x",
]

NEWER_THAN_PYTHON = [
    "🩷",  # Unicode 15
    "🫨🪿🪻🫎🛜",
    "love 🩷",
    "🐦\u200d🔥 🍋\u200d🟩",  # 15.1
    "\U0001fae9 \U0001fac6 \U0001fabe",  # 16, 2024
    "\U0001fac8 \U0001fa8e",  # 17, 2025
    "\u1c89\ua7cb\u0cf3",  # letters: Cyrillic, Latin, Kannada
]

FIXED = [
    ("cafÃ© and naÃ¯ve", "café and naïve"),
    ("itâ€™s", "it’s"),
    ("caf&eacute; &quot;x&quot; &#233;", 'café "x" é'),
    ("&amp;eacute; &amp;amp;lt;", "é <"),
    ("List&lt;String&gt;", "List<String>"),
    ("a\x07b\x1b[31mred\x1b[0m and more text", "abred and more text"),
    ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
    ("\ufeffmarked", "marked"),
    ("\ud83d\ude00 joined", "😀 joined"),
]

UTF16 = [
    "hello, wörld",
    "with love 🩷",
    "Two lines\nof plain text",
    "Привет, мир",
    "“quotes” — and dashes in a long text",
]

REFUSED = [
    (None, "no text"),
    (7, "type int"),
    ("", "no visible characters"),
    (" \n\t\u00a0", "no visible characters"),
    ("\u200b\u200d", "no visible characters"),
    ("&nbsp;&#32;", "no visible characters"),
    ("lone \ud800 surrogate", "lone surrogate near character 5"),
    ("one\x00two and three", "NUL characters (1)"),
    ("h\x00\ufffd\x00\ufffd\x00l\x00", "NUL characters (4)"),
    ("abc\ufffd\ufffd", "40% of it"),
    ("\x01\x02\x03\x04PNG data", "allowed are 10%"),
    ("\ue000\ue001 private", "damaged"),
    ("\U000f0000\U0010fffd private", "damaged"),
    ("abc\uffff\U0001fffe", "40% of it"),
    ("\U0010ffff\U0010ffff", "no visible characters"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_unchanged(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize("text", NEWER_THAN_PYTHON)
def test_a_character_newer_than_pythons_unicode_is_no_damage(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(("text", "fixed"), FIXED)
def test_damage_that_can_be_undone_is_fixed(text: str, fixed: str) -> None:
    assert clean(text) == fixed


@pytest.mark.parametrize("text", UTF16)
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("read_as", ["latin-1", "sloppy-windows-1252"])
def test_utf16_read_as_single_bytes_is_fixed(text: str, codec: str, read_as: str) -> None:
    assert clean(text.encode(codec).decode(read_as)) == text


@pytest.mark.parametrize("read_as", ["latin-1", "utf-8"])
def test_utf16_with_a_byte_order_mark_is_fixed(read_as: str) -> None:
    assert clean("hello".encode("utf-16").decode(read_as, "replace")) == "hello"


def test_utf16_that_lost_its_last_byte_is_fixed() -> None:
    assert clean("h\x00e\x00l\x00l\x00o") == "hello"


@pytest.mark.parametrize(("written", "read"), [("utf-16-le", "utf-16-be"), ("utf-16-be", "utf-16-le")])
@pytest.mark.parametrize("text", ["Hello there, this is text.", "Hello there, with love 🩷"])
def test_utf16_in_the_wrong_byte_order_is_fixed(written: str, read: str, text: str) -> None:
    assert clean(text.encode(written).decode(read)) == text


def test_emoji_whose_numbers_end_with_zeros_are_no_utf16_in_the_wrong_byte_order() -> None:
    assert clean("😀🌀🐀") == "😀🌀🐀"


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_text_that_would_mean_nothing_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        clean(text)
    assert reason in str(refusal.value)
    assert "not stored" in str(refusal.value)


@pytest.mark.parametrize("character", ["x", "é", "漢"])
def test_size_is_limited_in_utf8_bytes(character: str) -> None:
    fits = (1 << 20) // len(character.encode())
    assert clean(character * fits, max_mib=1) == character * fits
    with pytest.raises(DocumentError, match="allowed are 1 MiB"):
        clean(character * (fits + 1), max_mib=1)


def test_a_reason_quotes_forty_characters_at_most() -> None:
    with pytest.raises(DocumentError) as refusal:
        clean("secret " * 1000 + "\x00")
    assert str(refusal.value).count("secret") <= 6


PIECES = st.sampled_from(
    ["Ã©", "&amp;", "&lt;", "lt;", "\x00", "\x1b[", "\r", "\n", "\x85", "\ufffd", "â€", "\xa0", "h\x00"]
)


@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=4))).map("".join)))
@example("&" + "amp;" * 9 + "lt;")
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    try:
        once = clean(text)
    except DocumentError:
        return
    assert clean(once) == once
    assert "\x00" not in once
    once.encode()


@pytest.mark.parametrize("doc_id", ["a", "A b", "é", "e\u0301", "漢" * 170, "x" * MAX_ID_BYTES, "pathlib.Path#1/🙂"])
def test_an_id_is_never_changed(doc_id: str) -> None:
    assert check_id(doc_id) == doc_id


@pytest.mark.parametrize(
    ("doc_id", "reason"),
    [
        ("", "is empty"),
        ("x" * (MAX_ID_BYTES + 1), "513 bytes"),
        ("漢" * 171, "513 bytes"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\t", "control character"),
        ("a\x85b", "control character"),
        (" a", "white space"),
        ("a\u3000", "white space"),
        ("\ud800", "lone surrogate"),
        (None, "type NoneType"),
    ],
)
def test_an_id_that_cannot_be_kept_is_refused(doc_id: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        check_id(doc_id)


def test_content_hash_is_sha256_of_utf8() -> None:
    assert Content("text", "é").sha256 == hashlib.sha256("é".encode()).hexdigest()
