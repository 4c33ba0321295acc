"""Owns the manual as the package carries it: its pages and sections, and all of it as HTML for a browser."""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Collection, Iterator
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
    """A page or what is below a heading: ``name`` is ``gate``, ``runbook/no-room`` or ``gate#what-users-see``."""

    name: str
    title: str
    text: str


def sections() -> dict[str, Section]:
    """Return every page and every section by its name; a page comes before its sections."""
    folder = next(place for place in PLACES if place.is_dir())
    pages = ((path.relative_to(folder).with_suffix("").as_posix(), path) for path in sorted(folder.rglob("*.md")))
    return {one.name: one for name, path in pages for one in _sections(name, path.read_text("utf-8"))}


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
    style = files("revector.pages").joinpath("page.css").read_text(encoding="utf-8")
    pages = {name: one for name, one in sections().items() if "#" not in name}
    for name, one in pages.items():
        head = f'<meta charset="utf-8"><title>{html.escape(one.title)}</title><style>{style}</style>'
        body = f"<body><main>{_rendered(one.text, posixpath.dirname(name), set(pages))}</main></body>"
        page = folder / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>{body}</html>\n'
        page.write_text(text, encoding="utf-8")


def _rendered(text: str, folder: str, pages: Collection[str]) -> str:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(inline.content))
    for token in (inner for outer in tokens for inner in outer.children or ()):
        if token.type == "link_open":
            target = str(token.attrGet("href"))
            within = re.fullmatch(r"([\w/.-]+)\.md(#.*)?", target)
            if within and posixpath.normpath(posixpath.join(folder, within[1])) in pages:
                token.attrSet("href", f"{within[1]}.html{within[2] or ''}")
            elif not re.match(r"https:|#", target):
                del token.attrs["href"]
        elif token.type == "image":
            token.type, token.content = "text", f"[{token.content}]"
    return str(reader.renderer.render(tokens, reader.options, {}))
