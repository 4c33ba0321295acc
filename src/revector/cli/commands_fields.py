"""The command that gives all documents a new metadata field without embedding anything."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.progress import reporting
from revector.errors import ConfigError
from revector.formats.strict_json import parse


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    meta = typer.Typer(help="Metadata of all documents at once.", no_args_is_help=True)
    meta.command(name="set")(set_field)
    app.add_typer(meta, name="meta", rich_help_panel="Documents")


def set_field(
    field: Annotated[str, typer.Argument(help="Name of the metadata field.")],
    *,
    value: Annotated[
        str | None, typer.Option(metavar="JSON", help="Value for documents where the path gives nothing.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(metavar="JSONPATH", help='Over {"id", "text", "meta"}; its first result counts.')
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents filled at most; the next run goes on.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Fill a metadata field of every document that lacks it; the others are left alone, and nothing is embedded.

    Each update is a write like any other, so all live indexes follow, and what is written meanwhile wins.

    For example:
      revector meta set lang --value '"en"'
      revector meta set tag_count --path '$.meta.tags.size()' --value 0
      revector meta set title --path '$.meta.headline' -c docs --json
    """
    from revector.config import current_actor
    from revector.upkeep.metadata import fill_field

    session = open_session(project, collection, as_json=json)
    opened, name = session.project, session.collection
    with reporting(quiet=json) as progress:
        report = fill_field(
            opened.engine,
            opened.cid(name),
            name,
            field,
            actor=current_actor(),
            value=_json(value),
            path=path,
            limit=limit,
            progress=progress,
        )

    def page(console: Console) -> None:
        rest = "; the limit was reached, run it again for the rest" if report.more else ""
        console.print(
            f"{report.filled:,} documents got {field}; for {report.without:,} there is nothing to give{rest}.",
            soft_wrap=True,
            markup=False,
        )

    session.out.show(asdict(report), page)


def _json(text: str | None) -> object:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise ConfigError(
            f"--value takes JSON, found {text!r} ({error}). Nothing was changed; a text needs its quotes: "
            "--value '\"en\"'."
        ) from error
