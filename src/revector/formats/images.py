"""Images as bytes: which are taken, and the one picture that a model sees of each.

The picture is upright (EXIF orientation), in RGB (CMYK and greys converted, 16 bits a channel as their upper 8), on
white where it is transparent, and the first frame of what is animated or has several pages.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from revector.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from PIL.Image import Image

RULES = 1
"""Raised with every change of what a picture shows: it is part of the identity of every encoder of images."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""As Pillow calls them; a JPEG of several pictures, as phones write it, is a JPEG."""

_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is taken: in MiB as it comes, and in millions of pixels of its first frame."""

    mib: int = 20
    megapixels: int = 50


def check_image(data: object, limits: ImageLimits) -> bytes:
    """Return ``data`` where it is an image that can be embedded: within ``limits``, and whole.

    The pixels are counted by the header, so no decompression bomb is unpacked. Raises ``DocumentError``.
    """
    if not isinstance(data, bytes):
        raise _refusal(f"is of type {type(data).__name__}; it must be bytes")
    if len(data) > limits.mib << 20:
        raise _refusal(f"takes {len(data) / (1 << 20):.1f} MiB, allowed are {limits.mib} (max_image_mib)")
    picture(data, limits)
    return data


def picture(data: bytes, limits: ImageLimits | None = None) -> Image:
    """Return what an image shows, mode RGB; its pixels are counted first where there are ``limits``.

    Raises ``DocumentError`` for bytes that are no image of ``FORMATS``, or are torn.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ConfigError(
            "images need Pillow, which is not installed. Nothing was stored; run `pip install 'revector[images]'`."
        ) from error
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            pixels = image.width * image.height
            if limits is None or pixels <= limits.megapixels * 1_000_000:
                return _shown(image)
    except UnidentifiedImageError as error:
        raise _refusal(f"begins with {data[:8]!r} and can be read as none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise _refusal("has more pixels than any that is unpacked") from error
    except DocumentError:
        raise
    except Exception as error:  # decoders raise anything on bytes that are torn
        raise _refusal(f"is damaged or not whole ({type(error).__name__}: {error})") from error
    raise _refusal(
        f"has {pixels / 1_000_000:,.1f} million pixels, allowed are {limits.megapixels} (max_image_megapixels)"
    )


def _shown(image: Image) -> Image:
    import numpy as np
    from PIL import Image as Images
    from PIL import ImageOps

    image.load()
    if image.mode in _DEEP_GREY:
        image = Images.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _refusal(f"has pixels of 32 bits (mode {image.mode}), whose white is not known; save it with 8 or 16")
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        return Images.alpha_composite(Images.new("RGBA", upright.size, "white"), upright).convert("RGB")
    return upright.convert("RGB")


def _refusal(found: str) -> DocumentError:
    return DocumentError(f"The image {found}. The document was not stored; give another image.")
