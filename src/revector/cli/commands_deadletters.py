"""Commands for dead letters: list them, try them again, or accept that documents stay out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.output import make_table, one_line
from revector.errors import ConfigError

dlq = typer.Typer(
    no_args_is_help=True,
    help="Documents that could not be stored or embedded, and why.\n\nFor example:\n  revector dlq list",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dlq.command("list")(list_letters)
    dlq.command()(retry)
    dlq.command()(waive)
    app.add_typer(dlq, name="dlq", rich_help_panel="Documents")


def list_letters(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Most to show.")] = 1_000,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """List the dead letters, newest first: refused at ingestion, or failed while being embedded.

    Stage embed holds up the swap of the generation that it names, until it is cured or waived. Stage ingest does not,
    for every index shows the same older text, or none; a later version of the document that can be stored answers it.

    For example:
      revector dlq list --json
    """
    from revector.documents.deadletters import dead_letters

    session = open_session(project, collection, as_json=json)
    cid = session.project.cid(session.collection)
    with session.project.engine.connect() as connection:
        letters = dead_letters(connection, cid, limit)

    def page(console: Console) -> None:
        if not letters:
            console.print("No dead letters.")
            return
        table = make_table(
            "document",
            "stage",
            "generation",
            "your version",
            "served",
            "tries",
            "waived by",
            "reason",
            right=("tries",),
        )
        for one in letters:
            gen, own = ("" if number is None else str(number) for number in (one.gen, one.external_version))
            served = "an older version" if one.behind else ""
            reason = one_line(one.reason, 300)
            table.add_row(one.doc_id, one.stage, gen, own, served, str(one.attempts), one.waived_by or "", reason)
        console.print(table)

    session.out.show([asdict(one) for one in letters], page)


def retry(
    doc_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Default: all.")] = None,
    *,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Try dead letters of the stage embed again; what ingestion refused is fixed at its source, and ingested again.

    For example:
      revector dlq retry
    """
    from revector.config import current_actor
    from revector.documents.deadletters import retry_dead

    session = open_session(project, collection, as_json=json)
    cid = session.project.cid(session.collection)
    with session.project.engine.begin() as connection:
        count = retry_dead(connection, cid, doc_ids or None, current_actor())
    session.out.show({"retried": count}, lambda console: console.print(f"{count:,} dead letters are due again."))


def waive(
    doc_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All not yet waived; with --reason, only those.")] = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --all: only those whose reason contains this.")
    ] = None,
    why: Annotated[str, typer.Option("--why", help="Why they may stay out, for the history.")],
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Accept dead letters: the documents stay out of the generations they failed in, so that the swap may go on.

    Where the latest version of a document was refused at ingestion, what is stored instead goes on being served.

    For example:
      revector dlq waive guide-9 --why "a binary dump, nobody searches for it"
      revector dlq waive --all --reason "unknown tokens" --why "Thai, which this model does not know"
    """
    from revector.config import current_actor
    from revector.documents import deadletters

    if every == bool(doc_ids) or (reason is not None and not every):
        raise ConfigError(
            "dlq waive takes ids, or --all (with --reason or without). Nothing was changed; name one of the two."
        )
    session = open_session(project, collection, as_json=json)
    cid = session.project.cid(session.collection)
    with session.project.engine.begin() as connection:
        done = deadletters.waive(
            connection, cid, None if every else doc_ids, containing=reason, actor=current_actor(), why=why
        )
    found = f"Waived {done.documents:,} documents; {done.generations:,} times one that failed to be embedded."
    session.out.show(asdict(done), lambda console: console.print(found, soft_wrap=True))
