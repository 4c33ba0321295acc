"""Owns the charts of a page: small SVG in the page's own colours, each figure in it written out or in its tooltip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from revector.measure.metrics import Interval
from revector.pages.markup import Child, interval, numbers, one_line, tag

Tone = Literal["old", "new", "lost", "won"]

WIDTH = 360.0
"""Units, about the pixels of a chart on a telephone: texts keep their size there."""

LINE = 30.0
"""Height of a mark of ``intervals``: its figures, and the bar under them."""

GAP = 8.0
LONG = 26
"""Characters of a label that has room beside its figures; one of more than twice as many is cut."""

GRID = 20
"""Steps per axis of ``bubbles``: recall is drawn to the nearest twentieth."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with the ends of its interval, or alone."""

    value: Interval | float
    tone: Tone


@dataclass(frozen=True, slots=True)
class ChartRow:
    """What is drawn under one label, a line for each mark."""

    label: str
    marks: Sequence[Mark]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of ``curve``: where on the axis, and its value."""

    at: float
    value: Interval | float
    ringed: bool = False


def intervals(rows: Sequence[ChartRow], *, axis: str, zero: float | None = None, sign: bool = False) -> ET.Element:
    """Draw means as dots with their intervals; ``zero`` is a line for no change, a row's ``limit`` a dashed one."""
    ends = [end for row in rows for mark in row.marks for end in numbers(mark.value)]
    ends += [row.limit for row in rows if row.limit is not None]
    ends += [] if zero is None else [zero]
    low, high = min(ends), max(ends)
    low -= 0.05 if low == high else 0.0
    pad = (high - low) * 0.06
    x = _scale(low - pad, high + pad, 0, WIDTH)
    height = sum(_height(row) for row in rows)
    parts: list[ET.Element] = []
    for at in _ticks(low, high):
        parts += [
            _line(x(at), 0, x(at), height, "tick"),
            _text(x(at), height + 14, _short(at, sign), "quiet", "middle"),
        ]
    y = 0.0
    for row in rows:
        parts.append(_text(0, y + 14, one_line(row.label, LONG * 2)))
        first = y + _height(row) - LINE * len(row.marks) - GAP
        for n, mark in enumerate(row.marks):
            bar = first + LINE * n + 24
            parts += [] if zero is None else [_line(x(zero), bar - 7, x(zero), bar + 7, "ring")]
            parts += [] if row.limit is None else [_line(x(row.limit), bar - 7, x(row.limit), bar + 7, "limit")]
            parts += _mark(mark, x, bar, sign=sign, named=len(row.marks) > 1)
        y += _height(row)
    parts.append(_text(0, height + 30, axis, "quiet"))
    return _svg(parts, height + 34, f"{axis}: {'; '.join(f'{row.label} {_read(row, sign)}' for row in rows)}")


def bubbles(old: Mapping[str, float], new: Mapping[str, float], *, axis: str) -> ET.Element:
    """Draw the queries by their scores (0 to 1) in old and new; the area of a bubble is how many are there."""
    there = Counter((round(old[query] * GRID) / GRID, round(new[query] * GRID) / GRID) for query in old)
    most = max(there.values())
    left, top, side = 50.0, 6.0, 300.0
    x, y = _scale(0, 1, left + 20, left + side - 20), _scale(0, 1, top + side - 20, top + 20)
    parts = [tag("rect", x=left, y=top, width=side, height=side, class_="axis"), _line(x(0), y(0), x(1), y(1), "axis")]
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [_text(x(at), top + side + 15, f"{at:g}", "quiet", "middle")]
        parts += [_text(left - 6, y(at) + 4, f"{at:g}", "quiet", "end")]
    for (before, after), count in sorted(there.items(), key=lambda one: -one[1]):
        tone = "won" if after > before else "lost" if after < before else "old"
        told = tag("title", f"{count:,} {'query' if count == 1 else 'queries'}: old {before:g}, new {after:g}")
        radius = max(2.5, 14 * math.sqrt(count / most))
        parts.append(tag("circle", told, cx=x(before), cy=y(after), r=radius, class_=f"bubble {tone}"))
    parts.append(_text(left + side / 2, top + side + 32, f"old: {axis}", "quiet", "middle"))
    turned = f"rotate(-90 14 {top + side / 2:.1f})"
    parts.append(
        tag("text", f"new: {axis}", x=14.0, y=top + side / 2, text_anchor="middle", class_="quiet", transform=turned)
    )
    return _svg(parts, top + side + 40, f"{axis} of {len(old):,} queries, old against new")


def curve(dots: Sequence[Dot], *, axis: str, up: str, limit: float | None = None, named: str = "") -> ET.Element:
    """Draw values over ``Dot.at`` (above 0, logarithmic); ``limit`` is a dashed line, called ``named``."""
    ends = [end for dot in dots for end in numbers(dot.value)] + ([] if limit is None else [limit])
    pad = (max(ends) - min(ends)) * 0.08 or 0.05 * abs(max(ends)) or 1.0
    left, right, top, bottom = 44.0, WIDTH - 6, 22.0, 180.0
    x = _scale(math.log(dots[0].at), math.log(dots[-1].at), left + 12, right - 12)
    y = _scale(min(ends) - pad, max(ends) + pad, bottom, top)
    parts = [_text(0, 12, up, "quiet"), _line(left, bottom, right, bottom, "axis")]
    for at in _ticks(min(ends) - pad, max(ends) + pad):
        parts += [_line(left, y(at), right, y(at), "tick"), _text(left - 6, y(at) + 4, _short(at), "quiet", "end")]
    if limit is not None:
        parts += [
            _line(left, y(limit), right, y(limit), "limit"),
            _text(right, y(limit) + 13, named, "limit-text", "end"),
        ]
    places = [(x(math.log(dot.at)), dot) for dot in dots]
    points = " ".join(f"{at:.1f},{y(numbers(dot.value)[0]):.1f}" for at, dot in places)
    parts.append(tag("polyline", points=points, class_="new line"))
    labelled = -math.inf
    for at, dot in places:
        if isinstance(dot.value, Interval):
            parts.append(_line(at, y(dot.value.low), at, y(dot.value.high), "new span"))
        told = tag("title", f"{axis} {dot.at:g}: {up} {_told(dot.value)}")
        parts.append(tag("circle", told, cx=at, cy=y(numbers(dot.value)[0]), r=4.0, class_="new"))
        if dot.ringed:
            parts.append(tag("circle", cx=at, cy=y(numbers(dot.value)[0]), r=8.0, class_="ring"))
        if at - labelled >= 24:
            parts.append(_text(at, bottom + 15, f"{dot.at:g}", "quiet", "middle"))
            labelled = at
    parts.append(_text((left + right) / 2, bottom + 31, axis, "quiet", "middle"))
    said = "; ".join(f"{dot.at:g} {_told(dot.value)}" for dot in dots)
    return _svg(parts, bottom + 37, f"{up} by {axis}: {said}")


def figure(drawn: ET.Element, *caption: Child) -> ET.Element:
    """Return a chart with what one needs to read it."""
    return tag("figure", drawn, tag("figcaption", *caption))


def key(tone: Tone, text: str) -> ET.Element:
    """Return a name in the colour that stands for it; the text says it as well."""
    return tag("span", text, class_=f"key {tone}")


def _height(row: ChartRow) -> float:
    """Return the height of a row; a long label has a line of its own."""
    return LINE * len(row.marks) + GAP + (14 if len(row.label) > LONG else 0)


def _mark(mark: Mark, x: Callable[[float], float], bar: float, *, sign: bool, named: bool) -> Iterator[ET.Element]:
    value, shape = mark.value, f"{mark.tone} span"
    figures = interval(value, sign=sign).replace(" (interval not measured)", "")
    yield _text(WIDTH, bar - 10, f"{mark.tone} {figures}" if named else figures, "value", "end")
    if isinstance(value, Interval):
        yield _line(x(value.low), bar, x(value.high), bar, shape)
        for end in (value.low, value.high):
            yield _line(x(end), bar - 3.5, x(end), bar + 3.5, shape)
    yield tag("circle", cx=x(numbers(value)[0]), cy=bar, r=4.5, class_=mark.tone)


def _read(row: ChartRow, sign: bool) -> str:
    return ", ".join(f"{mark.tone} {interval(mark.value, sign=sign)}" for mark in row.marks)


def _told(value: Interval | float) -> str:
    return interval(value) if isinstance(value, Interval) else f"{value:.2f}"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    spread = (high - low) or 1.0
    return lambda value: start + (value - low) / spread * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Return at most six round values inside ``[low, high]``."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * one for one in (1, 2, 5, 10) if unit * one >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float, sign: bool = False) -> str:
    text = f"{0.0 if abs(value) < 1e-9 else value:{'+' if sign and abs(value) > 1e-9 else ''}.4g}"
    return text.replace("-", "−")


def _line(x1: float, y1: float, x2: float, y2: float, shape: str) -> ET.Element:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=shape)


def _text(x: float, y: float, text: str, shape: str = "", anchor: str = "start") -> ET.Element:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=shape)


def _svg(parts: Sequence[ET.Element], height: float, label: str) -> ET.Element:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH:.0f} {height:.0f}", role="img", aria_label=label)
