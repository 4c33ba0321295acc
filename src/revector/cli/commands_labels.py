"""Commands about labelled queries: check them, make them from clicks, draw a sample; judging is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli import commands_judging, commands_proxy
from revector.cli.exits import CHECK_FAILED
from revector.cli.label_sources import document_lengths, source_of
from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import Output, make_table
from revector.errors import LabelError

if TYPE_CHECKING:
    from revector.gate.needs import LabelNeed
    from revector.labels.checking import LabelsReport
    from revector.labels.clicks import Counts


@dataclass(frozen=True, slots=True)
class _ClicksMade:
    """What `labels from-clicks` made, as its JSON has it."""

    folder: str
    queries: int
    judgements: int
    mean_weight: float | None
    counts: Counts
    bias: Sequence[str]


@dataclass(frozen=True, slots=True)
class _SampleMade:
    """What `labels sample` made, as its JSON has it; ``parts`` by value of the field ``by``: ``drawn``, ``of``."""

    folder: str
    queries: int
    of: int
    by: str | None
    parts: Mapping[str, Mapping[str, int]]


labels = typer.Typer(
    no_args_is_help=True,
    help="Labelled queries: what recall is measured on.\n\nFor example:\n  revector labels check",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    labels.command()(check)
    labels.command("from-clicks")(from_clicks)
    commands_judging.register(labels)
    commands_proxy.register(labels)
    labels.command()(sample)
    app.add_typer(labels, name="labels", rich_help_panel="Search")


def check(
    source: Annotated[
        str | None, typer.Argument(help="Folder, .csv or sql:SELECT ...; default: qrels of revector.toml.")
    ] = None,
    *,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Count and name everything doubtful in the labelled queries; ends with 11 if there is any, 9 if they are unusable.

    SOURCE is a folder in BEIR layout, a folder with qrels.txt and queries.tsv or topics.txt (TREC), a .csv file, or a
    query on the project's database. CSV and query name the columns query_id, query, doc_id and score; start and end
    judge a part of a document, in characters; all others describe the query, for slices.

    For example:
      revector labels check
      revector labels check judged.csv -c docs
      revector labels check 'sql:SELECT query_id, query, doc_id, score, lang FROM judged'
    """
    from revector.formats.kept import plain
    from revector.labels import read_labels
    from revector.labels.checking import check_labels

    session = open_session(project, collection, as_json=json)
    found = check_labels(
        read_labels(source_of(session, source)),
        lambda ids: document_lengths(session, ids),
        session.project.documents(session.collection).texts,
    )
    need = _need(session)
    session.out.show(
        {"found": found.found, **asdict(found), "labels_needed": plain(need)},
        lambda console: _check_page(found, need, console),
    )
    if found.refusal is not None:
        raise typer.Exit(LabelError.exit_code)
    if found.found:
        raise typer.Exit(CHECK_FAILED)


def from_clicks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: query, doc_id, time, perhaps position.")],
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder, in BEIR layout.")],
    min_clicks: Annotated[
        int, typer.Option(min=1, metavar="N", help="A document is relevant for a query from N clicks on.")
    ] = 3,
    days: Annotated[
        float | None,
        typer.Option(min=0, max=36_500, help="Only clicks within this many days of the newest; default: all."),
    ] = None,
    json: Json = False,
) -> None:
    """Make labels of a log of clicks. They are biased: the result and its README say how.

    FILE names the columns query, doc_id (what was clicked), time (ISO 8601) and, if known, position (from 1): a click
    far down then counts more than one at the top. White space and letter case of queries do not matter.

    For example:
      revector labels from-clicks clicks.csv -o labels --min-clicks 5 --days 90
    """
    from revector.labels import write_beir
    from revector.labels.clicks import bias, label_clicks, readme

    found = label_clicks(file, min_clicks=min_clicks, days=days)
    folder = write_beir(out, found.labels, readme=readme(found, min_clicks=min_clicks, days=days))
    queries, judgements = len(found.labels.queries), sum(map(len, found.labels.qrels.values()))
    made = _ClicksMade(str(folder), queries, judgements, found.mean_weight, found.counts, bias(found))
    Output(as_json=json).show(made, lambda console: _clicks_page(made, out, console))


def sample(
    source: Annotated[
        str | None, typer.Argument(help="Folder, .csv or sql:SELECT ...; default: qrels of revector.toml.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder, in BEIR layout.")],
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="How many to draw.")] = 600,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field of the queries' metadata whose values keep their shares.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which; another number of queries keeps most of them.")] = 0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Draw a smaller set from labelled queries, such as the daily canary measures: `canary` of revector.toml.

    Queries whose relevant documents are all gone are left out; judgements, spans and metadata stay. Every value of
    --by is in the sample, however rare.

    For example:
      revector labels sample -o canary --queries 600 --by lang
    """
    from revector.labels import check_against, load_labels, write_beir
    from revector.labels.drawing import draw_queries

    session = open_session(project, collection, as_json=json)
    known = load_labels(source_of(session, source))
    there = check_against(known, session.project.documents(session.collection).known).queries_left
    drawn = draw_queries(known, there, queries, by=by, seed=seed)
    folder = write_beir(out, known, drawn.queries)
    parts = {} if by is None else {value: {"drawn": took, "of": size} for value, (took, size) in drawn.parts.items()}
    made = _SampleMade(str(folder), len(drawn.queries), len(there), by, parts)
    session.out.show(made, lambda console: _sample_page(made, out, console))


# Helpers --------------------------------------------------------------------------------------------------------------


def _need(session: Session) -> LabelNeed | None:
    """Return how many labels the gate of the newest migration file needs, or one that says nothing about it."""
    from revector.gate.needs import label_need
    from revector.revisions import RevisionGraph
    from revector.spec import Gate

    folder = session.project.migrations(session.collection)
    head = RevisionGraph.from_folder(folder).head if any(folder.glob("[!._]*.py")) else None
    return label_need(Gate() if head is None else head.gate)


def _check_page(found: LabelsReport, need: LabelNeed | None, console: Console) -> None:
    console.print(
        f"{found.name}: {found.judgements:,} judgements of {found.queries:,} queries, {found.usable:,} queries usable",
        style="bold",
        soft_wrap=True,
    )
    table = make_table("found", "count", "the first", right=("count",))
    for name, finding in found.findings.items():
        if finding.count:
            table.add_row(name, f"{finding.count:,}", ", ".join(finding.first))
    console.print(table if found.found else "Nothing doubtful was found.")
    if found.unjudged.count:
        console.print(f"Not used, for nothing is judged for them: {found.unjudged.count:,} queries.", soft_wrap=True)
    if need is not None:
        console.print(need.sentence, soft_wrap=True)
    if found.refusal:
        console.print(f"Unusable: {found.refusal}", style="red", soft_wrap=True)


def _clicks_page(made: _ClicksMade, out: Path, console: Console) -> None:
    counts = made.counts
    console.print(
        f"Wrote {made.folder}: {made.judgements:,} judgements of {made.queries:,} queries from "
        f"{counts.clicks:,} clicks. Left out: {counts.pairs_below:,} of {counts.pairs:,} pairs and "
        f"{counts.queries_below:,} of {counts.queries:,} queries with too few clicks; {counts.outside_days:,} older "
        f"clicks; {counts.unusable:,} with an empty or damaged query"
        + (f", such as {', '.join(counts.first_unusable)}." if counts.unusable else "."),
        soft_wrap=True,
    )
    console.print("\nSuch labels are biased:", style="bold")
    for line in made.bias:
        console.print(f"* {line}", soft_wrap=True)
    console.print(f'\nUse them: qrels = "{out}" in revector.toml, then revector labels check.', soft_wrap=True)


def _sample_page(made: _SampleMade, out: Path, console: Console) -> None:
    console.print(f"Wrote {made.folder}: {made.queries:,} of {made.of:,} queries.", soft_wrap=True)
    if made.by is not None and made.parts:
        table = make_table(made.by, "drawn", "of", right=("drawn", "of"))
        for value, part in made.parts.items():
            table.add_row(value, f"{part['drawn']:,}", f"{part['of']:,}")
        console.print(table)
    console.print(f'Use it: canary = "{out}" in revector.toml, then revector canary.', soft_wrap=True)
