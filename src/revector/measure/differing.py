"""Which queries two models answer differently: only there can anything be lost, and only there judgements decide."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from revector.measure.statistics import Share


@dataclass(frozen=True, slots=True)
class ProxyPairs:
    """What a judge finds of queries that are answered differently: new minus old, of ``judged`` ones and ``beside``.

    ``judged``: aligned with what people judged, NaN where the judge was not asked. ``beside``: of other queries.
    """

    judged: tuple[float, ...]
    beside: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DifferingPairs:
    """Scores by ``old`` and ``new`` of judged queries that they answer differently, and the ``share`` of all such.

    ``proxy``: what a judge finds of them, None where none is believed. The judged queries are then in its order.
    """

    old: tuple[float, ...]
    new: tuple[float, ...]
    share: Share
    proxy: ProxyPairs | None = None


def differing_pairs(
    asked: Collection[str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    old: Mapping[str, Sequence[str]],
    new: Mapping[str, Sequence[str]],
    *,
    ordered: bool = False,
    proxies: Mapping[str, float] | None = None,
) -> DifferingPairs:
    """Return what is known of the queries that differ.

    Args:
        asked: Queries that both answered, each once; at least one.
        before: Scores by the old model, of the judged ones of them.
        after: Scores by the new model, of the same queries.
        old: Rankings by the old model, cut at k, of all that were asked.
        new: Rankings by the new model.
        ordered: Whether the score depends on the order within a ranking, as nDCG does and recall does not.
        proxies: New minus old by a judge, of the first queries in a random order of those that differ.

    """
    differing = [
        query
        for query in asked
        if answers_differ(old[query], new[query], ordered=ordered) or before.get(query) != after.get(query)
    ]
    judged = [query for query in differing if query in after]
    share, proxy = Share(len(asked), len(differing)), None
    if proxies is not None:
        order = {query: place for place, query in enumerate(proxies)}
        judged.sort(key=lambda query: order.get(query, len(order)))
        beside = (proxies[query] for query in differing if query in proxies and query not in after)
        proxy = ProxyPairs(tuple(proxies.get(query, math.nan) for query in judged), tuple(beside))
    return DifferingPairs(
        tuple(before[query] for query in judged), tuple(after[query] for query in judged), share, proxy
    )


def answers_differ(old: Sequence[str], new: Sequence[str], *, ordered: bool = False) -> bool:
    """Whether two rankings, cut at k, can have other scores.

    >>> answers_differ(["a", "b"], ["b", "a"]), answers_differ(["a", "b"], ["b", "a"], ordered=True)
    (False, True)
    """
    return list(old) != list(new) if ordered else set(old) != set(new)
