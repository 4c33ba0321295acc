"""The canary: measures what is served on the same labelled queries, day by day, and says when it got worse.

Two rules alert. A measured fall of ``canary_drop`` does, whatever chance had in it. So does one of half of that which
is no chance: the queries are compared one by one with the first run of the same index, by the interval that the gate
judges by, at a confidence at which daily runs are wrong once a year at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from revector.errors import CanaryAlert, EncoderError
from revector.gate.evidence import Evidence
from revector.gate.gate import GateMeasurement
from revector.history import canary_series
from revector.measure.metrics import Interval
from revector.measure.statistics import paired_interval
from revector.registry.collections import Generation
from revector.registry.control import add_event
from revector.serving.searcher import Searcher

K = 10
MAX_DROP = 0.02
"""Fall of recall@10 below the first canary of a generation that raises an alert, as does any larger one."""

POWER = 0.8
"""The share of all sets of queries that must show a fall for it to count as noticed."""

COARSE = 1.5
"""A canary that only notices falls larger than this multiple of ``max_drop`` says so."""

CONFIDENCE = 1 - 2 / 365
"""Of the interval of a fall, two-sided: each end alone is missed once in 365 runs."""

SHOWN = math.ceil(math.log2(365))
"""Queries that must lose all, and none gain, to show a fall: of n queries or more, ``bounded_interval`` gives the upper
end of n losses above 0 with a chance of 2 ** -n."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What one run found; ``alerts`` are sentences for people and empty when all is well.

    ``recall`` and ``baseline`` (0 to 1) are of the same generation on the same labels. ``own_documents``: queries that
    are a document themselves, which is left out of their answers. ``detectable`` is the smallest true fall that so
    many queries notice (``resolution``); where it is far above the one that raises an alert, ``caution`` says so.
    """

    collection: str
    gen: int
    revision: str
    labels: str
    labels_fp: str
    k: int
    queries: int
    own_documents: int
    recall: float
    low: float
    high: float
    baseline: float
    detectable: float
    caution: str | None
    encoder_fault: str | None
    alerts: tuple[str, ...]

    def raise_alerts(self) -> None:
        """Raise ``CanaryAlert`` if there are any."""
        if self.alerts:
            raise CanaryAlert(
                f"canary of {self.collection}: {'; '.join(self.alerts)}. Searches are still answered; look at the "
                "source, the encoder's server and `revector verify`, or go back while the window is open."
            )


def run(
    engine: sa.Engine, cid: int, collection: str, searcher: Searcher, evidence: Evidence, *, max_drop: float, actor: str
) -> CanaryReport:
    """Measure the active generation, have its encoder prove itself, keep both, and say what is wrong.

    ``evidence`` names the canary's labels. The first run of a generation, or on other labels, is what later ones are
    compared with. Raises ``StateError`` where nothing is served, ``LabelError`` for unusable labels, ``CanaryAlert``
    where the encoder does not load any more, so that nothing can be measured.
    """
    pinned = searcher.resolve(None)
    fault = None
    try:
        searcher.encoders.probe(pinned)
    except EncoderError as error:
        fault = str(error)
    queries = evidence.queries()
    labels = queries.labels
    try:
        measured = evidence.measure(pinned, K, queries=queries)
    except EncoderError as error:
        if error.retryable:
            raise
        raise _unmeasured(engine, cid, collection, pinned, fault or str(error), actor) from error
    interval = measured.interval()
    with engine.connect() as connection:
        before = canary_series.baseline(connection, pinned.gen, labels.fingerprint, K)
    baseline, fall = (interval.mean, None) if before is None else _against(before, measured.metrics["recall"])
    alerts = _alerts(measured, interval.mean, baseline, fault, max_drop, fall)
    detectable, caution = resolution(len(measured.run), max_drop)
    report = CanaryReport(
        collection=collection,
        gen=pinned.gen,
        revision=pinned.revision,
        labels=labels.name,
        labels_fp=labels.fingerprint,
        k=K,
        queries=len(measured.run),
        own_documents=queries.counts["own_documents"],
        recall=interval.mean,
        low=interval.low,
        high=interval.high,
        baseline=baseline,
        detectable=detectable,
        caution=caution,
        encoder_fault=fault,
        alerts=alerts,
    )
    _keep(engine, cid, report, measured, actor, first=before is None)
    return report


def _against(before: canary_series.Baseline, scores: Mapping[str, float]) -> tuple[float, Interval | None]:
    """Return the baseline's recall on the queries that are measured now, and how it changed on them, query by query."""
    same = [query for query in scores if query in before.scores]
    if not same:
        return before.recall, None
    then, now = ([one[query] for query in same] for one in (before.scores, scores))
    return math.fsum(then) / len(then), paired_interval(then, now, confidence=CONFIDENCE)


def resolution(queries: int, max_drop: float) -> tuple[float, str | None]:
    """Return the smallest true fall that alerts in 4 of 5 sets of ``queries``, and a warning where that is coarse.

    A set varies most where single queries lose all: binomially. The fewest of them that alert are those that make a
    fall of ``max_drop``, or, if they are fewer, that make half of it and show that it is no chance.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if _noticed(middle, queries, max_drop) >= POWER else (middle, high)
    wanted = COARSE * max_drop
    if wanted >= 1 or _noticed(wanted, queries, max_drop) >= POWER:
        return high, None
    needed = queries
    while _noticed(wanted, needed, max_drop) < POWER:
        needed += 1
    return high, (
        f"of {queries:,} queries a fall of {high:.4f} is noticed in 4 of 5 cases, and one of {max_drop:g} in "
        f"{_noticed(max_drop, queries, max_drop):.0%}; {needed:,} queries notice {wanted:g}"
    )


def _noticed(fall: float, queries: int, max_drop: float) -> float:
    """Return the probability that a true ``fall`` alerts: a binomial tail."""
    least, half = (math.ceil((size - _ROUNDING) * queries) for size in (max_drop, max_drop / 2))
    least = min(least, max(half, SHOWN))
    logs = (
        math.lgamma(queries + 1)
        - math.lgamma(lost + 1)
        - math.lgamma(queries - lost + 1)
        + lost * math.log(fall)
        + (queries - lost) * math.log1p(-fall)
        for lost in range(least)
    )
    return 1 - sum(map(math.exp, logs))


def _alerts(
    measured: GateMeasurement,
    recall: float,
    baseline: float,
    fault: str | None,
    max_drop: float,
    fall: Interval | None = None,
) -> tuple[str, ...]:
    alerts = []
    if baseline - recall >= max_drop - _ROUNDING:
        alerts.append(
            f"recall@{K} of revision {measured.revision} fell from {baseline:.4f} to {recall:.4f} on "
            f"{len(measured.run)} queries; {max_drop:g} or more alerts"
        )
    elif fall is not None and fall.high < 0 and -fall.mean >= max_drop / 2 - _ROUNDING:
        alerts.append(
            f"recall@{K} of revision {measured.revision} fell from {baseline:.4f} to {recall:.4f} on "
            f"{len(measured.run)} queries: less than {max_drop:g}, but query by query no chance ({fall.mean:+.4f}, "
            f"{CONFIDENCE:.1%} interval {fall.low:+.4f} to {fall.high:+.4f})"
        )
    if fault is not None:
        alerts.append(f"its encoder is no longer what the index was built with: {fault}")
    return tuple(alerts)


def _unmeasured(
    engine: sa.Engine, cid: int, collection: str, pinned: Generation, fault: str, actor: str
) -> CanaryAlert:
    """Keep as an event that the encoder does not even load, and return the alert."""
    alert = f"recall@{K} of revision {pinned.revision} cannot be measured, as its encoder cannot be used: {fault}"
    with engine.begin() as connection:
        add_event(connection, cid, actor, "canary_alert", pinned.gen, {"alerts": [alert]})
    return CanaryAlert(
        f"canary of {collection}: {alert} Nothing was measured; restore the model's files or settings, or write a new "
        "revision."
    )


def _keep(
    engine: sa.Engine, cid: int, report: CanaryReport, measured: GateMeasurement, actor: str, *, first: bool
) -> None:
    detail: dict[str, object] = {
        "low": report.low,
        "high": report.high,
        "detectable": report.detectable,
        "own_documents": report.own_documents,
        "latency_ms": dict(measured.latency_ms),
        **({"scores": dict(measured.metrics["recall"])} if first else {}),  # what later runs are compared with
    }
    with engine.begin() as connection:
        canary_series.add(connection, cid, asdict(report) | {"detail": detail, "alerts": list(report.alerts)})
        if report.alerts:
            facts = {"recall": report.recall, "baseline": report.baseline, "alerts": list(report.alerts)}
            add_event(connection, cid, actor, "canary_alert", report.gen, facts)
