"""Owns where an installed package keeps its files: found in what pip recorded, without importing anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

from revector.errors import ConfigError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def package_folder(name: str) -> Path:
    """Return the folder of the import package in ``package:NAME[/folder]``, and in it ``folder``.

    NAME is one identifier: a dotted one would have to be imported to be found. Raises ``ConfigError`` for any other,
    and for a package that is not installed.
    """
    package, _, sub = name.removeprefix("package:").partition("/")
    if not _IDENTIFIER.fullmatch(package):
        raise ConfigError(
            f'model {name!r}: {package!r} is no name of a package. Nothing was changed; write "package:name" or '
            '"package:name/folder", with letters, digits and _ in the name: nothing is imported, so no dots.'
        )
    for found in _distributions(package):
        for folder in _folders(found, package):
            if folder.is_dir():
                return folder.resolve() / sub
    raise ConfigError(
        f"model {name!r}: the package {package!r} is not installed in this environment. Nothing was changed; "
        f"install it (pip install {package.replace('_', '-')}) or correct model.name."
    )


def _distributions(package: str) -> Iterator[Distribution]:
    """Yield what pip installed under the package's name; then, as that takes seconds, what holds it under another."""
    with suppress(PackageNotFoundError):
        yield distribution(package)
    for other in packages_distributions().get(package, ()):
        yield distribution(other)


def _folders(found: Distribution, package: str) -> Iterator[Path]:
    """Yield where the package may lie: beside its record, or, installed with `pip install -e`, in its checkout."""
    if any(file.parts[:1] == (package,) for file in found.files or ()):
        yield Path(str(found.locate_file(package)))
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        checkout = Path(unquote(urlsplit(direct["url"]).path))
        yield from (checkout / "src" / package, checkout / package)
