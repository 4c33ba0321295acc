"""Owns how a page becomes HTML: elements whose texts are escaped by the library, and figures as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TypeAlias
from xml.etree import ElementTree as ET

from revector.measure.metrics import Interval

Child: TypeAlias = ET.Element | str | None

_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def tag(name: str, /, *children: Child, **attributes: str | float) -> ET.Element:
    """Return an element; texts are escaped when it is written, None is left out.

    ``class_`` stands for ``class``, an underscore for a hyphen; numbers are written with one decimal.
    """
    named = {key.rstrip("_").replace("_", "-"): _attribute(value) for key, value in attributes.items()}
    element = ET.Element(name, named)
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, str):
            text = printable(child)
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        elif child is not None:
            element.append(child)
            last = child
    return element


def printable(text: str) -> str:
    """Return ``text`` with what no page may hold (control characters, lone surrogates) shown as U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def document(title: str, body: Iterable[ET.Element]) -> str:
    """Return a whole page. It names nothing outside itself, and its policy lets a browser load nothing."""
    style = files("revector.pages").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    whole = tag("html", head, tag("body", tag("main", *body)), lang="en")
    return f"<!DOCTYPE html>\n{ET.tostring(whole, encoding='unicode', method='html')}\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[Child]]) -> ET.Element:
    """Return a table that scrolls by itself where the page is narrow; the first cell of a row is its header."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in columns)))
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll", tabindex="0")


def terms(values: Mapping[str, str]) -> ET.Element:
    """Return names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items()))


def section(title: str, *children: Child) -> ET.Element:
    """Return a part of the page; its title is the question that it answers."""
    return tag("section", tag("h2", title), *children)


def signed(value: float) -> str:
    """Return a difference with its sign.

    >>> signed(-0.0123), signed(0.00001)
    ('−0.0123', '0.0000')
    """
    text = f"{value:+.4f}"
    return "0.0000" if not text.strip("+-0.") else text.replace("-", "−")


def interval(value: Interval | float | None, *, sign: bool = False) -> str:
    """Return a mean with the ends of its interval, or alone.

    >>> interval(Interval(mean=0.8, low=0.75, high=0.85))
    '0.8000 (0.7500 to 0.8500)'
    """
    if value is None:
        return "not measured"
    mean, *ends = (signed(each) if sign else f"{each:.4f}" for each in numbers(value))
    return f"{mean} ({' to '.join(ends)})" if ends else f"{mean} (interval not measured)"


def numbers(value: Interval | float) -> tuple[float, ...]:
    """Return the mean and, where they are known, the ends of its interval."""
    return (value,) if isinstance(value, int | float) else tuple(value)


def one_line(text: str, width: int) -> str:
    """Return ``text`` on one line, cut to ``width`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def moment(iso: str) -> str:
    """Return a time of the database to the minute.

    >>> moment("2026-11-20T10:00:59.123456+01:00")
    '2026-11-20 09:00 UTC'
    """
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M UTC}"


def _attribute(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else f"{value:.1f}"
