"""The command that finds stale vectors and makes them due again: outrun, too old, or of a source that changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.progress import reporting

if TYPE_CHECKING:
    from revector.upkeep.upkeep import StaleReport

MaxAgeDays = Annotated[
    float | None, typer.Option(metavar="DAYS", help="Re-embed what is older; default: age does not count.")
]
RereadFirst = Annotated[
    bool,
    typer.Option(
        "--reread",
        help="Read the source of revector.toml again first and write what differs there, also over what was "
        "written directly since: only where the source is the truth. Nothing is deleted, unless by on_missing.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="End once a worker has done it; exit code 4, with the reason, if none does."),
]
Patience = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long --wait goes on while nothing at all is finished.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Documents")(stale)


def stale(
    *,
    max_age_days: MaxAgeDays = None,
    limit: Annotated[int, typer.Option(min=1, help="Index entries made due at most; the next run goes on.")] = 10_000,
    reread: RereadFirst = False,
    wait: Wait = False,
    patience: Patience = 300.0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Make stale entries due again in every live index; a worker embeds them again, and they are served until then.

    An entry is stale if it is behind its document and nobody works on it, or if it is older than --max-age-days.
    The limit takes what is served first, and of that the oldest.

    For example:
      revector stale -c docs
      revector stale -c docs --max-age-days 180 --limit 5000 --wait
      revector stale -c docs --reread --json
    """
    from revector.indexing.waiting import no_worker, wait_until_done

    session = open_session(project, collection, as_json=json)
    opened, name = session.project, session.collection
    report = _refresh(session, max_age_days, limit, reread=reread)
    with opened.engine.connect() as connection:
        unseen = no_worker(connection, opened.cid(name)) if report.due or report.waiting else None
    session.out.show(asdict(report) | {"no_worker": unseen}, lambda console: _page(report, unseen, console))
    if wait:
        with reporting(quiet=json) as progress:
            wait_until_done(opened.engine, opened.cid(name), name, patience_s=patience, progress=progress)


def _refresh(session: Session, max_age_days: float | None, limit: int, *, reread: bool) -> StaleReport:
    from revector.config import current_actor
    from revector.upkeep.rereading import allowed_missing, configured_source
    from revector.upkeep.upkeep import refresh_stale

    opened, name = session.project, session.collection
    settings = opened.collection(name)
    images = opened.settings.image_limits
    source = configured_source(name, settings, opened.root, lambda: opened.database_url, images) if reread else None
    with reporting(quiet=session.out.as_json) as progress:
        return refresh_stale(
            opened.engine,
            opened.cid(name),
            name,
            opened.documents(name),
            source,
            actor=current_actor(),
            max_age_days=max_age_days,
            limit=limit,
            max_missing=allowed_missing(settings),
            progress=progress,
        )


def _page(report: StaleReport, unseen: str | None, console: Console) -> None:
    console.print(
        f"Looked at {report.entries:,} index entries: {report.behind:,} behind their document, {report.old:,} too "
        f"old; {report.due:,} are due again, {report.left:,} are left for the next run"
        + (f", {report.waiting:,} still wait from an earlier one." if report.waiting else "."),
        soft_wrap=True,
    )
    if unseen is not None:
        console.print(f"Nothing of it is embedded yet: {unseen}", style="yellow", soft_wrap=True, markup=False)
    if (found := report.reread) is not None:
        console.print(
            f"Read {found.read:,} from {found.source}: {found.changed:,} changed, {found.unchanged:,} unchanged, "
            f"{found.older:,} older than stored, {found.rejected:,} rejected; {found.absent:,} documents are not "
            "in it, and " + (f"{found.deleted:,} were deleted." if found.deleted else "none was deleted."),
            soft_wrap=True,
        )
        for doc_id in found.first:
            console.print(f"  not in the source: {doc_id}", style="yellow", soft_wrap=True, markup=False)
