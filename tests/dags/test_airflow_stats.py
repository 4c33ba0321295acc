"""What tasks tell Airflow's own metrics, seen by a backend as StatsD or OpenTelemetry would be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from extras import Lazy, needs
from worlds import World

needs("airflow")
versions = Lazy("revector.airflow.versions")
ours = Lazy("revector.airflow.stats")

Told = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Backend:
    """Adds up counters and keeps gauges, by name and tags."""

    def __init__(self) -> None:
        self.counters: Told = {}
        self.gauges: Told = {}

    def incr(self, stat: str, count: int = 1, *, tags: Mapping[str, Any] | None = None) -> None:
        key = stat, frozenset((tags or {}).items())
        self.counters[key] = self.counters.get(key, 0) + count

    def gauge(self, stat: str, value: float, *, tags: Mapping[str, Any] | None = None) -> None:
        self.gauges[stat, frozenset((tags or {}).items())] = value


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    made = Backend()
    if versions.VERSION < (3, 3):
        monkeypatch.setattr(versions.metrics(), "instance", made)
        monkeypatch.setattr(versions.metrics(), "_instance_pid", os.getpid())
    else:
        monkeypatch.setattr("airflow.sdk._shared.observability.metrics.stats._backend", made)
    return made


DOCS = frozenset({"collection": "docs"}.items())


def test_a_task_tells_what_it_did_and_no_task_what_another_did(served: World, backend: Backend) -> None:
    served.put(3, start=600)
    served.settle()
    with ours.counted("docs"):
        served.upgrade("b200", to="backfill")
    assert backend.counters["revector.documents_published", DOCS] == 123
    assert backend.counters["revector.chunks_embedded", DOCS] == 123


def test_what_was_done_before_a_task_failed_is_told_too(served: World, backend: Backend) -> None:
    def task() -> None:
        with ours.counted("docs"):
            served.put(2, start=600)
            served.settle()
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError):
        task()
    assert backend.counters["revector.documents_published", DOCS] == 2


def test_gates_and_canaries_tell_their_recall(swapped: World, backend: Backend) -> None:
    status = swapped.project.status("docs")
    ours.gate_recall("docs", status)
    assert backend.gauges["revector.gate_recall", DOCS] == status.gate.new.recall.mean
    ours.canary_recall("docs", 0.875)
    assert backend.gauges["revector.canary_recall", DOCS] == 0.875


def test_without_a_measured_gate_nothing_is_told(served: World, backend: Backend) -> None:
    ours.gate_recall("docs", served.project.status("docs"))
    assert backend.gauges == {}
