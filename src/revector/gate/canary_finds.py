"""Owns what a canary sees beside recall: whether what it found at first is still found, as it was, and in the index.

New documents push others down, changed and deleted ones leave: that is no fault of an index. So only documents that are
as they were count, and only against each other: of an index that is whole, and searched exactly, each query still finds
them in the same order, and its first score can only rise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from revector.gate.canary_falls import CanaryCheck
from revector.gate.gate import GateMeasurement
from revector.gate.query_set import QuerySet
from revector.history.canary_series import Baseline
from revector.registry.collections import Generation
from revector.verify import readback

LEAST_AGREEMENT = 0.9
"""Of the documents that a query found at first; an HNSW graph that was written to finds a few others."""

MOST_LOST = 0.02
"""Share of the queries, and at least ``FEW`` of them, whose own document is found no more."""

FEW = 2
SCORE_LEVEL = 1 / 365
PAGE_IDS = 1_000
NAMED = 3
"""Documents that a sentence names."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of one query: the documents that it must still find, those of them that it does not, and its own among these."""

    expected: int
    missing: frozenset[str]
    own: frozenset[str]


def find_checks(
    connection: sa.Connection, generation: Generation, queries: QuerySet, now: GateMeasurement, first: Baseline | None
) -> Iterator[CanaryCheck]:
    """Yield agreement, own documents and first scores against the baseline, and the rows of what was found or judged.

    Queries whose judgements are of passages are in the last one only, for what they find depends on these.
    """
    then = first.run if first is not None else {}
    run = {query: found for query, found in now.run.items() if not queries.labels.spans.get(query)}
    judged = {doc for scores in queries.qrels.values() for doc, score in scores.items() if score > 0}
    asked = judged.union(*run.values(), *then.values())
    states = {one.doc_id: one for one in _look(connection, generation, sorted(asked))}
    if first is not None and then:
        same = _unchanged(connection, generation.cid, asked, first.version)
        kept = {
            query: _compare(then[query], found, same, queries.qrels.get(query, {}))
            for query, found in run.items()
            if query in then
        }
        yield _agreement(kept)
        yield _own(kept)
        yield _scores(first, now, {query for query in kept if then[query][:1] and then[query][0] in same})
    yield _rows(states)


def _compare(then: Sequence[str], found: Sequence[str], same: Collection[str], judged: Mapping[str, int]) -> _Kept:
    left, still = [doc for doc in then if doc in same], [doc for doc in found if doc in same]
    expected = left[: len(still)]
    missing = frozenset(expected) - set(still)
    return _Kept(len(expected), missing, frozenset(doc for doc in missing if judged.get(doc, 0) > 0))


def _agreement(kept: Mapping[str, _Kept]) -> CanaryCheck:
    shares = [1 - len(one.missing) / one.expected for one in kept.values() if one.expected]
    if not shares:
        return CanaryCheck("agreement", None, LEAST_AGREEMENT, alert=False, says="no document is as it was at first")
    mean = math.fsum(shares) / len(shares)
    says = (
        f"{mean:.4f} of the documents that were found at first, and did not change since, are found where nothing new "
        f"is before them, on {len(shares):,} queries; less than {LEAST_AGREEMENT:g} alerts"
    )
    return CanaryCheck("agreement", mean, LEAST_AGREEMENT, alert=mean < LEAST_AGREEMENT, says=says)


def _own(kept: Mapping[str, _Kept]) -> CanaryCheck:
    lost = {query: one.own for query, one in kept.items() if one.own}
    share = len(lost) / len(kept) if kept else 0.0
    limit = max(MOST_LOST, FEW / len(kept)) if kept else MOST_LOST
    named = ", ".join(f"{min(own)} of {query}" for query, own in list(lost.items())[:NAMED])
    says = (
        f"{len(lost):,} of {len(kept):,} queries no longer find a relevant document that they found at first, though "
        f"it did not change and nothing new is before it{named and f' ({named})'}; {limit:.4f} or more of them alerts"
    )
    return CanaryCheck("own_documents", share, limit, alert=len(lost) >= FEW and share >= limit, says=says)


def _scores(first: Baseline, now: GateMeasurement, asked: Collection[str]) -> CanaryCheck:
    """Hold first scores against those of the baseline: the largest fall of their distribution (Kolmogorov, Smirnov).

    One-sided, and the limit is that of two independent samples: n · D² of ln(1 / level). The same queries vary less.
    """
    both = [query for query in asked if query in first.tops and query in now.tops]
    if not both:
        return CanaryCheck("scores", None, 1.0, alert=False, says="no first score can be compared")
    before, after = (np.sort([one[query] for query in both]) for one in (first.tops, now.tops))
    at = np.concatenate([before, after])
    margin = 1e-5 * max(1.0, float(np.abs(before).max()))  # of float32 in another order
    below = np.searchsorted(after, at, side="right") - np.searchsorted(before, at + margin, side="right")
    fall, limit = max(0.0, float(below.max()) / len(both)), min(1.0, math.sqrt(-math.log(SCORE_LEVEL) / len(both)))
    says = (
        f"of {len(both):,} queries the first score is {np.median(after):.4f} in the median, at first it was "
        f"{np.median(before):.4f}; below some score are {fall:.4f} more of them than then, {limit:.4f} alerts"
    )
    return CanaryCheck("scores", fall, limit, alert=fall >= limit, says=says)


def _rows(states: Mapping[str, readback.IdState]) -> CanaryCheck:
    wrong = [one for one in states.values() if one.state in readback.WRONG]
    first = "; ".join(f"{one.doc_id} is {one.state}: {one.reason}" for one in wrong[:NAMED])
    says = (
        f"of {len(states):,} documents that are judged or were found, {len(wrong):,} are not in the index as the "
        f"ledger says{first and f' ({first}); run `revector verify --repair`'}"
    )
    return CanaryCheck("rows", float(len(wrong)), 1.0, alert=bool(wrong), says=says)


def _look(connection: sa.Connection, generation: Generation, ids: Sequence[str]) -> Iterator[readback.IdState]:
    for at in range(0, len(ids), PAGE_IDS):
        yield from readback.look_at(connection, generation, ids[at : at + PAGE_IDS])


def _unchanged(connection: sa.Connection, cid: int, ids: Collection[str], version: int) -> set[str]:
    """Return those of the documents that were last written before the baseline."""
    rows = connection.scalars(
        sa.text(
            "SELECT doc_id FROM document WHERE cid = :cid AND doc_id = ANY (CAST(:ids AS text[])) AND NOT deleted AND "
            "version <= :version"
        ),
        {"cid": cid, "ids": sorted(ids), "version": version},
    )
    return set(rows)
