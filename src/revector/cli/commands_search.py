"""Commands that ask and measure: search, eval, and training a small model on the collection itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from revector.cli.options import Collection, Json, ProjectPath, Session, json_object, open_session
from revector.cli.output import make_table, one_line, pairs
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.gate import Measured
    from revector.labels import Labels
    from revector.searcher import Answer
    from revector.slices import Slices

_PANEL = "Search"
PAGE_DOCUMENTS = 1_000
WORST = 10

MOST_SLICES = 20
"""A field with more values than this is an identifier, and none of its slices would be large enough."""

Generation = Annotated[int | None, typer.Option(help="Number of a live generation; default: what is served.")]
Exact = Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the HNSW index.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(search)
    app.command("eval", rich_help_panel=_PANEL)(evaluate)
    app.command("train-lsa", rich_help_panel=_PANEL)(train)


def search(
    query: Annotated[str, typer.Argument()],
    *,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    where: Annotated[str | None, typer.Option(help="Filter on metadata, as a JSON object.")] = None,
    by: Annotated[Literal["document", "chunk"], typer.Option(help="Best chunk of each document, or every chunk.")] = (
        "document"
    ),
    generation: Generation = None,
    exact: Exact = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say who answered, how, and how fast.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Search through the alias.

    For example:
      revector search "how do I reset my password" -k 5
      revector search invoice --where '{"lang": ["en", "de"], "year": {"gte": 2024}}' --explain
    """
    session = open_session(project, collection, as_json=json)
    answer = session.project.searcher(session.collection).search(
        query, k, where=json_object("--where", where) or None, by=by, generation=generation, exact=exact
    )
    session.out.show(answer, lambda console: _answer_page(answer, console, explain=explain))


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
    session = open_session(project, collection, as_json=json)
    if html is not None and not html.absolute().parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.parent}. Nothing was measured; create it.")
    with reporting(quiet=json) as progress:
        migrator = session.project.migrator(session.collection, progress=progress)
        measured = migrator.evaluate(generation=generation, k=k, exact=exact)
        if html is not None:
            active = session.project.searcher(session.collection).resolve().gen
            old = None if measured.generation == active else migrator.evaluate(generation=active, k=k, exact=exact)
            html.write_text(_report(session, measured, old, k, exact=exact), encoding="utf-8")
    rows = _worst(session, measured, worst)
    data = {
        "generation": measured.generation,
        "revision": measured.revision,
        "k": k,
        "exact": exact,
        "queries": len(measured.run),
        "metrics": {name: measured.interval(name)._asdict() for name in measured.metrics},
        "latency_ms": measured.latency_ms,
        "worst": rows,
        "html": None if html is None else str(html),
    }
    session.out.show(data, lambda console: _eval_page(data, console))


def train(
    folder: Annotated[Path, typer.Argument(help="New folder of the model, from the project folder.")],
    *,
    dim: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 256,
    vocabulary: Annotated[int, typer.Option(min=256, help="Most tokens of its tokenizer.")] = 20_000,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Train a small model on the collection's own documents: latent semantic analysis, no download, seconds on a CPU.

    For example:
      revector train-lsa models/lsa --dim 128
      revector revision -m first --model ./models/lsa
    """
    from revector.encoders.lsa import train_lsa

    session = open_session(project, collection, as_json=json)
    target = session.project.root / folder.expanduser()
    with reporting(quiet=json) as progress:
        progress.start("read", session.project.documents(session.collection).count())

        def counted() -> Iterator[str]:
            for text in _texts(session):
                progress.advance()
                yield text
            progress.done()

        train_lsa(counted(), target, dim=dim, vocabulary=vocabulary)
    inside = target.is_relative_to(session.project.root)
    reference = f"./{target.relative_to(session.project.root)}" if inside else str(target)
    session.out.show(
        {"folder": str(target), "model": reference, "dim": dim},
        lambda console: console.print(
            f"Saved {target}. Use it: revector revision -m first --model {reference} --dim {dim}", soft_wrap=True
        ),
    )


# Helpers --------------------------------------------------------------------------------------------------------------


def _answer_page(answer: Answer, console: Console, *, explain: bool) -> None:
    if not answer.hits:
        console.print("No document matches.")
    for rank, hit in enumerate(answer.hits, start=1):
        console.print(Text.assemble(f"{rank:>3}. {hit.score:.4f}  ", (hit.id, "bold")), soft_wrap=True)
        console.print(f"     {one_line(hit.text, 200)}", style="dim", soft_wrap=True)
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
            },
        )


def _worst(session: Session, measured: Measured, count: int) -> list[dict[str, Any]]:
    """Return the queries with the lowest recall, none of them perfect; documents that no longer exist do not count."""
    from revector.labels import load_labels

    labels = load_labels(session.project.labels(session.collection) or Path())
    recall = measured.metrics["recall"]
    queries = [query for query in sorted(recall, key=lambda query: (recall[query], query)) if recall[query] < 1][:count]
    relevant = {query: [doc for doc, score in labels.qrels[query].items() if score > 0] for query in queries}
    known = session.project.documents(session.collection).known({doc for docs in relevant.values() for doc in docs})
    return [
        {
            "query": query,
            "text": labels.queries[query],
            "recall": recall[query],
            "relevant": [doc for doc in relevant[query] if doc in known],
            "found": measured.run[query],
        }
        for query in queries
    ]


def _eval_page(data: dict[str, Any], console: Console) -> None:
    how = "exact search" if data["exact"] else "as in production"
    console.print(
        f"Generation {data['generation']}, revision {data['revision']}: {data['queries']:,} queries, {how}",
        style="bold",
        soft_wrap=True,
    )
    table = make_table("metric", "mean", "95 % interval", right=("mean",))
    for name, value in data["metrics"].items():
        table.add_row(f"{name}@{data['k']}", f"{value['mean']:.4f}", f"{value['low']:.4f} to {value['high']:.4f}")
    console.print(table)
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in data["latency_ms"].items())
    console.print(f"Search, without encoding: {latency}")
    if data["worst"]:
        console.print("\nThe worst queries:")
        table = make_table("recall", "query", "relevant, not found", right=("recall",))
        for row in data["worst"]:
            missing = [doc for doc in row["relevant"] if doc not in row["found"]]
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            table.add_row(f"{row['recall']:.2f}", one_line(row["text"], 70), shown)
        console.print(table)
    if data["html"]:
        console.print(f"\nWrote {data['html']}: open it in a browser.", soft_wrap=True)


def _report(session: Session, new: Measured, old: Measured | None, k: int, *, exact: bool) -> str:
    """Return the page on what was measured now, under the verdict that is kept at this ``k``, if there is one."""
    from revector.comparison import Scored, attainable_recall, compare
    from revector.gate import usable_qrels
    from revector.labels import load_labels
    from revector.pages.gate import render
    from revector.report import latest_result
    from revector.spec import Gate
    from revector.statistics import CONFIDENCE

    documents = session.project.documents(session.collection)
    labels = load_labels(session.project.labels(session.collection) or Path())
    qrels, counts = usable_qrels(labels, documents.known, Gate(min_queries=1))
    with session.project.engine.connect() as connection:
        kept = latest_result(connection, new.generation, "recall") or {}
    judged = kept if kept.get("k") == k else {}
    gate = judged.get("gate") or {}
    sides = {role: one for role, one in (("new", new), ("old", old)) if one is not None}
    scored = {role: Scored(one.revision, labels.fingerprint, one.metrics, one.run) for role, one in sides.items()}
    comparison = compare(
        scored["new"],
        scored.get("old"),
        k=k,
        documents=documents.count(),
        max_drop=gate.get("max_drop") if old else None,
        slices=_slices(labels),
        attainable=attainable_recall(qrels, k),
        confidence=gate.get("confidence") or CONFIDENCE,
    )
    return render(
        {
            **{name: judged.get(name) for name in ("verdict", "reasons", "overridden", "at", "gate")},
            **counts,
            **{
                role: {"generation": one.generation, "revision": one.revision, "latency_ms": one.latency_ms}
                for role, one in sides.items()
            },
            "collection": session.collection,
            "measured_at": session.project.status(session.collection)["database_time"],
            "exact": exact,
            "k": k,
            "labels": labels.name,
            "comparison": comparison.as_data(),
            "scores": {role: one.metrics["recall"] for role, one in sides.items()},
            "texts": labels.queries,
            "relevant": {query: [doc for doc, score in of.items() if score > 0] for query, of in qrels.items()},
        }
    )


def _slices(labels: Labels) -> Slices:
    """Return the queries by length, and by each field of their metadata that has few values."""
    from revector.slices import field_slices, length_slices

    meta = {query: labels.meta.get(query, {}) for query in labels.queries}
    by = {"length": length_slices({query: len(text.split()) for query, text in labels.queries.items()})}
    by |= {name: field_slices(meta, name) for name in sorted({name for one in meta.values() for name in one})}
    return {name: found for name, found in by.items() if len(found) <= MOST_SLICES}


def _texts(session: Session) -> Iterator[str]:
    """Yield the text of every document in id order, page by page, so that no transaction stays open."""
    import sqlalchemy as sa

    cid, after = session.project.cid(session.collection), ""
    page = sa.text(
        "SELECT doc_id, content FROM document WHERE cid = :cid AND doc_id > :after AND NOT deleted "
        "ORDER BY doc_id LIMIT :rows"
    )
    while True:
        with session.project.engine.connect() as connection:
            rows = connection.execute(page, {"cid": cid, "after": after, "rows": PAGE_DOCUMENTS}).all()
        if not rows:
            return
        after = rows[-1].doc_id
        yield from (row.content for row in rows)
