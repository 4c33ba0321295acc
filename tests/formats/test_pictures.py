"""What is taken as an image, what a model sees of it, and with which words all else is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the images extra is not installed")

from PIL import Image

from pictures import COLOURS, colour_of, image, saved
from revector.errors import DocumentError
from revector.formats.images import FORMATS, ImageLimits, check_image, picture

LIMITS = ImageLimits(mib=1, megapixels=1)
BOMB_SIDE = 60_000


def halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right: 40 wide, 20 high."""
    both = Image.new("RGB", (40, 20), COLOURS["red"])
    both.paste(COLOURS["blue"], (20, 0, 40, 20))
    return both.convert(mode)


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header says 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_every_format_shows_its_colour() -> None:
    for name in FORMATS:
        data = image("green", format=name)
        assert check_image(data, LIMITS) == data
        assert picture(data).mode == "RGB"
        assert colour_of(data) == "green"


def test_an_orientation_of_exif_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is left in the file is up in the picture
    shown = picture(saved(halves(), "JPEG", exif=exif))
    assert shown.size == (20, 40)
    assert shown.getpixel((10, 3))[0] > 150  # type: ignore[index]
    assert shown.getpixel((10, 36))[2] > 150  # type: ignore[index]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    if mode == "P":
        clear = halves("P")
        clear.info["transparency"] = clear.getpixel((0, 0))
        data = saved(clear, transparency=clear.getpixel((0, 0)))
    else:
        clear = halves(mode)
        clear.putalpha(0)
        data = saved(clear)
    assert picture(data).getpixel((0, 0)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_seen() -> None:
    frames = [Image.new("RGB", (20, 20), COLOURS[name]) for name in ("yellow", "blue", "red")]
    for name in ("GIF", "WEBP", "TIFF"):
        assert colour_of(saved(frames[0], name, save_all=True, append_images=frames[1:])) == "yellow"


def test_cmyk_and_deep_greys_are_converted() -> None:
    assert colour_of(saved(Image.new("RGB", (9, 9), COLOURS["blue"]).convert("CMYK"), "JPEG")) == "blue"
    deep = Image.fromarray(np.full((4, 4), 128 << 8, np.uint16))
    assert picture(saved(deep)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "read as none of JPEG, PNG"),
        (b"GIF89a nothing more", "read as none of JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "read as none of JPEG, PNG"),
        (image("red", (300, 300), format="JPEG")[:-400], "damaged or not whole"),
        (image("red", (300, 300))[:-200], "damaged or not whole"),
        (bomb(), "million pixels, allowed are 1|more pixels than any"),
        (image("red", (1_200, 1_000)), r"1\.2 million pixels, allowed are 1 \(max_image_megapixels\)"),
        (b"\xff" * (3 << 19), r"takes 1\.5 MiB, allowed are 1 \(max_image_mib\)"),
        ("photo.jpg", "of type str; it must be bytes"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "pixels of 32 bits"),
    ],
)
def test_what_is_no_whole_image_within_the_limits_is_refused_and_the_reason_said(data: object, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        check_image(data, LIMITS)
