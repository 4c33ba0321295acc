"""Command `history`: the chain of revisions, or every event, filtered, as table, JSON, CSV and Parquet; its check."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, Session, open_session
from revector.cli.output import Output, as_json, make_table, one_line
from revector.errors import ConfigError
from revector.formats.cells import guarded
from revector.history.sentences import sentence

if TYPE_CHECKING:
    from revector.history.audit import ChainCheck, EventFilter
    from revector.revisions import RevisionGraph

NEWEST_EVENTS = 100
_PANEL = "Revisions"


class Format(StrEnum):
    """What ``history`` writes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only events from this time on; ISO 8601, UTC if it names no zone.")
]
NotedHead = Annotated[
    str | None, typer.Option(metavar="[SEQ:]HASH", help="With --check: a hash noted elsewhere that must be there.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Newest events to show; default: 100 in a table, else all.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=_PANEL)(history)


def history(
    *,
    events: Annotated[bool, typer.Option("--events", help="Show who did what when instead of the revisions.")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="Only events of this kind, such as swap; repeatable.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only events by people whose name contains this.")] = None,
    generation: Annotated[int | None, typer.Option(min=0, help="Only events of this generation.")] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only events before this time.")] = None,
    run: Annotated[str | None, typer.Option(help="Only events of this Airflow run.")] = None,
    text: Annotated[str | None, typer.Option(help="Only events whose kind, person or detail contains this.")] = None,
    limit: Limit = None,
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write to; needed for parquet.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify the hash chain of the events.")] = False,
    head: NotedHead = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Show the chain of revisions with what is active, standby and building, or the events.

    For example:
      revector history
      revector history --kind swap --kind rollback --since 2026-11-01
      revector history --events --format parquet --output events.parquet
      revector history --check --head 41:9f2c…
    """
    from revector.history.audit import EventFilter

    form = Format.JSON if json else form
    wanted = EventFilter(
        tuple(kind) if kind else None, actor, generation, _time("--since", since), _time("--until", until), run, text
    )
    session = open_session(project, collection, as_json=form == Format.JSON)
    if head is not None and not check:
        raise ConfigError("--head is for --check. Nothing was read; give both.")
    if check:
        _check_chain(session, head)
        return
    if form == Format.PARQUET and output is None:
        raise ConfigError("--format parquet is no text. Nothing was written; name a file with --output.")
    if form == Format.TABLE and output is not None:
        raise ConfigError("--output needs a --format that is for files: json, csv or parquet. Nothing was written.")
    if events or wanted != EventFilter():
        _events(session, wanted, limit, form, output)
    else:
        _write_chain(_chain(session), form, output, session.out)


def _time(option: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        how = "write 2026-11-20 or 2026-11-20T10:00+01:00"
        raise ConfigError(f"{option} {given!r} is no time. Nothing was read; {how}.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _check_chain(session: Session, head: str | None) -> None:
    from revector.history.audit import check_chain

    with session.project.engine.connect() as connection:
        found = check_chain(connection, session.collection, head=head)
    session.out.show(
        {"collection": session.collection, "intact": found.intact, **asdict(found)},
        lambda console: console.print(
            _verdict(found, head), style=None if found.intact else "red", soft_wrap=True, highlight=False
        ),
    )
    if not found.intact:
        raise typer.Exit(CHECK_FAILED)


def _verdict(found: ChainCheck, head: str | None) -> str:
    if found.broken:
        return f"The history was tampered with: the chain breaks at event {', '.join(map(str, found.broken))}."
    if found.missing:
        return (
            f"The history was rewritten, or its end was cut off: none of its {found.events:,} events has "
            f"{found.missing}, the hash that was noted elsewhere. What there is now is a whole chain by itself."
        )
    known = "" if head is None else " The hash that was noted elsewhere is among them."
    return (
        f"The history is intact: each of {found.events:,} events carries the hash of the one before.{known} The newest "
        f"is {found.head}; noted elsewhere, it shows later (--head) that nothing was rewritten or cut off."
    )


# Events ---------------------------------------------------------------------------------------------------------------


def _events(session: Session, wanted: EventFilter, limit: int | None, form: Format, output: Path | None) -> None:
    from revector.history.audit import csv_lines, stream, write_parquet

    if form == Format.PARQUET:
        import pyarrow as pa  # noqa: F401 - takes seconds to load, which the transaction below must not wait for
    most = limit or (NEWEST_EVENTS if form == Format.TABLE else None)
    with (
        session.project.engine.connect() as connection,
        closing(stream(connection, session.collection, wanted, limit=most)) as rows,
    ):
        if form == Format.TABLE:
            _print_events(list(rows), session.out)
        elif form == Format.CSV:
            _lines(csv_lines(rows), output, session.out)
        elif form == Format.PARQUET and output is not None:
            with _writable(output):
                session.out.say(f"Wrote {write_parquet(rows, output):,} events to {output}.")
        else:
            text = as_json([{**row, "at": row["at"].isoformat()} for row in rows], indent=2) + "\n"
            _lines([text], output, session.out)


def _print_events(rows: Sequence[Mapping[str, Any]], out: Output) -> None:
    table = make_table("event", "when", "who", "what", "generation", "detail", right=("event", "generation"))
    for row in rows:
        gen = "" if row["gen"] is None else str(row["gen"])
        reason = (row["detail"] or {}).get("reason")
        detail = one_line(". ".join(filter(None, [sentence(row["kind"], row["detail"]), reason])), 160)
        table.add_row(str(row["seq"]), f"{row['at']:%Y-%m-%d %H:%M:%S}", row["actor"], row["kind"], gen, detail)
    out.console.print(table if rows else "No such events.")


# The chain of revisions -----------------------------------------------------------------------------------------------


class _ChainRow(TypedDict):
    """A revision: its file, and what became of it; ``generation`` is the newest, ``edited`` since that was made."""

    revision: str
    down_revision: str | None
    state: str | None
    generation: int | None
    edited: bool
    model: str
    dim: int
    message: str
    path: str


def _chain(session: Session) -> list[_ChainRow]:
    from revector.registry.collections import read_collection, read_generations
    from revector.revisions import RevisionGraph

    graph: RevisionGraph = RevisionGraph.from_folder(session.project.migrations(session.collection))
    with session.project.engine.connect() as connection:
        slots = read_collection(connection, session.collection)
        newest = {one.revision: one for one in read_generations(connection, slots.cid)}
    rows: list[_ChainRow] = []
    for one in graph:
        generation = newest.get(one.revision)
        state = None if generation is None else slots.role(generation.gen) or str(generation.phase)
        rows.append(
            {
                "revision": one.revision,
                "down_revision": one.down_revision,
                "state": state,
                "generation": None if generation is None else generation.gen,
                "edited": bool(generation and generation.config_hash != one.config_hash),
                "model": one.model.name,
                "dim": one.model.dim,
                "message": one.message,
                "path": one.path,
            }
        )
    return rows


def _write_chain(rows: Sequence[_ChainRow], form: Format, output: Path | None, out: Output) -> None:
    if form == Format.TABLE:
        _print_chain(rows, out)
    elif form == Format.JSON:
        _lines([as_json(rows, indent=2) + "\n"], output, out)
    elif form == Format.CSV:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({name: guarded(value) for name, value in row.items()} for row in rows)
        _lines([buffer.getvalue()], output, out)
    elif output is not None:
        import pyarrow as pa
        from pyarrow import parquet

        with _writable(output):
            parquet.write_table(pa.Table.from_pylist([{**row, "path": str(row["path"])} for row in rows]), output)
        out.say(f"Wrote {output}.")


def _print_chain(rows: Sequence[_ChainRow], out: Output) -> None:
    table = make_table("revision", "after", "state", "model", "dim", "message", right=("dim",))
    for row in rows:
        state = (row["state"] or "") + (", file edited since" if row["edited"] else "")
        after = row["down_revision"] or "-"
        table.add_row(row["revision"], after, state, row["model"], f"{row['dim']:,}", row["message"])
    out.console.print(table)


def _lines(lines: Iterable[str], output: Path | None, out: Output) -> None:
    if output is None:
        sys.stdout.writelines(lines)
        return
    with _writable(output), output.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)
    out.say(f"Wrote {output}.")


@contextmanager
def _writable(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}. Choose another --output.") from error
