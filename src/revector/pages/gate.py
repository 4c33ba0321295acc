"""Owns the page on a generation's gate: the verdict, and the figures behind it, each chart under its question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from revector.pages.charts import ChartRow, Dot, Mark, Tone, curve, figure, intervals, key
from revector.pages.markup import document, interval, moment, section, signed, table, tag, terms
from revector.pages.queries import changed_queries

NAMES = {"recall": "recall", "ndcg": "nDCG", "mrr": "MRR", "hit": "hit"}
VERDICTS = {"pass": "PASS", "inconclusive": "INCONCLUSIVE", "fail": "FAIL"}
POWER = "80 % power"


def render(data: Mapping[str, Any]) -> str:
    """Return one self-contained HTML page; pure, and the same for the same data.

    Args:
        data: A gate result as ``results.gate_result`` returns it. All but ``verdict`` may be missing, and what was not
            measured is left out. To these may be added: ``collection``; ``measured_at`` where the figures are younger
            than the verdict; ``exact``, whether they are of exact search; ``texts``, query → its text; ``relevant``,
            query → its relevant items; ``items``, item → its name and the beginning of its text, None where that is
            gone; ``labels_changed``, whether texts and relevance are of other labels than were measured.

    """
    new, old = data.get("new"), data.get("old")
    title = f"Gate of revision {new['revision']}" if new else "Gate"
    title += f" against {old['revision']}" if old else ""
    title += f" ({data['collection']})" if data.get("collection") else ""
    return document(title, [tag("h1", title), *_verdict(data), *_figures(data)])


def _figures(data: Mapping[str, Any]) -> Iterator[ET.Element]:
    if data.get("new"):
        yield _metrics(data)
        yield from changed_queries(data)
    comparison = data.get("comparison") or {}
    if comparison.get("slices"):
        yield _slices(data, comparison)
    if data.get("ann"):
        yield _ann(data["ann"], data)
    elif "ann" in data and (data.get("gate") or {}).get("min_overlap") is not None:
        told = "Nothing: every answer was exact, for PostgreSQL's planner or the revision itself uses no HNSW index."
        yield section("What does the index lose?", tag("p", told))
    if data.get("latency"):
        yield _latency(data["latency"], (data.get("gate") or {}).get("max_latency_ratio"))
    elif data.get("new"):
        yield _search_times(data)
    if data.get("shadow"):
        yield _shadow(data["shadow"])


# The verdict ----------------------------------------------------------------------------------------------------------


def _verdict(data: Mapping[str, Any]) -> Iterator[ET.Element]:
    value = data.get("verdict")
    at = f" judged {moment(data['at'])}" if data.get("at") else ""
    head = tag("p", tag("strong", VERDICTS.get(value or "", "NOT JUDGED")), tag("span", at, class_="soft"))
    reasons = tag("ul", *_findings(data))
    if not len(reasons) and value == "pass":
        reasons = tag("p", data.get("not_measured") or "Everything that was demanded holds.")
    overridden = data.get("overridden")
    by = overridden and tag(
        "p", tag("strong", "OVERRIDDEN"), f" by {overridden['by']}: {overridden['reason']}", class_="overridden"
    )
    yield tag("div", head, reasons, by, class_=f"verdict {value or ''}")
    if data.get("measured_at"):
        exact = ", by exact search" if data.get("exact") else ""
        yield tag("p", f"The figures below were measured {moment(data['measured_at'])}{exact}.", class_="soft")
    if data.get("labels_changed"):
        yield tag("p", "The labels changed since: texts and ✓ are those of today, the figures are not.", class_="note")
    if facts := dict(_facts(data)):
        yield terms(facts)
    yield from _doubts(data.get("comparison") or {})


def _findings(data: Mapping[str, Any]) -> Iterator[ET.Element]:
    """Yield what was demanded and what was found of it, the worst first."""
    values = list(reversed(VERDICTS))
    findings = data.get("findings") or [{"value": None, "sentence": reason} for reason in data.get("reasons") or ()]
    for one in sorted(findings, key=lambda one: values.index(one["value"]) if one["value"] else 0):
        value = one["value"]
        word = value and tag("span", VERDICTS[value], class_=f"finding {value}")
        yield tag("li", word, f" {one['sentence']}" if word is not None else one["sentence"])


def _facts(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, role in (("New", "new"), ("Old", "old")):
        if one := data.get(role):
            yield name, f"revision {one['revision']}, generation {one['generation']}"
    if "queries" in data:
        lost, own = data.get("queries_lost") or 0, data.get("own_documents") or 0
        yield "Labelled queries", f"{data['queries']:,}" + (f" ({lost:,} left out: documents gone)" if lost else "")
        if own:
            yield "Queries that are documents", f"{own:,}; a query's own document is left out of what it finds"
    for name, role in (("Refused by the new", "new"), ("Refused by the old", "old")):
        if refused := (data.get(role) or {}).get("refused_queries"):
            more = " …" if refused["count"] > len(refused["first"]) else ""
            yield name, f"{refused['count']:,} queries, which found nothing: {', '.join(refused['first'])}{more}"
    if data.get("labels"):
        yield "Labels", str(data["labels"])
    if comparison := data.get("comparison"):
        yield "Documents", f"{comparison['documents']:,}"
        yield "Best possible recall", f"{comparison['ceiling']:.4f}"
    gate = data.get("gate") or {}
    for field, name in (
        ("max_drop", "Largest drop allowed"),
        ("min_recall", "Least recall demanded"),
        ("min_queries", "Least queries demanded"),
        ("max_slice_drop", "Largest drop allowed in a slice"),
        ("min_overlap", "Least overlap with exact search"),
        ("max_latency_ratio", "Largest p95 latency, new over old"),
    ):
        demanded = gate.get(field)
        if demanded or (demanded == 0 and field.startswith("max_")):
            yield name, f"{demanded:g}"
    if gate:
        confidence = gate.get("confidence")
        yield "Judged by", "means" if confidence is None else f"{100 * confidence:g} % intervals"


def _doubts(comparison: Mapping[str, Any]) -> Iterator[ET.Element]:
    if comparison.get("saturated_by"):
        names = ", ".join(comparison["saturated_by"])
        told = f"Saturated: {names} comes close to the best possible recall, so these labels tell models badly apart."
        yield tag("p", told, class_="note")
    recall = (comparison.get("metrics") or {}).get("recall") or {}
    if recall.get("detectable") is not None:
        needed = recall.get("needed")
        rest = f"; {needed:,} queries would be needed to tell the drop that is allowed" if needed else ""
        told = (
            f"{recall['queries']:,} queries can tell a drop of recall@{comparison['k']} of {recall['detectable']:.4f}"
        )
        yield tag("p", f"{told} or more ({POWER}){rest}.", class_="soft")


# The metrics ----------------------------------------------------------------------------------------------------------


def _measured(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return each metric as in ``Comparison``; where only means were kept, without their intervals."""
    if data.get("comparison"):
        metrics = data["comparison"]["metrics"]
        return {metric: metrics[metric] for metric in NAMES if metric in metrics}  # jsonb keeps no order
    sides = {role: data[role] for role in ("new", "old") if data.get(role)}
    found: dict[str, Mapping[str, Any]] = {
        metric: {role: {"mean": side["means"][metric]} for role, side in sides.items()}
        for metric in data["new"]["means"]
    }
    if "old" not in sides:
        return found | {"recall": {"new": sides["new"]["recall"]}}
    changed = {
        metric: {**change, "difference": {"mean": change["new"]["mean"] - change["old"]["mean"]}}
        for metric, change in found.items()
    }
    recall = {**{role: side["recall"] for role, side in sides.items()}, "difference": data["difference"]}
    return changed | {"recall": recall}


def _confidence(data: Mapping[str, Any]) -> str:
    return f"{100 * (data.get('comparison') or {}).get('confidence', 0.95):g} %"


def _metrics(data: Mapping[str, Any]) -> ET.Element:
    found, k, old = _measured(data), data["k"], data.get("old")
    names = {metric: f"{NAMES.get(metric, metric)}@{k}" for metric in found}
    roles: tuple[Tone, ...] = ("old", "new")
    rows = [
        ChartRow(names[metric], [Mark(change[role], role) for role in roles if change.get(role)])
        for metric, change in found.items()
    ]
    confidence = _confidence(data)
    drawn = [
        figure(
            intervals(rows, axis="mean over queries, 0 to 1"),
            f"Higher is better; the bar is the {confidence} interval. ",
            *((key("old", f"Grey: old, {old['revision']}"), "; ") if old else ()),
            key("new", f"blue: new, {data['new']['revision']}"),
            ".",
        )
    ]
    title = f"How much does revision {data['new']['revision']} find?"
    if old:
        title = f"Does revision {data['new']['revision']} find as much as {old['revision']}?"
        drawn.append(_differences(data, found, names))
    return section(title, tag("div", *drawn, class_="charts"), _metric_table(found, names, confidence, bool(old)))


def _differences(data: Mapping[str, Any], found: Mapping[str, Any], names: Mapping[str, str]) -> ET.Element:
    allowed = (data.get("gate") or {}).get("max_drop")
    rows = [
        ChartRow(
            names[metric],
            [Mark(change["difference"], "new")],
            -allowed if allowed is not None and metric == "recall" else None,
        )
        for metric, change in found.items()
    ]
    limit = "" if allowed is None else f" Dashed: the largest drop of recall that is allowed, {signed(-allowed)}."
    return figure(
        intervals(rows, axis="new minus old", zero=0.0, sign=True),
        f"New minus old on the same queries, with the {_confidence(data)} interval of the pairs. ",
        f"An interval that crosses 0 may be chance.{limit}",
    )


def _metric_table(found: Mapping[str, Any], names: Mapping[str, str], confidence: str, both: bool) -> ET.Element:
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
        row = [names[metric], interval(change["new"])]
        if both:
            row += [interval(change["old"]), interval(change["difference"], sign=True), _figure(change, "p")]
            row += [_figure(change, "detectable"), f"{change['needed']:,}" if change.get("needed") else "–"]
        rows.append(row)
    return table(columns, rows)


def _figure(change: Mapping[str, Any], name: str) -> str:
    return f"{change[name]:.4f}" if change.get(name) is not None else "–"


# Slices, index, time --------------------------------------------------------------------------------------------------


def _slices(data: Mapping[str, Any], comparison: Mapping[str, Any]) -> ET.Element:
    slices, k, confidence = comparison["slices"], comparison["k"], _confidence(data)
    role = "difference" if comparison.get("old") else "new"
    judged = [one for one in slices if one["recall"]]
    allowed = (data.get("gate") or {}).get("max_slice_drop")
    limit = -allowed if allowed is not None and role == "difference" else None
    rows = [ChartRow(f"{one['field']}: {one['name']}", [Mark(one["recall"][role], "new")], limit) for one in judged]
    against = role == "difference"
    axis = f"recall@{k}, new minus old" if against else f"recall@{k}, 0 to 1"
    drawn = figure(
        intervals(rows, axis=axis, zero=0.0 if against else None, sign=against),
        f"Each with its {confidence} interval"
        + ("." if limit is None else f"; dashed: the largest drop allowed in a slice, {signed(limit)}."),
    )
    columns = ["slice", "queries", "new recall", *(["old recall", "new − old"] if against else [])]
    cells = [
        [f"{one['field']}: {one['name']}", f"{one['queries']:,}", *_slice_figures(one, against=against)]
        for one in slices
    ]
    title = "Does any group of queries lose?" if against else "Is any group of queries served worse?"
    return section(title, drawn if judged else None, table(columns, cells))


def _slice_figures(one: Mapping[str, Any], *, against: bool) -> list[str]:
    if not one["recall"]:
        return [f"fewer than {one['minimum']}: not judged", *(["", ""] if against else [])]
    recall = one["recall"]
    sides = [interval(recall["new"])]
    return sides + ([interval(recall["old"]), interval(recall["difference"], sign=True)] if against else [])


def _ann(ann: Mapping[str, Any], data: Mapping[str, Any]) -> ET.Element:
    served, k = ann["served"], ann["k"]
    facts = {
        f"Overlap@{k} with exact search": f"{interval(served['overlap'])}, at least {ann['min_overlap']:g} demanded",
        "Served at": f"ef_search {served['ef_search']:,}",
        "Recommended": f"ef_search {ann['recommended']:,}" if ann["recommended"] is not None else "none of those tried",
    }
    if ann["loss"]:
        facts[f"Recall@{k} lost to the index"] = interval(ann["loss"]["lost"], sign=True)
        facts[f"Recall@{k} exact, served"] = f"{interval(ann['loss']['exact'])}, {interval(ann['loss']['served'])}"
    points = [point for point in ann["sweep"] if point["ef_search"] > 0]
    notes = [tag("p", note, class_="note") for note in (*ann["reasons"], *ann["notes"])]
    rows = [
        [f"{point['ef_search']:,}", interval(point["overlap"])]
        + [f"{point['latency_ms'][name]:.2f} ms" for name in ("p50", "p95", "p99")]
        for point in ann["sweep"]
    ]
    return section(
        "What does the index lose, and what would a better setting cost?",
        terms(facts),
        *notes,
        _sweep(ann, points) if len(points) > 1 else None,
        *_lost_best(ann, data),
        table(["ef_search", f"overlap@{k} (95 % interval)", "p50", "p95", "p99"], rows),
    )


def lost_best(ann: Mapping[str, Any]) -> str:
    """Return the sentence that the index lost best documents."""
    relevant = f", judged relevant for {ann['lost_relevant']:,} of them" if ann["lost_relevant"] else ""
    return (
        f"For {ann['lost_best']:,} of {ann['queries']:,} queries the index lost the document that exact search has at "
        f"rank 1{relevant}"
    )


def _lost_best(ann: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[ET.Element]:
    """Yield what exact search has at rank 1 and the index did not find; reports of older versions do not say it."""
    if not ann.get("lost_best"):
        return
    yield tag("p", f"{lost_best(ann)}.", class_="note")
    rows = [
        [
            (data.get("texts") or {}).get(one["query"], one["query"]),
            ": ".join(filter(None, (data.get("items") or {}).get(one["document"], (one["document"], None)))),
            f"{one['score']:.4f}",
            "yes" if one["relevant"] else "no" if one["relevant"] is not None else "not judged",
        ]
        for one in ann["lost"]
    ]
    yield table(["query", "lost document", "score", "relevant"], rows)


def _shadow(shadow: Mapping[str, Any]) -> ET.Element:
    facts = {"Asked for": f"{shadow['hours']:g} h"} if shadow["hours"] else {}
    for reads in shadow["reads"]:
        facts[f"Live queries compared with generation {reads['against']}"] = f"{reads['compared']:,}"
        if reads["compared"]:
            old, new = reads["old_latency_ms"], reads["new_latency_ms"]
            facts[f"Overlap@{reads['k']}"] = interval(reads["overlap"])
            facts["Rank-biased overlap"] = interval(reads["rbo"])
            facts["p95, old and new"] = f"{old['p95']:.0f} ms, {new['p95']:.0f} ms"
        facts["Shed, failed"] = f"{reads['shed']:,}, {reads['errors']:,}"
    none = None if any(reads["compared"] for reads in shadow["reads"]) else tag("p", "No live query was compared.")
    return section("Do live queries find the same?", none, terms(facts))


def _sweep(ann: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> ET.Element:
    marked = ann["served"]["ef_search"]
    overlaps = [Dot(one["ef_search"], one["overlap"], one["ef_search"] == marked) for one in points]
    times = [Dot(one["ef_search"], {"mean": one["latency_ms"]["p95"]}, one["ef_search"] == marked) for one in points]
    up = f"overlap@{ann['k']} with exact search, 0 to 1"
    about = f"{ann['queries']:,} queries over {ann['chunks']:,} chunks. The ring is what is served."
    return tag(
        "div",
        figure(
            curve(overlaps, axis="ef_search", up=up, limit=ann["min_overlap"], named="demanded"),
            f"{about} Bars: 95 % interval. At least {ann['min_overlap']:g} is demanded.",
        ),
        figure(curve(times, axis="ef_search", up="p95 of a search, ms"), "What each setting costs; lower is better."),
        class_="charts",
    )


def _latency(latency: Mapping[str, Any], most: float | None) -> ET.Element:
    rows = [ChartRow(name, [Mark(value, "new")], most) for name, value in latency["ratio"].items()]
    names = ("p50", "p95", "p99")
    cells = [
        [f"{part}, {role}", *(f"{latency[role][f'{part}_ms'][name]:.2f} ms" for name in names)]
        for part in ("encode", "search", "total")
        for role in ("old", "new")
    ]
    limit = "" if most is None else f" Dashed: the most that is allowed, {most:g}."
    return section(
        "Is a query slower than before?",
        figure(
            intervals(rows, axis="time of a query, new / old", zero=1.0),
            f"Encoding and search of {latency['queries']:,} queries in turns on one machine, 95 % interval; above 1 the"
            f" new one is slower.{limit}",
        ),
        table(["time of a query", *names], cells),
    )


def _search_times(data: Mapping[str, Any]) -> ET.Element:
    sides = [(role, data[role]) for role in ("old", "new") if (data.get(role) or {}).get("latency_ms")]
    names = ("p50", "p95", "p99")
    cells = [
        [f"{role} {side['revision']}", *(f"{side['latency_ms'][name]:.2f} ms" for name in names)]
        for role, side in sides
    ]
    told = "Without encoding; one revision after the other, so small differences may be the machine's."
    return section("How long does a search take?", tag("p", told, class_="soft"), table(["revision", *names], cells))
