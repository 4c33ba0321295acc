"""Where the images of a source are: in a file of its folder, in a column, behind an address; or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from revector.errors import DocumentError, SourceError
from revector.formats.images import ImageLimits
from revector.interfaces import Document
from revector.sources.fetching import Fetcher

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
"""Of the files of a folder that are images."""

_ADDRESSES = ("http://", "https://")


class ImageReader:
    """Reads what an image field names; files are those below ``folder``, None where the source has no folder."""

    def __init__(self, folder: Path | None, limits: ImageLimits) -> None:
        self._folder, self._most = folder, limits.mib << 20
        self._fetch = Fetcher(self._most)

    def of(self, value: object) -> bytes | Callable[[], bytes] | None:
        """Return bytes, or what reads them; None where there is no image. Raises ``ValueError`` for another type.

        A table of ``bytes`` and ``path`` is as the data sets of Hugging Face have images.
        """
        match value:
            case None | "":
                return None
            case bytes():
                return value
            case Mapping() if value.keys() <= {"bytes", "path"}:
                return self.of(value.get("bytes") or value.get("path"))
            case str() if value.lower().startswith(_ADDRESSES):
                return partial(self._fetch, value)
            case str():
                return partial(self.file, value)
        raise ValueError(f"holds {type(value).__name__}, it must be a file, an address, or bytes")

    def file(self, name: str) -> bytes:
        """Return a file of the folder, one byte more than is allowed at most. Raises ``DocumentError``."""
        if self._folder is None:
            raise _refusal(name, "is a file, and the source has no folder: take its bytes, or an address")
        try:
            path = (self._folder / name).resolve()
            if not path.is_relative_to(self._folder.resolve()):
                raise _refusal(name, f"is not in {self._folder}, the folder of the source")
            with path.open("rb") as file:
                return file.read(self._most + 1)
        except (OSError, ValueError) as error:
            raise _refusal(name, f"cannot be read in {self._folder}: {error}") from error


class ImageFolder:
    """A Source of the image files of a folder and of those in it; the path of each is its id."""

    def __init__(self, folder: Path, limits: ImageLimits) -> None:
        if not folder.is_dir():
            raise SourceError(f"The folder {folder} does not exist. Nothing was read; name one that holds images.")
        self.name, self._folder, self._reader = str(folder), folder, ImageReader(folder, limits)

    def __iter__(self) -> Iterator[Document]:
        for path in sorted(self._folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                name = path.relative_to(self._folder).as_posix()
                yield Document(name, None, image=partial(self._reader.file, name))


def _refusal(name: str, why: str) -> DocumentError:
    return DocumentError(f"The image {name!r:.200} {why}. The document was not stored; correct it and read it again.")
