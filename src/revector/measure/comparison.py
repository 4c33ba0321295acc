"""Old and new measured on the same queries: compared per metric, per slice and per query; thresholds are elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from revector.errors import ConfigError, LabelError
from revector.formats.kept import plain
from revector.measure.changes import Bounds, MetricChange, change_of
from revector.measure.differing import DifferingPairs, differing_pairs
from revector.measure.metrics import Interval, MetricName
from revector.measure.sliced import Slice, lowest_of, slices_of, worst_of
from revector.measure.slices import Slices
from revector.measure.statistics import CONFIDENCE, NEAR_CEILING, is_saturated

if TYPE_CHECKING:
    import pandas as pd

CHANGED = 20
"""Queries shown that lost most, and that won most."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """One revision measured: ``metrics`` as of ``metrics.evaluate``, ``run`` with the rankings that were scored.

    ``fingerprint`` is that of the queries and judgements at the time. ``others``: rankings of queries beside those,
    which nobody needs to have judged. ``drawn``: scores of those of them that were drawn at random from the ones that
    old and new answer differently, and were then judged; ``by_order``: whether another order was a difference.
    ``passages``: query → overlap of what is read with its judged passages, 0 to 1; empty where none are judged.
    ``proxies``: scores by a judge's word instead of people's, in a random order of the queries that differ; None: no
    judge counts.
    """

    revision: str
    fingerprint: str
    metrics: Mapping[MetricName, Mapping[str, float]]
    run: Mapping[str, Sequence[str]]
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    drawn: Mapping[MetricName, Mapping[str, float]] = field(default_factory=dict)
    by_order: bool = False
    passages: Mapping[str, float] = field(default_factory=dict)
    proxies: Mapping[MetricName, Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """Recall of one query in old and new, and both rankings down to rank k."""

    query: str
    old: float
    new: float
    old_ranking: tuple[str, ...]
    new_ranking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured. ``ceiling`` is the best possible mean recall, ``saturated_by`` a trivial ranking near it.

    ``lost`` and ``won`` are the queries whose recall changed most. ``passages``: overlap (IoU) of what is read with the
    judged passages, over the queries judged by passages alone; None where there are none, or an earlier version
    measured.
    """

    k: int
    documents: int
    queries: int
    fingerprint: str
    confidence: float
    new: str
    old: str | None
    metrics: Mapping[MetricName, MetricChange]
    ceiling: float
    saturated_by: tuple[str, ...]
    slices: tuple[Slice, ...] = ()
    lost: tuple[QueryComparison, ...] = ()
    won: tuple[QueryComparison, ...] = ()
    passages: MetricChange | None = None

    @property
    def worst_slice(self) -> Slice | None:
        """The slice whose recall fell most, or without an old revision is lowest; None where no slice was measured."""
        return worst_of(self.slices)

    @property
    def lowest_slice(self) -> Slice | None:
        """The slice in which the new revision finds least beside all other queries; None where none was compared."""
        return lowest_of(self.slices)

    def as_data(self) -> dict[str, object]:
        """Return everything as plain JSON data."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, object]) -> Comparison:
        """Return the comparison that ``as_data`` described, such as that of a kept gate result."""
        return TypeAdapter(cls).validate_python(data)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per metric, and per slice for recall: means, ends of the intervals, p and sizes."""
        import pandas as pd

        rows: list[tuple[str, str, str, int, MetricChange | None]]
        rows = [("", "", metric, change.queries, change) for metric, change in self.metrics.items()]
        rows += [] if self.passages is None else [("", "", "passage_iou", self.passages.queries, self.passages)]
        rows += [(one.field, one.name, "recall", one.queries, one.recall) for one in self.slices]
        return pd.DataFrame(
            [
                {"field": where, "slice": name, "metric": metric, "k": self.k, "queries": queries, **_flat(change)}
                for where, name, metric, queries, change in rows
            ]
        )


def compare(
    new: ScoredRun,
    old: ScoredRun | None,
    *,
    k: int,
    documents: int,
    max_drop: float | None = None,
    max_slice_drop: float | None = None,
    slices: Slices | None = None,
    attainable: Mapping[str, float] | None = None,
    confidence: float = CONFIDENCE,
    sized_for: float | None = None,
) -> Comparison:
    """Compare two revisions, or describe the first (``old`` None).

    ``new`` and ``old`` hold scores in [0, 1], the same queries in every metric, ``recall`` among these, at rank ``k``
    of the ``documents`` that could be found. ``max_drop``, the demanded largest drop in recall (0 to 1), sizes
    ``needed`` and the check for saturation; ``max_slice_drop`` does so for ``slices``, as of ``field_slices``.
    ``attainable``: best possible recall per query, as of ``metrics.attainable_recall``, by default 1. ``confidence``:
    of every interval. ``sized_for``: of the interval that ``needed`` is for, by default the same.

    Raises ``ConfigError`` if ``k`` or ``confidence`` is out of range; ``LabelError`` without queries, where old and new
    differ in them, for a document twice in a ranking, and a score that is NaN or outside [0, 1].
    """
    check_rank(k, documents)
    queries = _check_sets(new, old)
    asked = Bounds(confidence, sized_for or confidence, max_drop)
    metrics = {metric: _metric_change(metric, queries, new, old, asked) for metric in new.metrics}
    recall, before = new.metrics["recall"], old.metrics["recall"] if old else None
    best = attainable or dict.fromkeys(queries, 1.0)
    lost, won = (_changed(queries, old, new, k, sign) for sign in (-1, 1)) if old else ((), ())
    return Comparison(
        k=k,
        documents=documents,
        queries=len(queries),
        fingerprint=new.fingerprint,
        confidence=confidence,
        new=new.revision,
        old=old.revision if old else None,
        metrics=metrics,
        ceiling=math.fsum(_aligned(queries, best, "the best possible recall")) / len(queries),
        saturated_by=_saturated(queries, before or recall, k / documents, best, max_drop),
        slices=tuple(slices_of(slices or {}, recall, before, replace(asked, drop=max_slice_drop))),
        lost=lost,
        won=won,
        passages=_passages(new, old, asked),
    )


def _metric_change(
    metric: MetricName, queries: Sequence[str], new: ScoredRun, old: ScoredRun | None, asked: Bounds
) -> MetricChange:
    if old is None:
        return change_of(queries, new.metrics[metric], None, asked, None)
    return change_of(queries, new.metrics[metric], old.metrics[metric], asked, _pairs(metric, old, new))


def _passages(new: ScoredRun, old: ScoredRun | None, asked: Bounds) -> MetricChange | None:
    before = old.passages if old else None
    return change_of(list(new.passages), new.passages, before, replace(asked, drop=None)) if new.passages else None


def _pairs(metric: MetricName, old: ScoredRun, new: ScoredRun) -> DifferingPairs:
    ordered = metric in ("ndcg", "mrr")
    # Drawn by their sets, queries stand for no sample of those that differ in order.
    drawn = {} if ordered and not new.by_order else new.drawn.get(metric, {})
    before = {**old.metrics[metric], **{query: old.drawn[metric][query] for query in drawn}}
    after = {**new.metrics[metric], **drawn}
    unranked: dict[str, Sequence[str]] = dict.fromkeys(new.metrics[metric], ())
    first, second = ({**unranked, **one.run, **one.others} for one in (old, new))
    asked = [*dict.fromkeys([*new.metrics[metric], *new.others])]
    return differing_pairs(asked, before, after, first, second, ordered=ordered, proxies=_proxies(metric, old, new))


def _proxies(metric: MetricName, old: ScoredRun, new: ScoredRun) -> Mapping[str, float] | None:
    """Return new minus old by the judge; None where none counts in this metric."""
    before, after = (None if one.proxies is None else one.proxies.get(metric) for one in (old, new))
    return None if before is None or after is None else {query: after[query] - before[query] for query in after}


def check_rank(k: int, documents: int) -> None:
    """Raise ``ConfigError`` unless recall@``k`` over that number of documents can tell anything."""
    if not 1 <= k <= documents:
        raise ConfigError(
            f"recall@{k} was asked for over {documents} documents; k must be 1 to the number of documents, or every "
            "document is found by any model. Nothing was compared; lower gate.k, or label a larger corpus."
        )


def _check_sets(new: ScoredRun, old: ScoredRun | None) -> list[str]:
    """Return the queries, the same in every metric of both. Raises ``LabelError`` otherwise."""
    queries = list(new.metrics["recall"])
    for one in filter(None, (new, old)):
        for metric in new.metrics:
            measured = one.metrics.get(metric, {}).keys()
            if measured != set(queries):
                differing = sorted(measured ^ set(queries))
                raise LabelError(
                    f"{metric} of revision {one.revision} was measured on other queries than recall of revision "
                    f"{new.revision}: {len(differing)} are in one only, such as {differing[0]!r}. Nothing was compared;"
                    " measure both on the same labels."
                )
        for query, ranking in one.run.items():
            if len(set(ranking)) != len(ranking):
                twice = next(found for i, found in enumerate(ranking) if found in ranking[:i])
                raise LabelError(
                    f"the ranking of query {query!r} by revision {one.revision} lists document {twice!r} twice; each "
                    "may appear once. Nothing was compared; keep the best rank of each document."
                )
    if old and old.fingerprint != new.fingerprint:
        raise LabelError(
            f"the labelled queries changed between the two measurements: fingerprint {old.fingerprint[:12]} for "
            f"revision {old.revision}, {new.fingerprint[:12]} for revision {new.revision}. Nothing was compared; "
            "measure both on the same labels."
        )
    return queries


def _aligned(queries: Collection[str], scores: Mapping[str, float], what: str) -> list[float]:
    if missing := [query for query in queries if query not in scores]:
        raise LabelError(
            f"{what} lacks {len(missing)} of {len(queries)} queries, such as {missing[0]!r}. Nothing was compared; "
            "measure it on the same labels."
        )
    return [scores[query] for query in queries]


def _saturated(
    queries: list[str],
    scores: Mapping[str, float],
    random_recall: float,
    best: Mapping[str, float],
    max_drop: float | None,
) -> tuple[str, ...]:
    margin = NEAR_CEILING if max_drop is None else min(max_drop, NEAR_CEILING)
    reached, attainable = _aligned(queries, scores, "recall"), _aligned(queries, best, "the best possible recall")
    at_random = [random_recall] * len(queries)
    return ("a random ranking",) if is_saturated(reached, at_random, margin=margin, attainable=attainable) else ()


def _changed(queries: list[str], old: ScoredRun, new: ScoredRun, k: int, sign: int) -> tuple[QueryComparison, ...]:
    """Return the queries whose recall fell (``sign`` -1) or rose most, by nDCG where that is equal."""
    gains = {query: sign * (new.metrics["recall"][query] - old.metrics["recall"][query]) for query in queries}
    finer = {
        query: sign * (new.metrics["ndcg"][query] - old.metrics["ndcg"][query]) if "ndcg" in new.metrics else 0.0
        for query in queries
    }
    most = sorted((query for query in queries if gains[query] > 0), key=lambda one: (-gains[one], -finer[one], one))
    return tuple(
        QueryComparison(
            query,
            old.metrics["recall"][query],
            new.metrics["recall"][query],
            tuple(old.run.get(query, ())[:k]),
            tuple(new.run.get(query, ())[:k]),
        )
        for query in most[:CHANGED]
    )


def _flat(change: MetricChange | None) -> dict[str, object]:
    """Return a change as columns: an interval gives three."""
    if change is None:
        return {}
    flat: dict[str, object] = {}
    for one in fields(change):
        value = getattr(change, one.name)
        if isinstance(value, Interval):
            flat |= {one.name: value.mean, f"{one.name}_low": value.low, f"{one.name}_high": value.high}
        elif one.name != "queries":
            flat[one.name] = value
    return flat
