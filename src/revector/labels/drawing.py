"""A smaller set of labelled queries, such as a canary measures every day: drawn by a seed, in the shares of a field."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from revector.errors import LabelError
from revector.labels.model import Labels
from revector.measure.slices import field_slices


@dataclass(frozen=True, slots=True)
class DrawnLabels:
    """What was drawn, in the order of the labels; ``parts``: value of the field → queries drawn, queries there."""

    queries: tuple[str, ...]
    parts: dict[str, tuple[int, int]]


def draw_queries(
    labels: Labels, among: Collection[str], count: int, *, by: str | None = None, seed: int = 0
) -> DrawnLabels:
    """Return ``count`` of the queries ``among``; with ``by``, each value of that field of theirs has its share.

    Seats go by largest remainder, but no value is left without one. A seed orders queries by their ids alone: another
    draw with more queries, or after labels were added, keeps most of them.

    Raises:
        LabelError: If there are fewer queries than ``count``, fewer seats than values, or no query has the field.

    Source:
        Cochran, *Sampling Techniques* (1977), chapter 5: proportional stratified sampling.

    """
    usable = [query for query in labels.queries if query in among]
    if not 1 <= count <= len(usable):
        raise LabelError(
            f"{count:,} queries were to be drawn from {labels.name}, which has {len(usable):,} with a relevant "
            f"document that exists. Nothing was written; ask for 1 to {len(usable):,}."
        )
    strata = {"": usable} if by is None else field_slices({query: labels.meta.get(query, {}) for query in usable}, by)
    if len(strata) > count:
        raise LabelError(
            f"{count:,} queries were to be drawn with each value of {by!r} among them, and it has {len(strata):,}. "
            f"Nothing was written; ask for at least {len(strata):,}, or name a field of few values."
        )
    seats = _seats({value: len(queries) for value, queries in strata.items()}, count)
    chosen = {
        query for value, queries in strata.items() for query in in_random_order(queries, seed=seed)[: seats[value]]
    }
    return DrawnLabels(
        tuple(query for query in usable if query in chosen),
        {value: (seats[value], len(queries)) for value, queries in strata.items()},
    )


def in_random_order(queries: Iterable[str], *, seed: int = 0) -> list[str]:
    """Return query ids in an order that depends on ids and seed alone: others that come between move none of them."""
    return sorted(queries, key=lambda query: hashlib.sha256(f"{seed}\0{query}".encode()).digest())


def _seats(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Return how many of ``count`` each part gets: at least one, at most its size, else by largest remainder."""
    free, whole = count - len(sizes), sum(sizes.values())
    shares = {value: free * (size - 1) / max(1, whole - len(sizes)) for value, size in sizes.items()}
    seats = {value: 1 + int(share) for value, share in shares.items()}
    by_remainder = sorted(shares, key=lambda value: (int(shares[value]) - shares[value], value))
    for value in by_remainder[: count - sum(seats.values())]:
        seats[value] += 1
    return seats
