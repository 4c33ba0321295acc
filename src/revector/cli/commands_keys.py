"""Commands for the keys of the HTTP service: create, list, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.exits import NOTHING_TO_DO
from revector.cli.options import Json, ProjectPath, open_project
from revector.cli.output import Output, make_table

if TYPE_CHECKING:
    from revector.serving.keys import Key

app = typer.Typer(
    no_args_is_help=True,
    help="Keys of `revector serve`: who may search, write, or see the status.\n\nFor example:\n  revector keys list",
)


def register(parent: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(create)
    app.command("list")(list_keys)
    app.command()(revoke)
    parent.add_typer(app, name="keys", rich_help_panel="Services")


def create(
    name: Annotated[str, typer.Argument(help="Who will use it, for the list.")],
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="read: search and get; write: put, delete and upload; admin: everything. May be repeated.",
        ),
    ],
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", metavar="NAME", help="May be repeated; default: all.")
    ] = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once: only its digest is stored.

    For example:
      revector keys create "web shop" --scope read -c docs
    """
    from revector.config import current_actor
    from revector.serving import keys

    opened = open_project(project)
    for one in collection or ():
        opened.collection(one)
    with opened.engine.begin() as connection:
        secret, key = keys.create(connection, name, scope, collection, actor=current_actor())

    def page(console: Console) -> None:
        console.print(secret, soft_wrap=True)
        console.print("This is the only time that it is shown. Send it as `Authorization: Bearer …`.", soft_wrap=True)

    Output(as_json=json).show({"key": secret, **_data(key)}, page)


def list_keys(*, project: ProjectPath = None, json: Json = False) -> None:
    """List the keys, also the revoked ones, oldest first.

    For example:
      revector keys list
    """
    from revector.serving import keys

    with open_project(project).engine.connect() as connection:
        found = keys.read_keys(connection, revoked=True)

    def page(console: Console) -> None:
        if not found:
            console.print("There are no keys. Make one with revector keys create.", soft_wrap=True)
            return
        table = make_table("key", "name", "scopes", "collections", "made", "revoked")
        for key in found:
            revoked = f"{key.revoked_at:%Y-%m-%d %H:%M} by {key.revoked_by}" if key.revoked_at else ""
            table.add_row(
                key.key_id,
                key.name,
                ", ".join(sorted(key.scopes)),
                "all" if key.collections is None else ", ".join(sorted(key.collections)),
                f"{key.made_at:%Y-%m-%d %H:%M} by {key.made_by}",
                revoked,
            )
        console.print(table)

    Output(as_json=json).show([_data(key) for key in found], page)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The 16 digits that `revector keys list` shows.")],
    *,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Revoke a key for good: it stops working within seconds. Exit code 10 if it was revoked before.

    For example:
      revector keys revoke 8d2f0c6b51e94a77
    """
    from revector.config import current_actor
    from revector.serving import keys

    with open_project(project).engine.begin() as connection:
        done = keys.revoke(connection, key_id, actor=current_actor())
    Output(as_json=json).show(
        {"key_id": key_id, "revoked": done},
        lambda console: console.print(f"Revoked {key_id}." if done else f"{key_id} was revoked before."),
    )
    if not done:
        raise typer.Exit(NOTHING_TO_DO)


def _data(key: Key) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "collections": None if key.collections is None else sorted(key.collections),
        "made_by": key.made_by,
        "made_at": key.made_at,
        "revoked_by": key.revoked_by,
        "revoked_at": key.revoked_at,
    }
