"""Owns the part of the gate's page on what the HNSW index loses against exact search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as ET

from revector.gate.ann import AnnReport, Point
from revector.pages.charts import Dot, curve, figure
from revector.pages.gate_view import GatePage
from revector.pages.markup import interval, section, table, tag, terms


def index_section(ann: AnnReport, page: GatePage) -> ET.Element:
    """Return the part of the page; it names lost documents with the texts that the page has."""
    served, k = ann.served, ann.k
    facts = {
        f"Overlap@{k} with exact search": f"{interval(served.overlap)}, at least {ann.min_overlap:g} demanded",
        "Served at": f"ef_search {served.ef_search:,}",
        "Recommended": f"ef_search {ann.recommended:,}" if ann.recommended is not None else "none of those tried",
    }
    if ann.loss is not None:
        facts[f"Recall@{k} lost to the index"] = interval(ann.loss.lost, sign=True)
        facts[f"Recall@{k} exact, served"] = f"{interval(ann.loss.exact)}, {interval(ann.loss.served)}"
    points = [point for point in ann.sweep if point.ef_search > 0]
    notes = [tag("p", note, class_="note") for note in (*ann.reasons, *ann.notes)]
    rows = [
        [f"{point.ef_search:,}", interval(point.overlap)]
        + [f"{point.latency_ms[name]:.2f} ms" for name in ("p50", "p95", "p99")]
        for point in ann.sweep
    ]
    return section(
        "What does the index lose, and what would a better setting cost?",
        terms(facts),
        *notes,
        _sweep(ann, points) if len(points) > 1 else None,
        *_lost_best(ann, page),
        table(["ef_search", f"overlap@{k} (95 % interval)", "p50", "p95", "p99"], rows),
    )


def lost_best(ann: AnnReport) -> str:
    """Return the sentence that the index lost best documents."""
    relevant = f", judged relevant for {ann.lost_relevant:,} of them" if ann.lost_relevant else ""
    return (
        f"For {ann.lost_best:,} of {ann.queries:,} queries the index lost the document that exact search has at "
        f"rank 1{relevant}"
    )


def _lost_best(ann: AnnReport, page: GatePage) -> Iterator[ET.Element]:
    """Yield what exact search has at rank 1 and the index did not find; reports of older versions do not say it."""
    if not ann.lost_best:
        return
    yield tag("p", f"{lost_best(ann)}.", class_="note")
    rows = [
        [
            page.texts.get(one.query, one.query),
            ": ".join(filter(None, page.items.get(one.document, (one.document, None)))),
            f"{one.score:.4f}",
            "yes" if one.relevant else "no" if one.relevant is not None else "not judged",
        ]
        for one in ann.lost
    ]
    yield table(["query", "lost document", "score", "relevant"], rows)


def _sweep(ann: AnnReport, points: Sequence[Point]) -> ET.Element:
    marked = ann.served.ef_search
    overlaps = [Dot(one.ef_search, one.overlap, one.ef_search == marked) for one in points]
    times = [Dot(one.ef_search, one.latency_ms["p95"], one.ef_search == marked) for one in points]
    up = f"overlap@{ann.k} with exact search, 0 to 1"
    about = f"{ann.queries:,} queries over {ann.chunks:,} chunks. The ring is what is served."
    return tag(
        "div",
        figure(
            curve(overlaps, axis="ef_search", up=up, limit=ann.min_overlap, named="demanded"),
            f"{about} Bars: 95 % interval. At least {ann.min_overlap:g} is demanded.",
        ),
        figure(curve(times, axis="ef_search", up="p95 of a search, ms"), "What each setting costs; lower is better."),
        class_="charts",
    )
