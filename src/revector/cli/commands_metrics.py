"""Commands for monitoring: the metrics as they stand, and the dashboard and alert rules over them."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from revector.cli.options import ProjectPath, open_project

_PANEL = "Services"


class MetricsArtifact(StrEnum):
    """What `revector metrics` writes."""

    NOW = "now"
    DASHBOARD = "dashboard"
    ALERTS = "alerts"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(metrics)


def metrics(
    *,
    what: Annotated[
        MetricsArtifact, typer.Argument(help="The metrics now, the Grafana dashboard, or Prometheus alert rules.")
    ] = MetricsArtifact.NOW,
    project: ProjectPath = None,
) -> None:
    """Write the metrics of the database as they stand, or the dashboard or alert rules over them.

    `revector worker --metrics-port 9464` and `revector serve` (/metrics) serve them to Prometheus.

    For example:
      revector metrics
      revector metrics dashboard > revector-dashboard.json
      revector metrics alerts > revector-alerts.yml
    """
    from prometheus_client import CollectorRegistry, generate_latest

    from revector.monitoring import FILES

    if what is MetricsArtifact.NOW:
        registry = CollectorRegistry()
        registry.register(open_project(project).metrics())
        text = generate_latest(registry).decode()
    else:
        text = FILES[what].read_text(encoding="utf-8")
    sys.stdout.write(text)
