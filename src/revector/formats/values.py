"""Metadata values: what a value of a program or table becomes as JSON, and which texts are moments.

A moment is an ISO 8601 time with its date: ``2026-03-29T01:30:00+01:00``, with ``T`` or a space, with or without
seconds, fractions (to the microsecond) and zone; without a zone it is in UTC.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from revector.formats.strict_json import doubled

_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
"""A date that exists, from the year 1000 on, as a regular expression of Python and of PostgreSQL."""

_TIME = r"[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_ZONE = "(?:[Zz]|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"
ZONED = f"{DATE}{_TIME}{_ZONE}"
"""A moment with its zone. PostgreSQL casts whatever matches this to ``timestamptz`` without an error."""

NAIVE = f"{DATE}{_TIME}"
"""A moment without a zone."""


def as_id(value: object) -> object:
    """Return a whole number as the id that its digits are; all else as it is, for the check of ids to judge.

    The one rule for ids that come as JSON, columns or rows: a string, or a whole number.

    >>> as_id(17), as_id("17"), as_id(True), as_id(1.0)
    ('17', '17', True, 1.0)
    """
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def is_moment(value: object) -> bool:
    """Whether ``value`` is a text that names a moment."""
    return isinstance(value, str) and re.fullmatch(f"{ZONED}|{NAIVE}", value) is not None


def is_date(value: object) -> bool:
    """Whether ``value`` is a text that is a date alone."""
    return isinstance(value, str) and re.fullmatch(DATE, value) is not None


def castable(text: str) -> str:
    """Return a moment or date as PostgreSQL casts it to ``timestamptz``: in UTC where no zone is given."""
    if is_date(text):
        return f"{text}T00:00Z"
    return text if re.fullmatch(ZONED, text) else f"{text}Z"


def days_around(text: str) -> tuple[str, str]:
    """Return the dates that bound a moment or date whatever the zones: ``(before, after)``, to compare as text.

    What begins with a date below ``before`` is earlier, what begins with ``after`` or a date above it is later.
    """
    day = date.fromisoformat(text[:10])
    try:
        return str(day - timedelta(days=2)), str(day + timedelta(days=3))
    except OverflowError:  # the last days of the calendar
        return "", ":"


def plain(value: object, *, forgiving: bool = False) -> object:
    """Return ``value`` as JSON data, with zoned times in UTC, so that one moment has one spelling.

    A time without zone keeps its own spelling, which filters take as UTC. ``forgiving``: NaN and infinities become None
    and NUL and lone surrogates leave their text; else they stay, for JSON and PostgreSQL to refuse. Raises
    ``ValueError`` for a value that has no JSON, and where two keys would become one; it says what the value does, such
    as "holds bytes, which JSON cannot".
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            return storable(value) if forgiving else value
        case float():
            return None if forgiving and not math.isfinite(value) else value
        case Decimal():
            return _number(value, forgiving=forgiving)
        case date() | time():
            return (_in_utc(value) if isinstance(value, datetime) else value).isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case Mapping():
            return plain_object(value.items(), forgiving=forgiving)
        case list() | tuple():
            return [plain(inner, forgiving=forgiving) for inner in value]
        case set() | frozenset() if forgiving:
            return sorted((plain(inner, forgiving=True) for inner in value), key=repr)
    return plain(_of_numpy(value), forgiving=forgiving)


def plain_object(entries: Iterable[tuple[object, object]], *, forgiving: bool = False) -> dict[str, object]:
    """Return entries as a JSON object; see ``plain``."""
    made = [(_key(name, forgiving=forgiving), plain(value, forgiving=forgiving)) for name, value in entries]
    if (twice := doubled(name for name, _ in made)) is not None:
        raise ValueError(f"would be stored with the field {twice!r} twice, and one would be lost")
    return dict(made)


def storable(text: str) -> str:
    """Return ``text`` without what PostgreSQL's text and jsonb refuse: NUL and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _of_numpy(value: Any) -> object:
    """Return an array or a scalar of NumPy as Python has it."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "M":  # a time; of nanoseconds it would make numbers
        value = value.astype("datetime64[us]")
    if not isinstance(value, memoryview) and callable(scalar := getattr(value, "tolist", None)):
        return scalar()
    raise ValueError(f"holds {type(value).__name__}, which JSON cannot")


def _key(name: object, *, forgiving: bool) -> str:
    text = json.dumps(name) if name is None or isinstance(name, bool) else str(name)
    return storable(text) if forgiving else text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:  # at either end of the calendar
        return moment


def _number(value: Decimal, *, forgiving: bool) -> float | str | None:
    if not value.is_finite():
        return None if forgiving else float(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)
