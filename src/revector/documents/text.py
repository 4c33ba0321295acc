"""Text that is fit to be embedded: fixes what was decoded wrongly, refuses what would give meaningless vectors.

Mending is ftfy's, set so that good text is left alone: the Unicode form stays, and so do ligatures, full-width forms
and curly quotes. What is changed: mojibake ("cafÃ©"), HTML entities (also escaped several times, so a text that quotes
``&lt;`` on purpose reads ``<`` afterwards), control characters, terminal escapes, byte order marks, surrogate pairs
kept apart, and line breaks, which become newlines. UTF-16 read as UTF-8, Latin-1 or in the wrong byte order is put
back together when that gives printable text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache

from revector.errors import DocumentError, EmptyText, QueryRefused

MAX_ID_BYTES = 512
MAX_QUERY_MIB = 4
_SHOWN_OF_REFUSED = 480
MAX_DAMAGED_SHARE = 0.10
"""Largest share of damage in a text that is still embedded.

Damage are replacement characters, private use (no font can be assumed), noncharacters, and control characters that
were taken out. A character that is newer than this Python's Unicode tables is none.
"""

_MAY_NEED_MENDING = re.compile(r"[^\t\n\x20-\x7e]|&")
_C0_DAMAGE = re.compile(r"[\x00-\x08\x0e-\x1a\x7f]")  # not the white space, not ESC, which begins a terminal escape
_BYTE_ORDER_MARKS = ("\ufeff", "\ufffe", "ÿþ", "þÿ", "\ufffd\ufffd")
_LAST_HIGH_BYTE = "\x08"  # U+0000 to U+08FF: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Syriac
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(f"{chr(n | 0xFFFE)}{chr(n | 0xFFFF)}" for n in range(0, 0x110000, 0x10000)) + "]"
)
_UTF16_SHARE = 0.75  # of the high bytes; the rest is typographic punctuation (U+20xx) and the like


def clean(text: str | None, *, max_mib: int = 4) -> str:
    """Return the text fixed; good text comes back unchanged, and fixed text as well.

    Raises ``EmptyText`` for None and for white space and zero-width characters alone. Raises ``DocumentError`` when it
    is no string, has no visible characters, is above ``max_mib`` MiB in UTF-8, holds NUL characters or lone surrogates,
    or is damaged by more than ``MAX_DAMAGED_SHARE``. The reason quotes at most 40 characters.
    """
    try:
        return _cleaned(text, max_mib)
    except _Unfit as unfit:
        raise unfit.kind(f"{unfit.found} The document was not stored; {unfit.way}") from None


def clean_query(text: str) -> str:
    """Return the query fixed as documents are. Raises ``QueryRefused`` where ``clean`` would refuse a document."""
    try:
        return _cleaned(text, MAX_QUERY_MIB)
    except _Unfit as unfit:
        raise QueryRefused(f"{unfit.found} Nothing was searched; send the query's own text, in UTF-8.") from None


class _Unfit(Exception):
    """What is wrong with a text, what to do about a document, and as what it is refused."""

    def __init__(self, found: str, way: str, kind: type[DocumentError] = DocumentError) -> None:
        self.found, self.way, self.kind = found, way, kind


def _cleaned(text: str | None, max_mib: int) -> str:
    if not isinstance(text, str):
        found = "There is no text" if text is None else f"The text is of type {type(text).__name__}"
        kind = EmptyText if text is None else DocumentError
        raise _Unfit(f"{found}; it must be a string.", "give its text.", kind)
    if len(text) <= max_mib << 20 and not _MAY_NEED_MENDING.search(text) and not text.isspace() and text:
        return text
    text = _join_surrogates(text)
    _check_size(text, max_mib)
    fixed = _fixed(text)
    _check_content(text, fixed)
    _check_size(fixed, max_mib)
    return fixed


def check_id(doc_id: str) -> str:
    """Return ``doc_id`` unchanged: ids are compared byte for byte, so letter case and Unicode form are part of them.

    Raises ``DocumentError`` for an id that is empty, above ``MAX_ID_BYTES`` in UTF-8, begins or ends with white space,
    or holds control characters or lone surrogates.
    """
    if not isinstance(doc_id, str):
        found = f"is of type {type(doc_id).__name__}"
    elif not doc_id:
        found = "is empty"
    elif any(unicodedata.category(c) == "Cs" for c in doc_id):
        found = f"{_excerpt(doc_id)} holds a lone surrogate, which UTF-8 cannot store"
    elif (size := len(doc_id.encode())) > MAX_ID_BYTES:
        found = f"{_excerpt(doc_id)} takes {size:,} bytes in UTF-8"
    elif any(unicodedata.category(c) == "Cc" for c in doc_id):
        found = f"{_excerpt(doc_id)} holds a control character"
    elif doc_id != doc_id.strip():
        found = f"{_excerpt(doc_id)} begins or ends with white space"
    else:
        return doc_id
    raise DocumentError(
        f"The document id {found}. Allowed are strings of 1 to {MAX_ID_BYTES} bytes without control characters and "
        f"outer white space. The document was not stored; give it another id."
    )


def refused_name(doc_id: object) -> str:
    """Return the name under which a record with the id ``doc_id`` is listed where it was refused.

    It is the id itself where a table can hold it as it is; else a readable part of it with 16 digits of its hash, so
    that no two ids share a name. At most 512 characters.
    """
    whole = str(doc_id)
    shown = whole.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    if shown == whole and len(shown.encode()) <= MAX_ID_BYTES:
        return whole
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown[:_SHOWN_OF_REFUSED]}… ({digest[:16]})"


def is_id(doc_id: str) -> bool:
    """Whether ``doc_id`` can be the id of a document; see ``check_id``."""
    try:
        check_id(doc_id)
    except DocumentError:
        return False
    return True


def _excerpt(text: str) -> str:
    return repr(text[:40])


def _join_surrogates(text: str) -> str:
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _Unfit(
            f"The text {_excerpt(text)} holds a lone surrogate near character {error.start // 2:,}, which UTF-8 cannot "
            "store.",
            "decode its source again.",
        ) from error


def _check_size(text: str, max_mib: int) -> None:
    size = len(text) if len(text) > max_mib << 20 else len(text.encode())
    if size > max_mib << 20:
        raise _Unfit(
            f"The text {_excerpt(text)} takes at least {size / (1 << 20):.2f} MiB in UTF-8, allowed are {max_mib} MiB.",
            "split it into several.",
        )


@cache
def _fixer() -> Callable[[str], str]:
    """Return ftfy's work on one text. It is imported here: most texts, and nearly all queries, need no fixing."""
    import ftfy
    import ftfy.bad_codecs

    fixes = ftfy.TextFixerConfig(
        unescape_html=True,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=None,
        explain=False,
    )
    return lambda text: ftfy.fix_text(text, fixes)


def _fixed(text: str) -> str:
    fix = _fixer()
    # To the fixed point: ftfy repeats itself per line, but its work on line breaks can make new lines.
    while (fixed := fix(_undo_utf16(text))) != text:
        text = fixed
    return fixed


def _check_content(text: str, fixed: str) -> None:
    if not any(_is_visible(c) for c in fixed) and "\ufffd" not in fixed:
        damaged = _C0_DAMAGE.search(text) or not all(c.isspace() or unicodedata.category(c) == "Cf" for c in fixed)
        raise _Unfit(
            f"The text {_excerpt(text)} has no visible characters, so its vector would mean nothing.",
            "give its text or leave it out.",
            DocumentError if damaged else EmptyText,
        )
    removed = len(_C0_DAMAGE.findall(_undo_utf16(text)))
    left = sum(n for c, n in Counter(fixed).items() if _is_damage(c))
    share = (removed + left) / (removed + len(fixed))
    if share > MAX_DAMAGED_SHARE:
        raise _Unfit(
            f"The text {_excerpt(text)} is damaged: {share:.0%} of it are control, private-use or replacement "
            f"characters, allowed are {MAX_DAMAGED_SHARE:.0%}.",
            "decode its source again with the right encoding.",
        )


def _is_damage(character: str) -> bool:
    return (
        character == "\ufffd"
        or unicodedata.category(character) == "Co"
        or _NONCHARACTER.fullmatch(character) is not None
    )


def _is_visible(character: str) -> bool:
    """Whether a character shows; one that this Python's Unicode does not know yet, such as a new emoji, does."""
    if character.isprintable():
        return not character.isspace()
    return unicodedata.category(character) == "Cn" and not _is_damage(character)


def _is_plain(text: str) -> bool:
    """Whether ``text`` holds nothing but visible characters and white space."""
    return all(_is_visible(c) or c.isspace() for c in set(text))


def _undo_utf16(text: str) -> str:
    """Return ``text``, or what it was before UTF-16 was read as single bytes or in the wrong byte order.

    Raises ``_Unfit`` when NUL characters remain.
    """
    mark = next((m for m in _BYTE_ORDER_MARKS if text.startswith(m)), "")
    body = text[len(mark) :]
    if "\x00" not in body:
        swapped = _swap(body) if mark == "\ufffe" or _looks_swapped(body) else text
        return swapped if _is_plain(swapped) else text
    found = _from_bytes(body)
    if found is None:
        raise _Unfit(
            f"The text {_excerpt(text)} holds NUL characters ({text.count(chr(0)):,}) and is not UTF-16 that could be "
            "put back together.",
            "decode its source with the right encoding.",
        )
    return found


def _from_bytes(body: str) -> str | None:
    """Return the text whose UTF-16 bytes were read as one character each, or None if ``body`` is not that."""
    for codec, high in (("utf-16-le", body[1::2]), ("utf-16-be", body[0::2])):
        if sum(c <= _LAST_HIGH_BYTE for c in high) <= _UTF16_SHARE * len(high):
            continue
        # Stripping or cutting takes the last high byte of little-endian text away.
        whole = body + "\x00" if codec == "utf-16-le" and len(body) % 2 else body
        for single in ("latin-1", "sloppy-windows-1252"):
            try:
                text = whole.encode(single).decode(codec)
            except UnicodeError:
                continue
            if "\x00" not in text and _is_plain(text):
                return text
    return None


def _looks_swapped(body: str) -> bool:
    # ASCII in the wrong byte order is U+xx00 throughout, which no language is; three different ones, as 一 is U+4E00.
    tally = Counter(body)
    swapped = [n for c, n in tally.items() if not ord(c) & 0xFF and ord(c) < 0x10000]  # 😀 is U+1F600, and no such one
    return sum(swapped) > _UTF16_SHARE * len(body) and len(swapped) >= 3


def _swap(body: str) -> str:
    return body.encode("utf-16-le").decode("utf-16-be", "replace")
