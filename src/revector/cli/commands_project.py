"""Commands about the project itself: init, the embedded database, and doctor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Json, ProjectPath, open_project
from revector.cli.output import Output, pairs
from revector.errors import ConfigError, RevectorError

if TYPE_CHECKING:
    from revector.config import Project

TEMPLATE = """\
# revector's settings for this project. Environment variables win: REVECTOR_DATABASE_URL, REVECTOR_ENCODER__DEVICE, ...

# PostgreSQL 15 or newer with pgvector 0.8 or newer. Left out: an embedded one, kept in the state folder.
# database_url = "postgresql+psycopg://user@host/database"
# state_folder = ".revector"

# [encoder]
# device = "auto"            # cpu, cuda, cuda:0, "cuda:0,cuda:1", all, mps
# batch_tokens = 2048        # tokens per forward pass

[collections.{name}]
# source = "docs.jsonl"      # BEIR folder, .jsonl, .csv, .parquet or "sql:SELECT ...": what `revector ingest` reads
# id_field = "_id"
# text_fields = ["title", "text"]
# meta_fields = ["lang"]     # left out: every other field
# qrels = "labels"           # labelled queries, for recall: folder (BEIR, TREC), .csv or "sql:SELECT ..."
# window_hours = 48          # how long one can roll back after a swap
# shards = 4                 # parts of a backfill; else parts of 45 minutes by the plan
"""

db = typer.Typer(
    no_args_is_help=True,
    help="The database of this project: the embedded PostgreSQL, and rights on your own.\n\nFor example:\n"
    "  revector db status",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Start")(init)
    app.command(rich_help_panel="Start")(doctor)
    for command in (start, stop, status, remove, grants):
        db.command()(command)
    app.add_typer(db, name="db", rich_help_panel="Start")


def init(
    *,
    collection: Annotated[
        str, typer.Option("--collection", "-c", metavar="NAME", help="Name of the collection in a new revector.toml.")
    ] = "docs",
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Make revector.toml, folders and database tables where they are missing, or bring the tables up to date.

    For example:
      mkdir search && cd search && revector init
    """
    from revector.gate.needs import label_need
    from revector.spec import Gate

    out = Output(as_json=json)
    with _undone_if_it_fails() as new:
        file = _find_or_write(project, collection, new)
        opened = open_project(file)
        for name in opened.settings.collections:
            _make_folder(opened.migrations(name), new)
        if opened.settings.database_url is None:
            _ignore_state(opened, new)
        tables = opened.init()
    began, need = file in new, label_need(Gate())
    ends = [path for path in new if not any(path in other.parents for other in new)]
    made = [f"{path}/" if path.is_dir() else str(path) for path in ends] + ["database tables"] * tables
    names = sorted(opened.settings.collections)
    where = "embedded" if opened.settings.database_url is None else opened.raw_engine.url.render_as_string()
    data = {"project": str(opened.root), "database": where, "collections": names, "made": made}

    def page(console: Console) -> None:
        for one in made:
            console.print(f"Made {one}", soft_wrap=True)
        console.print(
            f"{'Ready' if made else 'Everything was there'}: {opened.root}, database {where}, collections "
            f"{', '.join(names) or 'none'}.",
            soft_wrap=True,
        )
        if began:
            console.print("Next: revector ingest SOURCE, then revector revision -m first --model …", soft_wrap=True)
            console.print(f"For the second model: {need.sentence}" if need else "", soft_wrap=True)

    out.show(data, page)


def doctor(*, project: ProjectPath = None, json: Json = False) -> None:
    """Check database, tables, migration files, models, waiting work and labels, and say what to do.

    Exit code 11 if a check fails.

    For example:
      revector doctor
    """
    from revector.cli.doctor import examine

    found = examine(open_project(project))

    def page(console: Console) -> None:
        for check in found:
            mark = Text("ok      ", style="green") if check.ok else Text("failed  ", style="bold red")
            console.print(Text.assemble(mark, f"{check.name}: {check.detail}"), soft_wrap=True)

    Output(as_json=json).show(found, page)
    if not all(check.ok for check in found):
        raise typer.Exit(CHECK_FAILED)


# The embedded database ------------------------------------------------------------------------------------------------


def start(*, project: ProjectPath = None, json: Json = False) -> None:
    """Start the embedded PostgreSQL; every other command does so too when it needs it.

    For example:
      revector db start
    """
    from revector import embedded

    opened = open_project(project)
    if opened.settings.database_url is not None:
        raise ConfigError("database_url is set, so no embedded PostgreSQL is used. Nothing was started.")
    url = embedded.ensure_running(opened.state)
    Output(as_json=json).show({"running": True, "url": url}, lambda console: console.print(f"Running at {url}"))


def stop(*, project: ProjectPath = None, json: Json = False) -> None:
    """Stop the embedded PostgreSQL; nothing is lost.

    For example:
      revector db stop
    """
    from revector import embedded

    stopped = embedded.stop(open_project(project).state)
    Output(as_json=json).show(
        {"stopped": stopped}, lambda console: console.print("Stopped." if stopped else "It was not running.")
    )


def status(*, project: ProjectPath = None, json: Json = False) -> None:
    """Show whether the embedded PostgreSQL runs, and where its data and log are.

    For example:
      revector db status
    """
    from revector import embedded

    opened = open_project(project)
    found = embedded.status(opened.state)
    data: dict[str, object] = {
        "used": opened.settings.database_url is None,
        "running": found.running,
        "url": found.url,
        "pid": found.pid,
        "home": found.home,
        "log": found.log,
    }
    Output(as_json=json).show(
        data, lambda console: pairs(console, {name: str(value) for name, value in data.items() if value is not None})
    )


def remove(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete every row.")] = False,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Stop the embedded PostgreSQL and delete its data, with every document and the history.

    For example:
      revector db remove --yes
    """
    from revector import embedded

    opened = open_project(project)
    if not yes:
        raise ConfigError(
            f"db remove deletes every row of the embedded database of {opened.state}. Nothing was deleted; add --yes."
        )
    embedded.remove(opened.state)
    Output(as_json=json).show({"removed": str(opened.state)}, lambda console: console.print("Removed."))


def grants(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Role that the application will work as.")],
    *,
    read: Annotated[bool, typer.Option("--read", help="Only: call revector.search and revector.active.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Only: call revector.put and revector.delete.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Run it in this project's database, as its owner.")] = False,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Print the SQL that lets a role do everyday work on tables that it does not own: no change of the history.

    With --read, --write or both, the role may call the functions for applications that speak SQL, and nothing else.

    For example:
      revector db grants revector_app | psql "$OWNER_URL"
      revector db grants shop --read --apply
    """
    from revector.database.grants import apply_grants, grants_for

    sql = grants_for(role, read=read, write=write)
    if apply:
        apply_grants(open_project(project).engine, sql)
    Output(as_json=json).show(
        {"role": role, "sql": sql, "applied": apply},
        lambda console: console.print(f"Granted to {role}." if apply else sql.rstrip("\n"), soft_wrap=True),
    )


# Helpers --------------------------------------------------------------------------------------------------------------


@contextmanager
def _undone_if_it_fails() -> Iterator[list[Path]]:
    """Collect what is made, parents first; a failure removes it again, and its message names what had to stay."""
    new = list[Path]()
    try:
        yield new
    except BaseException as error:
        stayed = [path for path in reversed(new) if not _removed(path)]
        if new and isinstance(error, RevectorError):
            left = ", ".join(map(str, reversed(stayed)))
            what = f"Left behind: {left}" if stayed else "The files that this init had made were removed again"
            error.args = (f"{error} {what}.", *error.args[1:])
        raise


def _removed(path: Path) -> bool:
    try:
        path.rmdir() if path.is_dir() else path.unlink()
    except OSError:  # a folder that holds something: data of a database, say
        return False
    return True


def _make_folder(folder: Path, new: list[Path]) -> None:
    """Make a folder and the parents that are missing. Raises ``ConfigError``."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    try:
        for one in reversed(missing):
            one.mkdir()
            new.append(one)
    except OSError as error:
        raise ConfigError(f"{one} cannot be made: {error.strerror}. Nothing was made.") from error


def _find_or_write(path: Path | None, collection: str, new: list[Path]) -> Path:
    """Return the project's revector.toml, which is written where there is none."""
    from revector.settings import FILE, find_file

    if path is not None:
        file = path if path.name == FILE else path / FILE
        if file.is_file():
            return file
    else:
        try:
            return find_file()
        except ConfigError:
            if os.environ.get("REVECTOR_CONFIG"):
                raise
            file = Path.cwd() / FILE
    if not collection.isidentifier() or not collection.isascii() or collection != collection.lower():
        raise ConfigError(
            f"collection {collection!r}: a name is 1 to 31 of a-z, 0-9 and _, from a letter on. Nothing was made."
        )
    _make_folder(file.parent, new)
    try:
        with file.open("x", encoding="utf-8") as opened:
            new.append(file)
            opened.write(TEMPLATE.format(name=collection))
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}. Nothing was made.") from error
    return file


def _ignore_state(project: Project, new: list[Path]) -> None:
    """Keep the embedded database out of version control, as virtual environments do."""
    ignore = project.state / ".gitignore"
    if project.state.is_relative_to(project.root) and not ignore.exists():
        _make_folder(project.state, new)
        new.append(ignore)
        ignore.write_text("*\n", encoding="utf-8")
