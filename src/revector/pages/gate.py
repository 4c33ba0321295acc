"""Owns the page on a generation's gate: the verdict, and the figures behind it, each chart under its question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.etree import ElementTree as ET

from revector.gate.ann import AnnReport
from revector.gate.demand import ShownDemand
from revector.gate.demands import DEMANDS, max_drop, max_latency_ratio, max_slice_drop, min_overlap
from revector.gate.figures import Value
from revector.measure.changes import MetricChange
from revector.measure.comparison import Comparison
from revector.measure.metrics import METRIC_NAMES, Interval, MetricName
from revector.measure.sliced import Slice
from revector.pages.charts import ChartRow, Mark, Tone, figure, intervals, key
from revector.pages.gate_view import GatePage
from revector.pages.index_report import index_section
from revector.pages.markup import document, interval, moment, section, signed, table, tag, terms
from revector.pages.queries import changed_queries

NAMES: Mapping[str, str] = {str(metric): name for metric, name in METRIC_NAMES.items()}
VERDICTS = {"pass": "PASS", "inconclusive": "INCONCLUSIVE", "fail": "FAIL"}
POWER = "80 % power"


def render(page: GatePage) -> str:
    """Return one self-contained HTML page; pure, and the same for the same data. What was not measured is left out."""
    new, old = page.new, page.old
    title = f"Gate of revision {new.revision}" if new else "Gate"
    title += f" against {old.revision}" if old else ""
    title += f" ({page.collection})" if page.collection else ""
    return document(title, [tag("h1", title), *_verdict(page), *_figures(page)])


def _figures(page: GatePage) -> Iterator[ET.Element]:
    if page.new:
        yield _metrics(page)
        yield from changed_queries(page)
    if page.comparison is not None and page.comparison.slices:
        yield _slices(page, page.comparison)
    if (ann := page.evidence(min_overlap.EVIDENCE, AnnReport)) is not None:
        yield index_section(ann, page)
    elif page.has(min_overlap.EVIDENCE) and min_overlap.DEMAND.kept(page) is not None:
        told = "Nothing: every answer was exact, for PostgreSQL's planner or the revision itself uses no HNSW index."
        yield section("What does the index lose?", tag("p", told))
    for demand in DEMANDS:
        shown = None if demand.show is None else demand.show(page)
        if shown is not None:
            yield _shown(shown)
        elif demand is max_latency_ratio.DEMAND and page.new:
            yield _search_times(page)


def _shown(shown: ShownDemand) -> ET.Element:
    """Return what a demand shows."""
    facts = {name: fact if isinstance(fact, str) else interval(fact) for name, fact in shown.facts.items()}
    rows = [ChartRow(name, [Mark(value, "new")], shown.limit) for name, value in shown.bars.items()]
    return section(
        shown.question,
        tag("p", shown.note) if shown.note else None,
        terms(facts) if facts else None,
        figure(intervals(rows, axis=shown.axis, zero=shown.zero), shown.caption) if rows else None,
        table(shown.columns, shown.rows) if shown.rows else None,
    )


# The verdict ----------------------------------------------------------------------------------------------------------


def _verdict(page: GatePage) -> Iterator[ET.Element]:
    value = page.verdict
    at = f" judged {moment(page.at)}" if page.at else ""
    head = tag("p", tag("strong", VERDICTS.get(value or "", "NOT JUDGED")), tag("span", at, class_="soft"))
    reasons = tag("ul", *_findings(page))
    if not len(reasons) and value is Value.PASS:
        reasons = tag("p", page.not_measured or "Everything that was demanded holds.")
    overridden = None
    if page.overridden is not None:
        told = f" by {page.overridden.by}: {page.overridden.reason}"
        overridden = tag("p", tag("strong", "OVERRIDDEN"), told, class_="overridden")
    yield tag("div", head, reasons, overridden, class_=f"verdict {value or ''}")
    if page.measured_at:
        exact = ", by exact search" if page.exact else ""
        yield tag("p", f"The figures below were measured {moment(page.measured_at)}{exact}.", class_="soft")
    if page.labels_changed:
        yield tag("p", "The labels changed since: texts and ✓ are those of today, the figures are not.", class_="note")
    if facts := dict(_facts(page)):
        yield terms(facts)
    if page.comparison is not None:
        yield from _doubts(page.comparison, page.metric)


def _findings(page: GatePage) -> Iterator[ET.Element]:
    """Yield what was demanded and what was found of it, the worst first."""
    if not page.findings:
        yield from (tag("li", reason) for reason in page.reasons)
    worst_first = list(reversed(VERDICTS))
    for one in sorted(page.findings, key=lambda one: worst_first.index(one.value)):
        yield tag("li", tag("span", VERDICTS[one.value], class_=f"finding {one.value}"), f" {one.sentence}")


def _facts(page: GatePage) -> Iterator[tuple[str, str]]:
    for name, side in (("New", page.new), ("Old", page.old)):
        if side is not None:
            yield name, f"revision {side.revision}, generation {side.generation}"
    if page.queries is not None:
        lost, own = page.queries_lost, page.own_documents
        yield "Labelled queries", f"{page.queries:,}" + (f" ({lost:,} left out: documents gone)" if lost else "")
        yield from _beside(page)
        if own:
            yield "Queries that are documents", f"{own:,}; a query's own document is left out of what it finds"
    for name, side in (("Refused by the new", page.new), ("Refused by the old", page.old)):
        if side is not None and (refused := side.refused_queries):
            more = " …" if refused.count > len(refused.first) else ""
            yield name, f"{refused.count:,} queries, which found nothing: {', '.join(refused.first)}{more}"
    if page.labels:
        yield "Labels", page.labels
    if page.comparison is not None:
        yield "Documents", f"{page.comparison.documents:,}"
        yield "Best possible recall", f"{page.comparison.ceiling:.4f}"
    for demand in DEMANDS:
        if (demanded := demand.kept(page)) is not None:
            yield demand.label, f"{demanded:g}"
    if page.gate:
        confidence = page.gate.get("confidence")
        yield "Judged by", f"{100 * page.demanded_confidence:g} % intervals" if confidence is not None else "means"


def _beside(page: GatePage) -> Iterator[tuple[str, str]]:
    if page.others:
        drawn = f", {page.drawn:,} of them drawn and judged since" if page.drawn else ""
        yield "Queries without labels", f"{page.others:,} were asked of both{drawn}"
    if page.look is not None:
        yield "Look", f"number {page.look:,} of this test"


def _doubts(comparison: Comparison, metric: MetricName) -> Iterator[ET.Element]:
    if comparison.saturated_by:
        names = ", ".join(comparison.saturated_by)
        told = f"Saturated: {names} comes close to the best possible recall, so these labels tell models badly apart."
        yield tag("p", told, class_="note")
    change, name = comparison.metrics[metric], f"{NAMES[metric]}@{comparison.k}"
    if change.detectable is not None:
        needed = change.needed
        rest = f"; {needed:,} queries would be needed to tell the drop that is allowed" if needed else ""
        told = f"{change.queries:,} queries can tell a drop of {name} of {change.detectable:.4f}"
        yield tag("p", f"{told} or more ({POWER}){rest}.", class_="soft")


# The metrics ----------------------------------------------------------------------------------------------------------


class _Change:
    """A metric of both sides, with intervals or, where only means were kept, without."""

    def __init__(
        self,
        new: Interval | float,
        old: Interval | float | None,
        difference: Interval | float | None,
        whole: MetricChange | None = None,
    ) -> None:
        self.sides: dict[Tone, Interval | float | None] = {"old": old, "new": new}
        self.new, self.old, self.difference, self.whole = new, old, difference, whole


def _measured(page: GatePage) -> dict[str, _Change]:
    """Return each metric as in ``Comparison``; earlier versions kept means, and an interval of recall alone."""
    if page.comparison is not None:
        metrics = {str(metric): change for metric, change in page.comparison.metrics.items()}
        kept = {metric: metrics[metric] for metric in NAMES if metric in metrics}  # jsonb keeps no order
        if (passages := page.comparison.passages) is not None:
            kept["passage IoU"] = passages
        return {metric: _Change(one.new, one.old, one.difference, one) for metric, one in kept.items()}
    assert page.new is not None
    new, old = page.new, page.old
    before: Mapping[str, float] = {} if old is None else old.means
    found = {
        metric: _Change(mean, before.get(metric), mean - before[metric] if metric in before else None)
        for metric, mean in new.means.items()
    }
    return found | {"recall": _Change(new.recall, None if old is None else old.recall, page.difference)}


def _percent(page: GatePage) -> str:
    return f"{100 * page.confidence:g} %"


def _metrics(page: GatePage) -> ET.Element:
    found, k, old, new = _measured(page), page.k, page.old, page.new
    assert new is not None
    names = {metric: f"{NAMES.get(metric, metric)}@{k}" for metric in found}
    rows = [
        ChartRow(names[metric], [Mark(value, role) for role, value in change.sides.items() if value is not None])
        for metric, change in found.items()
    ]
    confidence = _percent(page)
    drawn = [
        figure(
            intervals(rows, axis="mean over queries, 0 to 1"),
            f"Higher is better; the bar is the {confidence} interval. ",
            *((key("old", f"Grey: old, {old.revision}"), "; ") if old else ()),
            key("new", f"blue: new, {new.revision}"),
            ".",
        )
    ]
    title = f"How much does revision {new.revision} find?"
    if old:
        title = f"Does revision {new.revision} find as much as {old.revision}?"
        drawn.append(_differences(page, found, names))
    return section(title, tag("div", *drawn, class_="charts"), _metric_table(found, names, confidence, bool(old)))


def _differences(page: GatePage, found: Mapping[str, _Change], names: Mapping[str, str]) -> ET.Element:
    allowed = max_drop.DEMAND.kept(page)
    rows = [
        ChartRow(
            names[metric],
            [Mark(change.difference, "new")],
            -allowed if allowed is not None and metric == page.metric else None,
        )
        for metric, change in found.items()
        if change.difference is not None
    ]
    name = NAMES[page.metric]
    limit = "" if allowed is None else f" Dashed: the largest drop of {name} that is allowed, {signed(-allowed)}."
    return figure(
        intervals(rows, axis="new minus old", zero=0.0, sign=True),
        f"New minus old on the same queries, with the {_percent(page)} interval of the pairs. ",
        f"An interval that crosses 0 may be chance.{limit}",
    )


def _metric_table(found: Mapping[str, _Change], names: Mapping[str, str], confidence: str, both: bool) -> ET.Element:
    columns = ["metric", f"new ({confidence} interval)"]
    if both:
        columns += [
            f"old ({confidence} interval)",
            "new − old",
            "p of no change",
            f"detectable drop, {POWER}",
            "queries needed",
        ]
    rows = []
    for metric, change in found.items():
        row = [names[metric], interval(change.new)]
        if both:
            row += [interval(change.old), interval(change.difference, sign=True), *_sizes(change.whole)]
        rows.append(row)
    return table(columns, rows)


def _sizes(change: MetricChange | None) -> list[str]:
    """Return p, what can be told, and how many queries it takes, where these were kept."""
    if change is None:
        return ["–", "–", "–"]
    told = ["–" if value is None else f"{value:.4f}" for value in (change.p, change.detectable)]
    return [*told, f"{change.needed:,}" if change.needed else "–"]


# Slices and time ------------------------------------------------------------------------------------------------------


def _slices(page: GatePage, comparison: Comparison) -> ET.Element:
    slices, k, confidence = comparison.slices, comparison.k, _percent(page)
    against, allowed = bool(comparison.old), max_slice_drop.DEMAND.kept(page)
    limit = -allowed if allowed is not None and against else None
    rows = [
        ChartRow(f"{one.field}: {one.name}", [Mark(value, "new")], limit)
        for one in slices
        if one.recall and (value := one.recall.difference if against else one.recall.new)
    ]
    axis = f"recall@{k}, new minus old" if against else f"recall@{k}, 0 to 1"
    caption = f"Each with its {confidence} interval" + (
        "." if limit is None else f"; dashed: the largest drop allowed in a slice, {signed(limit)}."
    )
    columns = ["slice", "queries", "new recall", *(["old recall", "new − old"] if against else [])]
    columns.append("new, beside all other queries")
    cells = [[_slice_name(one), _slice_size(one, allowed), *_slice_figures(one, against=against)] for one in slices]
    title = "Does any group of queries lose?" if against else "Is any group of queries served worse?"
    drawn = figure(intervals(rows, axis=axis, zero=0.0 if against else None, sign=against), caption) if rows else None
    return section(title, _worst(page), drawn, table(columns, cells))


def _worst(page: GatePage) -> ET.Element | None:
    return None if page.worst_slice is None else tag("p", f"The worst slice is {page.worst_slice.words}.")


def _slice_name(one: Slice) -> str:
    return f"{one.field}: {one.name}" + (f" {', '.join(one.pooled)}" if one.pooled else "")


def _slice_size(one: Slice, allowed: float | None) -> str:
    """Return its queries, and whether they are too few to exclude the drop that is allowed."""
    return f"{one.queries:,}" + ("" if allowed is None or one.to_clear else f", too few to clear it ({one.minimum})")


def _slice_figures(one: Slice, *, against: bool) -> list[str]:
    if not one.recall:
        return ["too few to measure", *(["", ""] if against else []), ""]
    sides = [interval(one.recall.new)]
    sides += [interval(one.recall.old), interval(one.recall.difference, sign=True)] if against else []
    return [*sides, "–" if one.gap is None else interval(one.gap, sign=True)]


def _search_times(page: GatePage) -> ET.Element:
    sides = [(role, side) for role, side in (("old", page.old), ("new", page.new)) if side and side.latency_ms]
    names = ("p50", "p95", "p99")
    cells = [
        [f"{role} {side.revision}", *(f"{side.latency_ms[name]:.2f} ms" for name in names)] for role, side in sides
    ]
    told = "Without encoding; one revision after the other, so small differences may be the machine's."
    return section("How long does a search take?", tag("p", told, class_="soft"), table(["revision", *names], cells))
