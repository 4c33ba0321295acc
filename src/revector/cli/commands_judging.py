"""Commands with which people judge: queries and documents to judge are written as a file, and read back with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revector.cli.label_sources import document_lengths, source_of
from revector.cli.options import Collection, Json, ProjectPath, Session, open_session, optional
from revector.cli.progress import reporting
from revector.errors import ConfigError, GateFailed, LabelError

if TYPE_CHECKING:
    from revector.labels import Labels
    from revector.labels.batch import JudgedBatch
    from revector.labels.pool import PoolReport
    from revector.registry.collections import Generation


def register(labels: typer.Typer) -> None:
    """Add the commands of this module to those about labels."""
    labels.command()(pool)
    labels.command("next")(next_queries)
    labels.command()(judge)
    labels.command()(add)


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


def next_queries(
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write: .csv or .jsonl.")],
    count: Annotated[int, typer.Option("-n", min=1, max=1000, metavar="N", help="How many queries to judge.")] = 25,
    seed: Annotated[int, typer.Option(help="Decides the order of the documents.")] = 0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Write the queries whose judgement moves the verdict most, with the documents that old and new found for them.

    They are drawn at random from `queries` of revector.toml, of those that the active and the building generation
    answer differently: where both find the same, nothing can be lost. Documents are shuffled, and no model is named.
    Judge all documents of a query, with 0 where none is relevant, bring the file back with `revector labels add`, and
    run `revector upgrade --to gate`. Queries that were handed out and are not judged yet come first.

    For example:
      revector labels next -n 25 -o next.csv
    """
    from revector.labels import pool as pools

    session = open_session(project, collection, as_json=json)
    _refuse_output(out, pools.ENDINGS)
    with reporting(quiet=session.out.as_json) as progress:
        found = session.project.migrator(session.collection, progress=progress).next_labels(count)
    get = session.project.documents(session.collection).get
    rows = list(pools.pool_rows(found.queries, found.found, lambda _query, _document: False, get, seed))
    pools.write_pool(out, rows)
    data = {
        "file": str(out),
        "queries": len(found.queries),
        "rows": len(rows),
        "differing": found.differing,
        "of": found.of,
        "judged": found.judged,
    }
    session.out.show(
        data,
        lambda console: console.print(
            f"Wrote {out}: {len(rows):,} documents of {len(found.queries):,} queries. Of {found.of:,} queries old and "
            f"new answer {found.differing:,} differently, {found.judged:,} of these were drawn and judged before. Fill "
            f"the column score in every row, then: revector labels add {out}, and revector upgrade --to gate"
            + (f"; or judge on a page, which does both: revector labels judge {out}" if out.suffix == ".jsonl" else ""),
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
    session = open_session(project, collection, as_json=json)
    folder = _folder(session, to)
    done = _add(session, file, folder)
    session.out.show(
        {"folder": str(folder), **asdict(done)}, lambda console: console.print(_added(done, folder), soft_wrap=True)
    )


def judge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `labels next` or `pool` wrote, a .jsonl.")],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any that is free.")] = 8710,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where judgements are added; as of `labels add`.")
    ] = None,
    collection: Collection = None,
    project: ProjectPath = None,
) -> None:
    """Judge queries on a page in the browser: one at a time, by keyboard, saved as you go. Ends with Ctrl-C.

    Each score is a line at the end of FILE; started again, it goes on where it was. Several people judge under their
    names, each without seeing the others' scores; where they differ, more than half of them or what they agree on
    decides. At the end the page adds what is judged to the labels, and shows what the gate says of it.

    For example:
      revector labels next -n 25 -o next.jsonl && revector labels judge next.jsonl
    """
    from revector.labels.batch import JudgedBatch

    session = open_session(project, collection)
    folder = _folder(session, to)
    service = optional("revector.service.judging", "serve")
    batch = JudgedBatch(file)
    try:
        service.run(
            batch,
            port,
            notes=_notes(session, batch),
            finish=lambda: finish(session, batch.path, folder),
            tell=lambda address: session.out.say(
                f"{file}: {len(batch.queries):,} queries to judge at {address} (on this machine only; Ctrl-C ends it)."
            ),
        )
    finally:
        batch.close()


# Helpers --------------------------------------------------------------------------------------------------------------


def _folder(session: Session, to: Path | None) -> Path:
    """Return the folder that judgements are added to. Raises ``LabelError`` for labels of another form."""
    folder = to if to is not None else source_of(session, None)
    if not isinstance(folder, Path) or folder.is_file() or (folder / "qrels.txt").is_file():
        raise LabelError(
            f"judgements were to be added to {folder}, which is no folder in BEIR layout. Nothing was written; name "
            "one with --to."
        )
    return folder


def _add(session: Session, file: Path, folder: Path) -> PoolReport:
    from revector.labels import pool as pools
    from revector.labels import read_labels

    judged = pools.read_pool(file)
    there = document_lengths(session, sorted({row.document for row in judged.rows}))
    if unknown := [f"{row.document!r} at {row.place}" for row in judged.rows if row.document not in there]:
        raise LabelError(
            f"{len(unknown):,} judged rows name documents that the collection never had: {', '.join(unknown[:10])}. "
            "Nothing was written; a spreadsheet may have changed ids such as 007 or 1-2: read them as text."
        )
    before = read_labels(folder) if pools.is_beir(folder) else None
    return pools.add_judged(folder, "test", before, judged)


def _added(done: PoolReport, folder: Path) -> str:
    told = (
        f"Added {done.added:,} judgements and {done.new_queries:,} queries to {folder}; {done.known:,} rows were "
        f"known or repeated, {done.empty:,} have no score."
    )
    if done.disputed or done.held_back:
        told += (
            f" On {done.disputed:,} the judges differ; {done.held_back:,} were kept back, for their queries are not "
            "judged as a whole."
        )
    if (found := done.agreement) is not None and found.pairs:
        alpha = "" if found.alpha is None else f" (Krippendorff's alpha {found.alpha:.2f})"
        told += f" {found.judges} judges say the same of {found.alike:,} of {found.pairs:,} documents{alpha}."
    return told


def _notes(session: Session, batch: JudgedBatch) -> list[str]:
    """Return what became of the batch since it was written."""
    notes: list[str] = []
    if batch.dropped:
        notes.append(f"The last line of the file was torn and is gone: {batch.dropped[:80]!r}.")
    written = batch.contents
    now = session.project.documents(session.collection).texts(sorted(written))
    if gone := sum(document not in now for document in written):
        notes.append(f"{gone:,} of {len(written):,} documents were deleted since this file was written.")
    if changed := sum(text != written[document] for document, text in now.items()):
        notes.append(f"{changed:,} of {len(written):,} documents have another text by now; judge what you see here.")
    drawn = session.project.migrator(session.collection).drawn_labels()
    if other := sum(query not in drawn for query in batch.queries):
        notes.append(
            f"{other:,} of {len(batch.queries):,} queries were not drawn for a migration that is under way: they go "
            "into the labels, and the verdict on it does not take them for drawn ones."
        )
    return notes


def finish(session: Session, file: Path, folder: Path) -> dict[str, Any]:
    """Add what stands, and look at the gate: a look that is counted, as each is that anyone sees."""
    from revector.gate.results import gate_result, latest_result

    added = asdict(_add(session, file, folder))
    migrator = session.project.migrator(session.collection)
    building = migrator.status().slots.building
    if building is None:
        return {"added": added, "told": "No migration is under way: the judgements wait in the labels."}
    with session.project.engine.connect() as connection:
        before = latest_result(connection, building.generation, "recall")
    with suppress(GateFailed):  # what it found is kept
        migrator.upgrade(building.revision, to="gate")
    with session.project.engine.connect() as connection:
        found = gate_result(connection, session.collection, gen=building.generation)
    told = (
        "Nothing was moved: `revector upgrade` does that once the gate passes. `revector gate --html FILE` shows all."
    )
    if before is not None and before.id == found.id:
        told = f"This verdict is of before these judgements, which are not in it: what has passed stays passed. {told}"
    return {
        "added": added,
        "verdict": found.verdict,
        "findings": [asdict(one) for one in found.findings],
        "still_needed": found.still_needed,
        "told": told,
    }


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
    known = load_labels(source_of(session, None)) if configured or queries is None else None
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
