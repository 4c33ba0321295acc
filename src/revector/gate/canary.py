"""The canary: measures what is served on the same labelled queries, day by day, and says when it got worse.

It looks at recall (``canary_falls``), at what the same queries find (``canary_finds``), at whether texts and images
find each other (``cross_modal``), and at the encoder. Each is a check with its value and its limit; those beyond their
limits are alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from revector.errors import CanaryAlert, EncoderError, PipelineError
from revector.gate.canary_falls import WEEK_DAYS, CanaryCheck, fall_check, resolution
from revector.gate.canary_finds import find_checks
from revector.gate.cross_modal import WORDS, Direction, captions_of, recalls
from revector.gate.evidence import Evidence
from revector.gate.gate import GateMeasurement
from revector.gate.query_set import QuerySet
from revector.history import canary_series
from revector.history.canary_series import Baseline, CanaryStanding
from revector.labels import in_random_order
from revector.measure.metrics import Interval, recall_at_k
from revector.registry import work
from revector.registry.collections import Generation
from revector.registry.control import add_event
from revector.serving.searcher import Searcher
from revector.spec import stable_hash

K = 10

MOST_KEPT = 2_000
"""Queries of the baseline whose rankings are kept, drawn by their ids; of all others, the recall."""


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What one run found; ``alerts`` are sentences for people and empty when all is well.

    ``recall`` and ``baseline`` (0 to 1) are of the same generation on the same labels. ``begins``: why a new test
    began, with this run as its baseline, else empty. ``checks``: all that was looked at. ``own_documents``: queries
    that are a document themselves, which is left out of their answers. ``detectable`` is the smallest true fall that
    so many queries notice within a week (``resolution``); where it is far above ``canary_drop``, ``caution`` says so.
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
    begins: str
    checks: tuple[CanaryCheck, ...]
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


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was measured, and what it is compared with; ``plain``: by plain searches, which tell of the index.

    ``aligned``: the recall of texts by images and the other way, empty where no labelled query is a caption.
    """

    measured: GateMeasurement
    standing: CanaryStanding
    labels_fp: str
    newest: int
    plain: bool
    aligned: Mapping[Direction, Mapping[str, float]]


def run(
    engine: sa.Engine, cid: int, collection: str, searcher: Searcher, evidence: Evidence, *, max_drop: float, actor: str
) -> CanaryReport:
    """Measure the active generation, have its encoder prove itself, keep both, and say what is wrong.

    ``evidence`` names the canary's labels. The first run of a generation, or on other labels, is what later ones are
    compared with. Raises ``StateError`` where nothing is served, ``LabelError`` for unusable labels, ``CanaryAlert``
    where the encoder does not load any more, or the pipeline fails, so that nothing can be measured.
    """
    pinned = searcher.resolve(None)
    fault = _fault(searcher, pinned)
    queries = evidence.queries()
    try:
        found = _look(engine, cid, pinned, queries, evidence, searcher)
    except PipelineError as error:
        raise _unmeasured(engine, cid, collection, pinned, f"its pipeline fails: {error}", actor) from error
    except EncoderError as error:
        if error.retryable:
            raise
        why = f"its encoder cannot be used: {fault or error}"
        raise _unmeasured(engine, cid, collection, pinned, why, actor) from error
    measured = found.measured
    interval, then = measured.interval(), _before(found.standing.baseline, queries, measured.metrics["recall"])
    with engine.connect() as connection:
        checks = tuple(_checks(connection, pinned, queries, found, then, max_drop))
    broken = () if fault is None else (f"its encoder is no longer what the index was built with: {fault}",)
    detectable, caution = resolution(len(measured.run), max_drop)
    report = CanaryReport(
        collection=collection,
        gen=pinned.gen,
        revision=pinned.revision,
        labels=queries.labels.name,
        labels_fp=found.labels_fp,
        k=K,
        queries=len(measured.run),
        own_documents=queries.counts["own_documents"],
        recall=interval.mean,
        low=interval.low,
        high=interval.high,
        baseline=_baseline(found.standing.baseline, then, interval),
        begins=found.standing.begins,
        checks=checks,
        detectable=detectable,
        caution=caution,
        encoder_fault=fault,
        alerts=(*(one.says for one in checks if one.alert), *broken),
    )
    _keep(engine, cid, report, found, actor)
    return report


def _fault(searcher: Searcher, pinned: Generation) -> str | None:
    """Say why the encoder is no longer what the index was built with; None where it proves that it is."""
    try:
        searcher.encoders.probe(pinned)
    except EncoderError as error:
        return str(error)
    return None


def _look(
    engine: sa.Engine, cid: int, pinned: Generation, queries: QuerySet, evidence: Evidence, searcher: Searcher
) -> _Looked:
    """Measure, and read what to compare with: another pipeline is another test, as other labels are."""
    through, labels_fp = evidence.through, queries.labels.fingerprint
    asked = labels_fp if through is None else stable_hash([labels_fp, through])
    with engine.connect() as connection:
        standing = canary_series.standing(connection, cid, pinned.gen, asked, K)
        newest = work.newest_version(connection)
    measured = evidence.measure(pinned, K, queries=queries)
    since = None if standing.baseline is None else standing.baseline.version
    sees = "image" in searcher.encoders.of(pinned).kinds
    captions = captions_of(engine, cid, queries, newest=since) if sees else None
    aligned = {} if captions is None else recalls(engine, searcher, pinned, captions, K)
    return _Looked(measured, standing, asked, newest, through is None, aligned)


def _before(first: Baseline | None, queries: QuerySet, now: Mapping[str, float]) -> dict[str, float]:
    """Return the recall of the baseline on the queries that are measured now, by the documents that still exist."""
    if first is None:
        return {}
    again = recall_at_k({query: queries.items[query] for query in now if query in first.run}, first.run, K)
    return {query: again.get(query, first.scores[query]) for query in now if query in first.scores}


def _baseline(first: Baseline | None, then: Mapping[str, float], now: Interval) -> float:
    if first is None:
        return now.mean
    return sum(then.values()) / len(then) if then else first.recall


def _checks(
    connection: sa.Connection,
    generation: Generation,
    queries: QuerySet,
    found: _Looked,
    then: Mapping[str, float],
    max_drop: float,
) -> Iterator[CanaryCheck]:
    now, standing = found.measured, found.standing
    if then:
        recall = {query: now.metrics["recall"][query] for query in then}
        what = f"recall@{K} of revision {now.revision}"
        weekly = standing.week_alerted or standing.week_days >= WEEK_DAYS
        yield fall_check(then, recall, what=what, max_drop=max_drop, weekly=weekly)
    for way, aligned in found.aligned.items():
        first_of = standing.baseline.aligned.get(way, {}) if standing.baseline else {}
        if recall := {name: score for name, score in aligned.items() if name in first_of}:
            what, unit = f"recall@{K} of {WORDS[way]}", "captions" if way == "text_to_image" else "images"
            yield replace(
                fall_check(first_of, recall, what=what, max_drop=max_drop, weekly=False, share=0.5, unit=unit), name=way
            )
    first = standing.baseline if found.plain else None
    yield from find_checks(connection, generation, queries, now, first)


def _unmeasured(engine: sa.Engine, cid: int, collection: str, pinned: Generation, why: str, actor: str) -> CanaryAlert:
    """Keep as an event that nothing can be measured, and return the alert."""
    alert = f"recall@{K} of revision {pinned.revision} cannot be measured, as {why}"
    with engine.begin() as connection:
        add_event(connection, cid, actor, "canary_alert", pinned.gen, {"alerts": [alert]})
    return CanaryAlert(
        f"canary of {collection}: {alert} Nothing was measured; restore the model's files or settings, or the "
        "pipeline's code."
    )


def _first(found: _Looked) -> dict[str, object]:
    """Return what later runs are compared with."""
    measured = found.measured
    kept = in_random_order(measured.run)[:MOST_KEPT]
    return {
        "scores": dict(measured.metrics["recall"]),
        "run": {query: list(measured.run[query]) for query in kept},
        "tops": {query: measured.tops[query] for query in kept if query in measured.tops},
        "version": found.newest,
        "aligned": dict(found.aligned),
    }


def _keep(engine: sa.Engine, cid: int, report: CanaryReport, found: _Looked, actor: str) -> None:
    week = [one.alert for one in report.checks if one.name == "week"]
    detail: dict[str, object] = {
        "low": report.low,
        "high": report.high,
        "detectable": report.detectable,
        "own_documents": report.own_documents,
        "latency_ms": dict(found.measured.latency_ms),
        "checks": [asdict(one) for one in report.checks],
        **({"week": week[0]} if week else {}),
        **(_first(found) if found.standing.baseline is None else {}),
    }
    with engine.begin() as connection:
        canary_series.add(connection, cid, asdict(report) | {"detail": detail, "alerts": list(report.alerts)})
        if report.alerts:
            facts = {"recall": report.recall, "baseline": report.baseline, "alerts": list(report.alerts)}
            add_event(connection, cid, actor, "canary_alert", report.gen, facts | {"checks": detail["checks"]})
