"""JSON as it comes from outside: an object that names a key twice is refused, for one of the two would be lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence


class DoubledName(ValueError):
    """An object names a key twice; ``name`` is the key."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name[:80]!r} stands twice in one object")
        self.name = name


def parse(text: str | bytes) -> object:
    """Return what ``text`` (bytes: UTF-8, a byte order mark before it is none of it) says.

    Raises ``DoubledName`` for a key that stands twice in one object, on any level, and ``ValueError`` for all else that
    is not JSON or is nested too deeply to be read.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def doubled(names: Iterable[str]) -> str | None:
    """Return the first name that stands twice, None where each stands once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DoubledName(doubled(name for name, _ in pairs) or "")
    return found
