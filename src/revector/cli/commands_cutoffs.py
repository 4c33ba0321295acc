"""Commands for the score cut-offs of an application: set and drop them, list them for every live generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import make_table
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.registry.cutoffs import NamedCutoff

app = typer.Typer(
    no_args_is_help=True,
    help="Similarities from which the application shows a hit, by name; they move with the alias.\n\n"
    "For example:\n  revector cutoffs set support=0.42",
)


def register(parent: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("set")(set_cutoffs)
    app.command("list")(list_cutoffs)
    app.command("drop")(drop_cutoffs)
    parent.add_typer(app, name="cutoffs", rich_help_panel="Search")


def parse_cutoffs(named: Sequence[str], option: str) -> dict[str, float]:
    """Return name → score of words such as ``support=0.42``. Raises ``ConfigError``; ``option`` says whose they are."""
    found: dict[str, float] = {}
    for one in named:
        name, _, value = one.partition("=")
        if name in found:
            raise ConfigError(f"{option} names {name!r:.80} twice. Nothing ran; say which number is meant.")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"{option} takes NAME=SCORE such as support=0.42, found {one!r}. Nothing ran.") from error
    return found


def set_cutoffs(
    scores: Annotated[list[str], typer.Argument(metavar="NAME=SCORE...")],
    *,
    revision: Annotated[
        str | None, typer.Option(help="A live revision on whose scores the numbers are; default: the active one.")
    ] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Set cut-offs to numbers on the scores of the active model, or of another live revision.

    The gate of the next revision maps them to its model, and the swap moves them with the alias. A number that was set
    for a revision before its swap is not mapped.

    For example:
      revector cutoffs set support=0.42
      revector cutoffs set --revision 4c1d08a7e2f5 support=0.31
    """
    from revector.config import current_actor
    from revector.registry import cutoffs
    from revector.registry.control import control

    wanted = parse_cutoffs(scores, "cutoffs set")
    session = open_session(project, collection, as_json=json)
    cid = session.project.cid(session.collection)
    with control(session.project.engine, cid, actor=current_actor()) as held:
        cutoffs.choose(held, wanted, revision)
    _show(session)


def list_cutoffs(*, collection: Collection = None, project: ProjectPath = None, json: Json = False) -> None:
    """List the cut-offs of every live generation.

    For example:
      revector cutoffs list
    """
    _show(open_session(project, collection, as_json=json))


def drop_cutoffs(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    *,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Take cut-offs away from every live generation: searches by these names are refused from now on.

    For example:
      revector cutoffs drop support
    """
    from revector.config import current_actor
    from revector.registry import cutoffs
    from revector.registry.control import control

    session = open_session(project, collection, as_json=json)
    cid = session.project.cid(session.collection)
    with control(session.project.engine, cid, actor=current_actor()) as held:
        cutoffs.drop(held, names)
    _show(session)


# Helpers --------------------------------------------------------------------------------------------------------------


def _show(session: Session) -> None:
    from revector.registry.cutoffs import read_cutoffs

    slots = session.project.status(session.collection).slots.filled
    with session.project.engine.connect() as connection:
        found = {role: read_cutoffs(connection, slot.generation) for role, slot in slots.items()}
    notes = _notes(found, {role: slot.revision for role, slot in slots.items()})
    rows = [
        {
            "role": role,
            "revision": slots[role].revision,
            "name": name,
            "score": one.score,
            "mapped_from": one.original,
        }
        for role, cutoffs in found.items()
        for name, one in cutoffs.items()
    ]

    def page(console: Console) -> None:
        if not rows:
            console.print("There are no cut-offs. Set one with revector cutoffs set.", soft_wrap=True)
            return
        table = make_table("cut-off", "revision", "score", "chosen by", right=("score",))
        for row in rows:
            score, origin = row["score"], row["mapped_from"]
            table.add_row(
                str(row["name"]),
                f"{row['revision']} ({row['role']})",
                "unknown" if score is None else f"{score:.4f}",
                "a person" if origin is None else f"the gate, from {origin:.4f}",
            )
        console.print(table)
        for note in notes:
            console.print(note, style="yellow", soft_wrap=True)

    session.out.show({"cutoffs": rows, "notes": notes}, page)


def _notes(found: Mapping[str, Mapping[str, NamedCutoff]], revisions: Mapping[str, str]) -> list[str]:
    """Name the cut-offs that the active generation has and another one lacks."""
    active, notes = found.get("active", {}), []
    if missing := [name for name in active if name not in found.get("standby", active)]:
        notes.append(
            f"revision {revisions['standby']} on standby has no {', '.join(missing)}: after a rollback, searches by "
            f"that name are refused; revector cutoffs set --revision {revisions['standby']} {missing[0]}=…"
        )
    if missing := [name for name in active if name not in found.get("building", active)]:
        notes.append(f"the gate of revision {revisions['building']} will map {', '.join(missing)} before its swap.")
    return notes
