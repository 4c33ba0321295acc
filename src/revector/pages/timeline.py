"""Owns the charts over time: lines that break where nothing was measured, on an axis of UTC dates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

from revector.pages.charts import WIDTH, Tone, _line, _scale, _short, _svg, _text, _ticks
from revector.pages.markup import tag

LEFT, RIGHT, TOP, BOTTOM = 44.0, WIDTH - 6, 22.0, 130.0
DOTTED = 60
"""Most points of a line that are drawn as dots too, each with its tooltip."""

TIMES = 4
"""Labels of the time axis."""


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Values over time, oldest first; ``gap`` is the longest time between two points that belong together."""

    points: Sequence[tuple[datetime, float]]
    tone: Tone
    gap: timedelta
    name: str = ""


def timeline(
    lines: Sequence[TimeSeries], *, up: str, since: datetime, until: datetime, floor: float | None = None
) -> ET.Element:
    """Draw values over time between ``since`` and ``until``; the value axis begins at ``floor``, or near the least."""
    values = [value for line in lines for _, value in line.points] + ([] if floor is None else [floor])
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.05 * abs(high) or 1.0
    low = low - pad if floor is None else floor
    y = _scale(low, high + pad, BOTTOM, TOP)
    x = _scale(since.timestamp(), until.timestamp(), LEFT, RIGHT)
    parts = [_text(0, 12, up, "quiet"), _line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")]
    for at in _ticks(low, high + pad):
        parts += [_line(LEFT, y(at), RIGHT, y(at), "tick"), _text(LEFT - 6, y(at) + 4, _short(at), "quiet", "end")]
    for moment, words in _times(since, until):
        parts.append(_text(x(moment.timestamp()), BOTTOM + 15, words, "quiet", "middle"))
    for line in lines:
        places = [(at, x(at.timestamp()), y(value), value) for at, value in line.points]
        for run in _runs(line):
            points = " ".join(f"{places[n][1]:.1f},{places[n][2]:.1f}" for n in run)
            parts.append(tag("polyline", points=points, class_=f"{line.tone} line"))
        if len(places) <= DOTTED:
            parts += [
                tag("circle", tag("title", f"{at:%Y-%m-%d %H:%M} UTC: {line.name} {value:g}"), cx=px, cy=py, r=3.0)
                for at, px, py, value in places
            ]
            for circle in parts[-len(places) :]:
                circle.set("class", line.tone)
    if len({line.tone for line in lines}) > 1:
        parts += _legend(lines)
    said = "; ".join(_told(line) for line in lines)
    return _svg(parts, BOTTOM + 21, f"{up} over time: {said}")


def _legend(lines: Sequence[TimeSeries]) -> list[ET.Element]:
    """Return the lines' names in their colours, from the right."""
    shown = tag("text", x=RIGHT, y=12.0, text_anchor="end", class_="quiet")
    for line in lines:
        shown.append(tag("tspan", f"— {line.name}  ", class_=f"{line.tone} name"))
    return [shown]


def _runs(line: TimeSeries) -> Iterator[range]:
    """Yield the stretches of points without a gap; the last one is never empty."""
    first = 0
    for n in range(1, len(line.points)):
        if line.points[n][0] - line.points[n - 1][0] > line.gap:
            yield range(first, n)
            first = n
    yield range(first, len(line.points))


def _times(since: datetime, until: datetime) -> Iterator[tuple[datetime, str]]:
    step = (until - since) / TIMES
    form = "%H:%M" if until - since <= timedelta(hours=36) else "%-d %b"
    for n in range(TIMES):
        at = since + step * (n + 0.5)
        yield at, f"{at.astimezone(UTC):{form}}"


def _told(line: TimeSeries) -> str:
    values = [value for _, value in line.points]
    return f"{line.name} least {min(values):g}, most {max(values):g}, last {values[-1]:g}".strip()
