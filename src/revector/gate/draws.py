"""Owns which queries people judge next: drawn at random from those that old and new answer differently, and kept.

A query that both answer alike decides nothing. Of the others none is known to decide more than another, and only a
random one may stand for the rest: so they come in an order that depends on their ids alone. The history keeps each
draw. What was drawn for one pair of revisions is no random sample for another, and is left out of its verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import sqlalchemy as sa

from revector.errors import LabelError
from revector.gate.query_set import QuerySet
from revector.labels import in_random_order
from revector.measure.differing import answers_differ
from revector.spec import Gate

KIND = "labels_next"
"""The event of a draw."""


@dataclass(frozen=True, slots=True)
class Draws:
    """``asked``: queries that people were ever asked to judge; ``order``: those drawn for one pair of revisions."""

    asked: frozenset[str] = frozenset()
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextLabels:
    """Queries to judge, id → text, and the documents that old or new found for each.

    ``drawn``: what this draw adds to the sample, judged before or to be judged now. Of ``of`` queries that were asked
    of both, ``differing`` are answered differently; ``judged`` of those drawn for this pair have judgements.
    """

    queries: Mapping[str, str]
    found: Mapping[str, Sequence[str]]
    drawn: tuple[str, ...]
    differing: int
    of: int
    judged: int


def read_draws(
    connection: sa.Connection, cid: int, old: str, new: str, gate: Gate, pipeline: str | None = None
) -> Draws:
    """Return what was drawn so far, in all and for this pair of revisions as it is measured now.

    That is at this rank, by this kind of metric, and through this pipeline.
    """
    rows = connection.execute(
        sa.text("SELECT detail FROM event WHERE cid = :cid AND kind = :kind ORDER BY seq"), {"cid": cid, "kind": KIND}
    ).scalars()
    details = list(rows)
    terms = (old, new, gate.k, gate.by_order, pipeline)
    pair = [
        one
        for one in details
        if (one["old"], one["new"], one["k"], one.get("ordered", False), one.get("pipeline")) == terms
    ]
    return Draws(
        frozenset(query for one in details for query in one["asked"]),
        tuple(dict.fromkeys(query for one in pair for query in one["drawn"])),
    )


def set_apart(queries: QuerySet, draws: Draws) -> QuerySet:
    """Return ``queries`` without those that were drawn; the ones drawn for this pair are its ``drawn``.

    They count up to the first that is not judged yet: anyone who leaves out the hard ones leaves out the losses. One
    that no document was found relevant for has no judgements in ``drawn``: neither side can lose it. Raises
    ``LabelError`` where all were drawn.
    """
    if not draws.asked:
        return queries
    judged = queries.labels.queries
    sample = takewhile(lambda query: query in judged, (one for one in draws.order if one in queries.others))
    kept = [query for query in queries.qrels if query not in draws.asked]
    if not kept:
        raise LabelError(
            f"all {len(queries.qrels):,} usable queries of {queries.labels.name} were drawn by `revector labels next` "
            "from those that two revisions answer differently, so that they say nothing of recall on the others. "
            "Nothing was measured; label some queries at random, too (`revector labels pool --queries FILE`)."
        )
    return replace(
        queries,
        qrels={query: queries.qrels[query] for query in kept},
        items={query: queries.items[query] for query in kept},
        counts={**queries.counts, "queries": len(kept)},
        drawn={query: queries.items.get(query, {}) for query in sample if query not in kept},
    )


def choose(
    queries: QuerySet,
    old: Mapping[str, Sequence[str]],
    new: Mapping[str, Sequence[str]],
    draws: Draws,
    count: int,
    *,
    ordered: bool = False,
) -> NextLabels:
    """Return up to ``count`` queries of ``queries.others`` to judge: those asked before and not judged come first.

    ``old`` and ``new``: their rankings, cut at the rank of the gate. ``ordered``: whether another order differs, too.
    """
    judged, before = queries.labels.queries, set(draws.order)
    differing = [
        query for query in in_random_order(queries.others) if answers_differ(old[query], new[query], ordered=ordered)
    ]
    asked = [query for query in draws.order if query in queries.others and query not in judged][:count]
    drawn: list[str] = []
    for query in differing:
        if len(asked) == count:
            break
        if query not in before:
            drawn.append(query)
            asked += [] if query in judged else [query]
    return NextLabels(
        {query: queries.others[query] for query in asked},
        {query: [*old[query], *new[query]] for query in asked},
        tuple(drawn),
        len(differing),
        len(queries.others),
        sum(query in judged for query in draws.order),
    )
