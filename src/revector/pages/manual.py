"""Owns the manual as the package carries it: its pages and sections, and all of it as HTML for a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

PLACES: Final = (Path(__file__).parents[1] / "manual", Path(__file__).parents[3] / "docs")
"""Where an installed package has the pages, and where a checkout has them."""

_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A page, or what stands below one of its headings: ``name`` is ``gate`` or ``gate#what-users-see``."""

    name: str
    title: str
    text: str


def sections() -> dict[str, Section]:
    """Return every page and every section by its name; a page comes before its sections."""
    folder = next(place for place in PLACES if place.is_dir())
    found = [one for path in sorted(folder.glob("*.md")) for one in _sections(path.stem, path.read_text("utf-8"))]
    return {one.name: one for one in found}


def _sections(page: str, text: str) -> Iterator[Section]:
    blank = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)  # a comment in a block is no heading
    first, *rest = _HEADING.finditer(blank)
    yield Section(page, text[first.start(2) : first.end()], text)
    for one in rest:
        level = len(one[1])
        after = (each.start() for each in rest if each.start() > one.start() and len(each[1]) <= level)
        title = text[one.start(2) : one.end()]
        yield Section(f"{page}#{anchor(title)}", title, text[one.start() : next(after, len(text))])


def anchor(title: str) -> str:
    """Return the anchor of a heading, as GitHub makes it.

    >>> anchor("`make demo`: a migration")
    'make-demo-a-migration'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def write_html(folder: Path) -> None:
    """Write every page into ``folder``; a link to what the package does not carry becomes plain text."""
    folder.mkdir(parents=True, exist_ok=True)
    style = files("revector.pages").joinpath("page.css").read_text(encoding="utf-8")
    for one in sections().values():
        if "#" not in one.name:
            head = f'<meta charset="utf-8"><title>{html.escape(one.title)}</title><style>{style}</style>'
            body = f"<body><main>{_rendered(one.text)}</main></body>"
            page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>{body}</html>\n'
            (folder / f"{one.name}.html").write_text(page, encoding="utf-8")


def _rendered(text: str) -> str:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(inline.content))
    for token in (inner for outer in tokens for inner in outer.children or ()):
        if token.type == "link_open":
            target = str(token.attrGet("href"))
            within = re.fullmatch(r"([\w-]+)\.md(#.*)?", target)
            if within:
                token.attrSet("href", f"{within[1]}.html{within[2] or ''}")
            elif not re.match(r"https:|#", target):
                del token.attrs["href"]
        elif token.type == "image":
            token.type, token.content = "text", f"[{token.content}]"
    return str(reader.renderer.render(tokens, reader.options, {}))
