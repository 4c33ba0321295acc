"""`revector compare`: one generation with another, or its ANN index with exact search, on the same queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from revector.cli.commands_cutoffs import parse_cutoffs
from revector.cli.commands_gate import own_left_out, print_lost, refused_queries
from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import make_table
from revector.cli.progress import reporting
from revector.errors import ConfigError, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from revector.gate.ann import AnnReport
    from revector.gate.query_set import QuerySet

TIMED_QUERIES = 200

DEMANDED = 0.95
"""Overlap with exact search that `--exact` demands where nothing is said."""

QueriesFile = Annotated[
    Path | None, typer.Option(help="Text file with one query per line; default: the labelled queries.")
]
OtherGeneration = Annotated[
    int | None, typer.Option(help="Generation beside the active one; default: building, standby.")
]
Cutoffs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SCORE", help="A similarity threshold on the active model; default: those of revector cutoffs."
    ),
]

WithExact = Annotated[bool, typer.Option("--exact", help="Compare an ANN index with exact search.")]
MeasuredGeneration = Annotated[
    int | None, typer.Option(help="With --exact: a live generation; default: the active one.")
]
Least = Annotated[
    float | None, typer.Option(min=0, max=1, help=f"With --exact: demanded overlap; default: {DEMANDED:g}.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel="Search")(compare)


def compare(
    *,
    queries: QueriesFile = None,
    new: OtherGeneration = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Documents of each answer.")] = 10,
    cutoff: Cutoffs = None,
    exact: WithExact = False,
    generation: MeasuredGeneration = None,
    least: Least = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Compare the active generation with another live one, or with --exact an index with exact search.

    The same queries are asked of both. Two generations: agreement, latency in turns on this machine, and for each
    --cutoff (or each of `revector cutoffs`), a threshold on similarities of the active model, the one that lets the
    same share of scores through, with how many decisions stay; needs no labels. --exact: what the ANN index loses on
    the labelled queries, and which ef_search is enough; exit code 11 where it does not reach --least as configured.

    For example:
      revector compare --queries last-week.txt --cutoff support=0.42
      revector compare --exact --least 0.97
    """
    session = open_session(project, collection, as_json=json)
    if exact:
        _refuse("--exact", {"--queries": queries, "--new": new, "--cutoff": cutoff})
        _compare_with_exact(session, generation, k, DEMANDED if least is None else least)
    else:
        _refuse("a comparison without --exact", {"--generation": generation, "--least": least})
        _compare_generations(session, queries, new, k, cutoff)


def _refuse(what: str, options: Mapping[str, object]) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise ConfigError(f"{what} does not take {', '.join(given)}. Nothing ran; leave that out.")


def _compare_generations(
    session: Session, queries: Path | None, new: int | None, k: int, cutoffs: Sequence[str] | None
) -> None:
    from revector.gate.latency import compare_latency
    from revector.gate.scoring import ask_scored
    from revector.measure.agreement import agree
    from revector.measure.thresholds import match_cutoffs
    from revector.serving.queries import named

    thresholds = _thresholds(session, cutoffs)
    asked = _queries(session, queries)
    own = session.project.documents(session.collection).own(asked).documents
    texts = list(asked.values())
    with reporting(quiet=session.out.as_json) as progress:
        old_gen, new_gen = _generations(session, new)
        searcher = session.project.searcher(session.collection)
        old, other = (
            ask_scored(searcher, searcher.resolve(gen), asked, own, k, progress) for gen in (old_gen, new_gen)
        )
    ids = [{query: [doc for doc, _ in hits] for query, hits in one.run.items()} for one in (old, other)]
    data: dict[str, object] = {"old": old_gen, "new": new_gen, "k": k, **agree(ids[0], ids[1], k=k).as_data()}
    data["own_documents"] = len(own)
    data["refused_queries"] = {"old": named(old.refused), "new": named(other.refused)}
    moved = match_cutoffs(thresholds, old.run, other.run) if thresholds else ()
    data["cutoffs"] = [one.as_data() for one in moved]
    data["latency"] = compare_latency(
        searcher, searcher.resolve(old_gen), searcher.resolve(new_gen), texts[:TIMED_QUERIES], k
    ).as_data()
    session.out.show(data, lambda console: _page(data, console))


def _compare_with_exact(session: Session, generation: int | None, k: int, least: float) -> None:
    from revector.gate.ann import measure_ann
    from revector.gate.query_set import usable_queries
    from revector.labels import load_labels

    source = session.project.labels(session.collection)
    if source is None:
        raise ConfigError("no labelled queries are configured. Nothing ran; set qrels in revector.toml.")
    queries = usable_queries(load_labels(source), session.project.documents(session.collection))
    searcher = session.project.searcher(session.collection)
    with reporting(quiet=session.out.as_json) as progress:
        found = measure_ann(
            session.project.engine,
            searcher,
            searcher.resolve(generation),
            queries.texts,
            k,
            qrels=queries.qrels,
            own=queries.own,
            min_overlap=least,
            progress=progress,
        )
    data = found.as_data() | {"own_documents": queries.counts["own_documents"]}
    session.out.show(data, lambda console: _ann_page(found, queries, console))
    if found.reasons:
        raise typer.Exit(CHECK_FAILED)


def _ann_page(found: AnnReport, queries: QuerySet, console: Console) -> None:
    console.print(
        f"Generation {found.generation}, revision {found.revision}: {found.documents:,} documents, {found.chunks:,} "
        f"chunks, {found.queries:,} queries, overlap@{found.k} with exact search",
        style="bold",
        soft_wrap=True,
    )
    table = make_table("ef_search", "overlap", "95 % interval", "p50 ms", "p95 ms", "by HNSW", right=("ef_search",))
    points = {point.ef_search: point for point in (*found.sweep, found.served)}
    for point in sorted(points.values(), key=lambda point: point.ef_search):
        overlap, latency = point.overlap, point.latency_ms
        table.add_row(
            f"{point.ef_search:,}" + (" (configured)" if point is found.served else ""),
            f"{overlap.mean:.4f}",
            f"{overlap.low:.4f} to {overlap.high:.4f}",
            f"{latency['p50']:.1f}",
            f"{latency['p95']:.1f}",
            "yes" if point.plan.hnsw else "no",
        )
    console.print(table)
    if found.loss is not None:
        lost = found.loss.lost
        console.print(f"Recall@{found.k} lost to the index: {lost.mean:.4f} ({lost.low:.4f} to {lost.high:.4f})")
    if said := own_left_out(queries.counts["own_documents"]):
        console.print(said.strip(), soft_wrap=True)
    print_lost(found, queries.texts, console)
    enough = "none of these" if found.recommended is None else f"{found.recommended:,}"
    console.print(f"ef_search that reaches {found.min_overlap:g} for sure: {enough}")
    for note in (*found.reasons, *found.notes):
        console.print(note, style="yellow", soft_wrap=True)


def _thresholds(session: Session, named: Sequence[str] | None) -> dict[str, float]:
    """Return the cut-offs to move: those named, by default those that the active generation has."""
    if named:
        return parse_cutoffs(named, "--cutoff")
    from revector.registry.cutoffs import read_scores

    with session.project.engine.connect() as connection:
        return read_scores(connection, session.project.searcher(session.collection).resolve().gen)


def _queries(session: Session, path: Path | None) -> dict[str, str]:
    """Return the queries, each text once, by the labels' ids or by themselves."""
    if path is None:
        source = session.project.labels(session.collection)
        if source is None:
            raise ConfigError("no queries were given and no qrels are configured. Nothing ran; name --queries FILE.")
        from revector.labels import load_labels

        asked = load_labels(source).queries
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--queries {path} cannot be read: {error}. Nothing ran; name a UTF-8 file.") from error
        asked = {text: text for line in lines if (text := line.strip())}
    if not asked:
        raise ConfigError("there are no queries to ask. Nothing ran; give a file with one query per line.")
    first = {text: query for query, text in reversed(asked.items())}
    return {query: text for query, text in asked.items() if first[text] == query}


def _generations(session: Session, new: int | None) -> tuple[int, int]:
    slots = session.project.status(session.collection).slots
    live = {role: slot.generation for role, slot in slots.filled.items()}
    other = new if new is not None else live.get("building", live.get("standby"))
    if "active" not in live or other is None or other == live["active"]:
        raise StateError(
            f"two live generations are compared, the active one and another; found {live or 'none'}. Nothing was "
            "searched; begin a migration with `revector upgrade --to index`."
        )
    return live["active"], other


def _page(data: dict[str, Any], console: Console) -> None:
    from revector.gate.figures import RefusedQueries

    overlap, rbo = data["overlap"], data["rbo"]
    console.print(
        f"Generations {data['old']} and {data['new']} on {data['queries']:,} queries: overlap@{data['k']} "
        f"{overlap['mean']:.4f} ({overlap['low']:.4f} to {overlap['high']:.4f}), rank-biased overlap "
        f"{rbo['mean']:.4f} ({rbo['low']:.4f} to {rbo['high']:.4f}); {data['unchanged']:,} answers are the same."
        f"{own_left_out(data['own_documents'])}",
        soft_wrap=True,
    )
    ratio = data["latency"]["ratio"]["p95"]
    times = ", ".join(f"{data['latency'][role]['total_ms']['p95']:.1f} ms" for role in ("old", "new"))
    console.print(
        f"p95 of a query, old and new: {times}: {ratio['mean']:.2f} × ({ratio['low']:.2f} to {ratio['high']:.2f})"
    )
    for side, refused in data["refused_queries"].items():
        refused_queries(RefusedQueries.model_validate(refused), f"the {side} generation", console)
    if not data["cutoffs"]:
        return
    table = make_table("threshold", "old", "new", "decisions kept", "if nobody moves it", right=("old", "new"))
    for one in data["cutoffs"]:
        moved = one["matched"]
        table.add_row(
            one["name"],
            f"{one['threshold']:.4f}",
            "-" if moved is None else f"{moved['threshold']:.4f}",
            "-" if moved is None else f"{moved['agreement']['mean']:.1%}",
            f"{one['unchanged']['agreement']['mean']:.1%}",
        )
    console.print(table)
    for one in data["cutoffs"]:
        for note in one["notes"]:
            console.print(f"{one['name']}: {note}", style="yellow", soft_wrap=True)
