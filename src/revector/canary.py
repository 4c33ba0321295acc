"""The canary: measures what is served on the same labelled queries, day by day, and says when it got worse."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from revector.errors import CanaryAlert, EncoderError
from revector.evidence import Evidence
from revector.gate import Measured
from revector.registry import series
from revector.registry.control import add_event
from revector.searcher import Searcher
from revector.statistics import detectable_drop, queries_needed

K = 10
MAX_DROP = 0.02
"""Fall of recall@10 below the first canary of a generation that raises an alert."""


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What one run found; ``alerts`` are sentences for people and empty when all is well.

    ``recall`` and ``baseline`` (0 to 1) are of the same generation on the same labels. ``own_documents``: queries that
    are a document themselves, which is left out of their answers. ``detectable`` is the smallest
    fall that so many queries tell from none; where it is above the one that raises an alert, ``caution`` says so.
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
    compared with. Raises ``StateError`` where nothing is served, ``LabelError`` for unusable labels.
    """
    pinned = searcher.resolve(None)
    fault = None
    try:
        searcher.encoders.probe(pinned)
    except EncoderError as error:
        fault = str(error)
    queries = evidence.queries()
    measured, labels = evidence.measure(pinned, K, queries=queries), queries.labels
    interval = measured.interval()
    with engine.connect() as connection:
        before = series.baseline(connection, pinned.gen, labels.fingerprint, K)
    baseline = interval.mean if before is None else before
    alerts = _alerts(measured, interval.mean, baseline, fault, max_drop)
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
    _keep(engine, cid, report, measured, actor)
    return report


def resolution(queries: int, max_drop: float) -> tuple[float, str | None]:
    """Return the smallest fall that so many queries tell from none, and a warning where ``max_drop`` is below it.

    Before a fall there are no differences to take a deviation of. That of a fall by ``max_drop`` is at most that of so
    many queries losing everything: ``sqrt(d (1 - d))``.
    """
    deviation = math.sqrt(max_drop * (1 - max_drop))
    detectable = detectable_drop(deviation, queries)
    if detectable <= max_drop:
        return detectable, None
    return detectable, (
        f"{queries:,} queries cannot tell a fall of {max_drop:g} from chance, only one of {detectable:.4f} or more; "
        f"{max_drop:g} takes {queries_needed(deviation, max_drop):,} queries"
    )


def _alerts(measured: Measured, recall: float, baseline: float, fault: str | None, max_drop: float) -> tuple[str, ...]:
    alerts = []
    if baseline - recall > max_drop:
        alerts.append(
            f"recall@{K} of revision {measured.revision} fell from {baseline:.4f} to {recall:.4f} on "
            f"{len(measured.run)} queries, at most {max_drop:g} is allowed"
        )
    if fault is not None:
        alerts.append(f"its encoder is no longer what the index was built with: {fault}")
    return tuple(alerts)


def _keep(engine: sa.Engine, cid: int, report: CanaryReport, measured: Measured, actor: str) -> None:
    detail: dict[str, Any] = {
        "low": report.low,
        "high": report.high,
        "detectable": report.detectable,
        "own_documents": report.own_documents,
        "latency_ms": dict(measured.latency_ms),
    }
    with engine.begin() as connection:
        series.add(connection, cid, asdict(report) | {"detail": detail, "alerts": list(report.alerts)})
        if report.alerts:
            facts = {"recall": report.recall, "baseline": report.baseline, "alerts": list(report.alerts)}
            add_event(connection, cid, actor, "canary_alert", report.gen, facts)
