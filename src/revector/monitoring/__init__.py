"""What Prometheus and Grafana get: the metrics of a process and its database, and the rules and dashboard over them."""

from __future__ import annotations

from pathlib import Path

from revector.monitoring.collector import Metrics

__all__ = ["FILES", "Metrics"]

FILES = {
    "dashboard": Path(__file__).parent / "dashboard.json",
    "alerts": Path(__file__).parent / "alerts.yml",
}
"""A Grafana dashboard and Prometheus alert rules over these metrics."""
