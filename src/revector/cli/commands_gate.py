"""The command that shows a kept verdict of the gate, and the page on what was measured just now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import make_table, one_line
from revector.cli.screens import shadow_line
from revector.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from revector.gate.ann import AnnReport
    from revector.gate.figures import GateResult, RefusedQueries
    from revector.gate.gate import GateMeasurement
    from revector.gate.query_set import QuerySet
    from revector.measure.comparison import Comparison

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
    texts, written = query_texts(session.project, session.collection), None if html is None else str(html)
    session.out.show(found.as_data() | {"html": written}, lambda console: _gate_page(found, written, texts, console))


def check_folder(html: Path | None) -> None:
    """Raise ``ConfigError`` unless a page can be written there."""
    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.parent}. Nothing was measured; create it.")


def measured_page(
    session: Session, queries: QuerySet, new: GateMeasurement, old: GateMeasurement | None, k: int, *, exact: bool
) -> str:
    """Return the page on what was measured now, under the verdict that is kept at this ``k``, if there is one."""
    from revector.errors import StateError
    from revector.gate.demands import max_drop
    from revector.gate.figures import GateFigures
    from revector.gate.gate import described
    from revector.measure.comparison import compare
    from revector.measure.metrics import attainable_recall
    from revector.pages.gate_result import kept_result, page

    try:
        kept = kept_result(session.project, session.collection, generation=new.generation)
    except StateError:
        kept = None
    judged = kept if kept is not None and kept.k == k else GateFigures()
    comparison = compare(
        new.scored,
        None if old is None else old.scored,
        k=k,
        documents=session.project.documents(session.collection).count(),
        max_drop=max_drop.DEMAND.kept(judged) if old else None,
        slices=queries.slices(),
        attainable=attainable_recall(queries.items, k),
        confidence=judged.confidence,
    )
    verdict = {"verdict", "reasons", "findings", "overridden", "at", "gate"}
    measured = {
        **{name: value for name, value in judged.as_data().items() if name in verdict},
        **queries.counts,
        **described(comparison, new, old),
        "k": k,
        "labels": queries.labels.name,
        "labels_fingerprint": queries.labels.fingerprint,
    }
    now = session.project.status(session.collection).database_time
    found = GateFigures.model_validate(measured)
    return page(session.project, session.collection, found, measured_at=now, exact=exact)


def _gate_page(found: GateResult, html: str | None, texts: Mapping[str, str], console: Console) -> None:
    from revector.gate.ann import AnnReport
    from revector.gate.demands import min_overlap, shadow_hours
    from revector.pages.gate import VERDICTS

    sides = " against ".join(f"revision {side.revision}" for side in found.sides.values())
    head = f"{VERDICTS[found.verdict]} for generation {found.generation}" + (f", {sides}" if sides else "")
    console.print(f"{head}, judged {found.at} (result {found.id})", style="bold", soft_wrap=True)
    if by := found.overridden:
        console.print(f"Overridden by {by.by}: {by.reason}", style="yellow", soft_wrap=True)
    findings = [(one.value, one.sentence) for one in found.findings] or [(found.verdict, one) for one in found.reasons]
    for value, sentence in sorted(findings, key=lambda one: list(VERDICTS).index(one[0]), reverse=True):
        console.print(f"- {VERDICTS[value]}: {sentence}", soft_wrap=True)
    if found.not_measured is not None:
        console.print(f"Not measured: {found.not_measured}", soft_wrap=True)
    if (index := found.evidence(min_overlap.EVIDENCE, AnnReport)) is not None:
        print_lost(index, texts, console)
    if found.comparison is not None:
        _figures(found.comparison, found.own_documents, console)
    for role, side in found.sides.items():
        refused_queries(side.refused_queries, f"the {role} revision", console)
    if (shadow := found.evidence(shadow_hours.EVIDENCE, shadow_hours.ShadowEvidence)) is not None:
        for reads in shadow.reads:
            console.print(shadow_line(reads), soft_wrap=True)
        if not any(reads.compared for reads in shadow.reads):
            console.print(f"Shadow reads: no live query was compared in {shadow.hours:g} h.", soft_wrap=True)
    if html is not None:
        console.print(f"\nWrote {html}: open it in a browser.", soft_wrap=True)


def refused_queries(refused: RefusedQueries | None, by: str, console: Console) -> None:
    """Name the labelled queries that a search refuses, with the reason of the first; nothing where there are none."""
    if refused is None or not refused.count:
        return
    first = next(iter(refused.first.values()))
    more = f" and {refused.count - len(refused.first)} more" if refused.count > len(refused.first) else ""
    console.print(
        f"{refused.count:,} queries are refused by {by} and found nothing: {', '.join(refused.first)}{more}. "
        f"The first: {first}",
        style="yellow",
        soft_wrap=True,
    )


def _figures(comparison: Comparison, own: int, console: Console) -> None:
    from revector.pages.gate import NAMES

    interval, changes = (
        f"{comparison.confidence * 100:g} % interval",
        {str(metric): change for metric, change in comparison.metrics.items()},
    )
    columns = ("metric", "new", "old", "difference", interval) if comparison.old else ("metric", "new", interval)
    table = make_table(*columns, right=("new", "old", "difference"))
    for metric, change in ((metric, changes[metric]) for metric in NAMES):
        cells = [f"{NAMES[metric]}@{comparison.k}", f"{change.new.mean:.4f}"]
        if change.old is not None and change.difference is not None:
            ends = f"{change.difference.low:+.4f} to {change.difference.high:+.4f}"
            cells += [f"{change.old.mean:.4f}", f"{change.difference.mean:+.4f}", ends]
        else:
            cells.append(f"{change.new.low:.4f} to {change.new.high:.4f}")
        table.add_row(*cells)
    console.print(table)
    console.print(
        f"On {comparison.queries:,} labelled queries over {comparison.documents:,} documents.{own_left_out(own)}",
        soft_wrap=True,
    )


def print_lost(ann: AnnReport, texts: Mapping[str, str], console: Console) -> None:
    """Name the documents that exact search has at rank 1 and the index did not find."""
    from revector.pages.index_report import lost_best

    if not ann.lost_best:
        return
    console.print(f"{lost_best(ann)}:", style="yellow", soft_wrap=True)
    for one in ann.lost[:SHOWN]:
        relevant = ", judged relevant" if one.relevant else ""
        query = one_line(texts.get(one.query, ""), 70)
        console.print(f"  {one.document} ({one.score:.4f}{relevant}) for {one.query}: {query}", soft_wrap=True)
    if ann.lost_best > SHOWN:
        console.print("  …; --json names more", soft_wrap=True)


def own_left_out(count: int) -> str:
    """Return the sentence that documents which are a query themselves were left out; empty where there are none."""
    return f" {count:,} queries are documents themselves: each was left out of its own answers." if count else ""
