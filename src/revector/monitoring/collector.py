"""The metrics: the database's state read on scrape, at most once a second, and the totals of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from revector import counts
from revector.encoders.api import Provider
from revector.errors import ConfigError, DatabaseError
from revector.monitoring import gauges
from revector.monitoring.gauges import Gauges

FRESH_S = 1.0
"""The database is read once in this number of seconds, however many scrape."""

VERDICTS = ("pass", "fail", "inconclusive")

SLOT = ("collection", "role")
_SLOT_GAUGES = {
    "queue_documents": ("queued", "Documents that wait in the live lane of an index."),
    "indexing_lag_seconds": ("lag_s", "Age of the oldest change that an index does not show yet."),
    "dead_letters": ("dead", "Documents that failed in an index and wait for a person, waived ones included."),
    "waived_dead_letters": ("waived", "Dead letters that a person accepted."),
    "storage_bytes": ("bytes", "Disk space of an index: its vectors and all that is built over them."),
    "index_bytes": ("index_bytes", "Size of the HNSW graph of an index; searches are fast while it is in memory."),
    "backfill_planned_documents": ("planned", "Documents that the backfill of an index is to bring."),
    "backfill_published_documents": ("published", "Documents that the backfill of an index has brought."),
    "backfill_share": ("share", "Share of the time that an open backfill may work, as `revector throttle` set it."),
    "backfill_published_chunks": ("chunks", "Chunks that the backfill of an index has embedded and published."),
}
_COLLECTION_GAUGES = {
    "documents": ("documents", "Documents as last counted by a worker: each minute, above 100,000 each hour."),
    "rejected_records": ("rejected", "Records that ingestion refused, that nothing newer answered and nobody waived."),
    "rollback_seconds_left": ("window_s", "Time until the rollback window ends; below 0: over, not yet retired."),
    "canary_recall": ("recall", "Recall of the latest canary of the active index, 0 to 1."),
    "canary_baseline_recall": ("baseline", "Recall of the first canary of the active index, 0 to 1."),
    "canary_alerts": ("alerts", "Alerts of the latest canary of the active index."),
    "canary_age_seconds": ("age_s", "Time since the latest canary of the active index."),
}


class Metrics(Collector):
    """The metrics of one process. ``engine`` is called at each reading, so that it may fail and later succeed.

    ``limit_bytes``: memory for HNSW graphs; None takes what PostgreSQL's ``effective_cache_size`` says there is.
    """

    def __init__(
        self, engine: Callable[[], sa.Engine], providers: Mapping[str, Provider], *, limit_bytes: int | None = None
    ) -> None:
        self._engine, self._providers, self._limit = engine, providers, limit_bytes
        self._lock = threading.Lock()
        self._read: Gauges | None = None
        self._read_at = -FRESH_S
        self._names: dict[str, str] = {}
        self.requests = Histogram(
            "revector_http_request_seconds",
            "Time of requests to the HTTP service, by the name of the route; none: no such route, or no key.",
            ["route", "status"],
            registry=None,
        )
        """For `revector serve` to observe."""
        self.registry = CollectorRegistry()
        """Of these metrics and those of the process: memory, processor time, open files, garbage collection."""
        self.registry.register(self)
        for each in (ProcessCollector, PlatformCollector, GCCollector):
            each(registry=self.registry)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serve `/metrics` on a thread; return how to end it. Raises ``ConfigError`` where the port cannot be had."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics cannot be served on {host}:{port}: {error}. Nothing was started; name another port or host."
            ) from error

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering reads no database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield everything. Without the database there is ``revector_database_up 0`` and what this process counted."""
        found = self._state()
        up = GaugeMetricFamily("revector_database_up", "Whether the database could be read within 2 s a statement.")
        up.add_metric([], float(found is not None))
        yield up
        if found is not None:
            self._names.update({str(row["cid"]): row["collection"] for row in found.collections})
            yield from _slots(found)
            yield from _verdicts(found)
            yield from _collections(found)
            yield from _memory(found, self._limit)
            yield from _spending(found)
        yield from self._totals()
        yield from self._requests()
        yield from self.requests.collect()

    def _state(self) -> Gauges | None:
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                try:
                    self._read = gauges.read(self._engine())
                except (DatabaseError, sa.exc.SQLAlchemyError):
                    self._read = None
                self._read_at = time.monotonic()
            return self._read

    def _totals(self) -> Iterator[Metric]:
        families = {
            name: CounterMetricFamily(f"revector_{name}", text, labels=labels)
            for name, (text, labels) in counts.TOTALS.items()
        }
        for (name, values), total in counts.totals().items():
            first = counts.TOTALS[name][1][0]
            named = self._names.get(values[0], values[0]) if first == "collection" else values[0]
            families[name].add_metric([named, *values[1:]], total)
        yield from families.values()

    def _requests(self) -> Iterator[Metric]:
        sent = CounterMetricFamily("revector_provider_requests", "Requests sent to an API.", labels=["provider"])
        failed = CounterMetricFamily(
            "revector_provider_failed_requests",
            "Requests that an API failed, by kind: rate_limited (429), server_errors (5xx), timeouts, "
            "connection_errors.",
            labels=["provider", "kind"],
        )
        for name, provider in self._providers.items():
            for kind, number in provider.counts.copy().items():
                if kind == "requests":
                    sent.add_metric([name], number)
                else:
                    failed.add_metric([name, kind], number)
        yield from (sent, failed)


def _slots(found: Gauges) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "revector_generation_info",
        "Which index is in which slot; always 1.",
        labels=[*SLOT, "generation", "revision", "phase", "model"],
    )
    for row in found.slots:
        info.add_metric(
            [row["collection"], row["role"], str(row["gen"]), row["revision"], row["phase"], row["model"]], 1
        )
    yield info
    yield from _rows(_SLOT_GAUGES, SLOT, found.slots)


def _verdicts(found: Gauges) -> Iterator[Metric]:
    verdict = GaugeMetricFamily(
        "revector_gate_verdict",
        "1 for the latest verdict on an index, 0 for the others; kind is verify or recall.",
        labels=[*SLOT, "kind", "verdict"],
    )
    for row in found.verdicts:
        for one in VERDICTS:
            verdict.add_metric([row["collection"], row["role"], row["kind"], one], float(row["verdict"] == one))
    yield verdict
    yield from _rows({"gate_recall": ("recall", "Recall of an index at its gate, 0 to 1.")}, SLOT, found.verdicts)


def _collections(found: Gauges) -> Iterator[Metric]:
    yield from _rows(_COLLECTION_GAUGES, ("collection",), found.collections)
    head = GaugeMetricFamily(
        "revector_history_head",
        "Number of the newest event of the history; hash is its link, for `revector history --check --head`.",
        labels=["collection", "hash"],
    )
    for row in found.collections:
        if row["head_seq"] is not None:
            head.add_metric([row["collection"], row["head_hash"]], row["head_seq"])
    yield head


def _memory(found: Gauges, limit: int | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "revector_index_memory_limit_bytes",
        "Memory for HNSW graphs: as configured, else effective_cache_size of the database.",
        value=found.cache_bytes if limit is None else limit,
    )


def _spending(found: Gauges) -> Iterator[Metric]:
    # Not counters: an estimate is put right once the answer tells its tokens, so they may fall.
    names = {
        "provider_spent_usd": ("usd", "What an API was paid, by all processes."),
        "provider_paid_tokens": ("tokens", "Tokens that an API was paid for, by all processes."),
    }
    yield from _rows(names, ("provider",), found.spending)


def _rows(
    names: Mapping[str, tuple[str, str]], labels: tuple[str, ...], rows: Iterable[Mapping[str, Any] | sa.RowMapping]
) -> Iterator[Metric]:
    rows = list(rows)
    for name, (column, text) in names.items():
        family = GaugeMetricFamily(f"revector_{name}", text, labels=labels)
        for row in rows:
            if row[column] is not None:
                family.add_metric([row[label] for label in labels], float(row[column]))
        yield family
