"""What this process did and what went wrong in it, as totals since it began: told by `/metrics` and Airflow tasks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

TOTALS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "documents_published": (
        "Documents made visible, deletes included, counted once for each live index.",
        ("collection",),
    ),
    "documents_failed": (
        'Documents that could not be embedded; outcome "dead" waits for a person, "retried" is tried again by itself.',
        ("collection", "outcome"),
    ),
    "chunks_embedded": ("Chunks that models embedded; reused vectors are not among them.", ("collection",)),
    "tokens_embedded": (
        "Tokens that models were given, by provider: local or an API. Models without packed engine are not counted.",
        ("provider",),
    ),
    "errors": ("Errors of the work loop, by class of revector's error tree.", ("error",)),
}
"""Name to meaning and labels. ``collection`` is the number in the database here, and the name in `/metrics`."""

Key = tuple[str, tuple[str, ...]]
"""Name, and label values in the order of ``TOTALS``."""

_lock = threading.Lock()
_found: Counter[Key] = Counter()


def add(name: str, amount: int = 1, *values: object) -> None:
    """Add to the total ``name`` with these label values; safe from any thread. Raises ``KeyError`` for unknown ones."""
    if len(TOTALS[name][1]) != len(values):
        raise KeyError(f"{name} has the labels {TOTALS[name][1]}, found the values {values}")
    if amount:
        with _lock:
            _found[name, tuple(map(str, values))] += amount


def totals() -> dict[Key, int]:
    """Return all totals above zero."""
    with _lock:
        return dict(_found)
