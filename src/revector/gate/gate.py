"""The gate before a swap: old and new measured on the same labelled queries, and the verdict on what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from revector.formats.kept import plain
from revector.gate import judgement
from revector.gate.asking import ask_searches
from revector.gate.at_hand import LabelsAtHand
from revector.gate.demand import GateScene
from revector.gate.demands import DEMANDS
from revector.gate.figures import GateFigures, Value
from revector.gate.looks import GateLook, look_confidence
from revector.gate.needs import label_need
from revector.gate.pipeline import Pipeline
from revector.gate.proxies import ProxyScores
from revector.gate.query_set import QuerySet
from revector.interfaces import Progress
from revector.measure.comparison import Comparison, ScoredRun, check_rank, compare
from revector.measure.metrics import METRIC_NAMES, Interval, MetricName, attainable_recall, evaluate, latency_ms
from revector.measure.statistics import score_interval
from revector.registry.collections import Generation
from revector.serving.queries import named
from revector.serving.searcher import Searcher
from revector.spec import Gate


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """A judgement with its evidence; ``reasons`` is empty when it passed."""

    value: Value
    reasons: tuple[str, ...]
    detail: Mapping[str, object]

    @property
    def passed(self) -> bool:
        """Whether the alias may move."""
        return self.value is Value.PASS


@dataclass(frozen=True, slots=True)
class GateMeasurement:
    """One generation measured on labelled queries through the production search path.

    ``run`` holds the first k items of each query, ``fingerprint`` is that of the ``QuerySet``. ``refused``: the queries
    that a search refuses, and why; they found nothing. ``others``: what is found for queries without labels,
    ``drawn``: metrics of those of them that were drawn and judged since. ``passages``: for queries judged by passages
    alone, how far what is read overlaps these, 0 to 1 (``labels.passage_overlap``). ``tops``: score of the first hit of
    each query that found any.
    """

    generation: int
    revision: str
    metrics: Mapping[MetricName, Mapping[str, float]]
    run: Mapping[str, list[str]]
    latency_ms: Mapping[str, float]
    fingerprint: str
    refused: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, list[str]] = field(default_factory=dict)
    drawn: Mapping[MetricName, Mapping[str, float]] = field(default_factory=dict)
    passages: Mapping[str, float] = field(default_factory=dict)
    tops: Mapping[str, float] = field(default_factory=dict)

    def interval(self, metric: MetricName = "recall") -> Interval:
        """Mean of one metric and its 95 % interval over queries, the same that the gate judges by."""
        return score_interval(list(self.metrics[metric].values()))

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and interval of each metric, by its name; ``passage_iou`` where passages were judged."""
        found = {str(metric): self.interval(metric) for metric in self.metrics}
        return found | ({"passage_iou": score_interval(list(self.passages.values()))} if self.passages else {})

    @property
    def rankings(self) -> dict[str, list[str]]:
        """What each query found, labelled or not."""
        return {**self.run, **self.others}

    @property
    def scored(self) -> ScoredRun:
        """What is compared with another generation."""
        return ScoredRun(
            self.revision, self.fingerprint, self.metrics, self.run, self.others, self.drawn, passages=self.passages
        )


def refuse_unpassable(gate: Gate, labels: LabelsAtHand) -> None:
    """Refuse a gate that no revision could pass on these labels. Raises ``LabelError`` as each ``Demand.refuse``."""
    for demand in DEMANDS:
        if demand.refuse is not None and demand.of(gate) is not None:
            demand.refuse(gate, labels)


def refuse_unmeasurable(gate: Gate, queries: QuerySet, documents: int) -> None:
    """Refuse a gate that these labels over that number of documents could never pass: before the work, not after it.

    Raises ``LabelError`` as ``refuse_unpassable`` and for a slice that no query is in, ``ConfigError`` for ``k`` above
    the number of documents.
    """
    refuse_unpassable(gate, LabelsAtHand.usable(queries))
    check_rank(gate.k, documents)
    queries.slices(gate.slices)


def measure(
    searcher: Searcher,
    generation: Generation,
    queries: QuerySet,
    k: int,
    progress: Progress,
    *,
    exact: bool = False,
    pipeline: Pipeline | None = None,
) -> GateMeasurement:
    """Ask every query of one generation, and score the first ``k`` items of those that are labelled.

    By its searches as they are served, or through the project's own ``pipeline``; times are then of all that it does.
    A query that a search refuses finds nothing. Documents that are the query itself are left out. Raises
    ``PipelineError`` as ``Pipeline.ask``.
    """
    labelled = queries.texts
    progress.start(f"search {generation.revision}", len(labelled) + len(queries.others), unit="queries")
    ask = ask_searches if pipeline is None else pipeline.ask
    found = ask(searcher, generation, queries, k, progress, exact=exact)
    progress.done()
    run = found.run
    return GateMeasurement(
        generation.gen,
        generation.revision,
        evaluate(queries.items, run, k),
        {query: run[query] for query in labelled},
        latency_ms(found.milliseconds) if found.milliseconds else {},
        queries.fingerprint,
        {query: why for query, why in found.refused.items() if query in labelled},
        {query: run[query] for query in queries.others},
        _scored(queries.drawn, run, k),
        found.passages,
        found.tops,
    )


def _scored(
    drawn: Mapping[str, Mapping[str, int]], run: Mapping[str, Sequence[str]], k: int
) -> dict[MetricName, dict[str, float]]:
    """Return the metrics of drawn queries; 0 where nothing was judged relevant, so that neither side differs."""
    found = evaluate(drawn, run, k)
    return {metric: {query: scores.get(query, 0.0) for query in drawn} for metric, scores in found.items()}


def judge(
    gate: Gate,
    queries: QuerySet,
    new: GateMeasurement,
    old: GateMeasurement | None,
    *,
    documents: int,
    look: GateLook | None = None,
    evidence: Mapping[str, object] | None = None,
    pipeline: str | None = None,
    proxies: ProxyScores | None = None,
) -> GateVerdict:
    """Judge what was measured; the verdict's detail is all that its page needs, but for the texts.

    ``documents``: how many there are to rank. ``look``: which it is, by default the first. ``evidence``: what
    ``measure_demands`` returned; without, there was nothing to measure. ``pipeline``: the identity of what was measured
    through, None for plain searches. ``proxies``: what a judge said of the queries that differ. Raises
    ``LabelError`` as ``compare`` and ``judgement.judge``, ``ConfigError`` if ``gate.k`` is above ``documents``.
    """
    number = 1 if look is None else look.number
    comparison = compare(
        _beside(new, gate, proxies),
        None if old is None else _beside(old, gate, proxies),
        k=gate.k,
        documents=documents,
        max_drop=None if old is None else gate.max_drop,
        max_slice_drop=gate.max_slice_drop,
        slices=queries.slices(gate.slices),
        attainable=attainable_recall(queries.items, gate.k),
        confidence=look_confidence(gate, number),
        sized_for=look_confidence(gate, number + 1),
    )
    measured: dict[str, object] = {
        "k": gate.k,
        "gate": plain(gate),
        "labels": queries.labels.name,
        "labels_fingerprint": queries.labels.fingerprint,
        **queries.counts,
        "others": len(queries.others),
        "drawn": len(queries.drawn),
        **({} if pipeline is None else {"pipeline": pipeline, "short": _short(gate.k, new, old)}),
        **({} if proxies is None else {"proxy": proxies.figures.as_data()}),
        **({} if look is None else {"look": number, "test": look.as_data()}),
        **described(comparison, new, old),
        **_judged_by(gate, comparison),
        **(evidence or {demand.evidence: None for demand in DEMANDS if demand.evidence}),
    }
    judged = judgement.judge(gate, GateFigures.model_validate(measured))
    reasons = () if judged.value is Value.PASS else tuple(reason.removesuffix(".") for reason in judged.reasons)
    return GateVerdict(judged.value, reasons, {**measured, "findings": plain(judged.findings)})


def without_labels(gate: Gate, *, first: bool) -> GateVerdict:
    """Return the verdict where people judged nothing: a ``first`` revision passes, another one waits for them."""
    if first:
        detail = {"not_measured": "first generation, and the collection has no labelled queries"}
        return GateVerdict(Value.PASS, (), detail)
    need = label_need(gate)
    told = (
        f"people judged no query, and judge {gate.proxy!r} counts only beside them, whatever it says. "
        f"{'' if need is None else f'{need.sentence} '}Write queries to judge with `revector labels pool --queries "
        "FILE`, and set qrels in revector.toml"
    )
    return GateVerdict(Value.INCONCLUSIVE, (told,), {"not_measured": told})


def _beside(one: GateMeasurement, gate: Gate, proxies: ProxyScores | None) -> ScoredRun:
    """Return what is compared, with the scores that a judge's word gives for the metric that decides."""
    scored = replace(one.scored, by_order=gate.by_order)
    if proxies is None:
        return scored
    return replace(scored, proxies={gate.metric: _scored(proxies.items, one.rankings, gate.k)[gate.metric]})


def _short(k: int, *sides: GateMeasurement | None) -> dict[str, int]:
    """Return how many labelled queries found fewer than ``k`` documents, by revision."""
    return {one.revision: sum(len(found) < k for found in one.run.values()) for one in sides if one is not None}


def _judged_by(gate: Gate, comparison: Comparison) -> dict[str, str]:
    """Say how the metric moved that decides, where it is not recall, which is always told."""
    change = comparison.metrics.get(gate.metric)
    if gate.metric == "recall" or change is None or change.old is None or (moved := change.difference) is None:
        return {}
    sides = f"{METRIC_NAMES[gate.metric]}@{comparison.k} {change.new.mean:.4f}, before {change.old.mean:.4f}"
    return {"judged_by": f"{sides}: {moved.mean:+.4f} ({moved.low:+.4f} to {moved.high:+.4f})"}


def measure_demands(scene: GateScene) -> dict[str, object]:
    """Return what the demands measure beside recall, by the name under which it is kept."""
    return {demand.evidence: demand.measure(scene) for demand in DEMANDS if demand.measure is not None}


def described(comparison: Comparison, new: GateMeasurement, old: GateMeasurement | None) -> dict[str, object]:
    """Return what was compared as plain data: in short (``new``, ``old``, ``difference``), whole, and per query."""
    recall = comparison.metrics["recall"]
    sides = {"new": (new, recall.new)} | ({} if old is None else {"old": (old, recall.old)})
    brief = {
        role: {
            "generation": one.generation,
            "revision": one.revision,
            "recall": plain(interval),
            "means": {metric: plain(getattr(change, role).mean) for metric, change in comparison.metrics.items()},
            "latency_ms": dict(one.latency_ms),
            **({"refused_queries": named(one.refused)} if one.refused else {}),
        }
        for role, (one, interval) in sides.items()
    }
    difference = {} if recall.difference is None else {"difference": plain(recall.difference)}
    if (worst := comparison.worst_slice) is not None and worst.recall is not None:
        short = {name: getattr(worst, name) for name in ("words", "field", "name", "queries", "difference", "gap")}
        difference |= {"worst_slice": plain({**short, "recall": worst.recall.new})}
    scores = {role: dict(one.metrics["recall"]) for role, (one, _) in sides.items()}
    return {**brief, **difference, "comparison": comparison.as_data(), "scores": scores}
