"""Commands about labelled queries: check them, make them from clicks, have people judge a pool, draw a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import Output, make_table
from revector.cli.progress import reporting
from revector.errors import ConfigError, LabelError

if TYPE_CHECKING:
    from revector.labels import Labels, LabelSource
    from revector.labels.checking import LabelsReport
    from revector.labels.clicks import Counts
    from revector.registry.collections import Generation


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
    labels.command()(pool)
    labels.command()(add)
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
    from revector.labels import read_labels
    from revector.labels.checking import check_labels

    session = open_session(project, collection, as_json=json)
    found = check_labels(
        read_labels(_source(session, source)),
        lambda ids: _lengths(session, ids),
        session.project.documents(session.collection).texts,
    )
    session.out.show(
        {"found": found.found, **asdict(found)},
        lambda console: _check_page(found, console),
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


def pool(
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write: .csv or .jsonl.")],
    generation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|active|building|standby",
            help="May be repeated; default: active and building.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".jsonl (_id, text) or .tsv; default: the labelled queries.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Best documents of each generation.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides the order of the documents.")] = 0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Write the best documents of several generations together, for people to judge: shuffled, no model named.

    Fill the column score (0: not relevant; 1 and more: relevant) where judged says no, and bring the file back with
    `revector labels add`. Cells that a spreadsheet would run as a formula are quoted with an apostrophe.

    For example:
      revector labels pool -o pool.csv
      revector labels pool -o pool.jsonl --generation active --queries new.jsonl -k 20
    """
    from revector.labels import pool as pools

    session = open_session(project, collection, as_json=json)
    _refuse_output(out, pools.ENDINGS)
    known, asked = _asked(session, queries)
    found = _pooled(session, _generations(session, generation or ["active", "building"]), asked, k)
    get = session.project.documents(session.collection).get
    rows = list(pools.pool_rows(asked, found, pools.judged_pairs(known), get, seed))
    pools.write_pool(out, rows)
    judged = sum(row["judged"] == "yes" for row in rows)
    data = {"file": str(out), "queries": len(asked), "rows": len(rows), "judged": judged, "seed": seed}
    session.out.show(
        data,
        lambda console: console.print(
            f"Wrote {out}: {len(rows):,} documents of {len(asked):,} queries, {judged:,} of them judged already. Fill "
            f"the column score, then: revector labels add {out}",
            soft_wrap=True,
        ),
    )


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pool with scores: .csv or .jsonl.")],
    *,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder in BEIR layout, made if it is not there; default: qrels."),
    ] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Add a judged pool to the labels: all rows, or none if one contradicts what is known. Empty scores are counted.

    For example:
      revector labels add pool.csv
      revector labels add pool.csv --to labels
    """
    from revector.labels import pool as pools
    from revector.labels import read_labels

    session = open_session(project, collection, as_json=json)
    folder = to if to is not None else _source(session, None)
    if not isinstance(folder, Path) or folder.is_file() or (folder / "qrels.txt").is_file():
        raise LabelError(
            f"judgements were to be added to {folder}, which is no folder in BEIR layout. Nothing was written; name "
            "one with --to."
        )
    judged, empty = pools.read_pool(file)
    there = _lengths(session, sorted({row.document for row in judged}))
    if unknown := [f"{row.document!r} at {row.place}" for row in judged if row.document not in there]:
        raise LabelError(
            f"{len(unknown):,} judged rows name documents that the collection never had: {', '.join(unknown[:10])}. "
            "Nothing was written; a spreadsheet may have changed ids such as 007 or 1-2: read them as text."
        )
    before = read_labels(folder) if pools.is_beir(folder) else None
    done = pools.add_judged(folder, "test", before, judged, empty)
    session.out.show(
        {"folder": str(folder), **asdict(done)},
        lambda console: console.print(
            f"Added {done.added:,} judgements and {done.new_queries:,} queries to {folder}; {done.known:,} rows were "
            f"known or repeated, {done.empty:,} have no score.",
            soft_wrap=True,
        ),
    )


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
    known = load_labels(_source(session, source))
    there = check_against(known, session.project.documents(session.collection).known).queries_left
    drawn = draw_queries(known, there, queries, by=by, seed=seed)
    folder = write_beir(out, known, drawn.queries)
    parts = {} if by is None else {value: {"drawn": took, "of": size} for value, (took, size) in drawn.parts.items()}
    made = _SampleMade(str(folder), len(drawn.queries), len(there), by, parts)
    session.out.show(made, lambda console: _sample_page(made, out, console))


# Helpers --------------------------------------------------------------------------------------------------------------


def _source(session: Session, named: str | None) -> LabelSource:
    from revector.labels import label_source

    if named is not None:
        return label_source(named, Path(), lambda: session.project.database_url)
    if (source := session.project.labels(session.collection)) is None:
        raise LabelError(
            f"collection {session.collection!r} has no labelled queries. Nothing has run; set qrels in revector.toml "
            "to a folder in BEIR layout or of TREC files, a .csv file, or sql:SELECT ..."
        )
    return source


def _lengths(session: Session, ids: Sequence[str]) -> dict[str, int | None]:
    """Return the length in characters of those documents that were ever stored; None where it was deleted."""
    import sqlalchemy as sa

    cid = session.project.cid(session.collection)
    rows = sa.text(
        "SELECT doc_id, CASE WHEN NOT deleted THEN char_length(content) END AS size FROM document WHERE cid = :cid AND "
        "doc_id = ANY(CAST(:ids AS text[]))"
    )
    with session.project.engine.connect() as connection:
        return {row.doc_id: row.size for row in connection.execute(rows, {"cid": cid, "ids": list(ids)})}


def _check_page(found: LabelsReport, console: Console) -> None:
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


def _refuse_output(out: Path, endings: Sequence[str]) -> None:
    if out.suffix not in endings:
        raise ConfigError(f"{out}: the name must end in {' or '.join(endings)}. Nothing has run; name another file.")
    if out.exists():
        raise ConfigError(f"{out} exists, and may hold judgements. Nothing has run; name another file.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}. Nothing has run; make it.")


def _asked(session: Session, queries: Path | None) -> tuple[Labels | None, Mapping[str, str]]:
    """Return the labels, if there are any, and the queries to ask: those of a file, or the labelled ones."""
    from revector.labels import load_labels, read_queries
    from revector.labels.pool import check_same_texts

    configured = session.project.collection(session.collection).qrels is not None
    known = load_labels(_source(session, None)) if configured or queries is None else None
    if queries is not None:
        asked = {query.id: query.text for query in read_queries(queries)}
        if known is not None:
            check_same_texts(known, asked)
        return known, asked
    return known, {} if known is None else known.queries


def _generations(session: Session, named: Sequence[str]) -> list[Generation]:
    """Return the generations of these roles or numbers. Raises ``ConfigError`` for a slot that is empty."""
    from revector.registry.collections import read_collection

    with session.project.engine.connect() as connection:
        slots = read_collection(connection, session.collection)
    numbers = {"active": slots.active_gen, "building": slots.building_gen, "standby": slots.standby_gen}
    there = ", ".join(f"{role} {gen}" for role, gen in numbers.items() if gen is not None) or "none"
    chosen: list[Generation] = []
    for name in named:
        gen = int(name) if name.isdecimal() else numbers.get(name)
        if gen is None:
            raise ConfigError(
                f"generation {name!r} was asked for; there are: {there}. Nothing has run; name one or more with "
                "--generation."
            )
        chosen.append(session.project.searcher(session.collection).resolve(gen))
    return chosen


def _pooled(
    session: Session, generations: Sequence[Generation], asked: Mapping[str, str], k: int
) -> dict[str, list[str]]:
    """Return the best ``k`` documents of each query in each of the generations, all in one list per query."""
    searcher = session.project.searcher(session.collection)
    found = {query: list[str]() for query in asked}
    with reporting(quiet=session.out.as_json) as progress:
        for one in generations:
            taken, _ = searcher.askable(one, asked)
            progress.start(f"search generation {one.gen}", len(taken), unit="queries")
            for query, vector in searcher.encode_all(one, taken):
                answer = searcher.search_vector(one, vector, k)
                found[query].extend(hit.id for hit in (answer.hits if answer else ()))
                progress.advance()
            progress.done()
    return found
