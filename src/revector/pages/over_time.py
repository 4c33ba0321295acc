"""Owns what is shown over time: recall by the canary and the load of the live lane, as charts for pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from xml.etree import ElementTree as ET

import sqlalchemy as sa

from revector.history import canary_series
from revector.pages.charts import Tone
from revector.pages.timeline import TimeSeries, timeline
from revector.registry.collections import read_collection

BINS = 240
"""Points of a line at most: more than a chart has pixels for."""

CANARY_GAP = timedelta(days=3)
LEAST_GAP = timedelta(minutes=5)
"""A sample is taken about once a minute while a worker runs; where none was, the line breaks."""


LEAST_SPAN = {"recall": timedelta(days=1), "load": timedelta(hours=1)}
"""Of an axis: it begins with the first measurement, where that is younger than what was asked for."""

_FIRST = "SELECT min(minute) FROM load_sample WHERE cid = :cid AND minute >= :since"

LOADS: tuple[tuple[str, str, tuple[tuple[str, Tone, str], ...]], ...] = (
    ("queue", "documents", (("dead", "lost", "dead letters"), ("queued", "new", "waiting"))),
    ("lag", "seconds", (("lag_s", "new", "oldest write"),)),
)
"""Chart, unit, and its lines: column, tone and name."""


def charts(connection: sa.Connection, name: str, hours: int) -> dict[str, str]:
    """Return SVG by chart: ``recall``, ``queue`` and ``lag`` of the last ``hours``; what has no data is left out."""
    cid = read_collection(connection, name).cid
    until: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    since = until - timedelta(hours=hours)
    drawn: dict[str, ET.Element] = {}
    measured = [one for one in reversed(canary_series.read(connection, cid)) if one["at"] >= since]
    if measured:
        begin = min(measured[0]["at"], until - LEAST_SPAN["recall"])
        drawn["recall"] = timeline(_by_generation(measured), up=f"recall@{measured[-1]['k']}", since=begin, until=until)
    if first := connection.scalar(sa.text(_FIRST), {"cid": cid, "since": since}):
        begin = min(first, until - LEAST_SPAN["load"])
        width = max((until - begin) / BINS, timedelta(minutes=1))
        load, gap = _load(connection, cid, begin, width), max(3 * width, LEAST_GAP)
        for key, up, shown in LOADS:
            lines = [
                TimeSeries([(one["at"], float(one[column])) for one in load], tone, gap, words)
                for column, tone, words in shown
            ]
            drawn[key] = timeline(lines, up=up, since=begin, until=until, floor=0.0)
    return {key: ET.tostring(chart, encoding="unicode", method="html") for key, chart in drawn.items()}


def _by_generation(measured: Sequence[sa.RowMapping]) -> list[TimeSeries]:
    """Return one line a generation and label set; the newest stands out."""
    found: dict[tuple[int, str, int], list[tuple[datetime, float]]] = {}
    for one in measured:
        found.setdefault((one["gen"], one["labels_fp"], one["k"]), []).append((one["at"], one["recall"]))
    newest = (measured[-1]["gen"], measured[-1]["labels_fp"], measured[-1]["k"])
    return [
        TimeSeries(points, "new" if key == newest else "old", CANARY_GAP, f"generation {key[0]}")
        for key, points in found.items()
    ]


def _load(connection: sa.Connection, cid: int, since: datetime, width: timedelta) -> Sequence[sa.RowMapping]:
    """Return the greatest values of each stretch of ``width``: a short peak must be seen."""
    rows = connection.execute(
        sa.text(
            "SELECT date_bin(:width, minute, :since) AS at, max(queued) AS queued, max(lag_s) AS lag_s, max(dead) "
            "AS dead FROM load_sample WHERE cid = :cid AND minute >= :since GROUP BY 1 ORDER BY 1"
        ),
        {"cid": cid, "since": since, "width": width},
    )
    return rows.mappings().all()
