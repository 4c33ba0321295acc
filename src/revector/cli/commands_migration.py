"""Commands that move a migration, from plan to retire, and status."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revector.cli.exits import CHECK_FAILED, NOTHING_TO_DO
from revector.cli.options import Collection, Json, ProjectPath, Reason, Session, open_session
from revector.cli.output import as_json, span
from revector.cli.progress import reporting
from revector.cli.screens import status_screen, step_line
from revector.errors import ConfigError, GateFailed

if TYPE_CHECKING:
    from revector.lifecycle import Outcome
    from revector.migration.migrator import Migrator
    from revector.status import Status

_PANEL = "Migration"

Target = Annotated[str | None, typer.Argument(metavar="[REVISION]", help="Id, unique prefix or head (default).")]
Shards = Annotated[
    int | None, typer.Option(min=1, help="Parts of the backfill; default: revector.toml, else by the plan.")
]
WindowHours = Annotated[float | None, typer.Option(help="How long one can roll back; default: revector.toml, else 48.")]
Approval = Annotated[
    bool, typer.Option("--approval/--no-approval", help="Whether a person must approve before the swap.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (plan, rehearse, upgrade, status, approve, override, rollback, abort, retire):
        app.command(rich_help_panel=_PANEL)(command)


def plan(
    rev: Target = None,
    *,
    probe_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long at most the model is tried here; 30 tells more on a GPU.")
    ] = 10.0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Say what a migration would redo, need and cost, before anything is done.

    Changed settings (~) and what follows from them; documents, chunks and tokens from a sample by length; the model is
    tried on this machine; prices are those of [costs]. A revision that has run is shown beside what came of it.

    Exit code 0: there are changes, ready; 10: this revision is what is served; 11: it would be refused (warnings).

    For example:
      revector plan
      revector plan 3f2a --probe-seconds 30 --json
    """
    from revector.cli.plan_page import plan_page

    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json, eager=True) as progress:
        found = session.project.migrator(session.collection, progress=progress).plan(rev, probe_s=probe_seconds)
    session.out.show(found, lambda console: plan_page(found, console))
    if found.active_revision == found.revision:
        raise typer.Exit(NOTHING_TO_DO)
    if found.warnings:
        raise typer.Exit(CHECK_FAILED)


def rehearse(
    rev: Target = None,
    *,
    sample: Annotated[
        str,
        typer.Option(metavar="N|SHARE", help="Documents (1000) or a share of them (5%, 0.05); labelled ones first."),
    ] = "1000",
    seed: Annotated[int, typer.Option(help="Another seed draws other documents.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the copy until the next rehearsal.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Run the migration and a rollback on a sampled copy that serves nobody, and say what the real one would take.

    Exit code 0: nothing in the sample would stop it; 5: it would be refused.

    For example:
      revector rehearse
      revector rehearse 3f2a --sample 5% --json
    """
    from revector.cli.rehearsal_page import rehearsal_page

    size, share = _sample(sample)
    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json) as progress:
        rehearsal = session.project.rehearsal(session.collection, progress=progress)
        found = rehearsal.run(rev, size=size, share=share, seed=seed, keep=keep)
    session.out.show(found.as_data(), lambda console: rehearsal_page(found, console))
    if found.refusals:
        raise typer.Exit(GateFailed.exit_code)


def _refuse_fleeting(session: Session, rev: str | None) -> None:
    """Refuse an index that would be gone with this command, and every search with it."""
    from revector.revisions import RevisionGraph

    graph = RevisionGraph.from_folder(session.project.migrations(session.collection))
    target = graph.head if rev is None else graph[rev]
    if not session.project.stores.is_lasting(target):
        raise ConfigError(
            f"revision {target.revision} keeps its index in the store {target.index.store!r}, which ends with the "
            "process that made it, here this command. Nothing was changed; migrate from the Python process that "
            "searches too, or name another store."
        )


def upgrade(
    rev: Target = None,
    *,
    to: Annotated[str | None, typer.Option(metavar="STEP", help="Stop after this step.")] = None,
    shards: Shards = None,
    window_hours: WindowHours = None,
    approval: Approval = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Migrate to a revision in this process, step by step; run it again to resume after whatever stopped it.

    A rollback window that is over is closed first; while one is open, an upgrade that would swap is refused at once.

    For example:
      revector upgrade
      revector upgrade --to gate
      revector upgrade --approval --window-hours 72
    """
    if window_hours is not None and window_hours <= 0:
        raise ConfigError(f"--window-hours must be above 0, found {window_hours:g}. Nothing was changed.")
    session = open_session(project, collection, as_json=json)
    done: list[dict[str, object]] = []
    started = time.monotonic()

    def tell(outcome: Outcome) -> None:
        nonlocal started
        wall_s = time.monotonic() - started
        started = time.monotonic()
        done.append({**asdict(outcome), "wall_s": round(wall_s, 3)})
        session.out.say(step_line(outcome, wall_s))

    options = {"shards": shards, "window_hours": window_hours, "approval": approval}
    with reporting(quiet=json, eager=True) as progress:
        migrator = session.project.migrator(session.collection, progress=progress)
        _refuse_fleeting(session, rev)
        edited = migrator.edited()
        for sentence in edited:
            session.out.say(sentence, style="yellow")
        try:
            migrator.upgrade(rev, to=to, on_step=tell, **options)
        finally:
            if json:
                session.out.json({"collection": session.collection, "steps": done, "edited": edited})
    if to is None:
        _say_way_back(session, migrator)


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh it until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes.")] = 1.0,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Show slots, lag, the open migration with rate and time left, dead letters and the time left to roll back.

    For example:
      revector status --watch
    """
    session = open_session(project, collection, as_json=json)

    def look() -> Status:
        return session.project.status(session.collection, recount=not watch)

    if not watch:
        found = look()
        session.out.show(found.as_data(), lambda console: console.print(status_screen(found)))
    elif session.out.console.is_terminal and not json:
        from rich.live import Live

        with Live(status_screen(look()), console=session.out.console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(status_screen(look()), refresh=True)
                time.sleep(every)
    else:
        while True:  # one JSON object a line, or one page after the other
            found = look()
            if json:
                session.out.console.print(as_json(found.as_data()), soft_wrap=True)
            else:
                session.out.console.print(status_screen(found))
            session.out.console.file.flush()
            time.sleep(every)


def approve(
    *,
    reason: Reason,
    by: Annotated[str | None, typer.Option(help="Who approves; default: you.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Approve the open migration, so that its alias may move.

    For example:
      revector approve --reason "recall is up, looked at twenty answers"
    """
    _move(project, collection, json, lambda migrator: migrator.approve(reason, by=by))


def override(
    *,
    reason: Reason,
    by: Annotated[str | None, typer.Option(help="Who is responsible; default: you.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Let the open migration's alias move although its gate did not pass; then run `revector upgrade` again.

    It holds for the latest measurement alone, for 24 hours, and is in the history with name and reason.

    For example:
      revector override --reason "the labels lack the new product line; 200 answers were read"
    """
    _move(project, collection, json, lambda migrator: migrator.override(reason, by=by))


def rollback(
    *,
    reason: Reason,
    force: Annotated[bool, typer.Option("--force", help="Even if the old index lags behind.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Move the alias back to the previous generation, which has received every write since.

    For example:
      revector rollback --reason "answers about billing got worse"
    """
    _move(project, collection, json, lambda migrator: migrator.rollback(reason, force=force))


def abort(*, reason: Reason, collection: Collection = None, project: ProjectPath = None, json: Json = False) -> None:
    """End the open migration before its swap and drop its index; what is served stays as it is.

    For example:
      revector abort --reason "wrong model"
    """
    _move(project, collection, json, lambda migrator: migrator.abort(reason))


def retire(
    *,
    now: Annotated[bool, typer.Option("--now", help="Before the rollback window is over; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the history.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Give up the way back: drop the index that stands by, after its window or at once with --now.

    For example:
      revector retire
      revector retire --now --reason "disk is short"
    """
    if now and reason is None:
        raise ConfigError("retire --now gives up the rollback window and needs a --reason. Nothing was changed.")
    _move(project, collection, json, lambda migrator: migrator.retire(reason or "window over", now=now))


def _sample(text: str) -> tuple[int, float | None]:
    """Return the number of documents and the share that ``--sample`` asks for: one of them counts."""
    with suppress(ValueError):
        if text.endswith("%"):
            return 1, float(text[:-1]) / 100
        return (int(text), None) if text.isdecimal() else (1, float(text))
    raise ConfigError(
        f"--sample is a number of documents or a share such as 5% or 0.05, found {text!r}. Nothing has run."
    )


def _move(project: Path | None, collection: str | None, json: bool, move: Callable[[Migrator], Outcome]) -> None:
    session = open_session(project, collection, as_json=json)
    with reporting(quiet=json) as progress:
        started = time.monotonic()
        outcome = move(session.project.migrator(session.collection, progress=progress))
        wall_s = time.monotonic() - started
    session.out.show(
        {**asdict(outcome), "wall_s": round(wall_s, 3)},
        lambda console: console.print(step_line(outcome, wall_s), soft_wrap=True),
    )


def _say_way_back(session: Session, migrator: Migrator) -> None:
    left = migrator.status().rollback
    if left is not None:
        session.out.say(f"One can go back for {span(left.seconds_left)}: revector rollback --reason …")
