"""Commands that ask and measure: search and eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import typer
from rich.console import Console
from rich.text import Text

from revector.cli.commands_documents import refused_line
from revector.cli.commands_gate import check_folder, measured_page, own_left_out, refused_queries
from revector.cli.options import Collection, Json, ProjectPath, json_object, open_session, query_of
from revector.cli.output import make_table, one_line, pairs
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.documents.deadletters import Refusal
    from revector.gate.gate import GateMeasurement
    from revector.gate.query_set import QuerySet
    from revector.serving.searcher import Answer

_PANEL = "Search"
WORST = 10

Generation = Annotated[int | None, typer.Option(help="Number of a live generation; default: what is served.")]
Exact = Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the HNSW index.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(search)
    app.command("eval", rich_help_panel=_PANEL)(evaluate)


def search(
    query: Annotated[str | None, typer.Argument()] = None,
    *,
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="Ask by an image instead.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Filter on metadata, as a JSON object; 'author.name' reaches inside.")
    ] = None,
    by: Annotated[Literal["document", "chunk"], typer.Option(help="Best chunk of each document, or every chunk.")] = (
        "document"
    ),
    min_score: Annotated[
        str | None, typer.Option(metavar="SCORE|NAME", help="Least similarity, or the name of a cut-off.")
    ] = None,
    generation: Generation = None,
    exact: Exact = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say who answered, how, how fast, and what is behind a refused version.")
    ] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Search through the alias.

    For example:
      revector search "how do I reset my password" -k 5
      revector search "how do I pay" --min-score support
      revector search --image cat.jpg
      revector search invoice --where '{"lang": ["en", "de"], "year": {"gte": 2024}}' --explain
    """
    session = open_session(project, collection, as_json=json)
    answer = session.project.searcher(session.collection).search(
        query_of(query, image),
        k,
        where=json_object("--where", where) or None,
        by=by,
        generation=generation,
        exact=exact,
        min_score=_least(min_score),
    )
    behind = session.project.documents(session.collection).refused([hit.id for hit in answer.hits]) if explain else {}
    data = asdict(answer) | {"behind": behind} if explain else answer
    session.out.show(data, lambda console: _answer_page(answer, console, behind, explain=explain, least=min_score))


def evaluate(
    *,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Cut-off rank.")] = 10,
    generation: Generation = None,
    exact: Exact = False,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst queries to list.")] = WORST,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write a page; another generation beside the active one."),
    ] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Measure recall, nDCG, MRR and hit rate of a generation on the labelled queries, with 95 % intervals.

    For example:
      revector eval -k 10 --exact
      revector eval --generation 7 --html report.html
    """
    from revector.serving.queries import named

    session = open_session(project, collection, as_json=json)
    check_folder(html)
    with reporting(quiet=json) as progress:
        migrator = session.project.migrator(session.collection, progress=progress)
        queries = migrator.queries()
        measured = migrator.evaluate(generation=generation, k=k, exact=exact, queries=queries)
        if html is not None:
            active, old = session.project.searcher(session.collection).resolve().gen, None
            if measured.generation != active:
                old = migrator.evaluate(generation=active, k=k, exact=exact, queries=queries)
            html.write_text(measured_page(session, queries, measured, old, k, exact=exact), encoding="utf-8")
    rows = _worst(queries, measured, worst)
    found = _Evaluated(
        measured.generation,
        measured.revision,
        k,
        exact,
        len(measured.run),
        queries.counts["own_documents"],
        queries.counts["same_ids"],
        {name: interval._asdict() for name, interval in measured.intervals.items()},
        measured.latency_ms,
        named(measured.refused),
        rows,
        None if html is None else str(html),
    )
    session.out.show(found, lambda console: _eval_page(found, console))


def _least(said: str | None) -> float | str | None:
    """Return the number that was said; else the name of a cut-off, which begins with a letter."""
    if said is None or said[:1].isalpha():
        return said
    try:
        return float(said)
    except ValueError as error:
        raise ConfigError(
            f"--min-score takes a similarity such as 0.42, or the name of a cut-off, found {said!r:.80}. Nothing was "
            "searched."
        ) from error


# Helpers --------------------------------------------------------------------------------------------------------------


def _answer_page(
    answer: Answer, console: Console, behind: Mapping[str, Refusal], *, explain: bool, least: str | None
) -> None:
    if not answer.hits:
        console.print(f"No document matches{'' if least is None else f', or none reaches {least}'}.")
    for warning in answer.warnings:
        console.print(warning, style="yellow", soft_wrap=True, markup=False)
    for rank, hit in enumerate(answer.hits, start=1):
        console.print(Text.assemble(f"{rank:>3}. {hit.score:.4f}  ", (hit.id, "bold")), soft_wrap=True)
        shown = "(its image)" if hit.kind == "image" else one_line(hit.text, 200)
        console.print(f"     {shown}", style="dim", soft_wrap=True)
    if explain:
        console.print()
        pairs(
            console,
            {
                "answered by": f"generation {answer.generation}, revision {answer.revision}",
                "encoder": answer.encoder_fp,
                "how": "exact: every vector that passes the filter" if answer.exact else "HNSW index",
                "time": f"{answer.encode_ms:.1f} ms to encode, {answer.search_ms:.1f} ms to search",
                "statements": str(answer.asked),
                "cut-offs": ", ".join(f"{name} {score:.4f}" for name, score in answer.cutoffs.items()) or "none",
            },
        )
        for doc_id, refused in behind.items():
            console.print(refused_line(doc_id, refused), style="yellow", soft_wrap=True)


class _Worst(TypedDict):
    query: str
    text: str
    recall: float
    relevant: list[str]
    found: list[str]


def _worst(queries: QuerySet, measured: GateMeasurement, count: int) -> list[_Worst]:
    """Return the queries with the lowest recall, none of them perfect; documents that no longer exist do not count."""
    from revector.labels import shown

    recall = measured.metrics["recall"]
    imperfect = sorted((query for query in recall if recall[query] < 1), key=lambda query: (recall[query], query))
    return [
        {
            "query": query,
            "text": queries.labels.queries[query],
            "recall": recall[query],
            "relevant": [shown(item) for item, score in queries.items[query].items() if score > 0],
            "found": [shown(item) for item in measured.run[query]],
        }
        for query in imperfect[:count]
    ]


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What `eval` measured, as its JSON has it."""

    generation: int
    revision: str
    k: int
    exact: bool
    queries: int
    own_documents: int
    same_ids: int
    metrics: Mapping[str, Mapping[str, float]]
    latency_ms: Mapping[str, float]
    refused_queries: Mapping[str, object]
    worst: Sequence[_Worst]
    html: str | None


def _eval_page(found: _Evaluated, console: Console) -> None:
    from revector.gate.figures import RefusedQueries

    how = "exact search" if found.exact else "as in production"
    console.print(
        f"Generation {found.generation}, revision {found.revision}: {found.queries:,} queries, {how}",
        style="bold",
        soft_wrap=True,
    )
    table = make_table("metric", "mean", "95 % interval", right=("mean",))
    for name, value in found.metrics.items():
        table.add_row(
            f"{name.replace('_iou', ' IoU')}@{found.k}",
            f"{value['mean']:.4f}",
            f"{value['low']:.4f} to {value['high']:.4f}",
        )
    console.print(table)
    if latency := ", ".join(f"{name} {value:.1f} ms" for name, value in found.latency_ms.items()):
        console.print(f"Search, without encoding: {latency}")
    refused = RefusedQueries.model_validate(found.refused_queries)
    refused_queries(refused, f"generation {found.generation}", console)
    if said := own_left_out(found.own_documents):
        console.print(said.strip(), soft_wrap=True)
    if found.same_ids:
        line = f"{found.same_ids:,} queries share their id with a document of other text, which was not left out."
        console.print(line, soft_wrap=True)
    if found.worst:
        console.print("\nThe worst queries:")
        table = make_table("recall", "query", "relevant, not found", right=("recall",))
        for row in found.worst:
            missing = [doc for doc in row["relevant"] if doc not in row["found"]]
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            table.add_row(f"{row['recall']:.2f}", one_line(row["text"], 70), shown)
        console.print(table)
    if found.html:
        console.print(f"\nWrote {found.html}: open it in a browser.", soft_wrap=True)
