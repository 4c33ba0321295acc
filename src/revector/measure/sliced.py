"""Recall in each slice of the queries: against the old revision, and against the other queries of the new one.

A slice of few queries can neither be cleared nor accused: 30 queries that are all answered alike exclude no drop of
0.1. So the rule has two sides. **Accused** is every slice of at least ``FEW`` queries whose interval shows a fall, at
a confidence that holds for all of them at once: a good model is then refused for any of its slices no more often than
the confidence says, however many there are. **Cleared** must be each slice of ``needed_to_clear`` queries or more, and
of each field the smaller ones pooled, with the next larger ones until they are as many. A field whose pool would be all
of it has nothing to clear beyond what all queries show. What is left open is a slice that is not cleared and should be,
and a smaller one that shows a fall by itself, if not for all slices at once. ``evaluation/bench/gate_slices.py``
simulates both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from revector.measure.changes import Bounds, MetricChange, change_of
from revector.measure.metrics import Interval
from revector.measure.power import CHANGED, queries_needed
from revector.measure.slices import FEW, POOLED, Slices
from revector.measure.statistics import gap_interval, paired_interval


@dataclass(frozen=True, slots=True)
class Slice:
    """Recall on some of the queries; ``recall`` is None for fewer than ``FEW``.

    From ``minimum`` queries on a slice must be cleared by itself. ``high_of_all`` is the upper end of the difference
    at the confidence that holds for all measured slices at once (Bonferroni): among many slices, one falls by chance.
    The lower end needs no such care, for all must pass (Berger, *Multiparameter Hypothesis Testing and Acceptance
    Sampling*, Technometrics 24, 1982). ``gap``: new recall minus that of all other queries; None where there are none,
    and in what earlier versions kept. ``pooled``: the slices that are together in this one, if it is a pool.
    """

    field: str
    name: str
    queries: int
    minimum: int
    recall: MetricChange | None = None
    high_of_all: float | None = None
    gap: Interval | None = None
    pooled: tuple[str, ...] = ()

    @property
    def difference(self) -> Interval | None:
        """New minus old; None where that was not measured."""
        return None if self.recall is None else self.recall.difference

    @property
    def to_clear(self) -> bool:
        """Whether it is large enough that a fall in it must be excluded."""
        return self.recall is not None and self.queries >= self.minimum

    @property
    def words(self) -> str:
        """The slice and what it lost, or without an old revision what it finds."""
        told = "not measured" if self.recall is None else f"{self.recall.new.mean:.4f}"
        if (lost := self.difference) is not None:
            told = f"{lost.mean:+.4f} ({lost.low:+.4f} to {lost.high:+.4f})"
        return f"{self.field} = {self.name}: {told} on {self.queries:,} queries"


def needed_to_clear(drop: float | None, confidence: float) -> int:
    """Return how many queries clear a slice of a ``drop``, 0 to 1, in 4 of 5 cases, if recall changes on ``CHANGED``.

    Without a ``drop`` nothing has to be cleared, and ``FEW`` are measured.
    """
    if not drop:
        return FEW
    return max(FEW, queries_needed(math.sqrt(CHANGED), drop, confidence=confidence))


def slices_of(
    by_field: Slices, new: Mapping[str, float], old: Mapping[str, float] | None, asked: Bounds
) -> Iterator[Slice]:
    """Yield every slice, field by field, then what is pooled of the field.

    ``new`` and ``old``: recall by query, of the same queries. ``asked.drop``: the largest drop in a slice, None where
    none is demanded.
    """
    minimum = needed_to_clear(asked.drop, asked.confidence)
    found = [one for field, slices in by_field.items() for one in _of_field(field, slices, new, minimum)]
    measured = sum(len(queries) >= FEW for _, queries in found)
    for one, queries in found:
        if len(queries) < FEW:
            yield one
            continue
        high = None
        if old is not None:
            before, after = ([scores[query] for query in queries] for scores in (old, new))
            high = paired_interval(before, after, confidence=1 - (1 - asked.confidence) / measured).high
        change = change_of(queries, new, old, asked)
        yield replace(one, recall=change, high_of_all=high, gap=_gap(queries, new, asked.confidence))


def worst_of(slices: Sequence[Slice]) -> Slice | None:
    """Return the slice that fell most, or is lowest where there is no old revision; None where none was measured."""
    measured = [one for one in slices if one.recall is not None]
    return min(measured, key=lambda one: (_rank(one), -one.queries), default=None)


def lowest_of(slices: Sequence[Slice]) -> Slice | None:
    """Return the slice whose new recall is furthest below that of the other queries; None where none was compared."""
    gaps = {number: one.gap.mean for number, one in enumerate(slices) if one.gap is not None}
    return slices[min(gaps, key=lambda number: gaps[number])] if gaps else None


def _rank(one: Slice) -> float:
    assert one.recall is not None  # it was measured
    return (one.recall.difference or one.recall.new).mean


def _of_field(
    field: str, slices: Mapping[str, Collection[str]], known: Collection[str], minimum: int
) -> Iterator[tuple[Slice, list[str]]]:
    kept = {name: [query for query in queries if query in known] for name, queries in slices.items()}
    for name, queries in kept.items():
        yield Slice(field, name, len(queries), minimum), queries
    pool, together = list[str](), list[str]()
    for name in sorted(kept, key=lambda one: len(kept[one])):
        if len(kept[name]) >= minimum and (not pool or len(together) >= minimum):
            break
        pool.append(name)
        together += kept[name]
    if 1 < len(pool) < len(kept):
        yield Slice(field, POOLED, len(together), minimum, pooled=tuple(pool)), together


def _gap(queries: Collection[str], new: Mapping[str, float], confidence: float) -> Interval | None:
    inside = frozenset(queries)
    outside = [score for query, score in new.items() if query not in inside]
    return gap_interval([new[query] for query in queries], outside, confidence=confidence) if outside else None
