"""The command that shows a kept verdict of the gate, and the page on what was measured just now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import make_table, one_line
from revector.cli.screens import shadow_line
from revector.errors import ConfigError
from revector.pages.gate import NAMES, VERDICTS, lost_best

if TYPE_CHECKING:
    from collections.abc import Mapping

    from revector.gate.gate import GateMeasurement, QuerySet

SHOWN = 20
"""Lost best documents that a terminal shows."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Migration")(gate)


def gate(
    *,
    generation: Annotated[
        int | None, typer.Option(help="Number of a generation, dropped or not; default: the one judged last.")
    ] = None,
    result: Annotated[int | None, typer.Option(help="Number of a result; default: the newest.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write its page.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Show a kept verdict of the gate: what was demanded, what was found, and the figures behind it.

    Nothing is measured; `revector upgrade --to gate` does that, and `revector eval` without judging.

    For example:
      revector gate --html gate.html
    """
    from revector.pages.gate_result import kept_result, page, query_texts

    session = open_session(project, collection, as_json=json)
    check_folder(html)
    found = kept_result(session.project, session.collection, result, generation=generation)
    if html is not None:
        html.write_text(page(session.project, session.collection, found), encoding="utf-8")
    data = {**found, "html": None if html is None else str(html)}
    texts = query_texts(session.project, session.collection)
    session.out.show(data, lambda console: _gate_page(data, texts, console))


def check_folder(html: Path | None) -> None:
    """Raise ``ConfigError`` unless a page can be written there."""
    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.parent}. Nothing was measured; create it.")


def measured_page(
    session: Session, queries: QuerySet, new: GateMeasurement, old: GateMeasurement | None, k: int, *, exact: bool
) -> str:
    """Return the page on what was measured now, under the verdict that is kept at this ``k``, if there is one."""
    from revector.errors import StateError
    from revector.gate.gate import described
    from revector.measure.comparison import compare
    from revector.measure.metrics import attainable_recall
    from revector.measure.statistics import CONFIDENCE
    from revector.pages.gate_result import kept_result, page

    try:
        kept = kept_result(session.project, session.collection, generation=new.generation)
    except StateError:
        kept = {}
    judged = kept if kept.get("k") == k else {}
    demanded = judged.get("gate") or {}
    comparison = compare(
        new.scored,
        None if old is None else old.scored,
        k=k,
        documents=session.project.documents(session.collection).count(),
        max_drop=demanded.get("max_drop") if old else None,
        slices=queries.slices(),
        attainable=attainable_recall(queries.items, k),
        confidence=demanded.get("confidence") or CONFIDENCE,
    )
    found = {
        **{name: judged.get(name) for name in ("verdict", "reasons", "findings", "overridden", "at", "gate")},
        **queries.counts,
        **described(comparison, new, old),
        "measured_at": session.project.status(session.collection)["database_time"],
        "exact": exact,
        "k": k,
        "labels": queries.labels.name,
        "labels_fingerprint": queries.labels.fingerprint,
    }
    return page(session.project, session.collection, found)


def _gate_page(data: dict[str, Any], texts: Mapping[str, str], console: Console) -> None:
    sides = " against ".join(f"revision {data[side]['revision']}" for side in ("new", "old") if side in data)
    head = f"{VERDICTS[data['verdict']]} for generation {data['generation']}" + (f", {sides}" if sides else "")
    console.print(f"{head}, judged {data['at']} (result {data['id']})", style="bold", soft_wrap=True)
    if by := data["overridden"]:
        console.print(f"Overridden by {by['by']}: {by['reason']}", style="yellow", soft_wrap=True)
    findings = data.get("findings") or [{"value": data["verdict"], "sentence": one} for one in data.get("reasons", ())]
    for one in sorted(findings, key=lambda one: list(VERDICTS).index(one["value"]), reverse=True):
        console.print(f"- {VERDICTS[one['value']]}: {one['sentence']}", soft_wrap=True)
    if "not_measured" in data:
        console.print(f"Not measured: {data['not_measured']}", soft_wrap=True)
    if index := data.get("ann"):
        print_lost(index, texts, console)
    if comparison := data.get("comparison"):
        _figures(comparison, data.get("own_documents") or 0, console)
    for side in ("new", "old"):
        refused = data.get(side, {}).get("refused_queries")
        refused_queries(refused, f"the {side} revision", console)
    if shadow := data.get("shadow"):
        for reads in shadow["reads"]:
            console.print(shadow_line(reads), soft_wrap=True)
        if not any(reads["compared"] for reads in shadow["reads"]):
            console.print(f"Shadow reads: no live query was compared in {shadow['hours']:g} h.", soft_wrap=True)
    if data["html"]:
        console.print(f"\nWrote {data['html']}: open it in a browser.", soft_wrap=True)


def refused_queries(refused: dict[str, Any] | None, by: str, console: Console) -> None:
    """Name the labelled queries that a search refuses, with the reason of the first; nothing where there are none."""
    if not refused or not refused["count"]:
        return
    first = next(iter(refused["first"].values()))
    more = f" and {refused['count'] - len(refused['first'])} more" if refused["count"] > len(refused["first"]) else ""
    console.print(
        f"{refused['count']:,} queries are refused by {by} and found nothing: {', '.join(refused['first'])}{more}. "
        f"The first: {first}",
        style="yellow",
        soft_wrap=True,
    )


def _figures(comparison: dict[str, Any], own: int, console: Console) -> None:
    interval = f"{comparison['confidence'] * 100:g} % interval"
    columns = ("metric", "new", "old", "difference", interval) if comparison["old"] else ("metric", "new", interval)
    table = make_table(*columns, right=("new", "old", "difference"))
    for metric, name in NAMES.items():
        change = comparison["metrics"][metric]
        new, old, difference = change["new"], change["old"], change["difference"]
        cells = [f"{name}@{comparison['k']}", f"{new['mean']:.4f}"]
        if comparison["old"]:
            ends = f"{difference['low']:+.4f} to {difference['high']:+.4f}"
            cells += [f"{old['mean']:.4f}", f"{difference['mean']:+.4f}", ends]
        else:
            cells.append(f"{new['low']:.4f} to {new['high']:.4f}")
        table.add_row(*cells)
    console.print(table)
    console.print(
        f"On {comparison['queries']:,} labelled queries over {comparison['documents']:,} documents.{own_left_out(own)}",
        soft_wrap=True,
    )


def print_lost(ann: Mapping[str, Any], texts: Mapping[str, str], console: Console) -> None:
    """Name the documents that exact search has at rank 1 and the index did not find."""
    if not ann.get("lost_best"):
        return
    console.print(f"{lost_best(ann)}:", style="yellow", soft_wrap=True)
    for one in ann["lost"][:SHOWN]:
        relevant = ", judged relevant" if one["relevant"] else ""
        query = one_line(texts.get(one["query"], ""), 70)
        console.print(f"  {one['document']} ({one['score']:.4f}{relevant}) for {one['query']}: {query}", soft_wrap=True)
    if ann["lost_best"] > SHOWN:
        console.print("  …; --json names more", soft_wrap=True)


def own_left_out(count: int) -> str:
    """Return the sentence that documents which are a query themselves were left out; empty where there are none."""
    return f" {count:,} queries are documents themselves: each was left out of its own answers." if count else ""
