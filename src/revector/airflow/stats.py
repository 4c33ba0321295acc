"""What tasks tell Airflow's own metrics (StatsD, OpenTelemetry): the totals of `/metrics`, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from revector import counts
from revector.airflow.versions import metrics
from revector.status import Status


@contextmanager
def counted(collection: str) -> Iterator[None]:
    """Add what is counted inside to the counters ``revector.<name>``, with the collection and the labels as tags.

    Names and meanings are those of ``revector.counts.TOTALS``: documents, chunks, tokens, errors by class.
    """
    before = counts.totals()
    try:
        yield
    finally:
        for (name, values), total in counts.totals().items():
            if more := total - before.get((name, values), 0):
                labels = dict(zip(counts.TOTALS[name][1], values, strict=True))
                metrics().incr(f"revector.{name}", more, tags=labels | {"collection": collection})


def gate_recall(collection: str, status: Status) -> None:
    """Set ``revector.gate_recall`` to what the latest gate of the open migration measured, if it measured anything."""
    if status.gate is not None and status.gate.new is not None:
        _recall("gate_recall", collection, status.gate.new.recall.mean)


def canary_recall(collection: str, recall: float) -> None:
    """Set ``revector.canary_recall``."""
    _recall("canary_recall", collection, recall)


def _recall(name: str, collection: str, value: float) -> None:
    metrics().gauge(f"revector.{name}", value, tags={"collection": collection})
