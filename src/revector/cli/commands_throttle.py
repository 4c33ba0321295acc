"""The command that slows a running backfill down, pauses it, or lets it go on."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from revector.cli.options import Json, ProjectPath, open_session
from revector.errors import ConfigError

_PANEL = "Migration"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(throttle)


def throttle(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Whose open backfill.")],
    share: Annotated[str, typer.Argument(metavar="SHARE", help="Share of the time that it works: 0% (pause) to 100%.")],
    *,
    reason: Annotated[str | None, typer.Option(help="For the history.")] = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Set how fast the open backfill may go: it rests so that the live lane and searches have the machine.

    All processes follow within seconds; the next migration begins at 100 %. A backfill also slows down by itself, see
    [collections.<name>.bulk] in revector.toml.

    For example:
      revector throttle docs 50%
      revector throttle docs pause --reason "sale until noon"
      revector throttle docs 100%
    """
    from revector.config import current_actor
    from revector.indexing.dial import set_share

    wanted = _share(share)
    session = open_session(project, collection, as_json=json)
    gen = set_share(session.project.engine, collection, wanted, actor=current_actor(), why=reason)
    session.out.show(
        {"collection": collection, "generation": gen, "share": wanted},
        lambda console: console.print(
            f"The backfill of {collection} (generation {gen}) works {wanted:.0%} of the time."
        ),
    )


def _share(text: str) -> float:
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?) ?%", text)
    if text != "pause" and (found is None or float(found[1]) > 100):
        raise ConfigError(f"a share is 0% to 100%, or pause; found {text!r}. Nothing was changed.")
    return 0.0 if found is None else float(found[1]) / 100
