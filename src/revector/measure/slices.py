"""Labelled queries split into slices: by a field of what is known of each, and by length."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from revector.errors import LabelError

WITHOUT = "(without)"
"""Slice of the queries that lack the field."""

POOLED = "(small ones together)"
"""Slice of the queries of a field whose own slices are too small to be cleared."""

MOST_SLICES = 20
"""A field in which more values than this have ``FEW`` queries or more is no grouping."""

FEW = 10
"""Queries that make a slice: of fewer, not even the loss of all shows a drop of 0.1 among ten slices."""

LENGTH = "length"
"""Names the slices by number of words, which every query has."""

Slices: TypeAlias = Mapping[str, Mapping[str, Collection[str]]]
"""Field → name of a slice → its queries. The slices of a field share no query."""


def query_slices(
    texts: Mapping[str, str], metadata: Mapping[str, Mapping[str, object]], names: Collection[str] = ()
) -> dict[str, dict[str, list[str]]]:
    """Return the queries of ``texts`` by each of ``names``; without any, by length and each field that groups them.

    Such a field has 1 to ``MOST_SLICES`` values of ``FEW`` queries or more, and other queries beside the largest.

    Raises:
        LabelError: If no query has a field that was named, or there are no queries.

    """
    meta = {query: metadata.get(query, {}) for query in texts}
    asked = names or (LENGTH, *sorted({name for one in meta.values() for name in one} - {LENGTH}))
    lengths = {query: len(text.split()) for query, text in texts.items()}
    found = {name: length_slices(lengths) if name == LENGTH else field_slices(meta, name) for name in asked}
    return {name: slices for name, slices in found.items() if names or _groups(slices)}


def _groups(slices: Mapping[str, Collection[str]]) -> bool:
    """Whether these slices tell groups of queries apart, as languages do and identifiers do not."""
    large = sum(len(queries) >= FEW for queries in slices.values())
    return len(slices) > 1 and 1 <= large <= MOST_SLICES


def field_slices(metadata: Mapping[str, Mapping[str, object]], name: str) -> dict[str, list[str]]:
    """Return the queries by what a field of their metadata says; those that lack it form the slice ``(without)``.

    Raises:
        LabelError: If no query has the field.

    """
    found: dict[str, list[str]] = {}
    for query, data in metadata.items():
        value = data.get(name)
        found.setdefault(WITHOUT if value is None else str(value), []).append(query)
    if not found.keys() - {WITHOUT}:
        known = sorted({one for data in metadata.values() for one in data})
        raise LabelError(
            f"slices by {name!r} were asked for; none of {len(metadata)} queries has that field, they have: "
            f"{', '.join(known) or 'none'}. Nothing was compared; name one of these, or add it to queries.jsonl."
        )
    return found


def length_slices(lengths: Mapping[str, int], unit: str = "words") -> dict[str, list[str]]:
    """Return the queries as short, medium and long: thirds of this set, for lengths differ by language and use.

    Args:
        lengths: Query → words or tokens, at least 0. Queries of one length stay together: a slice may be absent.
        unit: What was counted.

    Raises:
        LabelError: If there are no queries.

    """
    if not lengths:
        raise LabelError("slices by length were asked for over no queries. Nothing was compared; check the labels.")
    ordered = sorted(lengths.values())
    short, medium = ordered[(len(ordered) - 1) // 3], ordered[2 * (len(ordered) - 1) // 3]
    names = (f"short (up to {short} {unit})", f"medium (up to {medium} {unit})", f"long (over {medium} {unit})")
    found: dict[str, list[str]] = {name: [] for name in names}
    for query, length in lengths.items():
        found[names[(length > short) + (length > medium)]].append(query)
    return {name: queries for name, queries in found.items() if queries}
