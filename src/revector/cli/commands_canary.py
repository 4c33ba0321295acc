"""The command that measures what is served on the same queries, day by day, and ends with 11 when it got worse."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console

from revector.cli.commands_gate import own_left_out
from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, open_session
from revector.cli.progress import reporting


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Search")(canary)


def canary(*, collection: Collection = None, project: ProjectPath = None, json: Json = False) -> None:
    """Measure recall@10 of what is served, check its encoder, and record both.

    Compared with the first run of the same index on the same queries (`canary` or `qrels` in revector.toml): recall,
    what is found, first scores, and whether the documents of these queries are in the index. Exit code 0: as it was;
    11: a check is beyond its limit, or the model behind the name is another one; the webhook of revector.toml is called
    then.

    For example:
      revector canary -c docs
    """
    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json) as progress:
        found = session.project.canary(session.collection, progress=progress)

    def page(console: Console) -> None:
        console.print(
            f"recall@{found.k} {found.recall:.4f} ({found.low:.4f} to {found.high:.4f}) on {found.queries:,} queries "
            f"of {found.labels}; at first {found.baseline:.4f}. Revision {found.revision}."
            f"{own_left_out(found.own_documents)}",
            soft_wrap=True,
        )
        if found.begins:
            console.print(f"A new test begins, and this is its baseline: {found.begins}.", soft_wrap=True)
        for one in found.checks:
            value = "not measured" if one.value is None else f"{one.value:.4f}"
            console.print(f"- {one.name} {value}, limit {one.limit:.4f}: {one.says}.", soft_wrap=True)
        said = f"So many queries notice a true fall of {found.detectable:.4f} within a week in 4 of 5 cases."
        console.print(said, soft_wrap=True)
        if found.caution is not None:
            console.print(f"Caution: {found.caution}.", style="yellow", soft_wrap=True)
        for alert in found.alerts:
            console.print(f"Alert: {alert}.", style="red", soft_wrap=True)

    session.out.show(asdict(found), page)
    if found.alerts:
        raise typer.Exit(CHECK_FAILED)
